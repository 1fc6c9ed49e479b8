# SPDX-License-Identifier: Apache-2.0
"""Winograd's algorithm is used where that pays, with scratch that the plan has set aside."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plan.simulate import simulate
from plan.zoo import Shapes, square

from thinmaps.graph.network import Network
from thinmaps.plan.build import build
from thinmaps.plan.cost import RATES, StepCost
from thinmaps.plan.kernel_choice import transformable, winograd_rows, worth_winograd
from thinmaps.plan.verify import verify

EFFORT = 8_000
# So slow that no tile pays.
SLOW = replace(RATES["avx512"], point_products_per_second=1e9)


def chain(channels: int = 64, *, height: int = 24, width: int = 96, convs: int = 3) -> Network:
    """A convolution of stride 2, which has no such algorithm, and some that have one."""
    b = Shapes(2 * height, 2 * width)
    x = b.conv(b.start, channels, square(3, stride=2))
    for _ in range(convs):
        x = b.conv(x, channels, square(3))
    return b.network(x)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_it_is_worth_while_with_many_channels_and_not_with_few(isa):
    assert len(worth_winograd(chain(), RATES[isa])) == 3
    assert len(worth_winograd(chain(128), RATES[isa])) == 3


def test_it_is_not_worth_while_where_the_direct_kernel_is_as_fast():
    assert worth_winograd(chain(16), RATES["avx512"]) == ()
    for isa in ("portable", "avx2", "avx512"):
        assert worth_winograd(chain(512, height=7, width=7), RATES[isa]) == ()
    assert worth_winograd(chain(512, height=28, width=28), RATES["avx512"])
    assert worth_winograd(chain(), RATES["amx"]) == ()
    assert worth_winograd(chain(), SLOW) == ()


def test_steps_of_a_row_are_done_directly_and_those_of_a_tile_are_not():
    network = chain()
    able = transformable(network)
    assert len(able) == 3
    v = next(i for i, node in enumerate(network.nodes) if node.name == able[0])
    thin = [(v, row, 1) for row in range(24)]
    whole = [(v, row, 4) for row in range(0, 24, 4)]
    rates = RATES["avx512"]
    assert winograd_rows(network, rates, thin, able) == {}
    assert winograd_rows(network, rates, whole, able) == {able[0]: 1}
    mixed = [*whole[:5], (v, 20, 1), (v, 21, 3)]
    (rows,) = winograd_rows(network, rates, mixed, able).values()
    assert rows in (2, 3), "the row alone is left to the direct kernel"
    assert winograd_rows(network, SLOW, whole, able) == {}


def test_a_step_is_predicted_to_take_the_time_of_the_faster_kernel():
    network = chain()
    able = transformable(network)
    v = next(i for i, node in enumerate(network.nodes) if node.name == able[0])
    direct = StepCost(network, RATES["avx512"])
    either = StepCost(network, RATES["avx512"], (), able)
    assert either(v, 1) == direct(v, 1)
    assert 0.5 < either(v, 24) / direct(v, 24) < 0.9
    assert either(0, 4) == direct(0, 4), "of no other node"


@pytest.mark.parametrize("schedule", ["layer", "stream", "mixed"])
def test_scratch_lives_in_the_arena_while_a_step_of_its_node_runs(schedule):
    plan = build(chain(), schedule=schedule, effort=EFFORT, winograd=True)
    assert len(plan.winograd) == 3
    verify(plan)
    simulate(plan)
    scratch = [plan.buffers[plan.states[name]] for name in plan.winograd]
    assert [each.bytes for each in scratch] == [24 * 36 * (2 * 64 + 4 * 64)] * 3
    assert len({each.offset for each in scratch}) < 3, "none lives beside another"


def test_nobody_gets_scratch_unasked_or_without_room():
    assert build(chain(), effort=EFFORT).winograd == ()
    smallest = build(chain(), arena_bytes="smallest", effort=EFFORT, winograd=None)
    assert smallest.winograd == ()
    tight = build(chain(), arena_bytes=smallest.arena_bytes, effort=EFFORT, winograd=None)
    assert tight.winograd == ()
    assert len(build(chain(), arena_bytes=4 << 20, effort=EFFORT, winograd=None).winograd) == 3
    assert build(chain(), effort=EFFORT, rates=SLOW, winograd=None).winograd == ()
