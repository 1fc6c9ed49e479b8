# SPDX-License-Identifier: Apache-2.0
"""How much less exact than direct convolution an algorithm is, measured.

    mean |fast - exact| / mean |direct - exact|

over all outputs of two-dimensional tiles. Inputs and taps are drawn uniformly from (-1, 1) in
float64, which `exact` keeps; `fast` and `direct` have them rounded to the format in question, and
compute in it. Sums over channels, of products or of direct terms, are made one after the other.
Each transform is a matrix product as NumPy does it: every result is in the format, its partial
sums too in float32 and float64, while in float16 they are kept in float32, as processors with
float16 products do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from thinmaps.errors import BadArgument
from thinmaps.winograd.algorithm import Algorithm, arrays

FORMATS = ("float16", "float32", "float64")
Array = NDArray[Any]


def relative_error(
    algorithm: Algorithm, number_format: str = "float32", channels: int = 1, tiles: int = 1000
) -> float:
    """The ratio above; infinite where the format overflows. The seed is fixed.

    >>> from thinmaps.winograd.algorithm import derive
    >>> relative_error(derive(4, 3)) < relative_error(derive(4, 3, "x, x-1, x+1, x-2, x+2")) / 3
    True
    """
    if number_format not in FORMATS or channels < 1 or tiles < 1:
        raise BadArgument(
            f"an error is measured in {', '.join(FORMATS)}, over at least one channel and tile, "
            f"got {number_format!r}, {channels} and {tiles}"
        )
    generator = np.random.default_rng(0)
    inputs = generator.uniform(-1, 1, (channels, tiles, algorithm.inputs, algorithm.inputs))
    taps = generator.uniform(-1, 1, (channels, tiles, algorithm.taps, algorithm.taps))
    exact = _direct(inputs, taps)
    rounded = inputs.astype(number_format), taps.astype(number_format)
    with np.errstate(over="ignore", invalid="ignore"):
        fast = np.abs(_fast(algorithm, *rounded) - exact).mean()
    direct = np.abs(_direct(*rounded) - exact).mean()
    return float(fast / direct) if np.isfinite(fast) else float("inf")


def _direct(inputs: Array, taps: Array) -> Array:
    """(tiles, outputs, outputs); every product and sum rounded to the format of the inputs."""
    windows = sliding_window_view(inputs, taps.shape[2:], axis=(2, 3))
    total = np.zeros((*windows.shape[1:4],), inputs.dtype)
    for window, filters in zip(windows, taps, strict=True):
        for row, column in np.ndindex(filters.shape[1:]):
            total = total + window[..., row, column] * filters[:, row, column, None, None]
    return total


def _fast(algorithm: Algorithm, inputs: Array, taps: Array) -> Array:
    at, g, bt = arrays(algorithm.matrices, inputs.dtype)
    total = np.zeros((inputs.shape[1], algorithm.products, algorithm.products), inputs.dtype)
    for tile, filters in zip(inputs, taps, strict=True):
        total = total + (g @ filters @ g.T) * (bt @ tile @ bt.T)
    return np.asarray(at @ total @ at.T)
