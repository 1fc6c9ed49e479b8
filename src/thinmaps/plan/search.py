# SPDX-License-Identifier: Apache-2.0
"""Whole schedules with their real arenas, and the search for the smallest.

Several cuttings compete by their arenas. `trade` then gives bytes back for time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thinmaps.graph.operators import Decode, Encode
from thinmaps.plan.cutting import Cutting
from thinmaps.plan.flow import Flow
from thinmaps.plan.lower import joins_decoded
from thinmaps.plan.node_orders import node_orders
from thinmaps.plan.pack import Packer, Packing
from thinmaps.plan.plan import ALIGNMENT_BYTES
from thinmaps.plan.schedule import Order, Segment
from thinmaps.plan.segments import Cut, Cutter
from thinmaps.plan.storage import Storage, storage_of

# Pairs of buffers that a search may compare, in all its trials.
EFFORT = 150_000
# Rows of a step that does all that its node has to do.
ALL_ROWS = 1 << 30


@dataclass(frozen=True, eq=False)
class Candidate:
    """A schedule with everything that follows from it."""

    segments: Cut
    order: Order
    storage: Storage
    packing: Packing

    @property
    def arena_bytes(self) -> int:
        """The arena: all buffers, and slack for reads a little past the last row."""
        return self.packing.end + ALIGNMENT_BYTES


def candidate(cutter: Cutter, cut: Cut, trials: int) -> Candidate:
    """Order, rings and arena of a cutting."""
    order = cutter.order(cut)
    storage = storage_of(cutter.flow, order)
    return Candidate(cut, order, storage, Packer(storage.blocks).best(trials))


def layer_candidate(flow: Flow, stripe_rows: int, effort: int) -> Candidate:
    """One node at a time; the codec of an edge works along with its producer and its readers."""
    del effort  # there is nothing to search
    cutter = Cutter(flow)
    found = []
    for order in node_orders(flow):
        layers = _layers(flow, order)
        cut = [Segment(nodes, stripe_rows if len(nodes) > 1 else ALL_ROWS) for nodes in layers]
        found.append(candidate(cutter, tuple(cut), 200))
    return min(found, key=lambda each: each.arena_bytes)


def _layers(flow: Flow, order: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Each node with the `Decode`s before it and the `Encode` behind it.

    A concatenation of decoded parts goes with its only reader: what is held are the parts.
    """
    layers: dict[int, list[int]] = {}
    for v in order:
        operator = flow.network.nodes[v].operator
        at = v
        if isinstance(operator, Encode):
            at = flow.maps[flow.nodes[v].edges[0].map].producer
        elif isinstance(operator, Decode):
            at = flow.maps[flow.nodes[v].output].edges[0].node
        layers.setdefault(_joined(flow, at), []).append(v)
    return tuple(tuple(layers[v]) for v in order if v in layers)


def _joined(flow: Flow, v: int) -> int:
    """The node in whose layer `v` runs: its only reader, where `v` joins decoded parts."""
    while joins_decoded(flow.network, flow.network.nodes[v]):
        v = flow.maps[flow.nodes[v].output].edges[0].node
    return v


def stream_candidate(flow: Flow, stripe_rows: int, effort: int) -> Candidate:
    """Everything interleaved, taking turns where that pays."""
    cutter = Cutter(flow)
    return candidate(cutter, (_streamed(cutter, stripe_rows, effort),), 200)


def _streamed(cutter: Cutter, stripe_rows: int, effort: int) -> Segment:
    every = Segment(tuple(range(len(cutter.flow.nodes))), stripe_rows)
    return cutter.refined(every, (), 0, effort)


def mixed_candidate(flow: Flow, stripe_rows: int, effort: int) -> Candidate:
    """The best cutting of several orders of the nodes, or none at all."""
    cutter = Cutter(flow)
    cuttings = [Cutting(cutter, order, stripe_rows) for order in node_orders(flow)]
    for each in cuttings:
        each.find()
    cuttings.sort(key=lambda each: each.arena)
    cuttings[0].improve(effort)
    cuts = dict.fromkeys(
        [*(each.cut for each in cuttings), (_streamed(cutter, stripe_rows, effort),)]
    )
    found = [candidate(cutter, cut, 200) for cut in cuts]
    return min(found, key=lambda each: each.arena_bytes)
