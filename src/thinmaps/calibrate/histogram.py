# SPDX-License-Identifier: Apache-2.0
"""A running histogram of real values, whose range grows as it must.

Bins of equal width lie symmetrically around 0. When a value falls outside, the width doubles and
pairs of bins merge, so one pass suffices and memory stays at a few thousand counts per map. Exact
zeros are not counted: every quantisation holds them exactly. Of large maps every n-th value is
counted, another n-th for each picture; the smallest and the largest value are those of all.

`best_range` chooses where to clip: the range whose even-zero-point quantisation has the smallest
mean squared error, rounding and clipping together (the criterion of, among others, Banner et al.,
"Post training 4-bit quantization", 2019, here by search over the histogram instead of a formula).
Bin centres stand for their values, which is exact to 1/1,000 of the range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadModel
from thinmaps.graph.scales import Range, even_quantisation

HALF_BINS = 4096
COUNTED_AT_MOST = 1 << 16  # values per map and picture

# Shares of the largest and smallest value that clipping may keep. Both sides are scaled together
# first, then each alone.
CLIP_SHARES = tuple(1.0 - step / 25 for step in range(24))
ROUNDS = 1

Function: TypeAlias = Callable[[NDArray[Any]], NDArray[np.floating]]


def _identity(values: NDArray[Any]) -> NDArray[np.floating]:
    return values


class Histogram:
    """Counts of the values of one map."""

    def __init__(self) -> None:
        self.counts = np.zeros(2 * HALF_BINS, np.int64)
        self.reach = 0.0  # bins cover -reach .. reach
        self.low = 0.0
        self.high = 0.0

    @property
    def range(self) -> Range:
        """Smallest and largest value seen, and 0."""
        return Range(self.low, self.high)

    def add(self, values: NDArray[np.float32], phase: int = 0) -> None:
        """Count one picture's values; of large maps a part that `phase` (the picture) chooses.

        Raises:
            BadModel: a value is not finite.
        """
        low, high = float(values.min()), float(values.max())
        if not math.isfinite(high - low):
            raise BadModel("holds values that are not finite (NaN or infinity)")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(-low, high))
        if self.reach == 0.0:
            return
        # An odd step does not fall into step with rows of even length.
        step = (values.size - 1) // COUNTED_AT_MOST * 2 + 1
        counted = values.ravel()[phase % step :: step]
        bins = np.floor(counted * np.float32(HALF_BINS / self.reach)).astype(np.int32)
        bins += HALF_BINS
        np.minimum(bins, 2 * HALF_BINS - 1, out=bins)
        zeros = counted.size - np.count_nonzero(counted)
        self.counts += np.bincount(bins, minlength=2 * HALF_BINS)
        self.counts[HALF_BINS] -= zeros

    def _grow(self, reach: float) -> None:
        if reach > 0.0 and self.reach == 0.0:
            self.reach = 2.0 ** np.ceil(np.log2(reach))
        while reach > self.reach:
            middle = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros_like(self.counts)
            self.counts[HALF_BINS // 2 : HALF_BINS // 2 * 3] = middle
            self.reach *= 2

    def best_range(self, function: Function = _identity) -> Range:
        """The range with the smallest mean squared error of `function` of the values.

        `function` is what reads the map: behind a LeakyReLU errors of negative values count less.
        """
        if self.reach == 0.0:
            return self.range
        at = np.flatnonzero(self.counts)
        centres = (at + 0.5 - HALF_BINS) * (self.reach / HALF_BINS)
        weights = self.counts[at].astype(np.float64)

        def best(candidates: Iterable[Range]) -> Range:
            return min(candidates, key=lambda c: squared_error(centres, weights, c, function))

        chosen = best(Range(self.low * share, self.high * share) for share in CLIP_SHARES)
        for _ in range(ROUNDS if self.low < 0 < self.high else 0):
            chosen = best(Range(self.low * share, chosen.high) for share in CLIP_SHARES)
            chosen = best(Range(chosen.low, self.high * share) for share in CLIP_SHARES)
        return chosen


def squared_error(
    values: NDArray[np.floating],
    weights: NDArray[np.floating],
    clip: Range,
    function: Function = _identity,
) -> float:
    """Weighted sum of squared differences between `function` of values and of their codes."""
    found = even_quantisation(clip)
    codes = np.clip(np.rint(values / found.scale) + found.zero_point, 0, 255)
    restored = (codes - found.zero_point) * found.scale
    return float(np.sum(weights * (function(values) - function(restored)) ** 2))
