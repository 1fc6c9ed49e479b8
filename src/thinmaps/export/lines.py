# SPDX-License-Identifier: Apache-2.0
"""Tables that are the larger (or smaller) of two lines, found again: PRelu, with an affine before.

A PRelu behind a batch norm has a table per channel, and ONNX Runtime gathers from tables at 4.5 ns
per element; two products, two sums and a maximum take 2.6.

A line stabs the intervals `[code - 1/2, code + 1/2]` of entries i and j only if its slope lies
between two bounds, and a slope within the bounds of all pairs always has an intercept. So the
longest stretch of entries from either end that one line explains is a running minimum of bounds;
where the two stretches meet, the table is two lines. Each is taken from the middle of what is
possible, so that rounding in float32 changes no entry; the caller checks that. Cost: 256 x 256
bounds per channel, about a millisecond.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

_PLACES = np.arange(256, dtype=np.float64)
_GAP = _PLACES[None, :] - _PLACES[:, None]
_ALL = slice(0, 256)


class TwoLines(NamedTuple):
    """`code = sign * max(sign * line 0, sign * line 1)`, a line being `slope * byte + shift`."""

    slope: Float64Array  # (2, channels)
    shift: Float64Array  # (2, channels)
    sign: Float64Array  # (channels,): 1 for the larger of the lines, -1 for the smaller


def two_lines(table: NDArray[np.uint8]) -> TwoLines | None:
    """The lines of a table (channels, 256) in code units; None if a channel is something else."""
    found = []
    for codes in table:
        channel = _two_lines(codes)
        if channel is None:
            return None
        found.append(channel)
    lines = np.array([lines for lines, _ in found])
    return TwoLines(lines[:, :, 0].T, lines[:, :, 1].T, np.array([sign for _, sign in found]))


def _two_lines(table: NDArray[np.uint8]) -> tuple[Float64Array, float] | None:
    """Both lines of one channel (2, 2) and their sign."""
    codes = table.astype(np.float64)
    # Saturated codes stand for all that lies beyond them.
    low = np.where(codes > 0, codes - 0.5, -np.inf)
    high = np.where(codes < 255, codes + 0.5, np.inf)
    least = np.where(_GAP > 0, (low[None, :] - high[:, None]) / np.maximum(_GAP, 1), -np.inf)
    most = np.where(_GAP > 0, (high[None, :] - low[:, None]) / np.maximum(_GAP, 1), np.inf)
    # One line explains the entries before `end`, and one those from `start` on.
    end = _stretch(least.max(axis=0), most.min(axis=0))
    start = 256 - _stretch(least.max(axis=1)[::-1], most.min(axis=1)[::-1])
    # The middle nearly always is right; where a line is short, its end has to be found.
    for middle in dict.fromkeys([(start + end) // 2, *range(start, end + 1)]):
        parts = (slice(0, middle), slice(middle, 256)) if 2 <= middle <= 254 else (_ALL, _ALL)
        lines = np.array([_middle_line(least, most, low, high, part) for part in parts])
        values = lines[:, :1] * _PLACES + lines[:, 1:]
        for sign, joined in ((1.0, values.max(axis=0)), (-1.0, values.min(axis=0))):
            if np.array_equal(np.clip(np.rint(joined), 0, 255), codes):
                return lines, sign
    return None


def _stretch(least: Float64Array, most: Float64Array) -> int:
    """How many entries in a row have a slope in common."""
    return int((np.maximum.accumulate(least) < np.minimum.accumulate(most)).sum())


def _middle_line(
    least: Float64Array, most: Float64Array, low: Float64Array, high: Float64Array, part: slice
) -> tuple[float, float]:
    """Slope and intercept from the middle of the possible ones for the entries of `part`."""
    slope = _middle(least[part, part].max(), most[part, part].min())
    shifted = slope * _PLACES[part]
    return slope, _middle((low[part] - shifted).max(), (high[part] - shifted).min())


def _middle(low: float, high: float) -> float:
    """The middle of an interval, or its finite end, or 0."""
    ends = [float(end) for end in (low, high) if np.isfinite(end)]
    return sum(ends) / len(ends) if ends else 0.0
