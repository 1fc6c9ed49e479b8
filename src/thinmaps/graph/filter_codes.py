# SPDX-License-Identifier: Apache-2.0
"""3x3 filters made of a few int8 coefficients and binary codes, in integers: the definition.

A code is a row of +1 and -1 on a square of 4x4, element j of code i is the parity of the bits that
j and the reversed bits of i have in common: it is computed, never stored. Codes are reduced to 3x3
by cropping, or by averaging each 2x2 square, which leaves -1, 0 and 1. Every kernel (an output
channel's filter on one input channel) has a coefficient for each of a layer's R codes:

    sum[k, c, t]    = sum over j of coefficients[k, c, j] * code_j[t]       t one of 9 taps
    filter[k, c, t] = clamp((sum + 2^(shift[k] - 1)) >> shift[k], -127, 127)

with nothing added where the shift is 0. |sum| <= 128 R <= 1152, so 16 bits hold everything. R codes
in the greedy order have rank R; nine make every filter, so that a layer has 1 to 9.

A channel's largest coefficient becomes 127, and `shift` is the least for which its real filters
stay below 128. Coefficients are at most half a step off, so a filter that is not clamped is at most
(R / 2) / 2^shift + 1/2 steps from the real one. Coefficients that were rounded so are found again,
bit for bit, in the filters that they make in real numbers.

Source
    Tseng et al., "Deterministic Binary Filters for Convolutional Neural Networks", IJCAI 2018,
    doi 10.24963/ijcai.2018/380 (learned coefficients of a binary basis that is generated). The
    greedy order, the integers and how a network's filters are recognised are ours.

Cost: R * 9 / 16 <= 5 additions per filter value; at most 8 codes this is fewer than the 64
additions per 9 values of a fast Walsh-Hadamard transform of 16, so none is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadArgument

Reduction = Literal["crop", "average"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)

SIDE = 4  # codes of 3x3 filters lie on a square of this side
TAPS = 9
MOST_CODES = 9
MOST_SHIFT = 4
LARGEST = 127  # of a filter value

# A kernel is made by codes if its squared distance from what they span is this share of its square:
# float32 filters that were multiplied by a batch norm's gains are that near.
SPANNED = 1e-10

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FilterCoefficients:
    """Filters `k c 3 3` as coefficients of codes; `made()` gives them.

    Attributes:
        reduction: of the codes from 4x4 to 3x3.
        codes: which of the 16, in the order of the tree.
        coefficients: (k, c, codes), c the input channels of a group.
        shift: (k,), 0 to 4.
    """

    reduction: Reduction
    codes: tuple[int, ...]
    coefficients: NDArray[np.int8]
    shift: NDArray[np.uint8]

    @property
    def table(self) -> NDArray[np.int8]:
        """The codes, reduced: (codes, 9), -1, 0 or 1."""
        return kernel_codes(self.reduction)[list(self.codes)]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the filters, k c r s."""
        return (*self.coefficients.shape[:2], 3, 3)

    def unrounded(self) -> FloatArray:
        """The filters before they are rounded and clamped."""
        sums = self.coefficients.astype(np.float64) @ self.table.astype(np.float64)
        return (sums * np.exp2(-self.shift.astype(np.float64))[:, None, None]).reshape(self.shape)

    def made(self) -> NDArray[np.int8]:
        """The filters `k c r s`, in -127..127."""
        sums = self.coefficients.astype(np.int32) @ self.table.astype(np.int32)
        shift = self.shift.astype(np.int32)[:, None, None]
        rounded = (sums + (1 << shift >> 1)) >> shift
        return np.asarray(np.clip(rounded, -LARGEST, LARGEST), np.int8).reshape(self.shape)


def code_element(code: int, position: int, length: int) -> int:
    """One element of one code of a length that is a power of two, without any other.

    >>> [code_element(1, position, 4) for position in range(4)]
    [1, 1, -1, -1]
    """
    bits = length.bit_length() - 1
    reversed_code = int(f"{code:0{bits}b}"[::-1], 2) if bits else 0
    return 1 - 2 * ((reversed_code & position).bit_count() % 2)


