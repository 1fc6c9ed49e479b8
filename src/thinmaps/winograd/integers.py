# SPDX-License-Identifier: Apache-2.0
"""The same algorithms in integers, for uint8 maps and int8 filters: equal to direct sums exactly.

    y = A' ((G' g) . (B' d)) / L        A', G', B' and L integers, the division without remainder

Rows of G and B^T are multiplied by what their fractions need, the product p then carries that
factor, and A' = L A^T / factor_p with the least L that leaves integers. Matrices are those of
nested.py, two-dimensional and laid out row by row.

Sums of absolute rows bound what occurs. With x - z in -255..255, w in -128..127 and C channels

    |B' d|_p <= 255 |B'|_p      |G' g|_p <= 128 |G'|_p      |sum_c|_p <= C times both
    |A' sums|_i <= sum_p |A'|_ip |sum_c|_p

The plain rule: where all of these stay below 2^31, no step overflows int32, in whatever order.
`plain_channels` is the most channels for which that holds.

The wrapping rule, ours: every step is a sum of products, so int32 that wraps around computes L y
modulo 2^32, however large sums between were. With L = 2^k o, o odd, a product with the inverse of o
leaves 2^k y modulo 2^32, which is 2^k y itself if that lies within int32. It does where

    2^k C r^2 255 128 < 2^31

`channels` is the most for which that holds: 25 times as many for F(4,3) with x^2+1. Both give the
direct convolution, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from thinmaps.errors import BadArgument, BadShape
from thinmaps.winograd.algorithm import Algorithm
from thinmaps.winograd.nested import nested
from thinmaps.winograd.rational import Matrix

LIMIT = 1 << 31
LARGEST_INPUT = 255
LARGEST_WEIGHT = 128

Int64Array = NDArray[np.int64]
Int32Array = NDArray[np.int32]


class Bounds(NamedTuple):
    """The largest absolute value of each step."""

    inputs: int
    filters: int
    sums: int
    results: int

    @property
    def bits(self) -> tuple[int, ...]:
        """That a signed number needs in each step."""
        return tuple(step.bit_length() + 1 for step in self)


@dataclass(frozen=True, eq=False)
class IntegerForm:
    """`at` (m^2 x P), `g` (P x r^2), `bt` (P x N^2) in integers, and the `divisor` L."""

    outputs: int
    taps: int
    at: Int64Array
    g: Int64Array
    bt: Int64Array
    divisor: int

    def bounds(self, channels: int) -> Bounds:
        """Of every step of a convolution of so many input channels."""
        at, g, bt = (np.abs(part).astype(object) for part in (self.at, self.g, self.bt))
        inputs = LARGEST_INPUT * bt.sum(axis=1)
        filters = LARGEST_WEIGHT * g.sum(axis=1)
        sums = channels * inputs * filters
        return Bounds(*(int(step.max()) for step in (inputs, filters, sums, at @ sums)))

    @cached_property
    def plain_channels(self) -> int:
        """The most input channels with which no step overflows; 0 if one does."""
        return (LIMIT - 1) // max(self.bounds(1))

    @property
    def channels(self) -> int:
        """The most input channels with which wrapping sums end as the direct convolution."""
        return (LIMIT - 1) // ((self.taps**2 * LARGEST_INPUT * LARGEST_WEIGHT) << self.shift)

    @property
    def shift(self) -> int:
        """k of L = 2^k o."""
        return (self.divisor & -self.divisor).bit_length() - 1

    @property
    def odd_inverse(self) -> int:
        """The inverse of o modulo 2^32, as an int32."""
        inverse = pow(self.divisor >> self.shift, -1, 2 * LIMIT)
        return inverse - 2 * LIMIT if inverse >= LIMIT else inverse


def integer_form(algorithm: Algorithm, paired: bool = False) -> IntegerForm:
    """The two-dimensional algorithm in integers.

    >>> from thinmaps.winograd.algorithm import derive
    >>> form = integer_form(derive(4, 3))
    >>> form.divisor, form.bounds(18).bits, form.plain_channels, form.channels
    (16, (13, 12, 28, 32), 18, 456)

    Raises:
        BadArgument: an entry needs more than 32 bits.
    """
    triple = nested(algorithm, paired)
    g_units, bt_units = _units(triple.g), _units(triple.bt)
    factors = [x * y for x, y in zip(g_units, bt_units, strict=True)]
    at = tuple(tuple(x / f for x, f in zip(row, factors, strict=True)) for row in triple.at)
    divisor = lcm(*(x.denominator for row in at for x in row))
    return IntegerForm(
        algorithm.outputs,
        algorithm.taps,
        _integers(at, [divisor] * len(at)),
        _integers(triple.g, g_units),
        _integers(triple.bt, bt_units),
        divisor,
    )


def convolve(
    form: IntegerForm, rows: NDArray[np.uint8], weights: NDArray[np.int8], zero_point: int = 0
) -> Int32Array:
    """sum w (x - z) over windows that lie inside: the reference, in int32 that wraps around.

    `rows` is uint8 (h, w, c), `weights` int8 (k, r, r, c); the result (h - r + 1, w - r + 1, k).

    Raises:
        BadShape: dtype, rank or sizes do not fit.
        BadArgument: more channels than are exact, or a zero point that is no byte.
    """
    _check(form, rows, weights, zero_point)
    high, wide = (side - form.taps + 1 for side in rows.shape[:2])
    m, side = form.outputs, form.outputs + form.taps - 1
    down, across = -(-high // m), -(-wide // m)
    edges = ((0, down * m - high), (0, across * m - wide), (0, 0))
    padded = np.pad(rows.astype(np.int32) - zero_point, edges)
    windows = sliding_window_view(padded, (side, side), axis=(0, 1))[::m, ::m]
    tiles = windows.reshape(down, across, rows.shape[2], side * side)
    at, g, bt = (part.astype(np.int32) for part in (form.at, form.g, form.bt))
    filters = np.einsum("pt,ktc->pkc", g, weights.reshape(len(weights), -1, rows.shape[2]))
    inputs = np.einsum("pn,yxcn->pyxc", bt, tiles)
    sums = np.einsum("pyxc,pkc->yxkp", inputs, filters)
    scaled = np.einsum("op,yxkp->yxko", at, sums) * np.int32(form.odd_inverse)
    results = scaled >> form.shift
    split = results.reshape(down, across, len(weights), m, m).transpose(0, 3, 1, 4, 2)
    whole = split.reshape(down * m, across * m, len(weights))
    return np.asarray(whole[:high, :wide], np.int32)


def _check(form: IntegerForm, rows: NDArray[Any], weights: NDArray[Any], zero_point: int) -> None:
    if rows.dtype != np.uint8 or rows.ndim != 3 or min(rows.shape[:2]) < form.taps:
        raise BadShape(
            f"winograd needs a uint8 map (h, w, c) of at least {form.taps} rows and columns, "
            f"got {rows.dtype} {rows.shape}"
        )
    square = (form.taps, form.taps, rows.shape[2])
    if weights.dtype != np.int8 or weights.ndim != 4 or weights.shape[1:] != square:
        raise BadShape(
            f"winograd needs int8 filters (k, {', '.join(map(str, square))}), "
            f"got {weights.dtype} {weights.shape}"
        )
    if not 0 <= zero_point <= LARGEST_INPUT:
        raise BadArgument(f"a zero point is a byte, got {zero_point}")
    if rows.shape[2] > form.channels:
        raise BadArgument(
            f"F({form.outputs},{form.taps}) is exact in int32 up to {form.channels} channels, "
            f"the map has {rows.shape[2]}: split the sum, or take fewer outputs"
        )


def _units(rows: Matrix) -> list[int]:
    return [lcm(*(x.denominator for x in row)) for row in rows]


def _integers(rows: Matrix, units: list[int]) -> Int64Array:
    scaled = [[int(x * unit) for x in row] for row, unit in zip(rows, units, strict=True)]
    largest = max(abs(entry) for row in scaled for entry in row)
    if largest >= LIMIT:
        raise BadArgument(
            f"winograd in int32 needs entries below 2^31, got {largest}: take points with smaller "
            f"numerators and denominators"
        )
    return np.array(scaled, np.int64)
