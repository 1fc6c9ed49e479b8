# SPDX-License-Identifier: Apache-2.0
"""Who lives where in the arena, and when: the lives of every slot of every buffer of a plan.

Time is the index of a step. A row (or coding unit) is born in the step that completes it and dies
with the last step that reads it, both included. Cost: a few array look-ups per map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinmaps.plan.flow import Flow, MapFlow, flow_of
from thinmaps.plan.plan import Buffer, Plan

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Occupant:
    """A buffer with its lives: slot `slots[i]` is in use from step `births[i]` to `deaths[i]`."""

    buffer: Buffer
    maps: tuple[str, ...]  # of the lowered network, in the order they are made; none for sums
    slots: IntArray
    births: IntArray
    deaths: IntArray

    @property
    def life(self) -> tuple[int, int]:
        """First and last step in which any slot is in use."""
        return int(self.births.min()), int(self.deaths.max())


def occupants(plan: Plan) -> tuple[Occupant, ...]:
    """Every buffer of the plan, in the order in which the buffers come into use."""
    flow = flow_of(plan.network, plan.codecs)
    step_of = _step_of_work(plan, flow)
    lives: dict[int, list[tuple[str, IntArray, IntArray, IntArray]]] = {}
    for name, place in plan.places.items():
        source = flow.maps[flow.index[name]]
        births, deaths = _lives(source, step_of)
        slots = np.arange(source.entries) % plan.buffers[place.buffer].slots
        lives.setdefault(place.buffer, []).append((name, slots, births, deaths))
    for node_name, buffer in plan.states.items():
        position = next(i for i, node in enumerate(flow.nodes) if node.name == node_name)
        steps = step_of[position]
        lives.setdefault(buffer, []).append(("", np.zeros(1, int), steps[:1], steps[-1:]))
    found = [_occupant(plan.buffers[buffer], parts) for buffer, parts in lives.items()]
    return tuple(sorted(found, key=lambda occupant: occupant.life))


def _occupant(buffer: Buffer, parts: list[tuple[str, IntArray, IntArray, IntArray]]) -> Occupant:
    """A buffer from the maps that share it."""
    parts = sorted(parts, key=lambda part: int(part[2].min()))
    names = tuple(part[0] for part in parts if part[0])
    slots, births, deaths = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    return Occupant(buffer, names, slots, births, deaths)


def _step_of_work(plan: Plan, flow: Flow) -> Mapping[int, IntArray]:
    """For every node, the step in which each of its work rows is done."""
    step_of = {i: np.zeros(node.work_rows, np.int64) for i, node in enumerate(flow.nodes)}
    for index, step in enumerate(plan.steps):
        step_of[step.node][step.first : step.first + step.rows] = index
    return step_of


def _lives(source: MapFlow, step_of: Mapping[int, IntArray]) -> tuple[IntArray, IntArray]:
    """Birth and death of every entry of a map that lives in the arena."""
    births = step_of[source.producer][source.made_after]
    deaths = births.copy()
    entries = np.arange(source.entries)
    for edge in source.edges:
        # Both bounds never decrease, so the last work row that starts at or before an entry is
        # the last that reads it, if any does.
        last = np.searchsorted(edge.first, entries, "right") - 1
        is_read = (last >= 0) & (edge.stop[last] > entries)
        deaths = np.where(is_read, np.maximum(deaths, step_of[edge.node][last]), deaths)
    return births, deaths
