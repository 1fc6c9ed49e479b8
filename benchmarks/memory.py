# SPDX-License-Identifier: Apache-2.0
"""The memory table: arenas of real networks under every schedule, in KiB.

int8 activations; input, output and weights excluded; no codec; nothing is computed twice. Ranges do
not change a plan, so every map is given the same one and nothing is calibrated.

    layer, stream, mixed    the arena of each schedule
    live                    bytes that live in the fullest step of the mixed plan: what no placement
                            of its rows can beat
    field                   the same of the streamed plan: the rows that receptive fields and skips
                            keep alive when rows flow from the picture to the output
    at most                 the limit that this benchmark holds the mixed plan to; it fails if one
                            is missed

    python benchmarks/memory.py [network ...] [--assets FOLDER] [--markdown]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from thinmaps.graph.network import Network
from thinmaps.graph.onnx_reader import read
from thinmaps.graph.quantise import quantise
from thinmaps.graph.scales import Range
from thinmaps.plan.build import build, lower_bound_bytes
from thinmaps.plan.verify import verify
from thinmaps.types import Preprocessing

CHECKOUT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("THINMAPS_ASSETS", CHECKOUT.parent / "shared" / "assets"))
KIB = 1024


@dataclass(frozen=True)
class Row:
    """A network of the table. `most_kib` limits the mixed arena, `most_share` that over layer."""

    file: str
    size: tuple[int, int] | None = None
    most_kib: float | None = None
    most_share: float = 1.0


TABLE = (
    Row("mobilenet_v2", (224, 224), 150),
    Row("squeezenet1_1", (224, 224), 200),
    Row("mobilenet_v2", (1088, 1920), 3200),
    Row("squeezenet1_1", (1088, 1920), 1750),
    Row("espnet_cityscapes", (512, 1024), None, 0.5),
    Row("cifar10_resnet20"),
    Row("cifar10_resnet56"),
    Row("ultraface_rfb_640"),
    Row("yolo_fastest_xl_voc"),
)


def network_of(path: Path, size: tuple[int, int] | None) -> Network:
    """The network of a float ONNX file, with maps of one arbitrary range."""
    floats = read(path, size=size)
    return quantise(
        floats, {name: Range(-8, 8) for name in floats.shapes}, preprocessing=Preprocessing()
    )


def print_row(row: Row, assets: Path, markdown: bool) -> bool:
    """Plan one network, print its line, and say whether it keeps its limit."""
    network = network_of(assets / "models" / f"{row.file}.onnx", row.size)
    started = time.process_time()
    mixed = build(network, arena_bytes="smallest")
    seconds = time.process_time() - started
    layer = build(network, schedule="layer")
    stream = build(network, schedule="stream", arena_bytes="smallest")
    for plan in (layer, stream, mixed):
        verify(plan)
    most = row.most_kib * KIB if row.most_kib else row.most_share * layer.arena_bytes
    met = mixed.arena_bytes <= most
    height, width, _ = network.maps[network.inputs[0]].shape
    arenas = [plan.arena_bytes / KIB for plan in (layer, stream, mixed)]
    if markdown:
        print(f"| {row.file}, {height}x{width} | {arenas[0]:,.0f} KiB | {arenas[2]:,.1f} KiB |")
        return met
    bounds = [lower_bound_bytes(plan) / KIB for plan in (mixed, stream)]
    print(
        f"{row.file:20} {height:>4} x {width:<4}",
        *(f"{value:10,.1f}" for value in [*arenas, *bounds, most / KIB]),
        f"{len(mixed.steps):7,} {max(mixed.segments) + 1:4} {seconds:7.1f}",
        "" if met else "  MISSED",
        flush=True,
    )
    return met


def print_head(markdown: bool) -> None:
    """What the columns are."""
    if markdown:
        print("| network | layer by layer | thinmaps |\n|---|---|---|")
        return
    titles = ("layer", "stream", "mixed", "live", "field", "at most")
    print(f"{'KiB':32}", *(f"{t:>10}" for t in titles), f"{'steps':>7} {'segs':>4} {'seconds':>7}")


def main() -> int:
    """Print the table; 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="only these files, without .onnx")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--markdown", action="store_true", help="the README's table")
    options = parser.parse_args()
    print_head(options.markdown)
    rows = [row for row in TABLE if not options.networks or row.file in options.networks]
    missed = [row for row in rows if not print_row(row, options.assets, options.markdown)]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
