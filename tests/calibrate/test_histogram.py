# SPDX-License-Identifier: Apache-2.0
"""Running histograms and the range that loses least."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps.calibrate.histogram import COUNTED_AT_MOST, HALF_BINS, Histogram, squared_error
from thinmaps.errors import BadModel
from thinmaps.graph.scales import Range, even_quantisation
from thinmaps.quant import dequantise, quantise


def counted(*parts):
    histogram = Histogram()
    for part in parts:
        histogram.add(np.asarray(part, np.float32))
    return histogram


def test_growing_gives_the_counts_of_a_histogram_that_began_wide():
    rng = np.random.default_rng(0)
    values = rng.normal(size=5000).astype(np.float32)
    grown = counted(values * np.float32(0.01), values * 3, [-100.0])
    begun_wide = counted([-100.0], values * 3, values * np.float32(0.01))
    assert grown.reach == begun_wide.reach == 128
    np.testing.assert_array_equal(grown.counts, begun_wide.counts)
    assert grown.range == begun_wide.range


def test_all_values_but_zeros_are_counted():
    histogram = counted([0.0, 0.0, 1.0, -1.0, 0.5], [4.0, 0.0])
    assert histogram.counts.sum() == 4
    assert histogram.range == Range(-1.0, 4.0)


def test_the_largest_values_fall_into_the_outermost_bins():
    histogram = counted([8.0, -8.0])
    assert histogram.counts[2 * HALF_BINS - 1] == 1
    assert histogram.counts[0] == 1


def test_an_all_zero_map_has_an_empty_range():
    assert counted(np.zeros(9)).best_range() == Range(0.0, 0.0)


def test_a_rare_outlier_is_clipped_and_the_error_is_smaller_for_it():
    rng = np.random.default_rng(1)
    values = np.append(np.abs(rng.normal(size=60_000)), 6.0).astype(np.float32)
    histogram = counted(values)
    chosen = histogram.best_range()
    assert 3.0 < chosen.high < 5.7
    assert true_error(values, chosen) < true_error(values, histogram.range)


def test_a_uniform_map_keeps_its_range():
    values = np.random.default_rng(2).uniform(-1, 2, 100_000)
    chosen = counted(values).best_range()
    assert chosen.high == pytest.approx(2.0, rel=0.02)


def true_error(values, clip):
    found = even_quantisation(clip)
    codes = quantise(values, found.scale, found.zero_point)
    restored = dequantise(codes, found.scale, found.zero_point)
    return float(np.sum((values - restored).astype(np.float64) ** 2))


def test_the_error_over_bins_is_that_of_the_values():
    values = np.random.default_rng(3).normal(size=20_000).astype(np.float32)
    for clip in (Range(-1.0, 1.0), Range(-4.0, 4.0)):
        found = squared_error(values.astype(np.float64), np.ones(values.size), clip)
        assert found == pytest.approx(true_error(values, clip), rel=1e-3)


def test_of_a_large_map_every_value_is_counted_over_the_pictures():
    values = np.arange(1, 3 * COUNTED_AT_MOST, dtype=np.float32)
    histogram = Histogram()
    steps = 5
    for picture in range(steps):
        histogram.add(values, picture)
    assert histogram.counts.sum() == values.size
    assert histogram.high == values.size


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(BadModel, match="not finite"):
        counted([1.0, np.nan])
    with pytest.raises(BadModel, match="not finite"):
        counted([1.0, np.inf])


def test_each_side_is_clipped_for_itself():
    values = np.append(np.random.default_rng(4).uniform(0, 1, 60_000), -0.1).astype(np.float32)
    chosen = counted(values).best_range()
    assert chosen.low > -0.06
    assert chosen.high > 0.97


def test_errors_that_the_reader_of_a_map_shrinks_count_less():
    values = np.random.default_rng(5).normal(-2.0, 2.0, 60_000).astype(np.float32)
    histogram = counted(values)

    def leaky(x):
        return np.where(x < 0, x * 0.01, x)

    chosen, plain = histogram.best_range(leaky), histogram.best_range()
    assert chosen.low > 0.8 * plain.low
    ones = np.ones(values.size)
    real = values.astype(np.float64)
    assert squared_error(real, ones, chosen, leaky) < 0.7 * squared_error(real, ones, plain, leaky)
