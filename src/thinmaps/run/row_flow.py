# SPDX-License-Identifier: Apache-2.0
"""When a plan needs input rows and makes output rows: what `Engine.rows` streams by.

The caller's pictures and outputs have no place in the arena. To stream them, each gets a ring of
as many rows as live at once, and the steps are cut where rows must arrive or can leave. Cost:
linear in the steps of the plan; no pixels are touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from thinmaps.graph.network import Network, Node
from thinmaps.plan.plan import Plan, Step
from thinmaps.types import RowRange


class Made(NamedTuple):
    """Rows `first .. stop - 1` of output `name` are finished."""

    name: str
    first: int
    stop: int


class Stage(NamedTuple):
    """Steps `first .. stop - 1` run in one go once `input_rows` rows of the input have come."""

    first: int
    stop: int
    input_rows: int
    made: tuple[Made, ...]


@dataclass(frozen=True)
class RowFlow:
    """The stages of a plan, and the rows that each input's and output's ring holds."""

    stages: tuple[Stage, ...]
    slots: dict[str, int]

    @classmethod
    def of(cls, plan: Plan) -> RowFlow:
        """Follow the caller's rows through the steps of a plan."""
        network = plan.network
        touched: dict[str, list[tuple[int, RowRange]]] = {
            name: [] for name in (*network.inputs, *network.outputs)
        }
        stages: list[Stage] = []
        first = arrived = 0
        for i, step in enumerate(plan.steps):
            node = network.nodes[step.node]
            needed = arrived
            for name, rows in _rows_read(network, node, step):
                touched[name].append((i, rows))
                needed = max(needed, rows.stop)
            if needed > arrived and first < i:
                stages.append(Stage(first, i, arrived, ()))
                first = i
            arrived = needed
            made = _rows_made(network, node, step)
            if made.stop > made.first and node.output in touched:
                touched[node.output].append((i, RowRange(made.first, made.stop)))
                stages.append(Stage(first, i + 1, arrived, (made,)))
                first = i + 1
        if first < len(plan.steps):
            stages.append(Stage(first, len(plan.steps), arrived, ()))
        return cls(tuple(stages), {name: _slots(rows) for name, rows in touched.items()})


def _rows_read(network: Network, node: Node, step: Step) -> list[tuple[str, RowRange]]:
    """Rows of the caller's inputs that a step reads."""
    specs, output = network.input_specs(node), network.output_spec(node)
    found = []
    for i, name in enumerate(node.inputs):
        if name in network.inputs:
            first = node.operator.input_rows(i, step.first, specs, output).first
            stop = node.operator.input_rows(i, step.first + step.rows - 1, specs, output).stop
            rows = RowRange(max(first, 0), min(stop, specs[i].height))
            found.append((name, rows))
    return found


def _rows_made(network: Network, node: Node, step: Step) -> Made:
    """Output rows that a step finishes."""
    specs, output = network.input_specs(node), network.output_spec(node)
    before = node.operator.rows_made(step.first, specs, output)
    after = node.operator.rows_made(step.first + step.rows, specs, output)
    return Made(node.output, before, after)


def _slots(touched: list[tuple[int, RowRange]]) -> int:
    """The tallest stretch of rows that are there and still needed, at any step."""
    oldest_needed: list[int] = []
    for _, rows in reversed(touched):
        oldest_needed.append(min([rows.first, *oldest_needed[-1:]]))
    newest = tallest = 0
    for (_, rows), oldest in zip(touched, reversed(oldest_needed), strict=True):
        newest = max(newest, rows.stop)
        tallest = max(tallest, newest - oldest)
    return max(tallest, 1)
