# SPDX-License-Identifier: Apache-2.0
"""Bits by what they save: against every other allocation, on small cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from thinmaps.codecs.bit_allocation import allocate
from thinmaps.errors import BadArgument


def case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses of 4 channels at 5 widths, falling but not always convex, and sizes."""
    rng = np.random.default_rng(seed)
    losses = np.sort(rng.exponential(10, (4, 5)), axis=1)[:, ::-1]
    return np.ascontiguousarray(losses), rng.integers(1, 4, 4)


def loss(losses: np.ndarray, widths: np.ndarray) -> float:
    return float(losses[np.arange(len(widths)), widths].sum())


@pytest.mark.parametrize("seed", range(20))
def test_no_allocation_of_the_same_size_loses_less(seed):
    losses, elements = case(seed)
    for budget in range(int(elements.sum()) * 4 + 1):
        chosen = allocate(losses, elements, budget)
        spent = int(chosen @ elements)
        assert spent <= budget
        # A relaxed solution is optimal for the bits of its own segments; only the filling differs.
        best = min(
            loss(losses, np.array(widths))
            for widths in itertools.product(range(5), repeat=4)
            if np.dot(widths, elements) <= budget
        )
        worst_segment = (losses[:, 0] - losses[:, -1]).max()
        assert best <= loss(losses, chosen) <= best + worst_segment


def test_convex_losses_of_equal_channels_are_allocated_optimally():
    variance = np.array([1.0, 3.0, 90.0, 0.2])
    losses = variance[:, None] * 0.25 ** np.arange(9)
    for budget in range(33):
        chosen = allocate(losses, np.ones(4, np.int64), budget)
        assert chosen.sum() == budget
        best = min(
            loss(losses, np.array(widths))
            for widths in itertools.product(range(9), repeat=4)
            if sum(widths) == budget
        )
        assert loss(losses, chosen) == pytest.approx(best)


def test_a_larger_channel_pays_more_for_the_same():
    losses = np.array([[8.0, 4, 2], [8.0, 4, 2]])
    assert allocate(losses, np.array([1, 4]), 6).tolist() == [2, 1]
    assert allocate(losses, np.array([1, 4]), 4).tolist() == [2, 0]


def test_what_nothing_needs_goes_to_the_narrowest():
    losses = np.array([[1.0, 0, 0], [0.0, 0, 0], [0.0, 0, 0]])
    assert allocate(losses, np.ones(3, np.int64), 4).tolist() == [2, 1, 1]


def test_what_does_not_fit_is_refused():
    losses, one_each = np.ones((2, 3)), np.ones(2, np.int64)
    for wrong in (
        (losses, np.ones(3, np.int64), 4),
        (losses, one_each, -1),
        (losses * np.inf, one_each, 4),
    ):
        with pytest.raises(BadArgument, match="bits are allocated"):
            allocate(*wrong)
