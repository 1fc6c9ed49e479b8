# SPDX-License-Identifier: Apache-2.0
"""Every plan is legal: judged by a simulation that shares no code with the planner."""

from __future__ import annotations

import pytest
from plan.random_networks import random_network
from plan.simulate import simulate
from plan.sizes import HALF, WITH_HALO
from plan.zoo import ZOO, squeeze_excite

from thinmaps.errors import BadArgument, PlanImpossible
from thinmaps.plan.build import build, lower_bound_bytes
from thinmaps.plan.verify import verify

SCHEDULES = pytest.mark.parametrize("schedule", ["layer", "stream", "mixed"])


# Enough for turns and thicker steps to occur; the search itself is measured in benchmarks.
EFFORT = 8_000


def judged(network, **options):
    plan = build(network, effort=EFFORT, **options)
    verify(plan)
    simulate(plan)
    assert lower_bound_bytes(plan) <= plan.arena_bytes
    return plan


@SCHEDULES
@pytest.mark.parametrize("name", ZOO)
def test_a_known_network_runs_from_its_arena(name, schedule):
    judged(ZOO[name](), schedule=schedule)


@pytest.mark.parametrize("stripe_rows", [2, 5, 10_000])
@pytest.mark.parametrize("name", ["squeezenet", "unet", "odd_sizes", "squeeze_excite"])
def test_steps_of_any_height_run_from_the_arena(name, stripe_rows):
    for schedule in ("stream", "mixed"):
        judged(ZOO[name](), schedule=schedule, stripe_rows=stripe_rows)


@pytest.mark.parametrize("seed", range(30))
def test_a_random_network_runs_from_its_arena(seed):
    network = random_network(seed)
    schedule = ("mixed", "stream", "layer")[seed % 3]
    judged(network, schedule=schedule, stripe_rows=1 + seed % 5)


def test_an_arena_that_is_too_small_is_refused_with_the_maps_that_bind():
    network = ZOO["unet"]()
    smallest = build(network, arena_bytes="smallest", effort=EFFORT).arena_bytes
    assert build(network, effort=EFFORT, arena_bytes=smallest).arena_bytes <= smallest
    with pytest.raises(PlanImpossible, match=r"\d bytes, 1 more than .* live 'conv"):
        build(network, effort=EFFORT, arena_bytes=smallest - 1)


def test_the_arena_that_a_plan_reached_by_thicker_steps_may_be_asked_for():
    network = squeeze_excite(32)
    reached = build(network, effort=12_000, arena_bytes="smallest").arena_bytes
    assert build(network, effort=12_000, arena_bytes=reached).arena_bytes <= reached


def test_unknown_schedules_and_empty_steps_are_refused():
    with pytest.raises(BadArgument, match="'mixed', 'stream' or 'layer', got 'best'"):
        build(ZOO["single_pixel"](), schedule="best")
    with pytest.raises(BadArgument, match="stripe_rows = 0"):
        build(ZOO["single_pixel"](), stripe_rows=0)


def test_codecs_on_maps_that_cannot_carry_one_are_refused_all_at_once():
    network = ZOO["single_pixel"]()
    wrong = {"picture": HALF, "nowhere": HALF, network.outputs[0]: HALF}
    with pytest.raises(PlanImpossible, match=r"caller holds; .*no map 'nowhere'; .*read by no"):
        build(network, codecs=wrong)


def test_the_same_input_gives_the_same_plan():
    plans = [build(ZOO["densenet"](), effort=EFFORT) for _ in range(2)]
    assert plans[0].steps == plans[1].steps
    assert plans[0].buffers == plans[1].buffers
    assert plans[0].places == plans[1].places


def coded(network, codec, every=2):
    """`codec` on every so many-th map that may carry one."""
    eligible = [node.output for node in network.nodes if node.output not in network.outputs]
    return dict.fromkeys([name for name in eligible if network.readers[name]][::every], codec)


@SCHEDULES
@pytest.mark.parametrize("codec", [HALF, WITH_HALO], ids=["fixed", "variable"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "unet", "squeeze_excite", "odd_sizes"])
def test_encoded_maps_run_from_the_arena(name, codec, schedule):
    network = ZOO[name]()
    judged(network, schedule=schedule, codecs=coded(network, codec))


@pytest.mark.parametrize("seed", range(100, 110))
def test_a_random_network_with_codecs_runs_from_its_arena(seed):
    network = random_network(seed)
    codec = (HALF, WITH_HALO)[seed % 2]
    judged(network, codecs=coded(network, codec, 1 + seed % 3), stripe_rows=1 + seed % 4)
