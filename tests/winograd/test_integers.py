# SPDX-License-Identifier: Apache-2.0
"""In integers the result is the direct convolution, bit for bit, up to the channels promised."""

from __future__ import annotations

import numpy as np
import pytest
from winograd.convolving import direct_sums
from winograd.sets import SETS

from thinmaps.errors import BadArgument, BadShape
from thinmaps.winograd import derive
from thinmaps.winograd.integers import IntegerForm, convolve, integer_form


def extremes(form: IntegerForm, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The sums that are largest and smallest, and random ones."""
    generator = np.random.default_rng(4)
    rows = generator.integers(0, 256, (9, 11, channels), np.uint8)
    rows[:5] = 255
    weights = generator.integers(-128, 128, (4, form.taps, form.taps, channels), np.int8)
    weights[0], weights[1] = -128, 127
    return rows, weights


@pytest.mark.parametrize("paired", [False, True], ids=["separate", "paired"])
@pytest.mark.parametrize("name", ["F2", "F4 lavin", "F4 quadratic", "F6 quadratic", "F6 usual"])
def test_it_is_the_direct_convolution_up_to_its_channels(name: str, paired: bool) -> None:
    form = integer_form(SETS[name].algorithm(), paired)
    channels = min(form.channels, 120)
    rows, weights = extremes(form, channels)
    for zero_point in (0, 128, 255):
        found = convolve(form, rows, weights, zero_point)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, direct_sums(rows, weights, zero_point))


def test_all_channels_of_the_quadratic_set_are_exact_and_one_more_is_refused() -> None:
    form = integer_form(derive(4, 3))
    rows, weights = extremes(form, form.channels)
    np.testing.assert_array_equal(convolve(form, rows, weights), direct_sums(rows, weights, 0))
    more = np.zeros((4, 4, form.channels + 1), np.uint8)
    with pytest.raises(BadArgument, match="up to 456 channels, the map has 457"):
        convolve(form, more, np.zeros((1, 3, 3, form.channels + 1), np.int8))


def test_bounds_are_reached_but_not_passed() -> None:
    form = integer_form(derive(4, 3))
    bounds = form.bounds(3)
    for matrix, largest, bound in (
        (form.bt, 255, bounds.inputs),
        (form.g, 128, bounds.filters),
    ):
        worst = max(int(np.abs(row @ (np.sign(row) * largest))) for row in matrix)
        assert worst == bound


@pytest.mark.parametrize(
    ("outputs", "polynomials", "plain", "wrapping"),
    [
        (2, "x, x-1, x+1", 257, 1827),
        (4, "x, x-1, x+1, x^2+1", 18, 456),
        (4, "x, x-1, x+1, x-2, x+2", 0, 114),
    ],
)
def test_the_rules_say_how_many_channels(
    outputs: int, polynomials: str, plain: int, wrapping: int
) -> None:
    form = integer_form(derive(outputs, 3, polynomials))
    assert (form.plain_channels, form.channels) == (plain, wrapping)
    if plain:
        assert max(form.bounds(plain)) < 2**31 <= max(form.bounds(plain + 1))
    assert (wrapping * 9 * 255 * 128) << form.shift < 2**31


def test_transformed_bytes_of_the_quadratic_set_fit_sixteen_bits() -> None:
    assert integer_form(derive(4, 3)).bounds(64).bits[:2] == (13, 12)


def test_points_of_large_height_have_no_integer_form() -> None:
    with pytest.raises(BadArgument, match="entries below 2\\^31"):
        integer_form(SETS["F4 fifths"].algorithm())


@pytest.mark.parametrize(
    ("rows", "weights", "named"),
    [
        (np.zeros((4, 4, 2), np.int8), np.zeros((1, 3, 3, 2), np.int8), "uint8 map"),
        (np.zeros((2, 4, 2), np.uint8), np.zeros((1, 3, 3, 2), np.int8), "at least 3 rows"),
        (np.zeros((4, 4, 2), np.uint8), np.zeros((1, 3, 3, 3), np.int8), "int8 filters"),
        (np.zeros((4, 4, 2), np.uint8), np.zeros((1, 5, 5, 2), np.int8), "int8 filters"),
    ],
)
def test_maps_and_filters_that_do_not_fit_are_refused(
    rows: np.ndarray, weights: np.ndarray, named: str
) -> None:
    with pytest.raises(BadShape, match=named):
        convolve(integer_form(derive(2, 3)), rows, weights)
