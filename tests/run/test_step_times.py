# SPDX-License-Identifier: Apache-2.0
"""A profile times every step of the plan, once, and changes no answer."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest

from thinmaps import _core
from thinmaps.errors import BadArgument, BadShape
from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.plan.build import build
from thinmaps.plan.plan import Plan
from thinmaps.run.engine import Engine
from thinmaps.run.step_times import node_times
from thinmaps.types import MapSpec


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A picture, a convolution, a sum over the map: some milliseconds on any machine."""
    random = np.random.default_rng(3)
    window = op.Window((3, 3), pads=(1, 1, 1, 1))
    weights = random.integers(-128, 128, (64, 64, 3, 3), dtype=np.int8)
    conv = op.Conv(window, 1, weights, np.zeros(64, np.int32), np.full(64, 2.0**-12, np.float32))
    table = random.integers(0, 256, (64, 256), dtype=np.uint8)
    map_ = MapSpec(96, 80, 64, 0.1, 10)
    maps = {
        "picture": MapSpec(96, 80, 64),
        "input": map_,
        "a": map_,
        "mean": MapSpec(1, 1, 64, dtype="float32"),
    }
    nodes = (
        Node("picture", op.Picture(table, tuple(range(64))), ("picture",), "input"),
        Node("conv", conv, ("input",), "a"),
        Node("mean", op.Mean(np.array([0.013], np.float32)), ("a",), "mean"),
    )
    return build(Network(nodes, maps, ("picture",), ("mean",)))


@pytest.fixture(scope="module")
def picture(plan: Plan) -> np.ndarray:
    shape = plan.network.maps["picture"].shape
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_step_and_row_of_the_plan_is_timed_once(
    plan: Plan, picture: np.ndarray, threads: int
) -> None:
    found = Engine(plan, threads=threads).profile(picture, runs=2)
    assert [time.node for time in found] == ["picture", "conv", "mean"]
    assert [time.operator for time in found] == ["picture", "conv", "mean"]
    for i, node in enumerate(found):
        steps = [step for step in plan.steps if step.node == i]
        assert node.steps == len(steps)
        assert node.rows == sum(step.rows for step in steps) == 96
        assert node.seconds > 0


def test_the_steps_take_about_what_a_run_takes(plan: Plan, picture: np.ndarray) -> None:
    engine = Engine(plan)
    outputs = [np.empty((1, 1, 64), np.float32)]
    whole, apart = [], []
    for _ in range(7):
        start = time.process_time()
        for _ in range(5):
            engine.run_into([picture], outputs)
        whole.append((time.process_time() - start) / 5)
        apart.append(sum(node.seconds for node in engine.profile(picture, runs=5)))
    # A busy machine stretches both, hardly by the same factor.
    assert 0.6 < median(apart) / median(whole) < 1.6


def test_a_profile_computes_what_a_run_computes(plan: Plan, picture: np.ndarray) -> None:
    engine = Engine(plan)
    expected = engine.maps(picture)
    arena = engine.arena.copy()
    engine.maps(np.zeros_like(picture))
    engine.profile(picture, runs=1)
    np.testing.assert_array_equal(engine.arena, arena)
    np.testing.assert_array_equal(engine.maps(picture)["mean"], expected["mean"])


def test_what_interrupts_one_run_counts_in_none(plan: Plan) -> None:
    taken = np.full((3, len(plan.steps)), 1000)
    taken[1, 5] = 10**9
    found = node_times(plan, taken.tolist())
    assert sum(node.seconds for node in found) == pytest.approx(1e-6 * len(plan.steps))


def test_a_batch_or_no_run_is_refused(plan: Plan, picture: np.ndarray) -> None:
    engine = Engine(plan)
    with pytest.raises(BadShape, match="input 'picture'"):
        engine.profile(picture[None])
    with pytest.raises(BadArgument, match="1 or more runs, got 0"):
        engine.profile(picture, runs=0)


def test_wider_instructions_multiply_more_and_no_other_is_measured() -> None:
    rates = [_core.products_per_second("portable"), _core.products_per_second("")]
    assert rates[0] > 1e8
    # The best of the machine; both are the same where it has nothing but the portable loops.
    assert rates[1] > 0.5 * rates[0]
    assert _core.copied_bytes_per_second() > 1e8
    with pytest.raises(ValueError, match="no instruction set 'abacus'"):
        _core.products_per_second("abacus")
