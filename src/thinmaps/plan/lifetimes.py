# SPDX-License-Identifier: Apache-2.0
"""When every entry of every map is born and dies, from the order of the steps alone.

Entry `e` of a map is born in the step that completes it and dies in the last step that reads it
(in the step of its birth, if none does). Both are inclusive, and nothing else decides memory: the
slots that a ring needs (`slots`), what may overlap in the arena (`pack`), and whether a plan is
legal (`verify`) all follow.

Cost: one look-up per work row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from thinmaps.plan.flow import Flow, IntArray
from thinmaps.plan.schedule import Order


@dataclass(frozen=True, eq=False)
class Lives:
    """Steps in which the entries of something are born and die; both non-decreasing."""

    born: IntArray
    dies: IntArray

    @staticmethod
    def joint(lives: Iterable[Lives]) -> Lives:
        """From the first birth to the last death, entry by entry."""
        every = list(lives)
        if len(every) == 1:
            return every[0]
        born = np.min([one.born for one in every], axis=0)
        return Lives(born, np.max([one.dies for one in every], axis=0))

    @property
    def slots(self) -> int:
        """Slots of the smallest ring: the most entries that exist while an older one lives."""
        exist = np.searchsorted(self.born, self.dies, "right")
        return int(np.max(exist - np.arange(len(self.born))))


def steps_of_work(flow: Flow, order: Order) -> list[IntArray]:
    """For each node, the step that does each work row; the order does every row once."""
    by_node = np.argsort(order.node, kind="stable")
    step = np.repeat(by_node, order.rows[by_node]).astype(np.int64)
    bounds = np.cumsum([0, *(node.work_rows for node in flow.nodes)])
    return [step[bounds[i] : bounds[i + 1]] for i in range(len(flow.nodes))]


def lives_of(flow: Flow, work: Sequence[IntArray], maps: Iterable[int]) -> dict[int, Lives]:
    """Lives of those of `maps` that lie in the arena; `work` is `steps_of_work`, or like it."""
    return {m: _map_lives(flow, m, work) for m in maps if flow.maps[m].in_arena}


def state_lives(flow: Flow, work: Sequence[IntArray], nodes: Iterable[int]) -> dict[int, Lives]:
    """Lives of what nodes have for themselves, by node of those in `nodes`.

    Running sums live from the first step to the last, scratch in every step anew.
    """
    lives = {}
    for v in nodes:
        if flow.nodes[v].state_bytes:
            lives[v] = Lives(work[v][:1], work[v][-1:])
        elif flow.nodes[v].scratch_bytes:
            steps = np.unique(work[v])
            lives[v] = Lives(steps, steps)
    return lives


def _map_lives(flow: Flow, m: int, work: Sequence[IntArray]) -> Lives:
    this = flow.maps[m]
    born = work[this.producer][this.made_after]
    dies = born.copy()
    entries = np.arange(this.entries)
    for edge in this.edges:
        last = np.searchsorted(edge.first, entries, "right") - 1
        read = (last >= 0) & (edge.stop[last] > entries)
        dies[read] = np.maximum(dies[read], work[edge.node][last[read]])
    # An entry that nothing reads counts as long as its elders: rings advance in order.
    return Lives(born, np.maximum.accumulate(dies))
