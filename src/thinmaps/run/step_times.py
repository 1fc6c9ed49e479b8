# SPDX-License-Identifier: Apache-2.0
"""`NodeTime`: what the steps of one node take together, of a run that is timed step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from thinmaps.plan.plan import Plan


class NodeTime(NamedTuple):
    """`steps` steps of a node do `rows` work rows in `seconds` of one inference."""

    node: str
    operator: str
    steps: int
    rows: int
    seconds: float


def node_times(plan: Plan, nanoseconds: Sequence[Sequence[int]]) -> tuple[NodeTime, ...]:
    """Times of the nodes that have steps, in the network's order.

    `nanoseconds` holds every step of some runs. A step counts with its median over the runs, so
    that what interrupts some of them counts in none.
    """
    seconds = 1e-9 * np.median(np.asarray(nanoseconds), axis=0)
    of_step = np.array([step.node for step in plan.steps])
    rows_of_step = np.array([step.rows for step in plan.steps])
    nodes = len(plan.network.nodes)
    steps = np.bincount(of_step, minlength=nodes)
    rows = np.bincount(of_step, rows_of_step, nodes)
    lasted = np.bincount(of_step, seconds, nodes)
    return tuple(
        NodeTime(node.name, node.operator.id, int(steps[i]), int(rows[i]), float(lasted[i]))
        for i, node in enumerate(plan.network.nodes)
        if steps[i]
    )
