# SPDX-License-Identifier: Apache-2.0
"""Cuts the network into segments: nodes inside one run interleaved, maps between them are held.

Given an order of the nodes, a cutting is a path from node 0 to node n, and its memory the costliest
segment on it. The shortest path in that sense is found by dynamic programming over all pairs of
borders, for any graph: the state is the set of maps that cross the border. A segment costs

    rings of the maps inside it  +  the larger of what is held at its two borders

as an estimate, since held maps are consumed and produced row by row at the same pace. Estimates of
segments on the best path are replaced by the bytes that really live in them, step by step, until
the best path holds no estimate any more. Skips make rings taller than the estimate; what one
segment teaches about its rings holds for every segment that contains it.

Branches may be ordered in many ways; a few are tried: as given, depth first, and by the bytes that
are held.

Cost: about n numbers of arrays per pass, and one exact evaluation per segment looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from thinmaps.plan.aliases import choose_links, root_of
from thinmaps.plan.flow import Flow, paces
from thinmaps.plan.lifetimes import lives_of
from thinmaps.plan.schedule import SegmentTimes, order_of
from thinmaps.plan.storage import occupied_bytes, ring_blocks, segment_work

FAR = np.iinfo(np.int64).max // 4

Cut = tuple[tuple[int, ...], ...]


class Cutter:
    """Finds cuttings of one network; remembers the times and costs of segments it has seen."""

    def __init__(self, flow: Flow, stripes: Mapping[int, int]) -> None:
        self.flow = flow
        self.stripes = dict(stripes)
        self.pace = paces(flow)
        self._costs: dict[tuple[frozenset[int], frozenset[int]], tuple[int, int]] = {}
        self._least_rings = [_least_ring_bytes(flow, m) for m in range(len(flow.maps))]

    def times(self, nodes: Sequence[int]) -> SegmentTimes:
        """The times of the work in a segment of `nodes`."""
        return SegmentTimes(self.flow, nodes, self.stripes, self.pace)

    def cost(self, nodes: Sequence[int], before: Sequence[int]) -> tuple[int, int]:
        """Bytes at the fullest step of a segment that follows nodes `before`; and of its rings."""
        key = (frozenset(nodes), frozenset(before))
        if key not in self._costs:
            self._costs[key] = self._cost(nodes, key[1])
        return self._costs[key]

    def _cost(self, nodes: Sequence[int], before: frozenset[int]) -> tuple[int, int]:
        flow = self.flow
        order = order_of([self.times(nodes)])
        work, steps = segment_work(flow, order, [v in before for v in range(len(flow.nodes))])
        inside = set(nodes)
        alive = [m for m in range(len(flow.maps)) if self._meets(m, inside, before)]
        lives = lives_of(flow, work, alive)
        links = choose_links(flow, lives)
        blocks = ring_blocks(flow, lives, links)
        occupied = occupied_bytes(blocks.values(), steps)
        members: dict[int, list[int]] = {}
        for m in lives:
            members.setdefault(root_of(m, links)[0], []).append(m)
        rings = sum(
            block.bytes
            for owner, block in blocks.items()
            if all(self._inside(m, inside) for m in members[owner])
        )
        states = sum(flow.nodes[v].state_bytes for v in nodes)
        return int(np.max(occupied[1:-1])) + states, rings

    def _meets(self, m: int, nodes: set[int], before: frozenset[int]) -> bool:
        """Whether map `m` lives while `nodes` run after `before`."""
        this = self.flow.maps[m]
        if this.producer in nodes:
            return True
        return this.producer in before and any(edge.node not in before for edge in this.edges)

    def _inside(self, m: int, nodes: set[int]) -> bool:
        this = self.flow.maps[m]
        return this.producer in nodes and all(edge.node in nodes for edge in this.edges)

    def cutting(self, order: Sequence[int], evaluations: int) -> tuple[int, Cut]:
        """The best cutting of `order` and its cost; at most `evaluations` segments are run."""
        count = len(order)
        place = {v: i for i, v in enumerate(order)}
        rings, held = self._estimates(order, place)
        estimate = rings + np.maximum(held[:, None], held[None, :])
        estimate[np.tril_indices(count + 1)] = FAR
        exact = np.zeros_like(estimate, dtype=bool)
        while True:
            path = _best_path(estimate)
            unknown = [pair for pair in path if not exact[pair]]
            if not unknown or np.count_nonzero(exact) >= evaluations:
                break
            for i, j in unknown:
                cost, inner = self.cost(order[i:j], order[:i])
                exact[i, j] = True
                estimate[i, j] = cost
                borders = np.maximum(held[: i + 1, None], held[None, j:])
                wider = estimate[: i + 1, j:]
                np.copyto(wider, np.maximum(wider, borders + inner), where=~exact[: i + 1, j:])
        segments = tuple(tuple(order[i:j]) for i, j in path)
        return max(int(estimate[i, j]) for i, j in path), segments

    def _estimates(
        self, order: Sequence[int], place: Mapping[int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Least ring bytes inside nodes `i .. j - 1`; bytes held at the border before node `i`."""
        count = len(order)
        rings = np.zeros((count + 1, count + 1), np.int64)
        held = np.zeros(count + 1, np.int64)
        for m, this in enumerate(self.flow.maps):
            if this.in_arena:
                made = place[this.producer]
                last = max((place[edge.node] for edge in this.edges), default=made)
                rings[: made + 1, last + 1 :] += self._least_rings[m]
                held[made + 1 : last + 1] += this.bytes
        return rings, held


