# SPDX-License-Identifier: Apache-2.0
"""Rounding weights so that the sums, not the weights, stay close.

Rounding each weight to its nearest integer minimises the error of the weights. What matters is the
error of the outputs, E[((w - q) x)^2] = (w - q) H (w - q)^T with H = E[x x^T]. Columns are rounded
one after the other, and each rounding error is made up for by the columns still to come, in the
proportion that H prescribes.

Source
    Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers", 2022, arXiv:2210.17323; the greedy solver is that of Optimal Brain
    Quantization with one order of columns for all rows and the Cholesky factor of H^-1.
    Ours: groups, int8 per output channel, columns of large second moment first. A weight that is
    exactly 0 stays 0, so that a pruned network stays pruned; what it would have made up for, the
    columns behind it do, as in Frantar and Alistarh, "SparseGPT", 2023, arXiv:2301.00774.

Cost: columns^3 for the factor, filters * columns^2 for the rounding, per group.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thinmaps.calibrate.moments import Moments
from thinmaps.graph.float_network import FloatConv

# Share of the mean diagonal of H that is added to it: few pictures leave H singular.
DAMPING = 0.01

# Columns whose errors are collected before the columns behind them hear of it: same result, faster.
BLOCK = 64

Float64Array = NDArray[np.float64]


def round_to_outputs(
    conv: FloatConv, scale: NDArray[np.float32], moments: Moments
) -> NDArray[np.int8]:
    """int8 weights of a convolution, in -127..127, with `scale` per output channel."""
    real = conv.weights.astype(np.float64) / scale.astype(np.float64)[:, None, None, None]
    grouped = real.reshape(conv.groups, -1, conv.weights[0].size)
    rounded = np.empty_like(grouped)
    for chunk, second in zip(moments.chunks, moments.second, strict=True):
        for group in range(conv.groups):
            rounded[group, :, chunk] = round_columns(grouped[group, :, chunk], second[group])
    return rounded.reshape(conv.weights.shape).astype(np.int8)


def round_columns(filters: Float64Array, second: Float64Array) -> Float64Array:
    """Integers in -127..127 for `filters` (filters, columns), given E[x x^T] of the columns."""
    order = np.argsort(-np.diag(second), kind="stable")
    remaining = filters[:, order]
    present = remaining != 0
    factor = _factor(second[np.ix_(order, order)])
    rounded = np.empty_like(remaining)
    for first in range(0, remaining.shape[1], BLOCK):
        block = slice(first, first + BLOCK)
        rounded[:, block], errors = _round_block(
            remaining[:, block], present[:, block], factor[block, block]
        )
        remaining[:, first + BLOCK :] -= errors @ factor[block, first + BLOCK :]
    restored = np.empty_like(rounded)
    restored[:, order] = rounded
    return restored


def _round_block(
    remaining: Float64Array, present: NDArray[np.bool_], factor: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Integers of some columns, and the errors that columns behind them have to make up for."""
    rounded, errors = np.empty_like(remaining), np.empty_like(remaining)
    for at in range(remaining.shape[1]):
        rounded[:, at] = np.clip(np.rint(remaining[:, at]), -127, 127) * present[:, at]
        errors[:, at] = (remaining[:, at] - rounded[:, at]) / factor[at, at]
        remaining[:, at + 1 :] -= np.outer(errors[:, at], factor[at, at + 1 :])
    return rounded, errors


def _factor(second: Float64Array) -> Float64Array:
    """Upper Cholesky factor of the inverse of the damped second moments."""
    damped = second.copy()
    diagonal = np.einsum("ii->i", damped)
    diagonal += DAMPING * (diagonal.mean() or 1.0)
    inverse = np.linalg.inv(damped)
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T)
