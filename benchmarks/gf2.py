# SPDX-License-Identifier: Apache-2.0
"""Layers of bits beside the most that counting bits can do, and presets beside convolutions.

    python benchmarks/gf2.py [--rounds N] [--presets] [--json | --markdown] [--output [FILE]]

On the instruction set that THINMAPS_ISA names, or the best there is; CPU time, one thread, all in
turns. Nobody is timed before the twin's bytes equal the reference's.

Layers: random weights of K bits to N bits, of which half of the sums pass, on 16 rows of 64 pixels.
A share is of the ceiling: AND, population count and addition in registers, without a load or a
store (ceiling.cc), in the same rounds. `whole` is all of encoding (planes, layer, packing), per bit
of the layer's weights; `layer` is what another N outputs add to it, packing included. Ternary
weights count as two layers and int8 as eight: that many masks they have.

Presets of `gf2` and `block_code`: encoding and decoding of a random map, of the time of the int8
convolutions between which it lies: the squeezed map of SqueezeNet's fire2 (16 channels of 56 x 56)
between the three of that module, and for `block_code` a map of ResNet-20's first stage (16 channels
of 32 x 32) between two of 3 x 3, its dearest place there. `recommended` are those that cost at most
as much as these convolutions, everywhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from conv_cases import Case, Convolution
from kernels import Spread, directions, load_ceiling
from results_file import provenance, results_file, write

from thinmaps import _core
from thinmaps.codecs import block_code
from thinmaps.codecs.base import Codec
from thinmaps.codecs.bit_layers import BitLayer
from thinmaps.codecs.block_code import BlockCode
from thinmaps.codecs.gf2 import PRESETS, Gf2
from thinmaps.measure.timing import interleaved
from thinmaps.types import MapSpec

ROWS, COLUMNS = 16, 64
KINDS = {"binary": (-1, 1), "ternary": (-1, 0, 1), "int8": tuple(range(-128, 128))}
LAYERS = (
    ("binary", 8, 128, 512),
    ("binary", 8, 64, 256),
    ("binary", 9, 16, 112),
    ("ternary", 8, 64, 256),
    ("ternary", 9, 16, 112),
    ("int8", 9, 16, 112),
)
FIRE2 = (
    Case("squeeze", 64, 16, (56, 56), 1),
    Case("expand 1x1", 16, 64, (56, 56), 1),
    Case("expand 3x3", 16, 64, (56, 56)),
)
STAGE1 = (Case("before", 16, 16, (32, 32)), Case("behind", 16, 16, (32, 32)))

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Layered:
    """One layer: how many of its weights' bits a second meets, and shares of the ceiling."""

    weights: str
    inputs: int
    outputs: int
    nanoseconds_per_pixel: float
    whole: Spread
    layer: Spread


@dataclass(frozen=True)
class Beside:
    """One preset: its two directions, of the time of the convolutions around it."""

    codec: str
    preset: str
    place: str
    recommended: bool
    encode: Spread
    decode: Spread
    both: Spread


def projecting(kind: str, planes: int, channels: int, outputs: int) -> Gf2:
    """A projection with random weights, and anything to restore from it."""
    random = np.random.default_rng(outputs)
    shape = (outputs, planes * channels, 1, 1)
    weights = random.choice(np.int8(KINDS[kind]), shape)
    middle = weights.reshape(outputs, -1).sum(axis=1, dtype=np.int32) // 2
    back = BitLayer(1, np.ones((shape[1], outputs, 1, 1), np.int8), np.full(shape[1], 9, np.int32))
    return Gf2(ROWS, planes, 1, (BitLayer(1, weights, middle),), (back,))


def layers(isa: str, rounds: int) -> Iterator[Layered]:
    """Every layer with its outputs and with twice as many, beside the ceiling."""
    with TemporaryDirectory(prefix="thinmaps-") as folder:
        ceiling = load_ceiling(f"populations_{isa}", Path(folder))
    for kind, planes, channels, outputs in LAYERS:
        random = np.random.default_rng(channels)
        rows = random.integers(0, 256, (ROWS, COLUMNS, channels), np.uint8)
        some, more = (projecting(kind, planes, channels, factor * outputs) for factor in (1, 2))
        runs = [directions(codec, isa, rows)["encode"] for codec in (some, more)]
        one, two, most = interleaved([*runs, ceiling], rounds)
        masks = len(some.project[0].slices.slices)
        bits = ROWS * COLUMNS * planes * channels * outputs * masks
        rates = [ceiling() / seconds for seconds in most.cpu]
        added = [b - a for a, b in zip(one.cpu, two.cpu, strict=True)]
        yield Layered(
            kind,
            planes * channels,
            outputs,
            1e9 * float(np.median(one.cpu)) / (ROWS * COLUMNS),
            Spread.of([bits / t / rate for t, rate in zip(one.cpu, rates, strict=True)]),
            Spread.of([bits / t / rate for t, rate in zip(added, rates, strict=True)]),
        )


