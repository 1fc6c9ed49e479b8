# SPDX-License-Identifier: Apache-2.0
"""Cuts the network into segments, by dynamic programming over all pairs of borders.

Given an order of the nodes, a cutting is a path from node 0 to node n, and its memory that of the
costliest segment on it. This holds for any graph: what is held at a border is the set of maps that
cross it. Held maps are consumed and produced row by row at the same pace, so a segment costs about

    bytes of the maps inside it  +  the larger of what is held at its two borders

Most segments are never looked at closer. Those on the best path are replaced by what they really
cost, until the best path holds no estimate any more. First with a likely estimate (every inner map
is a ring as tall as its window), which soon finds a good cutting. Then with an optimistic one
(an inner map is only the rows that outlive a step), in best-first order, and segments that still
stand between the best path and a better one are refined.

Branches may be ordered in many ways; a few orders are tried: as given, depth first, and by the
bytes that are held.

Cost: the budget, counted in evaluations, never in seconds; beside it O(n) array operations per
path, of which there is one per evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thinmaps.plan.flow import Flow, IntArray
from thinmaps.plan.schedule import Segment
from thinmaps.plan.segments import Cut, Cutter

FAR = np.iinfo(np.int64).max // 4

Pair = tuple[int, int]


class Cutting:
    """The search over cuttings of one order of the nodes."""

    def __init__(self, cutter: Cutter, order: Sequence[int], stripe_rows: int) -> None:
        self.cutter = cutter
        self.stripe_rows = stripe_rows
        self.order = tuple(order)
        count = len(order)
        self.likely, self.optimistic, self._held = _estimates(cutter.flow, order)
        self._known: IntArray = np.full((count + 1, count + 1), FAR)
        self._best: dict[Pair, Segment] = {}
        self._refined: set[Pair] = set()

    @property
    def arena(self) -> int:
        """Of the best cutting so far."""
        return _costliest(self._known, _best_path(self._known))

    @property
    def cut(self) -> Cut:
        """The best cutting so far."""
        return tuple(self._best[pair] for pair in _best_path(self._known))

    def find(self) -> None:
        """Find a good cutting."""
        while fresh := [pair for pair in _best_path(self.likely) if pair not in self._best]:
            for pair in fresh:
                self._evaluate(pair)

    def improve(self, budget: int) -> None:
        """Look for a better one until the budget is spent or none can exist."""
        stop = self.cutter.spent + budget
        while self.cutter.spent < stop:
            path = _best_path(self.optimistic)
            least, reached = _costliest(self.optimistic, path), self.arena
            if least >= reached:
                break
            fresh = [pair for pair in path if pair not in self._best]
            for pair in fresh:
                self._evaluate(pair)
            if not fresh:
                coarse = [
                    pair
                    for pair in path
                    if pair not in self._refined and self._known[pair] >= reached
                ]
                if not coarse:
                    break
                worst = max(coarse, key=lambda pair: int(self._known[pair]))
                self._refine(worst, least, budget // 4)

    def _evaluate(self, pair: Pair) -> None:
        """Replace the estimates of a segment, and of those that contain it, by what is known."""
        i, j = pair
        segment = Segment(self.order[i:j], self.stripe_rows)
        cost = self.cutter.cost(segment, self.order[:i])
        self._best[pair] = segment
        borders = np.maximum(self._held[: i + 1, None], self._held[None, j:])
        unknown = self._known[: i + 1, j:] == FAR
        for estimate, inner in ((self.likely, cost.rings), (self.optimistic, cost.kept)):
            wider = estimate[: i + 1, j:]
            np.copyto(wider, np.maximum(wider, borders + inner), where=unknown)
        self._known[pair] = self.likely[pair] = cost.arena
        self.optimistic[pair] = cost.live

    def _refine(self, pair: Pair, enough: int, budget: int) -> None:
        before = self.order[: pair[0]]
        self._best[pair] = self.cutter.refined(self._best[pair], before, enough, budget)
        arena = self.cutter.cost(self._best[pair], before).arena
        self._known[pair] = self.optimistic[pair] = arena
        self._refined.add(pair)


def _estimates(flow: Flow, order: Sequence[int]) -> tuple[IntArray, IntArray, IntArray]:
    """Likely and optimistic bytes of nodes `i .. j - 1`; bytes held at the border before `i`."""
    count = len(order)
    place = {v: i for i, v in enumerate(order)}
    rings = np.zeros((count + 1, count + 1), np.int64)
    kept = np.zeros_like(rings)
    held = np.zeros(count + 1, np.int64)
    for this in flow.maps:
        if this.in_arena:
            made = place[this.producer]
            last = max((place[edge.node] for edge in this.edges), default=made)
            windows = [int(np.max(edge.stop - edge.first)) for edge in this.edges]
            shared = [int(np.max(e.stop[:-1] - e.first[1:], initial=0)) for e in this.edges]
            rings[: made + 1, last + 1 :] += max(windows, default=1) * this.slot_bytes
            kept[: made + 1, last + 1 :] += max(shared, default=0) * this.slot_bytes
            held[made + 1 : last + 1] += this.bytes
    borders = np.maximum(held[:, None], held[None, :])
    backwards = np.tril_indices(count + 1)
    rings, kept = rings + borders, kept + borders
    rings[backwards] = kept[backwards] = FAR
    return rings, kept, held


def _costliest(cost: IntArray, path: Sequence[Pair]) -> int:
    return max(int(cost[pair]) for pair in path)


def _best_path(cost: IntArray) -> list[Pair]:
    """Borders 0 .. n with the smallest costliest segment; of those the smallest sum of costs."""
    count = len(cost) - 1
    worst = np.zeros(count + 1, np.int64)
    for j in range(1, count + 1):
        worst[j] = np.min(np.maximum(worst[:j], cost[:j, j]))
    allowed = np.where(cost <= worst[count], cost, FAR)
    total = np.zeros(count + 1, np.int64)
    came = np.zeros(count + 1, np.int64)
    for j in range(1, count + 1):
        sums = np.minimum(total[:j] + allowed[:j, j], FAR)
        came[j] = int(np.argmin(sums))
        total[j] = sums[came[j]]
    path = []
    j = count
    while j:
        path.append((int(came[j]), j))
        j = int(came[j])
    return path[::-1]
