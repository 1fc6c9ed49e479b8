# SPDX-License-Identifier: Apache-2.0
"""The algorithm of the engine: F(4x4,3x3) with the points 0, 1, -1, 2, -2 and infinity, exactly.

    576 Y = A' ((G' w G'^T) . (B^T x B)) A'^T      36 products for 16 outputs, not 144

The engine multiplies pairs of 16 bits and adds in 32 bits. B^T is that of the algorithm. G' = 24 G
without fractions, but its row of infinity is divided by 8, which A' makes up for: then

    points of inputs     -12750 .. 17340, as the rows of B^T have 2 to 8 of either sign, in two
                         dimensions at most 68 above and 50 below 0
    points of filters    at most 144 * 128 = 18432, as the rows of G' sum to at most 12

Sums over channels wrap, which leaves 576 Y modulo 2^32, and after the inverse of 9 modulo 2^32,
64 Y. With P and N the sums of a filter's weights above and below 0, Y + 255 N lies in
0 .. 255 (P + N). Where

    P + N <= LARGEST_WEIGHT_SUM, that is 64 * 255 (P + N) < 2^32

a shift of the unsigned 64 (Y + 255 N) by 6 bits is exact. Any filters of 228 channels satisfy it.
Ours: one offset per filter instead of a bound on all of them, which serves twice as many channels
as `integers.py`, and with trained filters, whose weights are smaller, as good as all.

The native twin is native/winograd_exact.cc; this is its definition, in NumPy and slow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from thinmaps.winograd.algorithm import derive

OUTPUTS, TAPS, POINTS = 4, 3, "x, x-1, x+1, x-2, x+2"
ROW_SCALE = 24
INFINITY_SCALE = 8
SCALE_BITS = 6
LARGEST_WEIGHT_SUM = (1 << (32 - SCALE_BITS)) // 255
LARGEST_WEIGHT = 128


class Matrices(NamedTuple):
    """`at` (4 x 6), `g` (6 x 3) and `bt` (6 x 6), of one dimension, in integers."""

    at: NDArray[np.int64]
    g: NDArray[np.int64]
    bt: NDArray[np.int64]


def matrices() -> Matrices:
    """Those of the algorithm, without fractions.

    >>> matrices().g.tolist()
    [[6, 0, 0], [4, 4, 4], [4, -4, 4], [1, 2, 4], [1, -2, 4], [0, 0, 3]]
    """
    infinity = [1] * (OUTPUTS + TAPS - 2) + [INFINITY_SCALE]
    at, g, bt = derive(OUTPUTS, TAPS, POINTS).matrices
    scaled = [[x * ROW_SCALE / f for x in row] for row, f in zip(g, infinity, strict=True)]
    grown = [[x * f for x, f in zip(row, infinity, strict=True)] for row in at]
    return Matrices(*(np.array(part, object).astype(np.int64) for part in (grown, scaled, bt)))


def is_exact(weights: NDArray[Any]) -> bool:
    """Whether int8 filters `k c r s` are small enough. Cost: for many channels, one pass over them.

    >>> is_exact(np.full((1, 228, 3, 3), -128, np.int8))
    True
    >>> is_exact(np.full((1, 229, 3, 3), -128, np.int8))
    False
    """
    terms = int(np.prod(weights.shape[1:]))
    if terms * LARGEST_WEIGHT <= LARGEST_WEIGHT_SUM:
        return True
    return bool(np.all(_weight_sums(weights) <= LARGEST_WEIGHT_SUM))


def convolve(
    rows: NDArray[np.uint8], weights: NDArray[np.int8], zero_point: int = 0
) -> NDArray[np.int32]:
    """sum w (x - z) over windows that lie inside, as the engine finds it: in 16 and 32 bits.

    `rows` is uint8 (h, w, c), `weights` int8 (k, c, 3, 3) with `is_exact`; the result
    (h - 2, w - 2, k).
    """
    at, g, bt = matrices()
    high, wide = (side - TAPS + 1 for side in rows.shape[:2])
    down, across = -(-high // OUTPUTS), -(-wide // OUTPUTS)
    padded = np.pad(rows, ((0, down * OUTPUTS - high), (0, across * OUTPUTS - wide), (0, 0)))
    side = OUTPUTS + TAPS - 1
    tiles = sliding_window_view(padded, (side, side), axis=(0, 1))[::OUTPUTS, ::OUTPUTS]
    inputs = _shorts(np.einsum("pi,yxcij,qj->yxpqc", bt, tiles.astype(np.int64), bt))
    filters = _shorts(np.einsum("pr,kcrs,qs->pqck", g, weights.astype(np.int64), g))
    sums = np.matmul(inputs.transpose(2, 3, 0, 1, 4), filters[:, :, None]).astype(np.uint32)
    grown = np.einsum("ip,pqyxk,jq->yixjk", at.astype(np.uint32), sums, at.astype(np.uint32))
    inverse = pow(ROW_SCALE * ROW_SCALE >> SCALE_BITS, -1, 1 << 32)
    negative = np.minimum(weights.astype(np.int64), 0).sum(axis=(1, 2, 3))
    offset = (-255 * negative << SCALE_BITS).astype(np.uint32)
    found = (grown * np.uint32(inverse) + offset) >> SCALE_BITS
    total = weights.astype(np.int64).sum(axis=(1, 2, 3))
    least = 255 * negative - zero_point * total
    whole = found.reshape(down * OUTPUTS, across * OUTPUTS, len(weights)) + least
    return np.asarray(whole[:high, :wide], np.int32)


def _shorts(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """As they are; they fit 16 bits."""
    assert np.abs(points).max(initial=0) < 1 << 15
    return points


def _weight_sums(weights: NDArray[Any]) -> NDArray[np.int64]:
    """P + N of each filter."""
    flat = weights.reshape(len(weights), -1)
    above = np.maximum(flat, 0).sum(axis=1, dtype=np.int64)
    return np.asarray(2 * above - flat.sum(axis=1, dtype=np.int64))
