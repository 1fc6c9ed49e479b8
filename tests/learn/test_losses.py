# SPDX-License-Identifier: Apache-2.0
"""Losses by hand, and the schedule's ends."""

from __future__ import annotations

import math

import pytest
import torch

from thinmaps.learn.losses import divergence, logit_error, map_error, map_power, symbol_bits
from thinmaps.learn.schedule import rate_factor


def test_divergence_by_hand_counts_the_temperature_squared() -> None:
    # Logits 2 ln 3 apart are 3 to 1 at temperature 2: chances 3/4 and 1/4, against a half each.
    teacher = torch.tensor([[2 * math.log(3.0), 0.0]])
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    found = divergence(torch.zeros(1, 2), teacher, 2.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_divergence_of_maps_is_the_mean_over_positions() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    flat = [t.permute(0, 2, 3, 1).reshape(-1, 5) for t in (ours, theirs)]
    assert float(divergence(ours, theirs, 1.5)) == pytest.approx(float(divergence(*flat, 1.5)))


def test_sixteen_bit_outputs_are_compared_in_thirty_two() -> None:
    ours, theirs = torch.full((1, 2), 256.0).bfloat16(), torch.full((1, 2), 257.0)
    assert logit_error(ours, theirs).dtype == torch.float32
    assert float(logit_error(ours, theirs)) == 1.0


def test_a_map_of_zeros_to_learn_from_gives_a_finite_error() -> None:
    zeros = torch.zeros(2, 3)
    assert float(map_error(zeros, zeros, map_power(zeros))) == 0.0
    assert math.isfinite(map_error(torch.full((2, 3), 0.1), zeros, map_power(zeros)))


def test_the_rate_of_symbols_pulls_towards_zero_and_leaves_zeros_alone() -> None:
    symbols = torch.tensor([-3.0, 0.0, 1.0], requires_grad=True)
    symbol_bits([symbols]).backward()
    slopes = [-1 / 4, 0, 1 / 2]
    assert symbols.grad is not None
    assert symbols.grad.tolist() == pytest.approx([s / math.log(2) / 3 for s in slopes])


@pytest.mark.parametrize("warm_up", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_every_step_of_every_schedule_learns_and_none_more_than_asked(
    steps: int, warm_up: float
) -> None:
    factors = [rate_factor(step, steps, warm_up) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1