def presets(isa: str, rounds: int) -> Iterator[Beside]:
    """The presets in their places, `gf2` with random weights of int8."""
    spec = MapSpec(56, 56, 16)
    rows = np.random.default_rng(2).integers(0, 256, spec.shape, np.uint8)
    published = {
        name: learned(Gf2.fit(spec, rows[:0], preset=name, unit_rows=56))
        for name in PRESETS
        if "CH2" not in name
    }
    yield from beside("fire2", FIRE2, published, rows, Timing(isa, rounds))
    for place, cases, shape in (("fire2", FIRE2, (56, 56, 16)), ("stage 1", STAGE1, (32, 32, 16))):
        rows = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
        blocks = {
            name: BlockCode.fit(MapSpec(*shape), rows[None], preset=name, unit_rows=shape[0])
            for name in block_code.PRESETS
        }
        yield from beside(place, cases, blocks, rows, Timing(isa, rounds))


@dataclass(frozen=True)
class Timing:
    """On which instruction set, how often."""

    isa: str
    rounds: int


def beside(
    place: str, cases: Sequence[Case], codecs: Mapping[str, Codec], rows: Array, timing: Timing
) -> Iterator[Beside]:
    """Each codec between the convolutions of a place."""
    convolutions = [Convolution(case) for case in cases]
    for convolution in convolutions:
        convolution.verify()
    for name, codec in codecs.items():
        both = directions(codec, timing.isa, rows)
        runs = [*both.values(), partial(run_all, convolutions)]
        encode, decode, around = interleaved(runs, timing.rounds)
        encoded, decoded = (
            [t / whole for t, whole in zip(each.cpu, around.cpu, strict=True)]
            for each in (encode, decode)
        )
        sums = Spread.of([a + b for a, b in zip(encoded, decoded, strict=True)])
        spreads = (Spread.of(encoded), Spread.of(decoded), sums)
        yield Beside(codec.id, name, place, sums.median <= 1.0, *spreads)


def run_all(convolutions: Sequence[Convolution]) -> None:
    """One after the other."""
    for convolution in convolutions:
        convolution.run()


def learned(codec: Gf2) -> Gf2:
    """The codec's shapes with weights as a training leaves them: of int8, and nowhere only 0."""
    random = np.random.default_rng(3)

    def drawn(layer: BitLayer) -> BitLayer:
        weights = random.integers(-128, 128, layer.weights.shape).astype(np.int8)
        middle = weights.reshape(layer.outputs, -1).sum(axis=1, dtype=np.int32) // 2
        return BitLayer(layer.groups, weights, middle)

    both = (tuple(map(drawn, side)) for side in (codec.project, codec.restore))
    return Gf2(codec.unit_rows, codec.planes, codec.groups, *both)


def layer_cells(each: dict[str, Any]) -> list[str]:
    """A row of the first table."""
    return [
        f"{each['inputs']} to {each['outputs']}, {each['weights']}",
        f"{each['nanoseconds_per_pixel']:.0f} ns",
        *(shown(each[name], "{:.0%}") for name in ("whole", "layer")),
    ]


def preset_cells(each: dict[str, Any]) -> list[str]:
    """A row of the second one."""
    said = f"`{each['codec']}` {each['preset']}, {each['place']}"
    times = (shown(each[name], "{:.2f}") for name in ("encode", "decode", "both"))
    return [said, *times, "recommended" if each["recommended"] else "no"]


def shown(spread: dict[str, float], form: str) -> str:
    """A median and what it lies between."""
    median, low, high = (form.format(spread[name]) for name in ("median", "p10", "p90"))
    return f"{median} ({low} to {high})"


TABLES = (
    ("layers", ("layer", "per pixel", "whole / ceiling", "layer / ceiling"), layer_cells),
    ("presets", ("preset", "encode / convolutions", "decode", "both", ""), preset_cells),
)


def markdown(document: dict[str, Any]) -> str:
    """Both tables."""
    lines = []
    for name, head, cells in TABLES:
        rows = [head, ["---"] * len(head), *map(cells, document[name])]
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    return "\n".join(lines)


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--presets", action="store_true", help="no layers")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--json", action="store_true")
    way.add_argument("--markdown", action="store_true")
    file = results_file("-gf2")
    parser.add_argument("--output", nargs="?", type=Path, const=file, help="write the JSON here")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"a spread needs at least 2 rounds, got --rounds {options.rounds}")
    isa = "avx512" if _core.isa() == "amx" else _core.isa()
    if isa not in ("avx512", "avx2"):
        parser.error(f"ceiling.cc has no loop for {isa}")
    document: dict[str, Any] = {
        **provenance(),
        "rounds": options.rounds,
        "layers": [] if options.presets else [asdict(each) for each in layers(isa, options.rounds)],
        "presets": [asdict(each) for each in presets(isa, options.rounds)],
    }
    print(json.dumps(document, indent=2) if options.json else markdown(document))
    write(document, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
