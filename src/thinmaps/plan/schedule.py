# SPDX-License-Identifier: Apache-2.0
"""The order of steps inside segments: every work row gets a time, steps are sorted by time.

The nodes of a segment run in step with each other. Node `v` does work row `r` at time

    T_v(r) = pace_v * r + delay_v

where the pace follows from the strides and the delay is the smallest that finds every input row
made. So rows are pulled just as fast as the rows behind them can use them, several outputs at
different strides take turns by how much input they need, and a global mean in the middle simply
delays its readers by a whole map. A second sweep, from the last node to the first, moves a node
later where its output waits longer than its inputs would (a branch that runs ahead of its join).

Finding the smallest buffers of a steady flow is retiming (Leiserson and Saxe, 1991); the two sweeps
are a heuristic for it. Cost: a few array operations per edge. Nothing recurses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.plan.flow import Flow, IntArray, NodeFlow
from thinmaps.plan.plan import Step

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Order:
    """Steps in execution order, as three arrays of equal length."""

    node: IntArray
    first: IntArray
    rows: IntArray

    def __len__(self) -> int:
        return len(self.node)

    @staticmethod
    def of_steps(steps: Sequence[Step]) -> Order:
        """The same steps as arrays."""
        columns = np.array(steps, np.int64).reshape(-1, 3)
        return Order(columns[:, 0], columns[:, 1], columns[:, 2])


@dataclass(frozen=True)
class Segment:
    """Nodes that run interleaved. `borders` split them into groups that take turns.

    In turn `k` the first group does all its work of the times up to `phase + k * period`, then
    the second, and so on. Between its turns a group keeps only the rows that outlive them, so
    groups can use the same bytes one after the other; a few more rows are kept at the borders.
    """

    nodes: tuple[int, ...]
    stripe_rows: int = 1  # work rows of a step, where the node has so many
    stripes: tuple[int, ...] = ()  # those of each node, where they are not all `stripe_rows`
    borders: tuple[int, ...] = ()
    period: float = 1.0
    phase: float = 0.0

    @property
    def rows_of_nodes(self) -> tuple[int, ...]:
        """Work rows of a step of each node, where the node has so many."""
        return self.stripes or (self.stripe_rows,) * len(self.nodes)


class SegmentTimes:
    """Times of the work of some nodes that run interleaved; maps made elsewhere are ready.

    `nodes` are in execution order; a step of each does as many work rows as `stripes` says.
    `ends[v]` holds the last work row of every step of `v`, `times[v]` its time.
    """

    def __init__(
        self, flow: Flow, nodes: Sequence[int], stripes: Sequence[int], pace: Sequence[float]
    ) -> None:
        self.flow = flow
        self.nodes = tuple(nodes)
        self.members = {flow.nodes[v].output: v for v in nodes}
        self.stripe = {
            v: stripe_of(flow.nodes[v], rows) for v, rows in zip(nodes, stripes, strict=True)
        }
        self.ends: dict[int, IntArray] = {}
        self.times: dict[int, FloatArray] = {}
        self._entry_times: dict[int, FloatArray] = {}
        for v in nodes:
            self.ends[v] = step_ends(flow.nodes[v], self.stripe[v])
            self._set(v, self._earliest(v, pace[v]))
        self._settle()

    def _set(self, v: int, times: FloatArray) -> None:
        self.times[v] = times
        out = self.flow.maps[self.flow.nodes[v].output]
        self._entry_times[self.flow.nodes[v].output] = times[out.made_after // self.stripe[v]]

    def _earliest(self, v: int, pace: float) -> FloatArray:
        """The line of slope `pace` that touches from above when inputs are ready."""
        nominal = self.ends[v] * pace
        ready = np.full(len(nominal), -np.inf)
        for edge in self.flow.nodes[v].edges:
            if edge.map in self.members:
                stop = edge.stop[self.ends[v]]
                made = self._entry_times[edge.map][np.maximum(stop, 1) - 1]
                np.maximum(ready, np.where(stop > 0, made, -np.inf), out=ready)
        delay = float(np.max(ready - nominal))
        if delay == -np.inf:
            return nominal
        # Rounding may leave the line a hair below the ready time; the order must not depend on it.
        return np.maximum.accumulate(np.maximum(nominal + delay, ready))

    def _settle(self) -> None:
        """Move nodes later, last node first, where that does not cost bytes."""
        for v in reversed(self.nodes):
            output = self.flow.nodes[v].output
            times, latest = self.times[v], self._latest(v)
            slack = float(np.min(latest - times))
            if not 0 < slack < np.inf or not self.flow.maps[output].in_arena:
                continue
            touched = [output, *(e.map for e in self.flow.nodes[v].edges if e.map in self.members)]
            before = self._ring_bytes(touched)
            self._set(v, np.minimum(times + slack, latest))
            if self._ring_bytes(touched) > before:
                self._set(v, times)

    def _latest(self, v: int) -> FloatArray:
        """For each step of `v`, the time of the first step in this segment that needs it."""
        output = self.flow.maps[self.flow.nodes[v].output]
        needed = np.full(output.entries, np.inf)
        for edge in output.edges:
            if edge.node in self.times:
                reader = np.searchsorted(edge.stop, np.arange(output.entries), "right")
                read = reader < len(edge.stop)
                times = self.times[edge.node][reader[read] // self.stripe[edge.node]]
                needed[read] = np.minimum(needed[read], times)
        latest = np.full(len(self.times[v]), np.inf)
        # Backwards, so that of the entries of one step the first, which is needed first, stays.
        latest[(output.made_after // self.stripe[v])[::-1]] = needed[::-1]
        return latest

    def _ring_bytes(self, maps: Sequence[int]) -> int:
        return sum(self.ring(m) * self.flow.maps[m].slot_bytes for m in dict.fromkeys(maps))

    def ring(self, m: int) -> int:
        """Entries of map `m` that its readers in this segment make it hold at once."""
        made = self._entry_times[m]
        most = 1
        for edge in self.flow.maps[m].edges:
            if edge.node in self.times:
                exist = np.searchsorted(made, self.times[edge.node], "right")
                starts = self.ends[edge.node] // self.stripe[edge.node] * self.stripe[edge.node]
                most = max(most, int(np.max(exist - edge.first[starts])))
        return most


def stripe_of(node: NodeFlow, rows: int) -> int:
    """`rows` rounded up to what the node can do in one step: whole coding units, at most all."""
    whole = -(-node.work_rows // node.grain) * node.grain
    return min(-(-rows // node.grain) * node.grain, whole)


def step_ends(node: NodeFlow, stripe: int) -> IntArray:
    """The last work row of every step of `node` in stripes of `stripe` rows."""
    ends = np.arange(stripe - 1, node.work_rows + stripe - 1, stripe, dtype=np.int64)
    return np.minimum(ends, node.work_rows - 1)


def order_of(parts: Sequence[tuple[Segment, SegmentTimes]]) -> Order:
    """All steps of all segments, one segment after the other, each by turns and by time.

    Steps at one time run in the order of their nodes.
    """
    steps: list[tuple[IntArray, ...]] = []
    keys: list[tuple[FloatArray, ...]] = []
    for number, (segment, times) in enumerate(parts):
        for place, v in enumerate(segment.nodes):
            ends, due = times.ends[v], times.times[v]
            first = np.concatenate(([0], ends[:-1] + 1))
            steps.append((np.full(len(ends), v), first, ends - first + 1))
            turn = np.ceil((due - segment.phase) / segment.period)
            group = sum(border <= place for border in segment.borders)
            last, middle, major = (np.full(len(ends), k, float) for k in (place, group, number))
            keys.append((last, due, middle, turn, major))
    node, first, rows = (np.concatenate(column) for column in zip(*steps, strict=True))
    by_time = np.lexsort([np.concatenate(column) for column in zip(*keys, strict=True)])
    return Order(node[by_time], first[by_time], rows[by_time])
