# SPDX-License-Identifier: Apache-2.0
"""Convolutions by scaled Winograd tiles: their time beside the direct ones, and their error.

    python benchmarks/scaled_tiles.py [--rounds N] [--network NAME --calibrate PICTURES]

Layers of ResNet-18 with random filters, a whole map in one step, one thread, CPU time: the sides
take turns, and a ratio is taken in every round. What the tiles make is verified against the
interpreter on a strip. With a network, the relative error of each of its 3x3 convolutions with
every set, found as `compress` finds it, on calibration pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from conv_cases import Case, Convolution

from thinmaps.calibrate.winograd_choice import errors_of
from thinmaps.calibrate.winograd_scales import winograd_conv
from thinmaps.errors import BadArgument
from thinmaps.graph.network import Network, Node
from thinmaps.measure.timing import interleaved, ratio, spread
from thinmaps.plan.build import build
from thinmaps.prepared import Prepared
from thinmaps.run.arithmetic import compute
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import WholeMap
from thinmaps.winograd import Algorithm, derive

LAYERS = (
    Case("64 channels, 56x56", 64, 64, (56, 56)),
    Case("64 channels, 135x240", 64, 64, (135, 240)),
    Case("128 channels, 28x28", 128, 128, (28, 28)),
    Case("256 channels, 14x14", 256, 256, (14, 14)),
    Case("512 channels, 7x7", 512, 512, (7, 7)),
)
TIMED = {"F(2,3)": derive(2, 3), "F(4,3) x^2+1": derive(4, 3)}
SETS = {
    **TIMED,
    "F(4,3) Lavin": derive(4, 3, "x, x-1, x+1, x-2, x+2"),
    "F(6,3) x^2+-x+1": derive(6, 3, "x, x-1, x+1, x^2+x+1, x^2-x+1"),
}
CHECKED_ROWS = 8


def tiled_engine(case: Convolution, algorithm: Algorithm) -> Engine:
    """The case by tiles, checked on its first rows."""
    tiled = winograd_conv(case.node, case.x, case.y, [case.pixels], algorithm)
    network = Network(
        (Node("tiles", tiled, ("x",), "y"),), {"x": case.x, "y": case.y}, ("x",), ("y",)
    )
    engine = Engine(build(network, schedule="layer"))
    rows = min(CHECKED_ROWS, case.y.height)
    expected = compute(tiled, [WholeMap(case.x, case.pixels)], case.y, 0, rows)
    np.testing.assert_array_equal(engine.maps({"x": case.pixels})["y"][:rows], expected)
    return engine


def time_layer(case: Case, rounds: int) -> None:
    """Print the time of a layer by tiles, of the direct one's."""
    direct = Convolution(case)
    direct.verify()
    for name, algorithm in TIMED.items():
        engine = tiled_engine(direct, algorithm)
        made = np.zeros_like(direct.made)

        def tiles(engine: Engine = engine, made: np.ndarray = made) -> None:
            engine.run_into([direct.pixels], [made])

        runs: Sequence[Callable[[], None]] = (tiles, direct.run)
        own, base = interleaved(runs, rounds)
        ms, part = spread(own.cpu), ratio(own.cpu, base.cpu)
        print(
            f"| {case.name} | {name} | {ms.median:.3f} | {spread(base.cpu).median:.3f} "
            f"| {part.median:.2f} ({part.p10:.2f} to {part.p90:.2f}) |",
            flush=True,
        )


def print_errors(network: str, pictures: str) -> None:
    """The relative error of every eligible convolution of a network, by set."""
    prepared = Prepared.open(network, pictures)
    own, fitting = prepared.networks.own, prepared.pictures
    if fitting is None:
        raise BadArgument("errors are found on calibration pictures (--calibrate)")
    samples = prepared.tile_samples(fitting.fitting())
    print(f"| convolution | h w c | {' | '.join(SETS)} |\n|---|---|{'---|' * len(SETS)}")
    found = {name: errors_of(own, samples, algorithm) for name, algorithm in SETS.items()}
    for node in own.nodes:
        if node.name in found["F(2,3)"]:
            shown = " | ".join(f"{found[name][node.name]:.1%}" for name in SETS)
            print(f"| {node.name} | {own.maps[node.inputs[0]].shape} | {shown} |", flush=True)


def main() -> int:
    """Times, then errors where a network is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--layers", type=int, default=len(LAYERS), help="only the first so many")
    parser.add_argument("--network", type=Path)
    parser.add_argument("--calibrate", type=Path)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"a spread needs at least 2 rounds, got --rounds {options.rounds}")
    print("| layer | set | ms | direct, ms | of direct |\n|---|---|---|---|---|")
    for case in LAYERS[: options.layers]:
        time_layer(case, options.rounds)
    if options.network is not None:
        print_errors(options.network, options.calibrate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
