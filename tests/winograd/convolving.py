# SPDX-License-Identifier: Apache-2.0
"""Convolutions for tests: cases drawn from a seed, the definitions, and the float kernel's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thinmaps import _core

Array = np.ndarray[Any, np.dtype[np.float32]]
Pads = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class Case:
    """Maps (n, h, w, c) as they are behind a Relu, filters (k, c, 3, 3) of He's size, a bias."""

    shape: tuple[int, int, int, int]
    outputs: int
    pads: Pads = (1, 1, 1, 1)

    def drawn(self) -> tuple[Array, Array, Array]:
        """x, weights, bias."""
        random = np.random.default_rng((*self.shape, self.outputs, *self.pads))
        inputs = self.shape[-1]
        x = np.maximum(random.standard_normal(self.shape, np.float32), 0)
        weights = random.standard_normal((self.outputs, inputs, 3, 3), np.float32)
        weights *= np.float32(np.sqrt(2 / (9 * inputs)))
        return x, weights, random.standard_normal(self.outputs, np.float32) / 10


def defined(x: Array, weights: Array, bias: Array | None, pads: Pads) -> np.ndarray[Any, Any]:
    """The convolution, in float64."""
    top, left, bottom, right = pads
    padded = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    made = np.tensordot(windows, weights.astype(np.float64), axes=((3, 4, 5), (1, 2, 3)))
    return made if bias is None else made + bias


def packed(algorithm: int, isa: str, weights: Array) -> Array:
    """Transformed filters."""
    outputs, inputs = weights.shape[:2]
    floats = np.empty(_core.winograd_filter_floats(algorithm, isa, inputs, outputs), np.float32)
    _core.winograd_pack(algorithm, isa, weights, floats)
    return floats


def output_shape(x: Array, weights: Array, pads: Pads) -> tuple[int, int, int, int]:
    """Of the convolution."""
    n, h, w, _ = x.shape
    return n, h + pads[0] + pads[2] - 2, w + pads[1] + pads[3] - 2, len(weights)


def guarded(floats: int) -> tuple[Array, Array]:
    """An array of NaN, and the longer one that it lies in."""
    whole = np.full(floats + 64, np.nan, np.float32)
    return whole[32 : 32 + floats], whole


def made(
    algorithm: int,
    isa: str,
    case: tuple[Array, Array, Array | None],
    pads: Pads,
    relu: bool = False,
) -> Array:
    """What the kernel makes of it, which must not write beside its output and scratch."""
    x, weights, bias = case
    inputs, outputs = x.shape[-1], len(weights)
    shape = output_shape(x, weights, pads)
    y, around_y = guarded(int(np.prod(shape)))
    scratch, around_scratch = guarded(
        _core.winograd_scratch_floats(algorithm, isa, inputs, outputs)
    )
    filters = packed(algorithm, isa, weights)
    y = y.reshape(shape)
    _core.winograd_convolve(algorithm, isa, x, filters, bias, pads, relu, scratch, y)
    for whole in (around_y, around_scratch):
        assert np.isnan(whole[:32]).all()
        assert np.isnan(whole[-32:]).all()
    return y


def largest_error(y: Array, exact: np.ndarray[Any, Any]) -> float:
    """Relative to the root of the mean square of what is exact."""
    return float(np.abs(y - exact).max() / np.sqrt(np.mean(exact**2)))


def direct_sums(
    rows: np.ndarray[Any, Any], weights: np.ndarray[Any, Any], zero_point: int
) -> np.ndarray[Any, Any]:
    """Sums of bytes `h w c` less a zero point by filters `k r s c`, in int64 that holds all."""
    taps = weights.shape[1]
    x = rows.astype(np.int64) - zero_point
    windows = np.lib.stride_tricks.sliding_window_view(x, (taps, taps), axis=(0, 1))
    return np.einsum("yxcuv,kuvc->yxk", windows, weights.astype(np.int64))