def _least_ring_bytes(flow: Flow, m: int) -> int:
    this = flow.maps[m]
    if not this.in_arena:
        return 0
    rows = max((int(np.max(edge.stop - edge.first)) for edge in this.edges), default=1)
    return max(rows, 1) * this.slot_bytes


def _best_path(cost: NDArray[np.int64]) -> list[tuple[int, int]]:
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


def node_orders(flow: Flow) -> list[tuple[int, ...]]:
    """Topological orders worth cutting, without repetition."""
    given = tuple(range(len(flow.nodes)))
    orders = [given, _depth_first(flow, False), _depth_first(flow, True), _least_held_first(flow)]
    return list(dict.fromkeys(orders))


def _depth_first(flow: Flow, last_input_first: bool) -> tuple[int, ...]:
    """Each node as late as the outputs allow, one input's whole past before the next one's."""
    order: list[int] = []
    seen: set[int] = set()
    ends = [v for v, node in enumerate(flow.nodes) if not flow.maps[node.output].edges]
    for end in ends:
        stack = [(end, False)]
        while stack:
            v, ready = stack.pop()
            if ready:
                order.append(v)
            elif v not in seen:
                seen.add(v)
                stack.append((v, True))
                makers = [flow.maps[edge.map].producer for edge in flow.nodes[v].edges]
                makers = makers if last_input_first else makers[::-1]
                stack.extend((u, False) for u in makers if u >= 0 and u not in seen)
    return tuple(order)


def _least_held_first(flow: Flow) -> tuple[int, ...]:
    """Of the nodes that can run, the one after which the least is held."""
    readers = [{edge.node for edge in each.edges} for each in flow.maps]
    missing = [{e.map for e in node.edges if flow.maps[e.map].producer >= 0} for node in flow.nodes]
    ready = [v for v, maps in enumerate(missing) if not maps]
    order: list[int] = []

    def growth(v: int) -> int:
        freed = {e.map for e in flow.nodes[v].edges if readers[e.map] == {v}}
        return flow.maps[flow.nodes[v].output].bytes - sum(flow.maps[m].bytes for m in freed)

    while ready:
        v = min(ready, key=lambda u: (growth(u), u))
        ready.remove(v)
        order.append(v)
        for edge in flow.nodes[v].edges:
            readers[edge.map].discard(v)
        made = flow.nodes[v].output
        for u in dict.fromkeys(edge.node for edge in flow.maps[made].edges):
            missing[u].discard(made)
            if not missing[u]:
                ready.append(u)
    return tuple(order)
