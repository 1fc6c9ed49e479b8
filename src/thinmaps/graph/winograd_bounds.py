# SPDX-License-Identifier: Apache-2.0
"""The largest values that a `WinogradConv` can meet, for every input: what keeps it in integers.

    V   255 times the largest sum of |bt| over rows, squared; below 2^15, so that it fits int16
    M   128 times the sum of |weights| over the channels of a position
    Z   rne(fl(M) * product_scale): rounding is monotone, so the largest M has the largest Z
    Y   |bias| and the sum of |at| |at| Z over positions; below 2^31 like M and Z

Costs one pass over the weights, one output channel at a time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST_INPUT = 255
LARGEST_BYTE = 128  # of int8, in magnitude
TRANSFORM_REACH = 1 << 15
SUM_REACH = 1 << 31


def transform_reach(bt: NDArray[np.int8]) -> int:
    """The largest |V| of any tile of bytes less a zero point.

    >>> transform_reach(np.int8([[4, 0, -5, 0, 1, 0]]))
    25500
    """
    row = int(np.abs(bt.astype(np.int64)).sum(axis=1).max())
    return LARGEST_INPUT * row * row


def product_reach(weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """The largest |M| per output channel and position: (k, mu, mu) of weights `k c mu mu`."""
    sums = [np.abs(each, dtype=np.int64).sum(axis=0) for each in weights]
    return LARGEST_BYTE * np.stack(sums)


def result_reach(
    at: NDArray[np.int8], product: NDArray[np.int64], product_scale: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The largest |Y| per output channel without its bias; infinite where a Z leaves int32."""
    with np.errstate(over="ignore"):
        scaled = np.rint(product.astype(np.float32) * product_scale).astype(np.float64)
    inside = (scaled < SUM_REACH).all(axis=(1, 2))
    rows = np.abs(at.astype(np.float64))
    sums = np.einsum("ia,kab,jb->kij", rows, np.minimum(scaled, SUM_REACH), rows, optimize=True)
    return np.where(inside, sums.max(axis=(1, 2)), np.inf)
