# SPDX-License-Identifier: Apache-2.0
"""Strides and dilations in one dimension, by correlations that have neither.

Source
    Lavin and Gray (2016) suggest both: a stride splits into phases, a dilation into decimated
    signals. In two dimensions rows and columns are split alike.

Stride s: with k = s j + p, the taps p, p + s, p + 2 s, ... meet the inputs of the same phase only,

    y_i = sum_k g_k d_{s i + k} = sum_p ( sum_j g_{s j + p} d_{s (i + j) + p} )

so that every phase p is a correlation of ceil((r - p) / s) taps, and the phases are added.

Dilation e: y_i = sum_k g_k d_{i + e k}, and the outputs with the same i modulo e are a correlation
of the inputs with that remainder. The algorithm is the same, its inputs lie e apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadArgument
from thinmaps.winograd.algorithm import Algorithm, arrays, derive

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Phase:
    """Taps and inputs `first`, `first + stride`, ... with the algorithm that correlates them."""

    first: int
    algorithm: Algorithm


def phases(outputs: int, taps: int, stride: int) -> tuple[Phase, ...]:
    """What is added for `outputs` strided outputs.

    >>> sum(phase.algorithm.products for phase in phases(4, 3, 2))    # instead of 4 * 3
    9
    """
    _check_step("stride", stride)
    return tuple(
        Phase(first, derive(outputs, -(-(taps - first) // stride)))
        for first in range(min(stride, taps))
    )


def correlate(
    inputs: NDArray[Any],
    taps: NDArray[Any],
    outputs: int = 4,
    stride: int = 1,
    dilation: int = 1,
) -> Float64Array:
    """sum_k taps[k] inputs[stride * i + dilation * k] wherever it lies inside, in float64.

    `outputs` at a time, by the default polynomials. A stride together with a dilation is refused.
    """
    _check_step("stride", stride)
    _check_step("dilation", dilation)
    if stride > 1 and dilation > 1:
        raise BadArgument(f"winograd serves no stride {stride} together with dilation {dilation}")
    count = (len(inputs) - dilation * (len(taps) - 1) - 1) // stride + 1
    if count < 1:
        raise BadArgument(f"{len(taps)} taps do not fit into {len(inputs)} inputs")
    if dilation > 1:
        return _dilated(inputs, taps, outputs, dilation)
    total = np.zeros(count)
    for phase in phases(outputs, len(taps), stride):
        own = slice(phase.first, None, stride)
        total += _tiled(phase.algorithm, inputs[own], taps[own])[:count]
    return total


def _dilated(inputs: NDArray[Any], taps: NDArray[Any], outputs: int, dilation: int) -> Float64Array:
    result = np.zeros(len(inputs) - dilation * (len(taps) - 1))
    for first in range(min(dilation, len(result))):
        result[first::dilation] = correlate(inputs[first::dilation], taps, outputs)
    return result


def _tiled(algorithm: Algorithm, inputs: NDArray[Any], taps: NDArray[Any]) -> Float64Array:
    """Unit stride; the last tile reads zeros."""
    at, g, bt = arrays(algorithm.matrices)
    count = len(inputs) - algorithm.taps + 1
    tiles = -(-count // algorithm.outputs)
    padded = np.pad(inputs, (0, tiles * algorithm.outputs - count))
    windows = np.lib.stride_tricks.sliding_window_view(padded, algorithm.inputs)
    products = (g @ taps) * (windows[:: algorithm.outputs] @ bt.T)
    return np.asarray((products @ at.T).reshape(-1)[:count])


def _check_step(name: str, value: int) -> None:
    if type(value) is not int or value < 1:
        raise BadArgument(f"winograd needs a {name} of at least 1, got {value!r}")