def kernel_codes(reduction: Reduction) -> NDArray[np.int8]:
    """The 16 codes of 4x4, reduced to 3x3: (16, 9), in the order of the tree.

    Raises:
        BadArgument: there is no such reduction.
    """
    if reduction not in REDUCTIONS:
        raise BadArgument(f"codes are reduced by one of {REDUCTIONS}, got {reduction!r}")
    length = SIDE * SIDE
    square = np.array(
        [[code_element(code, at, length) for at in range(length)] for code in range(length)]
    ).reshape(length, SIDE, SIDE)
    if reduction == "crop":
        reduced = square[:, :3, :3]
    else:
        pairs = square[:, :3] + square[:, 1:]
        reduced = (pairs[:, :, :3] + pairs[:, :, 1:]) // 4  # -4, 0 or 4 before
    return reduced.reshape(length, TAPS).astype(np.int8)


def greedy_order(codes: NDArray[Any]) -> list[int]:
    """Codes so that each adds the most to the span of those before it: pivoted Gram-Schmidt.

    As many as the rank; earlier codes win ties.

    >>> greedy_order(kernel_codes("crop"))
    [0, 5, 10, 15, 1, 6, 8, 2, 4]
    """
    rest, chosen = codes.astype(np.float64), []
    for _ in range(min(codes.shape)):
        norms = np.square(rest).sum(axis=1)
        best = int(np.flatnonzero(norms > norms.max() - 1e-9)[0])
        if norms[best] < 1e-9:
            break
        chosen.append(best)
        direction = rest[best] / np.sqrt(norms[best])
        rest = rest - np.outer(rest @ direction, direction)
    return chosen


def coefficients_of(weights: NDArray[Any], table: NDArray[np.int8]) -> FloatArray:
    """Of the nearest filters to `k c 3 3` that the codes (codes, 9) make: (k, c, codes)."""
    kernels = weights.astype(np.float64).reshape(*weights.shape[:2], TAPS)
    return np.asarray(kernels @ np.linalg.pinv(table.astype(np.float64)))


def spanning_codes(weights: NDArray[Any]) -> tuple[Reduction, tuple[int, ...]] | None:
    """The fewest codes, 8 or fewer in the greedy order, that make all filters `k c 3 3`; or None.

    Filters that `learn.weights.ovsf` has trained are found by this, whatever was folded into them
    per output or input channel since. Cost: 16 products of the weights with a 9x9 matrix.
    """
    if weights.ndim != 4 or weights.shape[2:] != (3, 3) or not weights.any():
        return None
    kernels = weights.astype(np.float64).reshape(-1, TAPS)
    allowed = SPANNED * np.square(kernels).sum(axis=1)
    orders = {each: greedy_order(kernel_codes(each)) for each in REDUCTIONS}
    for count in range(1, TAPS):
        for reduction, order in orders.items():
            table = kernel_codes(reduction)[order[:count]].astype(np.float64)
            missed = kernels - kernels @ np.linalg.pinv(table) @ table
            if np.all(np.square(missed).sum(axis=1) <= allowed):
                return reduction, tuple(order[:count])
    return None


def known_codes(table: NDArray[Any]) -> tuple[Reduction, tuple[int, ...]] | None:
    """Which codes these (codes, 9) are, after which reduction; None if they are no such codes.

    >>> known_codes(kernel_codes("average")[[0, 7]])
    ('average', (0, 7))
    """
    for reduction in REDUCTIONS:
        rows = kernel_codes(reduction).tolist()
        if all(row in rows for row in table.tolist()):
            return reduction, tuple(rows.index(row) for row in table.tolist())
    return None


def quantised(
    weights: NDArray[Any],
    reduction: Reduction,
    codes: Sequence[int],
    least_scale: NDArray[np.floating],
) -> tuple[FilterCoefficients, NDArray[np.float32]]:
    """Integer coefficients of real filters `k c 3 3` and the filters' scale per output channel.

    The scale is at least `least_scale`, which the bias asks for, and 1 where all weights are 0.
    """
    table = kernel_codes(reduction)[list(codes)]
    real = coefficients_of(weights, table)
    made = np.abs(real @ table.astype(np.float64)).max(axis=(1, 2))
    largest = np.abs(real).max(axis=(1, 2))
    shift = np.zeros(len(real), np.uint8)
    for each in range(1, MOST_SHIFT + 1):
        shift[made > largest * 2.0 ** (each - 1)] = each
    scale = np.where(largest > 0, largest * 2.0**shift / LARGEST, 1.0)
    scale = np.maximum(scale, least_scale).astype(np.float32)
    steps = real * (2.0**shift / scale.astype(np.float64))[:, None, None]
    integers = np.clip(np.rint(steps), -LARGEST, LARGEST).astype(np.int8)
    return FilterCoefficients(reduction, tuple(codes), integers, shift), scale
