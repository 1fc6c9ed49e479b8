# SPDX-License-Identifier: Apache-2.0
"""Exact Winograd convolutions beside direct ones with the same bytes, and beside oneDNN's int8.

    python benchmarks/winograd_exact.py [--rounds N] [--peer] [--networks] [--json | --markdown]
                                        [--output [FILE]] [--assets FOLDER]

Layers of ResNet-18 and wider maps, each in one step of all rows, by the instruction set that runs
(THINMAPS_ISA; for the peer also ONEDNN_MAX_CPU_ISA). Both kernels must give the same bytes before
they are timed. One thread; CPU time; the sides take turns, and a ratio is taken in every round.
`predicted` is the ratio that the planner goes by. `--networks` times ResNet-18 too, as `compress`
plans it for this instruction set with `--winograd exact` and without.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from conv_cases import Case, Convolution
from engine_pairs import in_turn, verified_runs
from results_file import provenance, results_file, write
from sources import ASSETS, SIZES, Source

from thinmaps import _core
from thinmaps.graph.network import Network, Node
from thinmaps.measure.timing import Spread, interleaved, ratio, spread
from thinmaps.plan.build import build
from thinmaps.plan.cost import RATES, MachineRates, StepCost
from thinmaps.run.engine import Engine

LAYERS = (
    Case("16, 120x160", 16, 16, (120, 160)),
    Case("32, 112x112", 32, 32, (112, 112)),
    Case("64, 56x56", 64, 64, (56, 56)),
    Case("128, 28x28", 128, 128, (28, 28)),
    Case("256, 14x14", 256, 256, (14, 14)),
    Case("512, 7x7", 512, 512, (7, 7)),
    Case("64, 270x480", 64, 64, (270, 480)),
    Case("128, 135x240", 128, 128, (135, 240)),
    Case("256, 68x120", 256, 256, (68, 120)),
    Case("512, 34x60", 512, 512, (34, 60)),
)


@dataclass(frozen=True)
class Side:
    """What was timed of a layer; ratios are to the direct kernel's time."""

    name: str
    ms: Spread
    direct_ms: Spread
    ratio: Spread
    predicted: float
    peer_ratio: Spread | None
    scratch_bytes: int
    weights_bytes: int
    direct_weights_bytes: int


def compare(case: Case, rounds: int, with_peer: bool) -> Side:
    """Both kernels of a layer, verified and timed."""
    whole = Convolution(case)
    network = Network(
        (Node("conv", whole.node, ("x",), "y"),), {"x": whole.x, "y": whole.y}, ("x",), ("y",)
    )
    plan = build(network, schedule="layer", winograd=True)
    tiled, direct = (Engine(plan, winograd=choice) for choice in (True, False))
    runs = verified_runs([tiled, direct], whole.pixels)
    if with_peer:
        runs.append(peer(whole))
    own, base, *others = interleaved(runs, rounds)
    return Side(
        case.name,
        spread(own.cpu),
        spread(base.cpu),
        ratio(own.cpu, base.cpu),
        predicted(network),
        ratio(others[0].cpu, base.cpu) if others else None,
        plan.arena_bytes,
        tiled.weights_bytes,
        direct.weights_bytes,
    )


@dataclass(frozen=True)
class Whole:
    """A network planned both ways; the ratio is to the time without Winograd's algorithm."""

    name: str
    ms: Spread
    direct_ms: Spread
    ratio: Spread
    tiled: int  # convolutions
    arena_bytes: int
    direct_arena_bytes: int
    weights_bytes: int
    direct_weights_bytes: int


def compare_networks(assets: Path, rounds: int) -> list[Whole]:
    """ResNet-18 at all sizes, verified and timed."""
    source, rates = Source.open("resnet18", assets), RATES[_core.isa()]
    return [compare_plans(source, size, rates, rounds) for size in SIZES]


