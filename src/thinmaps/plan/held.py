# SPDX-License-Identifier: Apache-2.0
"""Which maps of a plan a codec is worth its time on: those held whole, and those that bind."""

from __future__ import annotations

from dataclasses import dataclass

from thinmaps.plan.flow import MapFlow, flow_of
from thinmaps.plan.lifetimes import lives_of, steps_of_work
from thinmaps.plan.pack import live_bytes
from thinmaps.plan.plan import Plan
from thinmaps.plan.schedule import Order
from thinmaps.plan.storage import storage_of


def held_maps(plan: Plan) -> tuple[str, ...]:
    """Maps of `plan.source` that lie whole in the arena, in the order they are made.

    These are the maps that leave the segment in which they are made, and inside of a segment those
    of which every row waits at one time though fewer are read at once: a skip around a global
    operator, for one.
    """
    segment = {node.output: plan.segments[i] for i, node in enumerate(plan.network.nodes)}
    leaving = {
        name
        for i, node in enumerate(plan.network.nodes)
        for name in node.inputs
        if name in plan.places and segment[name] != plan.segments[i]
    }
    held = leaving | _waiting_whole(plan)
    return tuple(node.output for node in plan.source.nodes if node.output in held)


def _waiting_whole(plan: Plan) -> set[str]:
    """Maps whose ring has every row, and more rows than a codec would need beside it."""
    flow = flow_of(plan.network, plan.codecs, plan.skipping, plan.winograd)
    lives = lives_of(flow, steps_of_work(flow, Order.of_steps(plan.steps)), range(len(flow.maps)))
    found = set()
    for m, life in lives.items():
        this = flow.maps[m]
        if life.slots == this.entries > _window_entries(this):
            found.add(this.name.removesuffix(".coded"))
    return found


def _window_entries(this: MapFlow) -> int:
    """Entries of a map before its encoder and behind its decoders."""
    return 1 + sum(int((edge.stop - edge.first).max()) for edge in this.edges)


@dataclass(frozen=True)
class Binding:
    """A map of `plan.source` at the fullest moment: bytes of it that live then, in stored form.

    `window_bytes` is what its raw rows would need beside an encoded form, before the encoder and
    behind the decoders.
    """

    map: str
    bytes: int
    window_bytes: int


def binding(plan: Plan) -> tuple[Binding, ...]:
    """The maps that live when most bytes live, the largest first; windows of codecs left out.

    Each counts for itself, also where several share a buffer.
    """
    flow = flow_of(plan.network, plan.codecs, plan.skipping, plan.winograd)
    order = Order.of_steps(plan.steps)
    step = int(live_bytes(storage_of(flow, order).blocks, len(order)).argmax())
    lives = lives_of(flow, steps_of_work(flow, order), range(len(flow.maps)))
    found = []
    for m, life in lives.items():
        this = flow.maps[m]
        name = this.name.removesuffix(".coded")
        entries = int(((life.born <= step) & (life.dies >= step)).sum())
        if entries and name in plan.source.maps:
            window_bytes = _window_entries(this) * plan.source.maps[name].row_bytes
            found.append(Binding(name, entries * this.slot_bytes, window_bytes))
    return tuple(sorted(found, key=lambda each: (-each.bytes, each.map)))
