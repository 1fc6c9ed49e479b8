# SPDX-License-Identifier: Apache-2.0
"""Predicted times grow with the work, and bytes are traded for them as asked."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from plan.random_networks import random_network
from plan.simulate import simulate
from plan.zoo import ZOO, Shapes, resnet_cifar, square, squeezenet

from thinmaps.errors import BadArgument
from thinmaps.graph.network import Network
from thinmaps.plan.build import build
from thinmaps.plan.cost import DEFAULT_RATES, RATES, StepCost
from thinmaps.plan.flow import flow_of
from thinmaps.plan.lower import lower
from thinmaps.plan.plan import Plan
from thinmaps.plan.search import mixed_candidate
from thinmaps.plan.trade import Trade, knee, pareto
from thinmaps.plan.verify import verify

EFFORT = 10_000


def seconds(plan: Plan, rates=DEFAULT_RATES) -> float:
    steps = np.array(plan.steps)
    return StepCost(plan.network, rates).total(steps[:, 0], steps[:, 2])


def deep() -> Network:
    """Wide rows of few channels, then short ones whose filters outweigh any cache."""
    b = Shapes(96, 64)
    x = b.start
    for channels in (16, 64, 256):
        x = b.conv(x, channels, square(3, 2))
    for _ in range(3):
        x = b.conv(x, 256, square(3))
    return b.network(x)


def trade(network: Network, effort: int = EFFORT) -> Trade:
    lowered = lower(network, {})
    flow = flow_of(lowered, {})
    return Trade(flow, mixed_candidate(flow, 1, effort), StepCost(lowered, DEFAULT_RATES), effort)


@pytest.mark.parametrize("isa", RATES)
def test_a_step_takes_longer_for_more_rows_and_less_than_as_many_steps(isa):
    for network in (deep(), squeezenet(64, 64), ZOO["unet"](), ZOO["squeeze_excite"]()):
        lowered = lower(network, {})
        cost = StepCost(lowered, replace(RATES[isa], cache_bytes=1 << 26))
        for node in range(len(lowered.nodes)):
            taken = cost(node, np.arange(1, 20))
            assert np.all(np.diff(taken) > 0)
            assert np.all(taken <= np.arange(1, 20) * taken[0] * (1 + 1e-12))


@pytest.mark.parametrize(
    "name", [name for name in RATES["avx512"].__dict__ if name.endswith("_per_second")]
)
def test_a_faster_machine_takes_no_longer(name):
    plan = build(deep(), effort=0)
    faster = replace(DEFAULT_RATES, **{name: 1.5 * getattr(DEFAULT_RATES, name)})
    assert seconds(plan, faster) <= seconds(plan)


def test_thin_steps_pay_for_their_filters_unless_all_stay_in_the_cache():
    network = deep()
    last = len(network.nodes) - 1
    filters = 256 * 256 * 9
    far = StepCost(network, DEFAULT_RATES)
    near = StepCost(network, replace(DEFAULT_RATES, cache_bytes=1 << 24))
    saved = 4 * far(last, 1) - far(last, 4)
    rates = DEFAULT_RATES
    walk = filters / rates.far_bytes_per_second - filters / rates.near_bytes_per_second
    assert saved == pytest.approx(3 * (walk + rates.step_seconds))
    assert near(last, 1) < far(last, 1)


def test_rows_beyond_the_cache_cost_their_bytes():
    b = Shapes(64, 512, 64)
    network = b.network(b.conv(b.start, 64, square(3)))
    cost = StepCost(network, DEFAULT_RATES)
    conv = len(network.nodes) - 1
    per_row = np.diff([float(cost(conv, rows)) for rows in (1, 2, 32, 33)])
    beyond = 2 * 512 * 64 / DEFAULT_RATES.far_bytes_per_second
    assert per_row[2] - per_row[0] == pytest.approx(beyond)


def test_offers_grow_faster_as_they_grow_larger_and_hold_the_smallest_and_the_knee():
    found = trade(deep())
    offers = found.offers()
    assert len(offers) > 3
    assert offers[0].arena_bytes == found.smallest.arena_bytes
    assert pareto([*offers, found.smallest]) == offers
    for a, b in pairwise(offers):
        assert a.arena_bytes < b.arena_bytes
        assert a.seconds > b.seconds
    best = knee(offers)
    assert best in offers
    for other in offers:
        cheaper = math.log(other.seconds / best.seconds)
        smaller = math.log2(other.arena_bytes / best.arena_bytes)
        assert cheaper + math.log(1.25) * smaller >= -1e-12


@pytest.mark.parametrize("name", ["deep", "squeezenet", "resnet", "unet"])
def test_the_fastest_that_fits_fits_and_is_never_slower_than_the_smallest(name):
    network = {
        "deep": deep,
        "squeezenet": lambda: squeezenet(48, 48),
        "resnet": lambda: resnet_cifar(8),
        "unet": ZOO["unet"],
    }[name]()
    smallest = build(network, arena_bytes="smallest", effort=EFFORT)
    reached = seconds(smallest)
    for factor in (1.0, 1.5, 8.0):
        most = int(factor * smallest.arena_bytes)
        plan = build(network, arena_bytes=most, effort=EFFORT)
        verify(plan)
        assert plan.arena_bytes <= most
        assert seconds(plan) <= reached * (1 + 1e-12)
    assert build(network, effort=EFFORT).arena_bytes >= smallest.arena_bytes


def test_deep_layers_are_thick_and_early_rows_thin():
    network = deep()
    smallest = build(network, arena_bytes="smallest", effort=EFFORT)
    plan = build(network, arena_bytes=2 * smallest.arena_bytes, effort=EFFORT)
    tallest = dict.fromkeys(range(len(plan.network.nodes)), 0)
    for step in plan.steps:
        tallest[step.node] = max(tallest[step.node], step.rows)
    conv = [i for i, node in enumerate(plan.network.nodes) if node.operator.id == "conv"]
    # In parts of the map: the first convolution's rows are eight times as many.
    assert tallest[conv[-1]] / 12 > 2 * tallest[conv[0]] / 48
    assert seconds(plan) < 0.97 * seconds(smallest)


def test_half_the_time_is_not_bought_where_it_is_not_for_sale():
    """With a machine that reads filters for nothing, thin steps are kept."""
    free = replace(
        DEFAULT_RATES, near_bytes_per_second=1e17, far_bytes_per_second=1e17, step_seconds=1e-15
    )
    network = deep()
    smallest = build(network, arena_bytes="smallest", rates=free, effort=EFFORT)
    assert build(network, rates=free, effort=EFFORT).arena_bytes == smallest.arena_bytes


def test_an_arena_of_no_known_kind_is_refused():
    with pytest.raises(BadArgument, match="'smallest', got 'tiny'"):
        build(deep(), arena_bytes="tiny")


def test_the_same_rates_give_the_same_plan_and_no_trace_of_them():
    plans = [build(deep(), arena_bytes=120_000, effort=EFFORT) for _ in range(2)]
    assert tuple(plans[0].steps) == tuple(plans[1].steps)
    assert plans[0].buffers == plans[1].buffers
    same = build(deep(), schedule="layer", rates=RATES["portable"])
    assert tuple(same.steps) == tuple(build(deep(), schedule="layer").steps)


@pytest.mark.parametrize("seed", range(200, 203))
def test_a_random_network_runs_in_steps_as_thick_as_its_budget_allows(seed):
    network = random_network(seed, nodes=12)
    smallest = build(network, arena_bytes="smallest", effort=8_000)
    plan = build(network, arena_bytes=2 * smallest.arena_bytes, effort=8_000)
    verify(plan)
    simulate(plan)
