# SPDX-License-Identifier: Apache-2.0
"""Bytes for time: how thick each node's steps are, from the smallest arena to the fastest plan.

A thicker step of node `v` walks the node's filters less often and makes its rings taller, by about

    (rows - 1) * (bytes of an entry made + entries of its inputs per row * bytes of an entry)

With a price in seconds per byte every node chooses for itself the stripe height that minimises
seconds + price * bytes (Lagrange's multiplier; Everett, 1963, for such sums over independent
choices). A high price leaves all steps thin. As it falls, deep nodes with large filters and short
rows thicken first, and those that read the large early maps last, if ever. Ours: the estimate of
bytes only proposes; each price's schedule gets its real arena, and what is not worth its bytes is
dropped. What is left is the list to choose from:

    smallest   the least arena, and of its schedules the fastest found
    budget     the fastest schedule that fits
    knee       the least `log(seconds) + KNEE * log(arena bytes)`

A segment that does not bind thickens for free where the others leave room.

Cost: per schedule tried, its order, its lifetimes and one packing of few trials; their number is
bounded by the effort, counted in pairs of buffers, never in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from thinmaps.plan.cost import StepCost
from thinmaps.plan.flow import Flow, NodeFlow
from thinmaps.plan.pack import Packer, live_bytes
from thinmaps.plan.plan import ALIGNMENT_BYTES
from thinmaps.plan.schedule import Segment, stripe_of
from thinmaps.plan.search import ALL_ROWS, Candidate
from thinmaps.plan.segments import FIXED_EFFORT, Cut, Cutter
from thinmaps.plan.storage import storage_of

# Half the arena is worth a quarter more of the time: memory is why one comes here, and not all that
# is predicted comes true (thicker steps at 224 x 224: 10 % predicted, 1 % measured).
KNEE = math.log(1.25) / math.log(2)
# Rows of a step that a node may choose from.
HEIGHTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, ALL_ROWS)
# Prices that are tried, in the whole arena's bytes for the whole time, the highest first. At a
# price of KNEE a byte saves what it costs.
PRICES = (*(KNEE * 2.0 ** (k / 2) for k in range(8, -11, -1)), 0.0)
HALVINGS = 6  # of the gap between the last price that fits a budget and the first that does not
PACKING_TRIALS = 20


@dataclass(frozen=True, eq=False)
class Offer:
    """A schedule with its arena, and its predicted time."""

    candidate: Candidate
    seconds: float

    @property
    def arena_bytes(self) -> int:
        """The arena."""
        return self.candidate.arena_bytes

    @property
    def worth(self) -> float:
        """What the knee minimises."""
        return math.log(self.seconds) + KNEE * math.log(self.arena_bytes)


def pareto(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    """Those that no other beats in both bytes and seconds, the smallest arena first."""
    best: list[Offer] = []
    for offer in sorted(offers, key=lambda each: (each.arena_bytes, each.seconds)):
        if not best or offer.seconds < best[-1].seconds:
            best.append(offer)
    return tuple(best)


def knee(offers: Sequence[Offer]) -> Offer:
    """The best bargain of a Pareto list; of equal ones the smallest."""
    return min(offers, key=lambda offer: (offer.worth, offer.arena_bytes))


class Trade:
    """Schedules of one network beside the smallest found, by what they cost."""

    def __init__(self, flow: Flow, smallest: Candidate, cost: StepCost, effort: int) -> None:
        self._cost = cost
        self._cutter = Cutter(flow)
        self._stop = effort // 2
        self._seen: dict[tuple[Cut, int | None], Offer | None] = {}
        least = min(part.stripe_rows for part in smallest.segments)
        streamed = Segment(tuple(range(len(flow.nodes))), least)
        self._cuts = tuple(dict.fromkeys((smallest.segments, (streamed,))))
        self._menus = _Menus(flow, cost, least)
        found = self._offer(smallest)
        self._unit_price = found.seconds / found.arena_bytes
        self.smallest = self.relaxed(found, found.arena_bytes)
        self._stop = self._cutter.spent + effort

    def chosen(self, arena_bytes: int | Literal["smallest"] | None) -> Offer:
        """The offer that `build` is asked for, packed with care."""
        if arena_bytes == "smallest":
            found = self.smallest
        elif arena_bytes is None:
            bargain = knee(self.offers())
            found = self.relaxed(bargain, bargain.arena_bytes)
        else:
            found = self.relaxed(self.within(arena_bytes), arena_bytes)
        return self._repacked(found)

    def offers(self) -> tuple[Offer, ...]:
        """The Pareto list: the smallest, and its cuttings thickened at every price."""
        found = [self._at(cut, price) for price in PRICES for cut in self._cuts]
        return pareto([self.smallest, *(offer for offer in found if offer is not None)])

    def within(self, arena_bytes: int) -> Offer:
        """The fastest schedule found that fits; the smallest fits by assumption."""
        found = [self.smallest]
        for cut in self._cuts:
            found.extend(self._descend(cut, arena_bytes))
        return pareto(found)[-1]

    def relaxed(self, offer: Offer, arena_bytes: int) -> Offer:
        """`offer` with thicker steps in segments that leave room, one after the other."""
        parts = offer.candidate.segments
        for i in sorted(range(len(parts)), key=lambda i: -len(parts[i].nodes)):
            for price in PRICES[::-2]:
                cut = list(offer.candidate.segments)
                cut[i] = self._menus.thicker(cut[i], price * self._unit_price)
                tried = self._packed(tuple(cut), arena_bytes)
                if tried is not None and tried.seconds < offer.seconds:
                    offer = tried
                    break
        return offer

    def _descend(self, cut: Cut, arena_bytes: int) -> list[Offer]:
        """Schedules that fit, on the way to the lowest price that does, by bisection."""
        found: list[Offer] = []
        thin, thick = 0, len(PRICES)
        while thin < thick:
            middle = (thin + thick) // 2
            tried = self._at(cut, PRICES[middle], arena_bytes)
            if tried is None:
                thick = middle
            else:
                found.append(tried)
                thin = middle + 1
        if not 0 < thin < len(PRICES):
            return found
        high, low = PRICES[thin - 1], PRICES[thin]
        for _ in range(HALVINGS):
            tried = self._at(cut, (low + high) / 2, arena_bytes)
            if tried is None:
                low = (low + high) / 2
            else:
                high = (low + high) / 2
                found.append(tried)
        return found

    def _at(self, cut: Cut, price: float, most_bytes: int | None = None) -> Offer | None:
        """`cut` thickened at `price`."""
        price *= self._unit_price
        return self._packed(tuple(self._menus.thicker(part, price) for part in cut), most_bytes)

    def _packed(self, cut: Cut, most_bytes: int | None) -> Offer | None:
        """The schedule of a cutting, unless it does not fit or the effort is spent."""
        key = (cut, most_bytes)
        if key not in self._seen:
            spent = self._cutter.spent >= self._stop
            self._seen[key] = None if spent else self._new(cut, most_bytes)
        return self._seen[key]

    def _new(self, cut: Cut, most_bytes: int | None) -> Offer | None:
        """Most schedules that do not fit are found out before packing."""
        cutter = self._cutter
        order = cutter.order(cut)
        storage = storage_of(cutter.flow, order)
        cutter.spent += FIXED_EFFORT
        most = None if most_bytes is None else most_bytes - ALIGNMENT_BYTES
        live = int(live_bytes(storage.blocks, len(order)).max(initial=0))
        if most is not None and live > most:
            return None
        cutter.spent += len(storage.blocks) ** 2
        packing = Packer(storage.blocks).best(PACKING_TRIALS, most or 0)
        if most is not None and packing.end > most:
            return None
        return self._offer(Candidate(cut, order, storage, packing))

    def _repacked(self, offer: Offer) -> Offer:
        """`offer` in the smaller of its own arena and one of more trials."""
        candidate = offer.candidate
        packing = Packer(candidate.storage.blocks).best(200, candidate.packing.end // 2)
        if packing.end >= candidate.packing.end:
            return offer
        return replace(offer, candidate=replace(candidate, packing=packing))

    def _offer(self, candidate: Candidate) -> Offer:
        order = candidate.order
        return Offer(candidate, self._cost.total(order.node, order.rows))


class _Menus:
    """For each node, the stripe heights it may choose, with seconds and estimated bytes."""

    def __init__(self, flow: Flow, cost: StepCost, least_rows: int) -> None:
        self._choices = [
            _choices(flow, v, node, cost, least_rows) for v, node in enumerate(flow.nodes)
        ]

    def thicker(self, segment: Segment, price: float) -> Segment:
        """The segment with every node's best height at `price` seconds a byte, never thinner."""
        now = zip(segment.nodes, segment.rows_of_nodes, strict=True)
        return replace(segment, stripes=tuple(self._choose(v, rows, price) for v, rows in now))

    def _choose(self, v: int, rows: int, price: float) -> int:
        choices = [choice for choice in self._choices[v] if choice[0] >= rows]
        if not choices:
            return rows
        return min(choices, key=lambda choice: (choice[1] + price * choice[2], choice[0]))[0]


Choice = tuple[int, float, int]  # rows, seconds of the whole node, bytes


def _choices(flow: Flow, v: int, node: NodeFlow, cost: StepCost, least: int) -> list[Choice]:
    heights = dict.fromkeys(stripe_of(node, max(rows, least)) for rows in HEIGHTS)
    return [
        (rows, _node_seconds(v, node.work_rows, rows, cost), _ring_bytes(flow, node, rows))
        for rows in heights
    ]


def _node_seconds(v: int, work_rows: int, rows: int, cost: StepCost) -> float:
    whole, rest = divmod(work_rows, rows)
    seconds = whole * float(cost(v, rows))
    return seconds + float(cost(v, rest)) if rest else seconds


def _ring_bytes(flow: Flow, node: NodeFlow, rows: int) -> int:
    """By how much the rings on both sides grow for steps of `rows` rows."""
    sources = [flow.maps[edge.map] for edge in node.edges]
    return (
        (rows - 1)
        * (flow.maps[node.output].bytes + sum(m.bytes for m in sources))
        // node.work_rows
    )
