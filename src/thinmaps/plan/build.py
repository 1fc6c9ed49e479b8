# SPDX-License-Identifier: Apache-2.0
"""`build`: from a network to a plan: of the smallest arena found, or faster for more bytes.

    layer    one node after the other, all rows at once; every map is held whole
    stream   one segment: all nodes run interleaved, every map is a ring
    mixed    segments chosen by `segments`, compared by their real arenas

Nothing is computed twice under any of them. Where the smallest arena is found, `trade` thickens
steps: as far as a budget allows, or to the knee. The same input gives the same plan, byte for byte:
the search counts its trials, it never looks at a clock, and times are predicted from given rates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from thinmaps.codecs.base import Codec
from thinmaps.errors import BadArgument, PlanImpossible
from thinmaps.graph.network import Network
from thinmaps.plan.aliases import root_of
from thinmaps.plan.cost import DEFAULT_RATES, MachineRates, StepCost
from thinmaps.plan.flow import Flow, flow_of
from thinmaps.plan.kernel_choice import (
    skippable,
    transformable,
    worth_skipping,
    worth_winograd,
)
from thinmaps.plan.lower import lower
from thinmaps.plan.pack import live_bytes
from thinmaps.plan.plan import Buffer, Place, Plan, Steps
from thinmaps.plan.schedule import Order
from thinmaps.plan.search import (
    EFFORT,
    Candidate,
    layer_candidate,
    mixed_candidate,
    stream_candidate,
)
from thinmaps.plan.storage import storage_of
from thinmaps.plan.trade import Trade

NO_CODECS: Mapping[str, Codec] = {}


def build(
    network: Network,
    *,
    codecs: Mapping[str, Codec] = NO_CODECS,
    schedule: Literal["mixed", "stream", "layer"] = "mixed",
    stripe_rows: int = 1,
    arena_bytes: int | Literal["smallest"] | None = None,
    rates: MachineRates = DEFAULT_RATES,
    effort: int = EFFORT,
    skip_zero_blocks: bool | None = None,
    winograd: bool | None = False,
) -> Plan:
    """The plan of `network` that is worth its arena.

    `codecs` maps names of maps to the codecs that hold them. `stripe_rows` is the least number of
    rows per step (thicker steps are fewer, and rings are taller). `arena_bytes` is a budget, in
    which the plan predicted fastest is made; "smallest", the least arena found; or None, the knee
    between both (`plan/trade.py`). Times are predicted with `rates`. `effort` bounds each of the
    two searches: pairs of buffers compared over all trials. A layer plan is always the smallest.

    Convolutions get scratch to skip the zero blocks of their filters where that is predicted to be
    faster and a budget has room for all of it, none where the smallest arena is asked for;
    `skip_zero_blocks` gives it to all that can, or to none. `winograd` says the same of scratch for
    Winograd's algorithm (`plan/scratch.py`), but nobody gets it unasked: it is larger, and so are
    the filters.

    Raises:
        BadArgument: an unknown schedule, no rows per step, or an arena of no known kind.
        PlanImpossible: a codec for a map that cannot carry one; or nothing found fits, with the
            maps that bind at the fullest step.
    """
    if schedule not in ("mixed", "stream", "layer"):
        raise BadArgument(f"a schedule is 'mixed', 'stream' or 'layer', got {schedule!r}")
    if stripe_rows < 1:
        raise BadArgument(f"a step does at least 1 row, got stripe_rows = {stripe_rows}")
    if isinstance(arena_bytes, str) and arena_bytes != "smallest":
        raise BadArgument(f"an arena is a number of bytes or 'smallest', got {arena_bytes!r}")
    lowered = lower(network, codecs)
    may_choose = arena_bytes != "smallest"
    skips = _Scratch(skippable, worth_skipping, skip_zero_blocks, may_choose)
    multiplies_less = _Scratch(transformable, worth_winograd, winograd, may_choose)
    skipping_if_room, skipping_always = skips.nodes(lowered, rates)
    less_if_room, less_always = multiplies_less.nodes(lowered, rates)
    attempts = [
        (skipping_if_room, less_if_room),
        (skipping_if_room, less_always),
        (skipping_always, less_always),
    ]
    for skipping, less in dict.fromkeys(attempts):
        flow = flow_of(lowered, codecs, skipping, less)
        find = {"mixed": mixed_candidate, "stream": stream_candidate, "layer": layer_candidate}
        found = find[schedule](flow, stripe_rows, effort)
        if schedule != "layer":
            trade = Trade(flow, found, StepCost(lowered, rates, skipping, less), effort)
            short = isinstance(arena_bytes, int) and found.arena_bytes > arena_bytes
            found = trade.chosen("smallest" if short else arena_bytes).candidate
        # Only here: thicker steps sometimes need less, as held maps are then laid over each other.
        if not isinstance(arena_bytes, int) or found.arena_bytes <= arena_bytes:
            return _plan(network, codecs, flow, found, schedule, stripe_rows)
    assert isinstance(arena_bytes, int)
    raise PlanImpossible(_refusal(found, found.arena_bytes, arena_bytes, schedule))


@dataclass(frozen=True)
class _Scratch:
    """A use of scratch: by which nodes it could be made, by which it pays, what the caller says."""

    able: Callable[[Network], tuple[str, ...]]
    worth: Callable[[Network, MachineRates], tuple[str, ...]]
    asked: bool | None
    may_choose: bool

    def nodes(
        self, network: Network, rates: MachineRates
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Those that get scratch if there is room, and those that get it in any case."""
        if self.asked:
            able = self.able(network)
            return able, able
        chooses = self.asked is None and self.may_choose
        return self.worth(network, rates) if chooses else (), ()


