# SPDX-License-Identifier: Apache-2.0
"""Zero blocks of filters are skipped where that pays, with scratch that the plan has set aside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from plan.simulate import simulate
from plan.zoo import Shapes, square

from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.graph.zero_blocks import largest_blocks, used_blocks, zero_block_share
from thinmaps.plan.build import build
from thinmaps.plan.cost import RATES, StepCost
from thinmaps.plan.kernel_choice import worth_skipping
from thinmaps.plan.verify import verify
from thinmaps.run.engine import Engine
from thinmaps.types import MapSpec

EFFORT = 8_000


def with_zero_blocks(conv: op.Conv, share: float) -> op.Conv:
    """As many zero blocks in every row of blocks."""
    return replace(conv, weights=conv.weights * largest_blocks(conv.weights, share, conv.groups))


def chain(share: float, *, height: int = 24, width: int = 96) -> Network:
    """Three convolutions of 64 channels with a share of zero blocks behind a picture."""
    b = Shapes(height, width)
    x = b.start
    for channels in (64, 64, 64, 32):
        x = b.conv(x, channels, square(3))
    network = b.network(x)
    nodes = [
        replace(node, operator=with_zero_blocks(node.operator, share))
        if isinstance(node.operator, op.Conv) and i > 1
        else node
        for i, node in enumerate(network.nodes)
    ]
    return replace(network, nodes=tuple(nodes))


def test_the_share_of_zero_blocks_counts_groups_and_last_channels_for_themselves():
    weights = np.zeros((12, 5, 1, 1), np.int8)
    weights[5, 4] = 3  # of the second group: blocks of outputs 0 to 3 and 4 to 5 in each
    assert used_blocks(weights, groups=2).shape == (4, 2, 1, 1)
    assert np.argwhere(used_blocks(weights, groups=2)).tolist() == [[1, 1, 0, 0]]
    assert zero_block_share(weights, groups=2) == 7 / 8


def test_the_largest_blocks_stay_as_many_in_each_row_of_blocks():
    random = np.random.default_rng(0)
    weights = random.integers(-128, 128, (10, 9, 3, 2), dtype=np.int8)
    keep = largest_blocks(weights, 0.75, groups=2)
    used = used_blocks(keep, groups=2)
    assert used.shape == (4, 3, 3, 2)
    assert used.sum(axis=(1, 2, 3)).tolist() == [round(0.25 * 18)] * 4
    assert np.array_equal(used_blocks(~keep, groups=2), ~used), "blocks stay or go as a whole"
    first = weights[:4, :4].astype(int)  # of one size, unlike the last ones
    sums, stays = np.abs(first).sum(axis=(0, 1)), used[0, 0]
    assert sums[stays].min(initial=1e9) >= sums[~stays].max(initial=0)


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_zero_blocks_are_skipped_where_there_are_many(isa):
    rates = RATES[isa]
    assert worth_skipping(chain(0.0), rates) == ()
    assert worth_skipping(chain(0.1), rates) == ()
    assert len(worth_skipping(chain(0.5), rates)) == 3
    assert len(worth_skipping(chain(0.75), rates)) == 3


def test_zero_blocks_are_not_skipped_where_lanes_or_the_machine_make_it_slower():
    assert worth_skipping(chain(0.5, width=7), RATES["avx512"]) == ()
    for isa in ("portable", "amx"):
        assert worth_skipping(chain(0.75), RATES[isa]) == ()


def test_skipping_half_of_the_blocks_is_predicted_to_take_little_more_than_half_the_time():
    network = chain(0.5)
    names = worth_skipping(network, RATES["avx512"])
    node = next(i for i, node in enumerate(network.nodes) if node.name == names[0])
    dense, skips = (StepCost(network, RATES["avx512"], each)(node, 4) for each in ((), names))
    assert 0.5 < skips / dense < 0.65


@pytest.mark.parametrize("schedule", ["layer", "stream", "mixed"])
def test_scratch_lives_in_the_arena_while_a_step_of_its_node_runs(schedule):
    plan = build(chain(0.5), schedule=schedule, effort=EFFORT)
    assert len(plan.skipping) == 3
    verify(plan)
    simulate(plan)
    scratch = [plan.buffers[plan.states[name]] for name in plan.skipping]
    assert [each.bytes for each in scratch] == [3 * 16 * 4 * 112] * 3
    assert len({each.offset for each in scratch}) < 3, "none lives beside another"


def test_an_arena_without_room_for_scratch_has_none():
    smallest = build(chain(0.5), arena_bytes="smallest", effort=EFFORT)
    assert smallest.skipping == ()
    plan = build(chain(0.5), arena_bytes=smallest.arena_bytes, effort=EFFORT)
    assert plan.skipping == ()
    assert build(chain(0.5), arena_bytes=1 << 20, effort=EFFORT).skipping
    assert build(chain(0.5), skip_zero_blocks=False, effort=EFFORT).skipping == ()


def test_weights_that_are_skipped_are_not_stored():
    conv = op.Conv(
        square(3), 1, np.ones((64, 64, 3, 3), np.int8), np.zeros(64, np.int32), np.ones(64, "f4")
    )
    node = Node("conv", with_zero_blocks(conv, 0.75), ("x",), "y")
    network = Network((node,), dict.fromkeys("xy", MapSpec(4, 96, 64)), ("x",), ("y",))
    plan = build(network, schedule="layer", skip_zero_blocks=True)
    dense, skips = (Engine(plan, skip_zero_blocks=each).weights_bytes for each in (False, True))
    assert dense == 64 * 64 * 9 + 64 * 8
    assert skips == 64 * 64 * 9 // 4 * 20 // 16 + 16 * 44
