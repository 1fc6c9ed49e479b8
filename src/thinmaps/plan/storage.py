# SPDX-License-Identifier: Apache-2.0
"""From an order of steps to buffers: which maps share one, how many slots it has, when they live.

Cost: a few array operations per edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thinmaps.plan.aliases import Link, choose_links, root_of
from thinmaps.plan.flow import Flow, IntArray, NodeFlow
from thinmaps.plan.lifetimes import Lives, lives_of, state_lives, steps_of_work
from thinmaps.plan.pack import Block
from thinmaps.plan.schedule import Order


@dataclass(frozen=True, eq=False)
class Storage:
    """Buffers of a schedule, not yet placed: by owner map first, then sums and scratch by node."""

    links: Mapping[int, Link]
    owners: tuple[int, ...]  # map that owns each of the first blocks
    states: tuple[int, ...]  # node whose sums or scratch each of the remaining blocks is
    blocks: tuple[Block, ...]


def storage_of(flow: Flow, order: Order) -> Storage:
    """The smallest rings for `order`, with maps sharing buffers where that pays."""
    work = steps_of_work(flow, order)
    lives = lives_of(flow, work, range(len(flow.maps)))
    links = choose_links(flow, lives)
    rings = ring_blocks(flow, lives, links)
    states = state_blocks(flow, state_lives(flow, work, range(len(flow.nodes))))
    return Storage(links, tuple(rings), tuple(states), (*rings.values(), *states.values()))


def ring_blocks(
    flow: Flow, lives: Mapping[int, Lives], links: Mapping[int, Link]
) -> dict[int, Block]:
    """One ring for each map that lies in no other, by that map."""
    groups: dict[int, list[Lives]] = {}
    for m in lives:
        groups.setdefault(root_of(m, links)[0], []).append(lives[m])
    blocks = {}
    for owner, members in groups.items():
        joint = Lives.joint(members)
        this = flow.maps[owner]
        blocks[owner] = Block(this.name, joint.slots, this.slot_bytes, joint)
    return blocks


def state_blocks(flow: Flow, lives: Mapping[int, Lives]) -> dict[int, Block]:
    """What nodes have for themselves: running sums, or scratch."""

    def block(node: NodeFlow, life: Lives) -> Block:
        kind = "sums" if node.state_bytes else "scratch"
        return Block(f"{node.name}.{kind}", 1, node.state_bytes or node.scratch_bytes, life)

    return {v: block(flow.nodes[v], life) for v, life in lives.items()}


def segment_work(flow: Flow, order: Order, before: Sequence[bool]) -> list[IntArray]:
    """`steps_of_work` as one segment sees it.

    Its own steps count from 1; nodes `before` it have done everything in step 0, those after it
    do everything in the last one.
    """
    last = len(order) + 1
    inside = set(order.node.tolist())
    work = []
    for v, node in enumerate(flow.nodes):
        if v not in inside:
            work.append(np.full(node.work_rows, 0 if before[v] else last, np.int64))
            continue
        mine = np.flatnonzero(order.node == v)
        work.append(np.repeat(mine + 1, order.rows[mine]))
    return work
