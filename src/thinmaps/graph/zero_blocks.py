# SPDX-License-Identifier: Apache-2.0
"""Blocks of zeros in filters: the pattern of sparsity that the engine turns into time.

A block is 4 output channels by 4 input channels of one filter tap, counted from the first channel
of each group; a last block may have fewer channels. The engine stores and multiplies only blocks
that are not all zero (`native/conv_sparse.cc`). Any number of them may be in a filter, anywhere: a
balanced pattern, as many per 4 output channels, costs no less, but keeps what is lost spread out.

NumPy only, so that whoever prunes towards the pattern can import it from here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = (4, 4)  # output channels, input channels


def used_blocks(weights: NDArray[Any], groups: int = 1) -> NDArray[np.bool_]:
    """Which blocks of filters `k c r s` are not all zero, as (blocks of k, blocks of c, r, s).

    `weights` are of any type; blocks do not reach from one of the `groups` into the next, each has
    `ceil(k / groups / 4)` rows of blocks. Cost: one pass over the weights.

    >>> weights = np.zeros((8, 6, 3, 3), np.int8)
    >>> weights[5, 4, 1, 2] = -1
    >>> used_blocks(weights).shape, np.argwhere(used_blocks(weights)).tolist()
    ((2, 2, 3, 3), [[1, 1, 1, 2]])
    """
    used = _by_block(weights != 0, groups, np.logical_or)
    return used.reshape(-1, *used.shape[2:])


def zero_block_share(weights: NDArray[Any], groups: int = 1) -> float:
    """The share of the blocks of filters `k c r s` that are all zero, 0 to 1.

    >>> zero_block_share(np.eye(8)[:, :, None, None])
    0.5
    """
    return 1.0 - float(used_blocks(weights, groups).mean())


def largest_blocks(weights: NDArray[Any], zero_share: float, groups: int = 1) -> NDArray[np.bool_]:
    """Which of the weights `k c r s` lie in the blocks to keep, if a share of the blocks goes.

    In each row of blocks (4 output channels) as many blocks stay: those of the largest sums of
    magnitudes, the first of equal ones.

    >>> keep = largest_blocks(np.arange(64).reshape(4, 16, 1, 1), 0.75)
    >>> keep[0, :, 0, 0].nonzero()[0].tolist()
    [12, 13, 14, 15]
    """
    k, c = weights.shape[:2]
    sums = _by_block(np.abs(weights.astype(np.float64)), groups, np.add)
    rows = sums.reshape(-1, *sums.shape[2:])
    flat = rows.reshape(len(rows), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    keep = np.zeros(flat.shape, np.bool_)
    kept = round((1 - zero_share) * flat.shape[1])
    np.put_along_axis(keep, order[:, :kept], True, axis=1)
    output = np.arange(k)
    row = output // (k // groups) * sums.shape[1] + output % (k // groups) // BLOCK[0]
    blocks: NDArray[np.bool_] = keep.reshape(rows.shape)[row][:, np.arange(c) // BLOCK[1]]
    return blocks


def _by_block(values: NDArray[Any], groups: int, reduce: np.ufunc) -> NDArray[Any]:
    """Elements `k c r s` reduced to (groups, blocks of k, blocks of c, r, s)."""
    made: NDArray[Any] = values.reshape(groups, len(values) // groups, *values.shape[1:])
    for axis, block in enumerate(BLOCK, start=1):
        made = reduce.reduceat(made, np.arange(0, made.shape[axis], block), axis=axis)
    return made
