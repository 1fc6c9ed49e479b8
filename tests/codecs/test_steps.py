# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of steps at every step and byte, their fold, and what fitting makes of weights."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps.codecs.steps import IDENTITY, MOST, ONE, WIDEST_STEP_RATIO, Steps, fit_steps
from thinmaps.errors import BadArgument

EVERY_BYTE = np.arange(256, dtype=np.uint8)[:, None]
# All small ones, and of the others one in 37.
EVERY_STEP = np.concatenate(
    [np.arange(ONE, 6 * ONE), np.arange(MOST, 6 * ONE, -37)], dtype=np.int32
)
EACH_ZERO_POINT = pytest.mark.parametrize("zero_point", [0, 1, 100, 127, 128, 255])


def every_step(rounding: int = 90, symbol_bits: int = 8) -> Steps:
    """All of them, one to a channel."""
    return Steps(EVERY_STEP, rounding, symbol_bits)


def symbols_of_every_byte(steps: Steps, zero_point: int) -> np.ndarray:
    return steps.symbols(np.broadcast_to(EVERY_BYTE, (256, steps.step.size)), zero_point)


@EACH_ZERO_POINT
def test_a_step_of_one_byte_loses_nothing(zero_point):
    symbols = IDENTITY.symbols(EVERY_BYTE, zero_point)
    assert sorted(symbols.ravel()) == list(range(256))
    np.testing.assert_array_equal(IDENTITY.values(symbols, zero_point), EVERY_BYTE, strict=True)


@EACH_ZERO_POINT
@pytest.mark.parametrize("symbol_bits", [8, 4])
def test_every_symbol_up_to_the_largest_is_used_and_means_a_byte_of_its_own(
    zero_point, symbol_bits
):
    steps = every_step(symbol_bits=symbol_bits)
    largest = steps.largest(zero_point)
    assert largest.max() < 1 << symbol_bits
    used = np.diff(np.sort(symbols_of_every_byte(steps, zero_point), axis=0).astype(int), axis=0)
    np.testing.assert_array_equal(np.count_nonzero(used, axis=0), largest)
    assert used.max() == 1
    every = np.broadcast_to(EVERY_BYTE[: 1 << symbol_bits], (1 << symbol_bits, EVERY_STEP.size))
    below_all = -1 - every.astype(int)
    values = np.where(every <= largest, steps.values(every, zero_point), below_all)
    values = np.sort(values, axis=0)
    assert np.diff(values, axis=0).min() > 0


@EACH_ZERO_POINT
def test_symbol_zero_is_the_zero_point_and_only_it(zero_point):
    steps = every_step()
    zero = np.zeros((1, EVERY_STEP.size), np.uint8)
    assert np.all(steps.values(zero, zero_point) == zero_point)
    restored = steps.values(symbols_of_every_byte(steps, zero_point), zero_point)
    is_zero = symbols_of_every_byte(steps, zero_point) == 0
    np.testing.assert_array_equal(restored == zero_point, is_zero)


@EACH_ZERO_POINT
@pytest.mark.parametrize("rounding", [0, 90, 128])
def test_the_error_is_that_of_the_rounding(zero_point, rounding):
    steps = every_step(rounding)
    restored = steps.values(symbols_of_every_byte(steps, zero_point), zero_point)
    error = np.abs(restored.astype(int) - EVERY_BYTE) * ONE
    # Half a byte where the level becomes a byte, a sixteenth where the offset is cut, and 0.04 of a
    # step where the reciprocal is.
    bound = (1 - rounding / 256 + 0.04) * EVERY_STEP + ONE * (1 / 2 + 1 / 16)
    assert np.all(error <= bound)


@pytest.mark.parametrize("step", [3 * ONE, 8 * ONE, 20 * ONE])
def test_steps_do_not_shift_the_mean(step):
    steps = Steps(np.full(1, step, np.int32))
    restored = steps.values(steps.symbols(EVERY_BYTE, 0), 0)
    # Bytes half-way between two levels, of which even steps have some, go up.
    assert abs(np.mean(restored.astype(int) - EVERY_BYTE)) < 0.5


@pytest.mark.parametrize("rounding", [0, 128])
def test_products_stay_below_2_to_the_24(rounding):
    steps = every_step(rounding)
    factor = 16 * 255 + steps._offset()
    assert factor.max() < 1 << 16
    assert np.max(factor * steps._multiplier()) < 1 << 24
    largest = steps.largest(0)
    assert np.max(largest * EVERY_STEP + ONE // 2) < 1 << 16


def test_signs_alternate_until_the_nearer_end_is_reached():
    symbols = IDENTITY.symbols(np.uint8([[2], [3], [1], [0], [4], [5], [6]]), 2)
    assert symbols.ravel().tolist() == [0, 1, 2, 4, 3, 5, 6]


def test_what_lies_beyond_the_symbols_is_clipped():
    steps = Steps(np.full(1, ONE, np.int32), symbol_bits=4)
    rows = np.uint8([[0], [118], [121], [128], [135], [255]])
    restored = steps.values(steps.symbols(rows, 128), 128)
    assert restored.ravel().tolist() == [120, 120, 121, 128, 135, 135]


def test_steps_follow_the_weights_around_a_geometric_mean():
    steps = fit_steps(64, 8, 4, np.array([1.0, 4.0, 16.0, 64.0]))
    assert steps is not None
    np.testing.assert_allclose(steps.step[:-1] / steps.step[1:], 2, rtol=0.01)
    assert np.exp(np.log(steps.step / ONE).mean()) == pytest.approx(4, rel=0.01)


def test_channels_that_the_output_does_not_feel_have_the_largest_step():
    steps = fit_steps(160, 8, 3, np.array([0.0, 1.0, 1.0]))
    assert steps is not None
    assert steps.step[0] == WIDEST_STEP_RATIO * steps.step[1]
    assert steps.step[1] == steps.step[2]


def test_no_step_means_lossless():
    assert fit_steps(0, 8, 3, None) is None


@pytest.mark.parametrize(
    ("step", "weights", "message"),
    [
        (15, None, "0 .lossless. or 16 to 4080, got 15"),
        (4081, None, "got 4081"),
        (16.0, None, "got 16.0"),
        (16, np.ones(2), r"weights must be \(3,\), finite and not negative, got \(2,\)"),
        (16, np.array([1.0, -1.0, 1.0]), "not negative"),
        (16, np.array([1.0, np.nan, 1.0]), "finite"),
    ],
)
def test_options_without_a_meaning_are_refused(step, weights, message):
    with pytest.raises(BadArgument, match=message):
        fit_steps(step, 8, 3, weights)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step": np.full(1, ONE - 1, np.int32)}, "step must be in 128..32640, got 127..127"),
        ({"step": np.full(1, MOST + 1, np.int32)}, "got 32641"),
        ({"step": np.full(1, ONE, np.int64)}, "step must be int32"),
        ({"step": np.zeros(0, np.int32)}, r"step must be int32 \(channels,\)"),
        ({"rounding": 129}, r"rounding must be an integer in 0\.\.128, got 129"),
        ({"symbol_bits": 9}, r"symbol_bits must be an integer in 1\.\.8, got 9"),
    ],
)
def test_tables_without_a_meaning_are_refused(wrong, message):
    with pytest.raises(BadArgument, match=message):
        Steps(**wrong)
