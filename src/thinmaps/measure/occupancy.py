# SPDX-License-Identifier: Apache-2.0
"""Who lives where in the arena, and when: the lives of every slot of every buffer of a plan.

Time is the index of a step. A row (or coding unit) is born in the step that completes it and dies
with the last step that reads it, both included. Cost: a few array look-ups per map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinmaps.plan.flow import Flow, flow_of
from thinmaps.plan.lifetimes import Lives, lives_of, state_lives
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
    flow = flow_of(plan.network, plan.codecs, plan.skipping, plan.winograd)
    work = _steps_of_work(plan, flow)
    lives = lives_of(flow, work, range(len(flow.maps)))
    parts: dict[int, list[_Part]] = {}
    for name, place in plan.places.items():
        life = lives[flow.index[name]]
        slots = np.arange(len(life.born)) % plan.buffers[place.buffer].slots
        parts.setdefault(place.buffer, []).append(_Part(name, slots, life))
    for node, life in state_lives(flow, work, range(len(flow.nodes))).items():
        buffer = plan.states[flow.nodes[node].name]
        parts.setdefault(buffer, []).append(_Part("", np.zeros(len(life.born), np.int64), life))
    found = [_occupant(plan.buffers[buffer], sharing) for buffer, sharing in parts.items()]
    return tuple(sorted(found, key=lambda occupant: occupant.life))


class _Part(NamedTuple):
    """One map (or a node's sums or scratch, without a name) in a buffer."""

    name: str
    slots: IntArray
    life: Lives


def _occupant(buffer: Buffer, parts: list[_Part]) -> Occupant:
    """A buffer from what shares it."""
    parts = sorted(parts, key=lambda part: int(part.life.born[0]))
    return Occupant(
        buffer,
        tuple(part.name for part in parts if part.name),
        np.concatenate([part.slots for part in parts]),
        np.concatenate([part.life.born for part in parts]),
        np.concatenate([part.life.dies for part in parts]),
    )


def _steps_of_work(plan: Plan, flow: Flow) -> list[IntArray]:
    """For every node, the step in which each of its work rows is done."""
    step_of = [np.zeros(node.work_rows, np.int64) for node in flow.nodes]
    for index, step in enumerate(plan.steps):
        step_of[step.node][step.first : step.first + step.rows] = index
    return step_of
