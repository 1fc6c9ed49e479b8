# SPDX-License-Identifier: Apache-2.0
"""Networks whose 3x3 filters are made of coefficients, beside the same filters stored.

    python benchmarks/coded.py [--networks NAME ...] [--rounds N] [--json | --markdown]
        [--output [FILE]]

Every 3x3 convolution with input channels in fours gets the nearest filters that `--codes` codes
make; the other side stores these filters, so both give the same bytes, which is checked before they
are timed. `layer` runs whole maps, one layer after the other, `default` is the plan that `compress`
makes. One thread; CPU time; the sides take turns, and a ratio is taken in every round.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from engine_pairs import Array, in_turn
from results_file import provenance, results_file, write
from sources import ASSETS, Source

from thinmaps.graph.filter_codes import greedy_order, kernel_codes, quantised
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import CodedConv, Conv
from thinmaps.measure.timing import Spread, ratio, spread
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine

CODES = (2, 4)
CASES = (
    ("cifar10_resnet20", (32, 32)),
    ("resnet18", (224, 224)),
    ("resnet18", (1088, 1920)),
)


@dataclass(frozen=True)
class Side:
    """A network of made filters; the ratio is to the time with stored ones."""

    name: str
    schedule: str
    codes: int
    ms: Spread
    stored_ms: Spread
    ratio: Spread
    weights_bytes: int
    stored_weights_bytes: int
    arena_bytes: int
    stored_arena_bytes: int


def coded(network: Network, codes: int) -> tuple[Network, Network]:
    """The network with filters of codes, and the one that stores these filters."""
    chosen = tuple(greedy_order(kernel_codes("crop"))[:codes])
    made = [_coded(node, chosen) for node in network.nodes]
    stored = [
        replace(node, operator=_stored(node.operator))
        if isinstance(node.operator, CodedConv)
        else node
        for node in made
    ]
    return replace(network, nodes=tuple(made)), replace(network, nodes=tuple(stored))


def _coded(node: Node, codes: tuple[int, ...]) -> Node:
    conv = node.operator
    if not isinstance(conv, Conv) or conv.window.kernel != (3, 3) or conv.weights.shape[1] % 4:
        return node
    filters, scale = quantised(conv.weights, "crop", codes, np.zeros(len(conv.weights)))
    multiplier = np.asarray(conv.multiplier * scale, np.float32)
    bias = np.asarray(np.rint(conv.bias / scale.astype(np.float64)), np.int32)
    operator = CodedConv(conv.window, conv.groups, filters, bias, multiplier, conv.low, conv.high)
    return replace(node, operator=operator)


def _stored(conv: CodedConv) -> Conv:
    weights = (conv.weights, conv.bias, conv.multiplier)
    return Conv(conv.window, conv.groups, *weights, conv.low, conv.high)


def compare(name: str, network: Network, codes: int, picture: Array, rounds: int) -> Iterator[Side]:
    """Both sides under both schedules, verified and timed."""
    both = coded(network, codes)
    for schedule in ("layer", "default"):
        how = "layer" if schedule == "layer" else "mixed"
        plans = [build(each, schedule=how) for each in both]  # type: ignore[arg-type]
        engines = [Engine(plan) for plan in plans]
        own, base = in_turn(engines, picture, rounds)
        yield Side(
            name,
            schedule,
            codes,
            spread(own.cpu),
            spread(base.cpu),
            ratio(own.cpu, base.cpu),
            *(engine.weights_bytes for engine in engines),
            *(plan.arena_bytes for plan in plans),
        )


def line(side: Side) -> str:
    """What a person who waits reads."""
    taken = side.ratio
    return (
        f"{side.name:22} {side.schedule:8} {side.codes} codes: {side.ms.median:8.3f} ms, stored "
        f"{side.stored_ms.median:8.3f} ms = {taken.median:.2f} ({taken.p10:.2f} to {taken.p90:.2f})"
        f", weights {side.weights_bytes:,} of {side.stored_weights_bytes:,}, arena "
        f"{side.arena_bytes:,}, stored {side.stored_arena_bytes:,}"
    )


MARKDOWN_HEAD = """\
| network, plan | codes | weights held | stored | arena | stored | time / stored |
|---|---|---|---|---|---|---|"""


def markdown_row(side: Side) -> str:
    """A row of the table: bytes in KiB; the ratio with its 10th and 90th percentile."""
    taken = side.ratio
    sizes = (
        side.weights_bytes, side.stored_weights_bytes, side.arena_bytes, side.stored_arena_bytes,
    )  # fmt: skip
    held = " | ".join(f"{size / 1024:,.0f} KiB" for size in sizes)
    return (
        f"| {side.name}, {side.schedule} | {side.codes} | {held} "
        f"| {taken.median:.2f} ({taken.p10:.2f} to {taken.p90:.2f}) |"
    )


def main() -> int:
    """Measure every network with every number of codes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = sorted({name for name, _ in CASES})
    parser.add_argument("--networks", nargs="*", default=names, choices=names)
    parser.add_argument("--codes", nargs="*", type=int, default=CODES)
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--rounds", type=int, default=11)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true")
    shown.add_argument("--markdown", action="store_true")
    file = results_file("-coded")
    parser.add_argument("--output", nargs="?", type=Path, const=file, help="write the JSON here")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"a spread needs at least 2 rounds, got --rounds {options.rounds}")
    sides = []
    for name, size in CASES:
        if name not in options.networks:
            continue
        planned = Source.open(name, options.assets).planned(size)
        label = f"{name}, {size[0]}x{size[1]}"
        for codes in options.codes:
            network, picture = planned.model.plan.source, planned.pictures[0]
            for side in compare(label, network, codes, picture, options.rounds):
                sides.append(side)
                print(line(side), file=sys.stderr, flush=True)
    document = {**provenance(), "rounds": options.rounds, "sides": [asdict(side) for side in sides]}
    if options.json:
        print(json.dumps(document, indent=2))
    elif options.markdown:
        print("\n".join([MARKDOWN_HEAD, *map(markdown_row, sides)]))
    write(document, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
