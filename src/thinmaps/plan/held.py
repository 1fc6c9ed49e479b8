# SPDX-License-Identifier: Apache-2.0
"""Which maps a plan holds whole: those a codec is worth its time on."""

from __future__ import annotations

from thinmaps.plan.plan import Plan


def held_maps(plan: Plan) -> tuple[str, ...]:
    """Maps of `plan.source` that readers find whole in the arena, in the order they are made.

    These are the maps that leave the segment in which they are made.
    """
    segment = {node.output: plan.segments[i] for i, node in enumerate(plan.network.nodes)}
    held = {
        name
        for i, node in enumerate(plan.network.nodes)
        for name in node.inputs
        if name in plan.places and segment[name] != plan.segments[i]
    }
    return tuple(node.output for node in plan.source.nodes if node.output in held)
