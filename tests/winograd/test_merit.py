# SPDX-License-Identifier: Apache-2.0
"""Figures of merit and measured errors, beside those that were published."""

from __future__ import annotations

import numpy as np
import pytest
from winograd.sets import SETS, Published

from thinmaps.errors import BadArgument
from thinmaps.winograd import arrays, derive
from thinmaps.winograd.measured_error import relative_error
from thinmaps.winograd.merit import amplification, error_bound, merit

EACH_SET = pytest.mark.parametrize("published", SETS.values(), ids=SETS.keys())

# In float32, in float32 over 64 channels, in float16.
ERRORS = {
    "F2": (1.6, 0.7, 1.4),
    "F4 lavin": (6.9, 3.3, 5.1),
    "F4 half": (6.2, 2.9, 4.1),
    "F4 fifths": (4.5, 1.9, None),
    "F4 quadratic": (2.0, 0.7, 1.5),
    "F5 quadratic": (3.5, 1.3, 2.4),
    "F6 usual": (16.8, 7.2, 10.0),
    "F6 integers": (303, 140, 186),
    "F6 quadratic": (4.8, 1.9, 3.1),
    "F6 quadratic half": (4.2, 1.6, 2.7),
    "F6 sixth roots": (3.8, 1.4, 2.4),
    "F6 quartic": (6.0, 2.7, 4.0),
    "F8 quadratic": (8.0, 3.0, 8.9),
}


@pytest.mark.parametrize(("name", "published"), ERRORS.items(), ids=ERRORS.keys())
def test_measured_errors_are_the_published_ones_within_a_fifth(
    name: str, published: tuple[float, float, float | None]
) -> None:
    algorithm = SETS[name].algorithm()
    found = (
        relative_error(algorithm),
        relative_error(algorithm, channels=64, tiles=100),
        relative_error(algorithm, "float16"),
    )
    for measured, printed in zip(found, published, strict=True):
        # They are printed to one decimal.
        assert printed is None or abs(measured - printed) <= 0.2 * printed + 0.05


def test_rows_are_scaled_so_that_float16_does_not_overflow() -> None:
    # With rows of B^T in integers, such as 225, it did.
    assert relative_error(SETS["F4 fifths"].algorithm(), "float16") < 4


def test_overflow_is_an_infinite_error() -> None:
    assert relative_error(derive(8, 8), "float16", tiles=4) == float("inf")


@EACH_SET
def test_amplification_is_the_published_one(published: Published) -> None:
    assert amplification(published.algorithm()) == pytest.approx(published.amplification, rel=0.01)


@EACH_SET
def test_errors_stay_below_the_bound(published: Published) -> None:
    algorithm = published.algorithm()
    generator = np.random.default_rng(2)
    inputs = generator.uniform(-1, 1, (algorithm.inputs, 4000)).astype(np.float32)
    taps = generator.uniform(-1, 1, (3, 4000)).astype(np.float32)
    at, g, bt = arrays(algorithm.matrices, np.float32)
    fast = at @ ((g @ taps) * (bt @ inputs))
    windows = (inputs[k : k + algorithm.outputs].astype(np.float64) for k in range(3))
    exact = sum(taps[k] * window for k, window in enumerate(windows))
    worst = np.abs(fast - exact).max()
    # A bound that nothing comes near says nothing: random signs keep well below it.
    assert error_bound(algorithm) / 500 < worst < error_bound(algorithm)


def test_figures_of_the_quadratic_set() -> None:
    found = merit(derive(4, 3))
    assert (found.products, found.products_2d, found.nested_products) == (7, 49, 46)
    assert (found.constants, found.odd_constants) == (0, 0)
    assert found.growth_bits == (2, 2)
    assert found.saving == 144 / 46


def test_constants_are_counted_and_powers_of_two_apart() -> None:
    found = merit(SETS["F4 lavin"].algorithm())
    assert (found.constants, found.odd_constants) == (12 + 6, 2)


@pytest.mark.parametrize("arguments", [("bfloat16", 1, 1), ("float32", 0, 1), ("float32", 1, 0)])
def test_what_cannot_be_measured_is_refused(arguments: tuple[str, int, int]) -> None:
    with pytest.raises(BadArgument, match="measured in float16, float32, float64"):
        relative_error(derive(2, 3), *arguments)
