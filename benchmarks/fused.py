# SPDX-License-Identifier: Apache-2.0
"""What it costs to hold a convolution's maps as presence bits and values.

    python benchmarks/fused.py [--size HxW] [--channels N] [--rounds N]
                               [--json | --markdown] [--output [FILE]]

A photograph passes a convolution with ReLU; its map is the input of a 3x3 convolution with ReLU, of
as many channels. Both have seeded filters, and scales at which the brightest pixels just fit, so
that about half of every map is zero. The second convolution is timed alone: with its input and
output held whole as they are; the same held in `zero_bitmap` (a row is decoded into the window,
convolved, encoded, and the next row follows); and PyTorch's quantised `conv2d_relu` in oneDNN,
channels last, where PyTorch is installed.

Before anything is timed, the first rows of our answers must equal their definition, both answers
each other, and PyTorch's ours within one step. Times are CPU milliseconds with one thread, of
sides that take turns; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from results_file import provenance, results_file, write
from sources import size_of

from thinmaps.codecs import Codec
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.demo.shipped import photograph
from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.measure.timing import Spread, interleaved, spread
from thinmaps.plan.build import NO_CODECS, build
from thinmaps.plan.plan import Plan
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import run_network
from thinmaps.types import MapSpec

Array = np.ndarray[Any, Any]
PLAIN, CODED, ONEDNN = "plain maps", "zero_bitmap", "PyTorch oneDNN int8"
DEFINED_ROWS = 6  # compared with their definition, which is slow
SAMPLED_PIXELS = 4000
IDENTITY = np.arange(256, dtype=np.uint8)


@dataclass(frozen=True)
class Side:
    """One way to do the convolution: milliseconds, and those over the plain side's and oneDNN's."""

    name: str
    ms: Spread
    over_plain: float
    over_onednn: float | None


@dataclass(frozen=True)
class Result:
    """Shares of `zeros` of input and output, `held_bytes` of both; `step_ms` are on the clock."""

    size: tuple[int, int]
    channels: int
    zeros: tuple[float, float]
    held_bytes: dict[str, int]
    step_ms: dict[str, float]
    sides: tuple[Side, ...]


@dataclass(frozen=True, eq=False)
class Case:
    """The network `pixels -> x -> y -> end`, and the picture it runs on."""

    size: tuple[int, int]
    channels: int

    @cached_property
    def picture(self) -> Array:
        """The photograph at twice the size, which the first convolution halves."""
        height, width = self.size
        return np.asarray(Image.fromarray(photograph()).resize((2 * width, 2 * height)))

    @cached_property
    def head(self) -> Network:
        """The first convolution alone."""
        pixels = MapSpec(*self.picture.shape)
        grey = MapSpec(*pixels.shape, 1.0, 128)
        window = op.Window((3, 3), (2, 2), pads=(1, 1, 1, 1))
        nodes = (
            Node("picture", op.Picture(np.tile(IDENTITY, (3, 1)), (0, 1, 2)), ("pixels",), "grey"),
            Node("first", scaled(window, self.picture, grey, self.channels), ("grey",), "x"),
        )
        maps = {"pixels": pixels, "grey": grey, "x": MapSpec(*self.size, self.channels)}
        return Network(nodes, maps, ("pixels",), ("x",))

    @cached_property
    def x(self) -> Array:
        """The timed convolution's input."""
        return np.asarray(Engine(build(self.head, effort=0))(self.picture))

    @cached_property
    def network(self) -> Network:
        """Both convolutions, and a table behind them that reads `y`."""
        spec = self.head.maps["x"]
        window = op.Window((3, 3), pads=(1, 1, 1, 1))
        nodes = (
            *self.head.nodes,
            Node("conv", scaled(window, self.x, spec, self.channels), ("x",), "y"),
            Node("table", op.Lookup(IDENTITY[None]), ("y",), "end"),
        )
        return Network(
            nodes, dict(self.head.maps) | {"y": spec, "end": spec}, ("pixels",), ("end",)
        )

    @property
    def conv(self) -> op.Conv:
        """The timed convolution."""
        operator = self.network.nodes[-2].operator
        assert isinstance(operator, op.Conv)
        return operator


