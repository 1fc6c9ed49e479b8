# SPDX-License-Identifier: Apache-2.0
"""Whole schedules with their real arenas, and the search for the smallest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thinmaps.graph.operators import Decode, Encode
from thinmaps.plan.flow import Flow
from thinmaps.plan.pack import Packer, Packing
from thinmaps.plan.plan import ALIGNMENT_BYTES
from thinmaps.plan.schedule import Order, order_of
from thinmaps.plan.segments import Cut, Cutter, node_orders
from thinmaps.plan.storage import Storage, storage_of


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


def candidate(cutter: Cutter, segments: Cut, trials: int) -> Candidate:
    """Order, rings and arena of a cutting."""
    order = order_of([cutter.times(nodes) for nodes in segments])
    storage = storage_of(cutter.flow, order)
    return Candidate(segments, order, storage, Packer(storage.blocks).best(trials))


def layer_candidate(flow: Flow, stripe_rows: int) -> Candidate:
    """One node at a time; the codec of an edge works along with its producer and its readers."""
    found = []
    for order in node_orders(flow):
        segments = _layers(flow, order)
        whole = {v: flow.nodes[v].work_rows for nodes in segments if len(nodes) == 1 for v in nodes}
        thin = {v: stripe_rows for v in order if v not in whole}
        found.append(candidate(Cutter(flow, {**thin, **whole}), segments, 200))
    return min(found, key=lambda each: each.arena_bytes)


def _layers(flow: Flow, order: Sequence[int]) -> Cut:
    """Each node with the `Decode`s before it and the `Encode` behind it."""
    layers: dict[int, list[int]] = {}
    for v in order:
        operator = flow.network.nodes[v].operator
        at = v
        if isinstance(operator, Encode):
            at = flow.maps[flow.nodes[v].edges[0].map].producer
        elif isinstance(operator, Decode):
            at = flow.maps[flow.nodes[v].output].edges[0].node
        layers.setdefault(at, []).append(v)
    return tuple(tuple(layers[v]) for v in order if v in layers)


def stream_candidate(flow: Flow, stripe_rows: int) -> Candidate:
    """Everything interleaved."""
    cutter = Cutter(flow, dict.fromkeys(range(len(flow.nodes)), stripe_rows))
    return candidate(cutter, (tuple(range(len(flow.nodes))),), 200)


def mixed_candidate(flow: Flow, stripe_rows: int) -> Candidate:
    """The best cutting of several orders of the nodes."""
    cutter = Cutter(flow, dict.fromkeys(range(len(flow.nodes)), stripe_rows))
    cuttings = [cutter.cutting(order, 200)[1] for order in node_orders(flow)]
    cuttings += [((*range(len(flow.nodes)),),), tuple((v,) for v in range(len(flow.nodes)))]
    found = [candidate(cutter, cutting, 60) for cutting in dict.fromkeys(cuttings)]
    return min(found, key=lambda each: each.arena_bytes)
