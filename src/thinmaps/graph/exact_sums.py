# SPDX-License-Identifier: Apache-2.0
"""Scales for which the sums of a network are exact in float32, so that every machine agrees.

An Add computes `(a - za) * ra + (b - zb) * rb` with `ra = fl(sa / sy)`, `rb = fl(sb / sy)`. One
implementation rounds after each operation, another fuses them, a third folds the zero points: on
one element in a hundred thousand they differ by a step, and behind a dozen residual blocks on every
third. They cannot differ where nothing is rounded. So ratios become multiples of a grid g that is
coarse enough for every product and partial sum to have at most 24 bits:

    largest ratio <= 2**c, c >= 0, g = 2**(c - 14):   4 * 255 * 2**14 < 2**24 multiples of g

Scales only grow, as a rule by less than a thousandth: first the sum's, until one operand's ratio
lies on the grid, then the other operand's (by up to `MOST_GROWTH`, and by more than a thousandth
only where its steps are far finer than the sum's). Maps that share a scale change together. A
scale that an earlier sum has settled stays, and so does a sum's that shares its first operand's:
then the other operand alone moves. A sum stays as it is where both operands are settled, or where
the first operand's ratio to a settled sum is off the grid. Cost: a few divisions per Add.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, MutableMapping

import numpy as np

GRID_BITS = 14
TRIALS = 64  # of neighbouring grid points; about every second division gives the point back
MOST_GROWTH = 1.07


def settle(
    sums: Iterable[tuple[str, str, str]], group: dict[str, str], scales: MutableMapping[str, float]
) -> None:
    """Change `scales` so that the sums are exact.

    Args:
        sums: names of (first operand, second operand, sum), in execution order.
        group: map name -> name of the group of maps that share its scale.
        scales: by group; float32 values.
    """
    settled: set[str] = set()
    for names in sums:
        first, second, total = (group[name] for name in names)
        if second in settled or second == total:
            first, second = second, first
        if second not in settled | {first, total}:
            is_fixed = total in settled or total == first
            found = _exact(scales[first], scales[second], scales[total], is_fixed)
            if found is not None:
                scales[second], scales[total] = found
        settled |= {first, second, total}


def _exact(first: float, second: float, total: float, is_fixed: bool) -> tuple[float, float] | None:
    """The second operand's and the sum's scale, no smaller than given, with exact ratios.

    A fixed sum keeps its scale; then the first operand's ratio must lie on the grid already.
    """
    largest = max(first, second) / total
    grid = 2.0 ** (max(0, math.ceil(math.log2(largest))) - GRID_BITS)
    ratio = float(np.float32(first) / np.float32(total))
    kept = [total] if ratio % grid == 0 else []
    for wider in kept if is_fixed else _sum_scales(first, total, grid):
        start = math.ceil(second / wider / grid)
        for steps in range(start, start + TRIALS):
            candidate = np.float32(steps * grid) * np.float32(wider)
            if candidate > MOST_GROWTH * second:
                break
            if candidate / np.float32(wider) == np.float32(steps * grid):
                return float(candidate), wider
    return None


def _sum_scales(first: float, total: float, grid: float) -> Iterator[float]:
    """Scales from `total` up for which `fl(first / scale)` is a multiple of the grid."""
    start = math.floor(first / total / grid)
    for steps in range(start, max(0, start - TRIALS), -1):
        ratio = np.float32(steps * grid)
        nearest = np.float32(first) / ratio
        for scale in (nearest, np.nextafter(nearest, np.float32(np.inf))):
            if np.float32(first) / scale == ratio and total <= scale <= MOST_GROWTH * total:
                yield float(scale)
                break