def scaled(window: op.Window, x: Array, spec: MapSpec, channels: int) -> op.Conv:
    """Filters without a mean, and the multipliers with which their largest sums on `x` just fit."""
    random = np.random.default_rng(7)
    shape = (channels, spec.channels, *window.kernel)
    weights = random.integers(-127, 128, shape).astype(np.int8)
    rows, columns = window.stride
    row = random.integers(1, (spec.height - 2) // rows, SAMPLED_PIXELS) * rows
    column = random.integers(1, (spec.width - 2) // columns, SAMPLED_PIXELS) * columns
    sums = np.zeros((SAMPLED_PIXELS, channels), np.int64)
    for r in range(window.kernel[0]):
        for s in range(window.kernel[1]):
            pixels = x[row + r - 1, column + s - 1].astype(np.int64) - spec.zero_point
            sums += pixels @ weights[:, :, r, s].T.astype(np.int64)
    multiplier = (255 / np.quantile(sums, 0.9995, axis=0)).astype(np.float32)
    return op.Conv(window, 1, weights, np.zeros(channels, np.int32), multiplier)


class Ours:
    """An engine whose steps up to the convolution's input are done."""

    def __init__(self, case: Case, codecs: dict[str, Codec]) -> None:
        self.plan = build(case.network, schedule="layer", codecs=codecs, effort=0)
        self.engine = Engine(self.plan, threads=1)
        self.end = np.empty(self.plan.network.maps["end"].shape, np.uint8)
        self.buffers = [case.picture, self.end]
        self.engine.run_into([case.picture], [self.end])
        self.first, self.stop = steps_of(self.plan, self.timed)

    @property
    def timed(self) -> tuple[str, ...]:
        """The convolution, and what decodes and encodes for it."""
        return ("x.decode.conv", "conv", "y.encode")

    def run(self) -> None:
        """The convolution, from the map that is held to the map that is held."""
        self.engine._core.run(self.buffers, self.first, self.stop)

    def held_bytes(self, case: Case) -> int:
        """Both maps: payloads where they have a codec."""
        y = np.asarray(self.end)
        spec = case.network.maps["y"]
        if not self.plan.codecs:
            return 2 * spec.raw_bytes
        return sum(self.plan.codecs[n].encode(m, spec).bytes for n, m in (("x", case.x), ("y", y)))

    def step_ms(self, case: Case) -> dict[str, float]:
        """Milliseconds of each of the timed nodes."""
        times = self.engine.profile(case.picture)
        return {time.node: 1000 * time.seconds for time in times if time.node in self.timed}


def steps_of(plan: Plan, names: tuple[str, ...]) -> tuple[int, int]:
    """First and stop of the steps of some nodes, which follow one another."""
    timed = {i for i, node in enumerate(plan.network.nodes) if node.name in names}
    steps = [i for i, step in enumerate(plan.steps) if step.node in timed]
    assert steps == list(range(steps[0], steps[-1] + 1)), "other nodes' steps lie between"
    return steps[0], steps[-1] + 1


def onednn(case: Case) -> Callable[[], Any]:
    """PyTorch's convolution of the same bytes: a quantised tensor `(1, c, h, w)`."""
    import torch  # with warnings that quantised tensors will go

    torch.set_num_threads(1)
    torch.backends.quantized.engine = "onednn"
    # With maps of scale 1, a filter's scale is its multiplier.
    multiplier = torch.from_numpy(case.conv.multiplier).double()
    filters = torch._make_per_channel_quantized_tensor(
        torch.from_numpy(case.conv.weights), multiplier, torch.zeros(case.channels).long(), 0
    )
    one = [1, 1]
    packed = torch.ops.quantized.conv2d_prepack(
        filters, torch.zeros(case.channels), one, one, one, 1
    )
    x = torch.from_numpy(case.x).permute(2, 0, 1)[None].contiguous()
    x = torch._make_per_tensor_quantized_tensor(x, 1.0, 0)
    x = x.contiguous(memory_format=torch.channels_last)
    return lambda: torch.ops.quantized.conv2d_relu(x, packed, 1.0, 0)


def verify(case: Case, sides: dict[str, Ours], peer: Callable[[], Any] | None) -> None:
    """Refuse to go on with an answer that is wrong; the page's head says what is right."""
    plain = sides[PLAIN].end
    height, width = DEFINED_ROWS + 1, case.size[1]
    spec = MapSpec(height, width, case.channels)
    strip = Network((case.network.nodes[-2],), {"x": spec, "y": spec}, ("x",), ("y",))
    defined = run_network(strip, {"x": case.x[:height]})["y"][:DEFINED_ROWS]
    wrong = []
    if not np.array_equal(plain[:DEFINED_ROWS], defined):
        wrong.append(f"{PLAIN} differ from their definition")
    if not np.array_equal(plain, sides[CODED].end):
        wrong.append(f"{CODED} differs from {PLAIN}")
    if peer is not None:
        answer = peer().int_repr()[0].permute(1, 2, 0).numpy()
        if np.any(np.abs(answer.astype(np.int16) - plain) > 1):
            wrong.append(f"{ONEDNN} is more than a step away")
    if wrong:
        sys.exit("; ".join(wrong))


def measure(case: Case, rounds: int) -> Result:
    """Verify all sides, then time them."""
    codecs: dict[str, Codec] = {"x": ZeroBitmap(), "y": ZeroBitmap()}
    sides = {PLAIN: Ours(case, dict(NO_CODECS)), CODED: Ours(case, codecs)}
    peer = onednn(case) if find_spec("torch") else None
    verify(case, sides, peer)
    runs = {name: side.run for name, side in sides.items()} | ({ONEDNN: peer} if peer else {})
    seconds = {
        name: np.array(timing.cpu)
        for name, timing in zip(runs, interleaved(list(runs.values()), rounds), strict=True)
    }
    return Result(
        case.size,
        case.channels,
        (float(np.mean(case.x == 0)), float(np.mean(sides[PLAIN].end == 0))),
        {name: side.held_bytes(case) for name, side in sides.items()},
        sides[CODED].step_ms(case),
        tuple(
            Side(
                name,
                spread(taken.tolist()),
                float(np.median(taken / seconds[PLAIN])),
                float(np.median(taken / seconds[ONEDNN])) if peer else None,
            )
            for name, taken in seconds.items()
        ),
    )


MARKDOWN_HEAD = """\
| both maps | CPU ms (p10 to p90) | MB held | / plain | / oneDNN |
|---|---|---|---|---|"""


def markdown_rows(result: dict[str, Any]) -> str:
    """A row per side."""
    lines = []
    for side in result["sides"]:
        ms, over = side["ms"], side["over_onednn"]
        held = result["held_bytes"].get(side["name"], result["held_bytes"][PLAIN])
        lines.append(
            f"| {side['name']} | {ms['median']:.1f} ({ms['p10']:.1f} to {ms['p90']:.1f}) | "
            f"{held / 1e6:.1f} | {side['over_plain']:.2f} | {f'{over:.2f}' if over else '-'} |"
        )
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=size_of, default=(540, 960), metavar="HxW")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true")
    shown.add_argument("--markdown", action="store_true", help="only the table")
    parser.add_argument("--output", nargs="?", type=Path, const=results_file("-fused"))
    options = parser.parse_args()
    if options.rounds < 2 or options.channels < 1 or min(options.size) <= DEFINED_ROWS:
        parser.error(f"needs 2 rounds, 1 channel and {DEFINED_ROWS + 1} rows at least")
    return options


def main() -> None:
    """Measure and show."""
    options = parsed()
    result = measure(Case(options.size, options.channels), options.rounds)
    document = {**provenance(), "rounds": options.rounds, "results": [asdict(result)]}
    write(document, options.output)
    if options.json:
        print(json.dumps(document, indent=2))
        return
    print(MARKDOWN_HEAD)
    print(markdown_rows(asdict(result)))
    if not options.markdown:
        zeros = " and ".join(f"{100 * share:.0f} %" for share in result.zeros)
        steps = ", ".join(f"{name} {ms:.2f} ms" for name, ms in result.step_ms.items())
        print(f"zeros: {zeros}; steps with {CODED}, on the clock: {steps}")


if __name__ == "__main__":
    main()
