# SPDX-License-Identifier: Apache-2.0
"""Convolutions that skip zero blocks of their filters, beside the same ones that do not.

    python benchmarks/sparse.py [--size HxW] [--rounds N] [--json | --markdown] [--output [FILE]]

Layers of ResNet-18 as they are at 1088x1920, and the whole network at `--size`: its convolutions
behind the first one keep the largest 4 x 4 blocks of their seeded filters, as many in every 4
output channels (`thinmaps.graph.zero_blocks`). Both sides run the same plan on the same picture and
must give the same bytes before they are timed. One thread; CPU time; the sides take turns, and a
ratio is taken in every round. `dense` is the time without skipping.

A layer is timed on a strip of its map, all rows in one step; the network in its own plan, with the
convolutions skipping that the cost model chooses, or none.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from conv_cases import Case, Convolution
from engine_pairs import Array, in_turn
from results_file import provenance, results_file, write
from sources import ASSETS, Source, size_of

from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.graph.zero_blocks import largest_blocks
from thinmaps.measure.timing import Spread, ratio, spread
from thinmaps.plan.build import build
from thinmaps.plan.plan import Plan
from thinmaps.run.engine import Engine

SHARES = (0.5, 0.625, 0.75, 0.875)
NETWORK_SHARES = (0.5, 0.75)
LAYERS = (
    Case("3x3 64, 480 columns", 64, 64, (12, 480)),
    Case("3x3 s2 64-128, 480 columns", 64, 128, (24, 480), stride=2),
    Case("1x1 s2 64-128, 480 columns", 64, 128, (24, 480), 1, 2),
    Case("3x3 128, 240 columns", 128, 128, (12, 240)),
    Case("3x3 s2 128-256, 240 columns", 128, 256, (24, 240), stride=2),
    Case("3x3 256, 120 columns", 256, 256, (12, 120)),
    Case("3x3 s2 256-512, 120 columns", 256, 512, (24, 120), stride=2),
    Case("3x3 512, 60 columns", 512, 512, (12, 60)),
)


@dataclass(frozen=True)
class Side:
    """What was timed with a share of zero blocks; the ratio is to the time without skipping."""

    name: str
    zero_share: float
    ms: Spread
    dense_ms: Spread
    ratio: Spread
    weights_bytes: int
    dense_weights_bytes: int
    arena_bytes: int
    skipping: int  # convolutions


def compare(name: str, share: float, plan: Plan, picture: Array, force: bool, rounds: int) -> Side:
    """Both sides of a plan, verified and timed."""
    dense = Engine(plan, skip_zero_blocks=False)
    skips = Engine(plan, skip_zero_blocks=force or None)
    own, base = in_turn([skips, dense], picture, rounds)
    return Side(
        name,
        share,
        spread(own.cpu),
        spread(base.cpu),
        ratio(own.cpu, base.cpu),
        skips.weights_bytes,
        dense.weights_bytes,
        plan.arena_bytes,
        len(plan.skipping),
    )


def layer(whole: Convolution, name: str, share: float, rounds: int) -> Side:
    """One convolution, whose filters keep their largest blocks."""
    node = Node("conv", pruned(whole.node, share), ("x",), "y")
    network = Network((node,), {"x": whole.x, "y": whole.y}, ("x",), ("y",))
    plan = build(network, schedule="layer", skip_zero_blocks=True)
    return compare(name, share, plan, whole.pixels, True, rounds)


def pruned(conv: op.Conv, share: float) -> op.Conv:
    """`conv` with a share of zero blocks."""
    mask = largest_blocks(conv.weights, share, conv.groups)
    return replace(conv, weights=conv.weights * mask)


def pruned_network(network: Network, share: float) -> Network:
    """All convolutions but the first and the head with a share of zero blocks."""
    convs = [node for node in network.nodes if isinstance(node.operator, op.Conv)][1:-1]
    nodes = tuple(
        replace(node, operator=pruned(node.operator, share))
        if node in convs and isinstance(node.operator, op.Conv)
        else node
        for node in network.nodes
    )
    return replace(network, nodes=nodes)


def whole_network(size: tuple[int, int], assets: Path, rounds: int) -> list[Side]:
    """ResNet-18 with random weights at a size."""
    planned = Source.open("resnet18", assets).planned(size)
    found = []
    for share in NETWORK_SHARES:
        plan = build(pruned_network(planned.model.plan.source, share))
        name = f"ResNet-18, {size[0]}x{size[1]}"
        found.append(compare(name, share, plan, planned.pictures[0], False, rounds))
        print(line(found[-1]), file=sys.stderr, flush=True)
    plain = planned.model.plan.arena_bytes
    print(f"arena without scratch: {plain:,} bytes", file=sys.stderr)
    return found


def line(side: Side) -> str:
    """What a person who waits reads."""
    taken = side.ratio
    return (
        f"{side.name:28} {side.zero_share:6.1%} zero: {side.ms.median:9.3f} ms, dense "
        f"{side.dense_ms.median:9.3f} ms = {taken.median:.2f} ({taken.p10:.2f} to {taken.p90:.2f})"
        f", weights {side.weights_bytes / side.dense_weights_bytes:.2f}"
    )


MARKDOWN_HEAD = """\
| convolution or network | zero blocks | skipping | dense | time | weights |
|---|---|---|---|---|---|"""


def markdown_row(side: Side) -> str:
    """A row of the table: medians; the ratio with its 10th and 90th percentile."""
    taken = side.ratio
    return (
        f"| {side.name} | {side.zero_share:.1%} | {side.ms.median:.3f} ms "
        f"| {side.dense_ms.median:.3f} ms | {taken.median:.2f} ({taken.p10:.2f} to {taken.p90:.2f})"
        f" | {side.weights_bytes / side.dense_weights_bytes:.2f} |"
    )


def main() -> int:
    """Measure layers, then the network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=size_of, default=(1088, 1920), metavar="HxW")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--rounds", type=int, default=11)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true")
    shown.add_argument("--markdown", action="store_true")
    file = results_file("-sparse")
    parser.add_argument("--output", nargs="?", type=Path, const=file, help="write the JSON here")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"a spread needs at least 2 rounds, got --rounds {options.rounds}")
    sides = []
    for case in LAYERS:
        whole = Convolution(case)
        for share in SHARES:
            sides.append(layer(whole, case.name, share, options.rounds))
            print(line(sides[-1]), file=sys.stderr, flush=True)
    sides += whole_network(options.size, options.assets, options.rounds)
    document = {**provenance(), "rounds": options.rounds, "sides": [asdict(side) for side in sides]}
    if options.json:
        print(json.dumps(document, indent=2))
    elif options.markdown:
        print("\n".join([MARKDOWN_HEAD, *map(markdown_row, sides)]))
    write(document, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
