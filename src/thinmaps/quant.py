# SPDX-License-Identifier: Apache-2.0
"""Scales, zero points, rounding and requantisation: decided once, for every implementation.

The rules are those of ONNX `QuantizeLinear`, `DequantizeLinear` and `QLinearConv` as ONNX Runtime
computes them: one float32 multiplication, round half to even, saturate. No fused multiply-add.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
UInt8Array = NDArray[np.uint8]


def round_and_saturate(
    value: Float32Array, zero_point: int, low: int = 0, high: int = 255
) -> UInt8Array:
    """`sat(rne(value) + zero_point)`: the zero point is added after rounding (Conv, Gemm, means).

    >>> round_and_saturate(np.float32([0.5, 1.5, 300]), 0).tolist()
    [0, 2, 255]
    """
    rounded = np.rint(value.astype(np.float32)) + np.float32(zero_point)
    return np.asarray(np.clip(rounded, low, high), np.uint8)


def round_and_saturate_inside(
    value: Float32Array, zero_point: int, low: int = 0, high: int = 255
) -> UInt8Array:
    """As `round_and_saturate`, with an **odd** zero point added before rounding (Add, Mul, pools).

    For even zero points, the only ones that calibration emits, both orders agree in exact
    arithmetic and the sum is left out; ONNX Runtime adds before rounding in these operators.
    """
    if zero_point % 2 == 0:
        return round_and_saturate(value, zero_point, low, high)
    summed = value.astype(np.float32) + np.float32(zero_point)
    return np.asarray(np.clip(np.rint(summed), low, high), np.uint8)


def requantise(
    accumulators: NDArray[Any], multiplier: Float32Array, zero_point: int, low: int, high: int
) -> UInt8Array:
    """int32 sums -> uint8: `sat(rne(fl(acc) * multiplier) + zero_point)`, clamped to low..high."""
    product = accumulators.astype(np.float32) * multiplier.astype(np.float32)
    return round_and_saturate(product, zero_point, low, high)


def quantise(value: NDArray[Any], scale: float, zero_point: int) -> UInt8Array:
    """Real values -> bytes: `sat(rne(value / scale) + zero_point)`, a true division in float32.

    >>> quantise(np.float32([-1, 0, 0.25, 9]), 0.5, 4).tolist()
    [2, 4, 4, 22]
    """
    quotient = value.astype(np.float32) / np.float32(scale)
    return round_and_saturate(quotient, zero_point)


def dequantise(codes: NDArray[Any], scale: float, zero_point: int) -> Float32Array:
    """Bytes -> real values in float32: `fl(byte - zero_point) * fl(scale)`."""
    return (codes.astype(np.int32) - zero_point).astype(np.float32) * np.float32(scale)


def conv_multiplier(
    input_scale: float, weight_scale: Float32Array, output_scale: float
) -> Float32Array:
    """`fl(fl(sx * sw) / sy)` in float32, per output channel: the order ONNX Runtime uses."""
    product = np.float32(input_scale) * np.asarray(weight_scale, np.float32)
    return np.asarray(product / np.float32(output_scale), np.float32)