def lower_bound_bytes(plan: Plan) -> int:
    """The most bytes that live in one step of `plan`: no placement of its rows can need less."""
    flow = flow_of(plan.network, plan.codecs, plan.skipping, plan.winograd)
    order = Order.of_steps(plan.steps)
    return int(live_bytes(storage_of(flow, order).blocks, len(order)).max(initial=0))


def _plan(
    network: Network,
    codecs: Mapping[str, Codec],
    flow: Flow,
    found: Candidate,
    schedule: str,
    stripe_rows: int,
) -> Plan:
    storage, order = found.storage, found.order
    buffers = tuple(
        Buffer(block.name, block.slots, block.slot_bytes, offset)
        for block, offset in zip(storage.blocks, found.packing.offsets, strict=True)
    )
    number = {owner: i for i, owner in enumerate(storage.owners)}
    places = {}
    for m, this in enumerate(flow.maps):
        if this.in_arena:
            owner, channel = root_of(m, storage.links)
            channels = flow.network.maps[flow.maps[owner].name].channels
            pixel_bytes = 0 if this.coded else channels
            places[this.name] = Place(number[owner], channel, pixel_bytes, this.unit_rows)
    states = {flow.nodes[v].name: len(storage.owners) + i for i, v in enumerate(storage.states)}
    segment = {v: i for i, part in enumerate(found.segments) for v in part.nodes}
    return Plan(
        source=network,
        network=flow.network,
        codecs=dict(codecs),
        steps=Steps(np.stack([order.node, order.first, order.rows], axis=1)),
        buffers=buffers,
        places=places,
        states=states,
        arena_bytes=found.arena_bytes,
        schedule=schedule,
        segments=tuple(segment[v] for v in range(len(flow.nodes))),
        stripe_rows=stripe_rows,
    )


def _refusal(found: Candidate, needed: int, asked: int, schedule: str) -> str:
    """Why the plan does not fit: the step in which most lives, and what lives there."""
    blocks = found.storage.blocks
    live = live_bytes(blocks, len(found.order))
    step = int(live.argmax())
    node = int(found.order.node[step])
    number = next(i for i, part in enumerate(found.segments) if node in part.nodes)
    sizes = {}
    for block in blocks:
        entries = (block.lives.born <= step) & (block.lives.dies >= step)
        sizes[block.name] = int(entries.sum()) * block.slot_bytes
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:4]
    names = ", ".join(f"{name!r} with {size:,} bytes" for name, size in largest if size)
    return (
        f"the smallest {schedule} plan found needs an arena of {needed:,} bytes, "
        f"{needed - asked:,} more than the {asked:,} asked for; at its fullest step, in segment "
        f"{number}, live {names}; a codec on these maps would shrink them"
    )