def compare_plans(source: Source, size: tuple[int, int], rates: MachineRates, rounds: int) -> Whole:
    """One network at one size."""
    planned = source.planned(size)
    network = planned.model.plan.source
    engines = [Engine(build(network, winograd=choice, rates=rates)) for choice in (None, False)]
    own, base = in_turn(engines, planned.pictures[0], rounds)
    tiled, direct = engines
    return Whole(
        f"ResNet-18, {size[0]}x{size[1]}",
        spread(own.cpu),
        spread(base.cpu),
        ratio(own.cpu, base.cpu),
        len(tiled.plan.winograd),
        tiled.plan.arena_bytes,
        direct.plan.arena_bytes,
        tiled.weights_bytes,
        direct.weights_bytes,
    )


def peer(whole: Convolution) -> Callable[[], object]:
    """oneDNN's convolution of the same bytes."""
    from onednn_peer import convolution

    return convolution(whole.node, whole.pixels, whole.weight_scales, whole.x, whole.y)


def predicted(network: Network) -> float:
    """Of the whole map in one step."""
    cost = StepCost(network, RATES[_core.isa()], (), ["conv"])
    rows = network.maps["y"].height
    return float(cost.tiled(0, rows) / cost.direct(0, rows))


def network_row(whole: Whole) -> str:
    """A row of the table of networks."""
    times = whole.ratio
    return (
        f"| {whole.name} | {whole.ms.median:.1f} ms | {whole.direct_ms.median:.1f} ms "
        f"| {times.median:.2f} ({times.p10:.2f} to {times.p90:.2f}) | {whole.tiled} "
        f"| {whole.arena_bytes / 1e6:.2f} of {whole.direct_arena_bytes / 1e6:.2f} MB "
        f"| {whole.weights_bytes / 1e6:.1f} of {whole.direct_weights_bytes / 1e6:.1f} MB |"
    )


def line(side: Side) -> str:
    """What a person who waits reads."""
    beside = f", oneDNN {side.peer_ratio.median:.2f}" if side.peer_ratio else ""
    return (
        f"{side.name:14} {side.ms.median:9.3f} ms, direct {side.direct_ms.median:9.3f} ms = "
        f"{side.ratio.median:.2f} ({side.ratio.p10:.2f} to {side.ratio.p90:.2f}), predicted "
        f"{side.predicted:.2f}{beside}"
    )


MARKDOWN_HEAD = """\
| layer | tiles | direct | time | predicted | oneDNN | scratch | filters |
|---|---|---|---|---|---|---|---|"""


NETWORKS_HEAD = """\
| network | with tiles | without | time | convolutions | arena | weights |
|---|---|---|---|---|---|---|"""


def markdown_row(side: Side) -> str:
    """A row of the table: medians; the ratio with its 10th and 90th percentile."""
    beside = f"{side.peer_ratio.median:.2f}" if side.peer_ratio else ""
    return (
        f"| {side.name} | {side.ms.median:.3f} ms | {side.direct_ms.median:.3f} ms "
        f"| {side.ratio.median:.2f} ({side.ratio.p10:.2f} to {side.ratio.p90:.2f}) "
        f"| {side.predicted:.2f} | {beside} | {side.scratch_bytes >> 10} KiB "
        f"| {side.weights_bytes / side.direct_weights_bytes:.1f}x |"
    )


def main() -> int:
    """Measure the layers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--peer", action="store_true", help="time oneDNN too (needs torch)")
    parser.add_argument("--networks", action="store_true", help="time ResNet-18 too")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true")
    shown.add_argument("--markdown", action="store_true")
    file = results_file(f"-winograd-exact-{_core.isa()}")
    parser.add_argument("--output", nargs="?", type=Path, const=file, help="write the JSON here")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"a spread needs at least 2 rounds, got --rounds {options.rounds}")
    sides = []
    for case in LAYERS:
        sides.append(compare(case, options.rounds, options.peer))
        print(line(sides[-1]), file=sys.stderr, flush=True)
    wholes = compare_networks(options.assets, options.rounds) if options.networks else []
    found = {"sides": [asdict(s) for s in sides], "networks": [asdict(w) for w in wholes]}
    document = {**provenance(), "rounds": options.rounds, **found}
    if options.json:
        print(json.dumps(document, indent=2))
    elif options.markdown:
        print("\n".join([MARKDOWN_HEAD, *map(markdown_row, sides)]))
        print("\n".join([NETWORKS_HEAD, *map(network_row, wholes)]))
    write(document, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
