# SPDX-License-Identifier: Apache-2.0
"""What a segment costs: nodes that run interleaved, between maps that are held.

A segment is planned as if it were alone: its own steps, its rings, the held maps that it reads,
makes or only passes by, packed into an arena. Costs are remembered.

A segment can often be made smaller by letting groups of its nodes take turns. A ring that a
stride-2 window reads needs three rows for one step and then keeps one; groups whose turns end when
little is kept can use the same bytes for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from thinmaps.plan.aliases import choose_links, root_of
from thinmaps.plan.flow import Flow, paces
from thinmaps.plan.lifetimes import lives_of, state_lives
from thinmaps.plan.pack import Packer, live_bytes
from thinmaps.plan.schedule import Order, Segment, SegmentTimes, order_of
from thinmaps.plan.storage import ring_blocks, segment_work, state_blocks

# Trials of the packing of one segment; more change little, the final packing has its own.
PACKING_TRIALS = 10
# What an evaluation costs beside its pairs of buffers, in pairs.
FIXED_EFFORT = 700
# Rows that a group makes at its border in one turn: multiples of common rings and strides.
ROWS_OF_A_TURN = (6, 3, 4, 12)

Cut = tuple[Segment, ...]


@dataclass(frozen=True)
class Cost:
    """Of one segment alone, in bytes."""

    live: int  # at its fullest step
    kept: int  # of the maps inside it, at its quietest step
    rings: int  # of the maps inside it, all slots
    arena: int


class Cutter:
    """Finds cuttings of one network; remembers the times and costs of segments it has seen."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.pace = paces(flow)
        self._costs: dict[tuple[Segment, frozenset[int]], Cost] = {}
        self._times: dict[tuple[tuple[int, ...], tuple[int, ...]], SegmentTimes] = {}
        self.spent = 0

    def times(self, segment: Segment) -> SegmentTimes:
        """The times of the work in a segment."""
        key = (segment.nodes, segment.rows_of_nodes)
        if key not in self._times:
            self._times[key] = SegmentTimes(self.flow, *key, self.pace)
        return self._times[key]

    def order(self, cut: Sequence[Segment]) -> Order:
        """The steps of a cutting."""
        return order_of([(segment, self.times(segment)) for segment in cut])

    def cost(self, segment: Segment, before: Sequence[int]) -> Cost:
        """The arena of a segment alone, which follows nodes `before`."""
        key = (segment, frozenset(before))
        if key not in self._costs:
            self._costs[key] = self._cost(segment, key[1])
        return self._costs[key]

    def _cost(self, segment: Segment, before: frozenset[int]) -> Cost:
        flow, inside = self.flow, set(segment.nodes)
        order = self.order([segment])
        work = segment_work(flow, order, [v in before for v in range(len(flow.nodes))])
        alive = [m for m in range(len(flow.maps)) if self._meets(m, inside, before)]
        lives = lives_of(flow, work, alive)
        links = choose_links(flow, lives)
        rings = ring_blocks(flow, lives, links)
        leaving = {root_of(m, links)[0] for m in lives if not self._inside(m, inside)}
        inner = [rings[m] for m in rings if m not in leaving]
        kept = live_bytes(inner, len(order) + 2)
        states = state_blocks(flow, state_lives(flow, work, segment.nodes))
        packer = Packer([*rings.values(), *states.values()])
        self.spent += FIXED_EFFORT + len(packer.blocks) ** 2
        quiet = int(np.min(kept[len(kept) // 4 : 3 * len(kept) // 4 + 1]))
        ring_bytes = sum(block.bytes for block in inner)
        return Cost(packer.floor(), quiet, ring_bytes, packer.best(PACKING_TRIALS).end)

    def _meets(self, m: int, nodes: set[int], before: frozenset[int]) -> bool:
        """Whether map `m` lives while `nodes` run after `before`."""
        this = self.flow.maps[m]
        if this.producer in nodes:
            return True
        return this.producer in before and any(edge.node not in before for edge in this.edges)

    def _inside(self, m: int, nodes: set[int]) -> bool:
        this = self.flow.maps[m]
        return this.producer in nodes and all(edge.node in nodes for edge in this.edges)

    def refined(self, segment: Segment, before: Sequence[int], enough: int, budget: int) -> Segment:
        """The segment with groups that take turns, if that makes its arena smaller.

        Two thirds of the budget look for the best two groups, the rest splits them further.
        """
        stop = self.spent + budget
        two = self._best(segment, self._turns(segment), before, enough, stop - budget // 3)
        if not two.borders:
            return two
        return self._best(two, self._splits(two), before, enough, stop)

    def _best(
        self,
        best: Segment,
        others: Iterator[Segment],
        before: Sequence[int],
        enough: int,
        stop: int,
    ) -> Segment:
        least = self.cost(best, before).arena
        for tried in others:
            if least <= enough or self.spent >= stop:
                break
            cost = self.cost(tried, before).arena
            if cost < least:
                best, least = tried, cost
        return best

    def _splits(self, segment: Segment) -> Iterator[Segment]:
        """The segment with one more border, those first where the least crosses."""
        for border in self._borders(segment):
            if border not in segment.borders:
                yield replace(segment, borders=tuple(sorted((*segment.borders, border))))

    def _turns(self, segment: Segment) -> Iterator[Segment]:
        """Ways to split a segment into two groups, those first where the least crosses."""
        nodes, times = segment.nodes, self.times(segment)
        for border in self._borders(segment):
            pace = self.pace[nodes[border - 1]]
            start = float(times.times[nodes[border - 1]][0])
            for rows in ROWS_OF_A_TURN:
                for phase in (start - pace, start):
                    yield replace(segment, borders=(border,), period=rows * pace, phase=phase)

    def _borders(self, segment: Segment) -> list[int]:
        """Places in a segment, by the bytes per time that cross them."""
        nodes = segment.nodes
        place = {v: i for i, v in enumerate(nodes)}
        crossing = np.zeros(len(nodes))
        for v in nodes:
            this = self.flow.maps[self.flow.nodes[v].output]
            readers = [place[edge.node] for edge in this.edges if edge.node in place]
            rate = this.slot_bytes / self.pace[v] if this.in_arena else 0.0
            crossing[place[v] + 1 : max(readers, default=0) + 1] += rate
        return sorted(range(1, len(nodes)), key=lambda b: (crossing[b], b))
