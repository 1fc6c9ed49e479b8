# SPDX-License-Identifier: Apache-2.0
"""The engine's algorithm: what its numbers can reach, and that it is the direct convolution."""

from __future__ import annotations

import numpy as np
import pytest
from winograd.convolving import direct_sums

from thinmaps.winograd import exact


def direct(rows: np.ndarray, weights: np.ndarray, zero_point: int) -> np.ndarray:
    return direct_sums(rows, weights.transpose(0, 2, 3, 1), zero_point)


def one_sided(rows: np.ndarray) -> np.ndarray:
    """Sums of the entries above 0, of every row."""
    return np.maximum(rows, 0).sum(axis=1)


def test_matrices_are_576_times_a_convolution():
    at, g, bt = exact.matrices()
    made = np.einsum("ip,pk,pj->ikj", at, g, bt)
    expected = [[[i + k == j for j in range(6)] for k in range(3)] for i in range(4)]
    np.testing.assert_array_equal(made, exact.ROW_SCALE * np.array(expected))


def test_points_fit_16_bits_with_the_bounds_that_are_stated():
    _, g, bt = exact.matrices()
    inputs, filters = np.kron(bt, bt), np.kron(g, g)
    assert 255 * one_sided(inputs).max() == 17340
    assert 255 * one_sided(-inputs).max() == 12750
    assert 128 * np.abs(filters).sum(axis=1).max() == 18432


@pytest.mark.parametrize("shape", [(3, 3), (6, 6), (7, 12), (9, 5)])
@pytest.mark.parametrize("channels", [1, 2, 5, 33])
def test_it_is_the_direct_convolution(shape, channels):
    random = np.random.default_rng(3)
    rows = random.integers(0, 256, (*shape, channels), np.uint8)
    weights = random.integers(-128, 128, (4, channels, 3, 3), np.int8)
    for zero_point in (0, 77, 255):
        found = exact.convolve(rows, weights, zero_point)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, direct(rows, weights, zero_point))


def test_the_largest_sums_that_are_exact_are_exact_and_larger_ones_are_not():
    most = np.zeros((2, 229, 3, 3), np.int8)
    most[:, :228] = -128
    most.reshape(2, -1)[:, 228 * 9 : 228 * 9 + 5] = (-128, -128, -128, -128, -4)
    most[1] //= -2
    assert np.abs(most[0].astype(int)).sum() == exact.LARGEST_WEIGHT_SUM
    assert exact.is_exact(most)
    rows = np.full((6, 6, 229), 255, np.uint8)
    rows[3:] = 0
    np.testing.assert_array_equal(exact.convolve(rows, most), direct(rows, most, 0))
    more = most.copy()
    more.reshape(2, -1)[0, -1] = -1
    assert not exact.is_exact(more)
    assert not np.array_equal(exact.convolve(rows, more), direct(rows, more, 0))


def test_weights_of_any_channels_are_exact_if_they_are_small():
    assert exact.is_exact(np.full((1, 2048, 3, 3), 14, np.int8))
    assert not exact.is_exact(np.full((1, 2048, 3, 3), 15, np.int8))
