# SPDX-License-Identifier: Apache-2.0
"""Filters made of coefficients: their integers, how real ones are rounded, how they are found."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps.errors import BadArgument
from thinmaps.graph.filter_codes import (
    LARGEST,
    MOST_CODES,
    MOST_SHIFT,
    REDUCTIONS,
    FilterCoefficients,
    Reduction,
    greedy_order,
    kernel_codes,
    known_codes,
    quantised,
    spanning_codes,
)

NO_BOUND = np.zeros(8)
EACH_REDUCTION = pytest.mark.parametrize("reduction", REDUCTIONS)


def codes_of(reduction: Reduction, count: int) -> tuple[int, ...]:
    return tuple(greedy_order(kernel_codes(reduction))[:count])


def real_filters(reduction: Reduction, count: int, seed: int = 0) -> np.ndarray:
    """Filters (8, 4, 3, 3) in the span of codes, of very different sizes."""
    random = np.random.default_rng(seed)
    table = kernel_codes(reduction)[list(codes_of(reduction, count))]
    sizes = 10.0 ** random.uniform(-3, 1, (8, 1, 1))
    return (sizes * random.normal(size=(8, 4, count)) @ table).reshape(8, 4, 3, 3)


def hadamard(values: np.ndarray) -> np.ndarray:
    """The fast Walsh-Hadamard transform along the last axis, in Sylvester's order."""
    made, half = values.copy(), 1
    while half < made.shape[-1]:
        pairs = made.reshape(*made.shape[:-1], -1, 2, half)
        first, second = pairs[..., 0, :].copy(), pairs[..., 1, :].copy()
        pairs[..., 0, :], pairs[..., 1, :] = first + second, first - second
        half *= 2
    return made


def test_codes_are_those_of_a_fast_hadamard_transform_cropped() -> None:
    random = np.random.default_rng(1)
    coefficients = random.integers(-128, 128, (3, 4, 16))
    sylvester = [int(f"{code:04b}"[::-1], 2) for code in range(16)]
    scattered = np.zeros_like(coefficients)
    scattered[..., sylvester] = coefficients
    square = hadamard(scattered).reshape(3, 4, 4, 4)
    np.testing.assert_array_equal(
        coefficients @ kernel_codes("crop").astype(int), square[..., :3, :3].reshape(3, 4, 9)
    )
    pairs = square[..., :3, :] + square[..., 1:, :]
    means = (pairs[..., :3] + pairs[..., 1:]) // 4
    np.testing.assert_array_equal(
        coefficients @ kernel_codes("average").astype(int), means.reshape(3, 4, 9)
    )


@EACH_REDUCTION
def test_every_extreme_stays_in_its_bounds(reduction: Reduction) -> None:
    """Sums of at most 1152, so that 16 bits hold twice of them; filters in -127..127."""
    codes = codes_of(reduction, MOST_CODES)
    table = kernel_codes(reduction)[list(codes)].astype(int)
    assert set(np.unique(table)) <= {-1, 0, 1}
    worst = np.stack([np.where(table[:, tap] > 0, 127, -128) for tap in range(9)])
    coefficients = np.stack([worst, -worst - 1], axis=1).astype(np.int8)  # 9 2 codes
    assert np.abs(coefficients.astype(int) @ table).max() <= 128 * MOST_CODES
    for shift in range(MOST_SHIFT + 1):
        shifts = np.full(9, shift, np.uint8)
        made = FilterCoefficients(reduction, codes, coefficients, shifts).made()
        exact = (coefficients.astype(int) @ table) / 2**shift
        wanted = np.clip(np.floor(exact + 0.5), -LARGEST, LARGEST).reshape(made.shape)
        np.testing.assert_array_equal(made, wanted)


@EACH_REDUCTION
@pytest.mark.parametrize("count", [1, 2, 4, 7, 8])
def test_filters_lie_as_near_the_real_ones_as_the_page_says(
    reduction: Reduction, count: int
) -> None:
    real = real_filters(reduction, count)
    filters, scale = quantised(real, reduction, codes_of(reduction, count), NO_BOUND)
    made = filters.made()
    steps = real / scale.astype(np.float64)[:, None, None, None]
    bound = (count / 2) / 2.0**filters.shift + 0.5 + 1e-4
    assert np.all(np.abs(made - steps) <= bound[:, None, None, None])
    assert np.all(np.abs(filters.coefficients.astype(int)).max(axis=(1, 2)) == LARGEST)
    largest = np.abs(steps).max(axis=(1, 2, 3))
    assert np.all(largest < LARGEST + 1e-3)
    # More than half of the range, unless a coefficient is larger than all that it makes.
    assert np.all((largest > LARGEST / 2 - 1e-3) | (filters.shift == 0))


@EACH_REDUCTION
def test_rounded_coefficients_are_found_again_in_what_they_make(reduction: Reduction) -> None:
    codes = codes_of(reduction, 4)
    first, scale = quantised(real_filters(reduction, 4), reduction, codes, NO_BOUND)
    units = scale.astype(np.float64) / 2.0**first.shift
    real = units[:, None, None] * (first.coefficients.astype(np.float64) @ first.table)
    stored = real.astype(np.float32).reshape(first.shape)
    again, same = quantised(stored, reduction, codes, NO_BOUND)
    np.testing.assert_array_equal(again.coefficients, first.coefficients)
    np.testing.assert_array_equal(again.shift, first.shift)
    np.testing.assert_allclose(same, scale, rtol=1e-6)


def test_a_scale_is_never_below_the_least_and_zeros_have_one() -> None:
    real = real_filters("crop", 4)
    real[3] = 0
    filters, scale = quantised(real, "crop", codes_of("crop", 4), np.full(8, 0.5))
    assert scale.min() == 0.5
    assert scale[3] == 1
    assert not filters.made()[3].any()


@EACH_REDUCTION
@pytest.mark.parametrize("count", [1, 3, 8])
def test_filters_of_codes_are_found_whatever_their_channels_were_multiplied_by(
    reduction: Reduction, count: int
) -> None:
    random = np.random.default_rng(2)
    real = real_filters(reduction, count) * random.uniform(0.1, 10, (8, 1, 1, 1))
    real = (real * random.uniform(0.1, 10, (1, 4, 1, 1))).astype(np.float32)
    found = spanning_codes(real)
    assert found is not None
    assert len(found[1]) == count
    if count > 1:  # the first code is the same after both
        assert found == (reduction, codes_of(reduction, count))


def test_filters_that_codes_do_not_make_are_not_taken_for_such() -> None:
    random = np.random.default_rng(3)
    real = real_filters("crop", 4)
    assert spanning_codes(random.normal(size=(8, 4, 3, 3))) is None
    assert spanning_codes(np.zeros((8, 4, 3, 3))) is None
    assert spanning_codes(real[:, :, :2]) is None
    real += 1e-4 * np.abs(real).mean(axis=(1, 2, 3), keepdims=True) * random.normal(size=real.shape)
    assert spanning_codes(real) is None


def test_codes_are_known_by_their_elements() -> None:
    for reduction in REDUCTIONS:
        table = kernel_codes(reduction)
        for count in range(1, 10):
            codes = list(codes_of(reduction, count))
            known = known_codes(table[codes])
            assert known is not None
            np.testing.assert_array_equal(kernel_codes(known[0])[list(known[1])], table[codes])
    assert known_codes(2 * kernel_codes("crop")[:2]) is None
    with pytest.raises(BadArgument, match="codes are reduced by one of"):
        kernel_codes("stride")  # type: ignore[arg-type]
