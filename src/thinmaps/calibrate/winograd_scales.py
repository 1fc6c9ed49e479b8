# SPDX-License-Identifier: Apache-2.0
"""A convolution of a uint8 network as a `WinogradConv`: scales from samples, filters in bytes.

Transformed inputs and filters have another range at each of the mu x mu positions, so each has
scales of its own: inputs one per position and channel, filters one per position and output channel.

    e[p,c]  = 127 / range[p,c], at most 1: what input_scale holds in 2^-15
    u       = (G g G^T)[p] / e[p,c]
    s[k,p]  = max over c of |u| / 127,  1 where all are 0;  weights = rne(u / s)

A channel's own range is the one that rounds and clips its samples with the least squared error. A
range of its own serves the channel's inputs best; but filters then have to make up for all that
differs between channels, in one byte. So range[p,c] is the geometric mean of the channel's range
and of the largest one at its position.

Sums are added in 2^-f of the output's steps: product_scale = s * 2^f * multiplier of the
convolution, with f = 8, or less where a bound asks for it. Rounding them then counts for nothing;
what is off comes from bytes at positions. The mean error of an output channel on the samples goes
into its bias.

Source
    Rounding behind the transforms, scales from calibration: Li et al., "LoWino" (ICPP 2021), for
    F(4,3) of linear polynomials. Ours: a scale per position and channel, and integers throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadArgument
from thinmaps.graph.operators import Conv, WinogradConv
from thinmaps.graph.winograd_bounds import (
    SUM_REACH,
    TRANSFORM_REACH,
    product_reach,
    result_reach,
    transform_reach,
)
from thinmaps.run.arithmetic import tiles_of
from thinmaps.run.interpret import WholeMap
from thinmaps.types import MapSpec
from thinmaps.winograd import Algorithm, Triple, arrays

FloatArray = NDArray[np.float64]

# Of the largest value in the samples of a channel: values beyond a range are clipped.
CLIPS = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3)
SAMPLED_TILES = 1024
FEWEST_CHANNELS = 8  # of input and output: blocks have 16
FRACTION_BITS = 8
LEAST_FRACTION_BITS = 0


def whole_matrices(algorithm: Algorithm) -> Triple:
    """A^T and B^T with whole entries; rows of G are divided by what that multiplied.

    >>> from thinmaps.winograd import derive
    >>> whole = whole_matrices(derive(4, 3, "x, x-1, x+1, x-2, x+1/2"))
    >>> {entry.denominator for part in (whole.at, whole.bt) for row in part for entry in row}
    {1}
    """
    at, g, bt = algorithm.matrices
    inner = [lcm(*(x.denominator for x in row)) for row in bt]
    outer = [lcm(*(x.denominator for x in column)) for column in zip(*at, strict=True)]
    factors = [i * o for i, o in zip(inner, outer, strict=True)]
    return Triple(
        tuple(tuple(x * o for x, o in zip(row, outer, strict=True)) for row in at),
        tuple(tuple(x / f for x in row) for row, f in zip(g, factors, strict=True)),
        tuple(tuple(x * i for x in row) for row, i in zip(bt, inner, strict=True)),
    )


def is_eligible(conv: Conv, source: MapSpec, output: MapSpec, algorithm: Algorithm) -> bool:
    """Whether `algorithm` serves: its taps, stride 1, one group, bytes, enough channels."""
    window = conv.window
    return (
        window.kernel == (algorithm.taps, algorithm.taps)
        and window.stride == window.dilation == (1, 1)
        and conv.groups == 1
        and output.dtype == "uint8"
        and min(source.channels, output.channels) >= FEWEST_CHANNELS
    )


def winograd_conv(
    conv: Conv, source: MapSpec, output: MapSpec, samples: Sequence[Any], algorithm: Algorithm
) -> WinogradConv:
    """`conv` by tiles of `algorithm`, with scales from `samples` of its input map.

    Args:
        conv: a convolution for which `is_eligible` holds.
        samples: whole input maps, uint8 `(h, w, c)`; at least one.

    Raises:
        BadArgument: transformed inputs leave 16 bits, whatever the scales.
    """
    triple = whole_matrices(algorithm)
    at, g, bt = arrays(triple)
    reach = transform_reach(_small_integers(bt))
    if reach >= TRANSFORM_REACH:
        raise BadArgument(
            f"{algorithm} transforms bytes to values up to {reach}; scaled tiles hold less than "
            f"{TRANSFORM_REACH}: take polynomials with smaller constants"
        )
    values = _transformed(conv, source, output, samples, bt)
    input_scale = np.clip(np.rint(127 / _ranges(values) * TRANSFORM_REACH), 1, TRANSFORM_REACH - 1)
    exact = np.einsum("ar,kcrs,bs->kcab", g, conv.weights.astype(np.float64), g)
    filters = exact / (input_scale / TRANSFORM_REACH).transpose(2, 0, 1)
    steps = np.abs(filters).max(axis=1) / 127
    steps[steps == 0] = 1.0
    weights = np.rint(filters / steps[:, None])
    rounded = np.floor((values * input_scale[:, :, None] + TRANSFORM_REACH // 2) / TRANSFORM_REACH)
    made = np.einsum("kcab,abc->kab", weights, np.clip(rounded, -128, 127).mean(axis=2)) * steps
    error = made - np.einsum("kcab,abc->kab", exact, values.mean(axis=2))
    outputs = at.mean(axis=0)
    unscaled = WinogradConv(
        conv.window,
        _small_integers(at),
        _small_integers(bt),
        input_scale.astype(np.int32),
        weights.astype(np.int8),
        steps.astype(np.float32),
        conv.bias,
        conv.multiplier,
        conv.low,
        conv.high,
    )
    bias = conv.bias - np.einsum("kab,a,b->k", error, outputs, outputs)
    return _in_output_steps(unscaled, steps, bias)


def _small_integers(matrix: FloatArray) -> NDArray[np.int8]:
    return np.clip(matrix, -128, 127).astype(np.int8)


def _transformed(
    conv: Conv, source: MapSpec, output: MapSpec, samples: Sequence[Any], bt: FloatArray
) -> FloatArray:
    """B^T d B of sampled tiles, (mu, mu, tiles, c)."""
    tile = bt.shape[1] - conv.window.kernel[0] + 1
    of_each = -(-SAMPLED_TILES // len(samples))
    tiles = [_sampled(conv, source, output, each, tile, of_each) for each in samples]
    return np.asarray(np.einsum("ai,tcij,bj->abtc", bt, np.concatenate(tiles), bt, optimize=True))


def _sampled(
    conv: Conv, source: MapSpec, output: MapSpec, sample: Any, tile: int, most: int
) -> FloatArray:
    """Some tiles of a map, evenly over it: (tiles, c, n, n) less the zero point."""
    side = tile + conv.window.kernel[0] - 1
    down, across = (-(-extent // tile) for extent in output.shape[:2])
    tiles = tiles_of(WholeMap(source, sample), conv.window, (0, tile, side), (down, across))
    flat = tiles.reshape(-1, *tiles.shape[2:])
    some = np.unique(np.linspace(0, len(flat) - 1, most).astype(int))
    return np.asarray(flat[some], np.float64) - source.zero_point


def _ranges(values: FloatArray) -> FloatArray:
    """The range of every position and channel (mu, mu, c), at least 127: smaller values fit."""
    own = np.empty((*values.shape[:2], values.shape[3]))
    for position in np.ndindex(values.shape[:2]):
        own[position] = _least_error_range(values[position])
    return np.asarray(np.sqrt(own * own.max(axis=2, keepdims=True)))


def _least_error_range(values: FloatArray) -> FloatArray:
    """Per channel of (tiles, c): the range of 127 steps with the least squared error."""
    most = np.maximum(np.abs(values).max(axis=0), 1.0)
    candidates = np.maximum(np.outer(CLIPS, most), 127.0)
    errors = []
    for candidate in candidates:
        step = candidate / 127
        rounded = np.clip(np.rint(values / step), -128, 127) * step
        errors.append(np.square(values - rounded).sum(axis=0))
    best = np.argmin(errors, axis=0)
    return np.asarray(candidates[best, np.arange(len(most))])


def _in_output_steps(made: WinogradConv, steps: FloatArray, bias: FloatArray) -> WinogradConv:
    """Sums in 2^-f of the output's steps, with the largest f whose bounds hold.

    `steps` (k, mu, mu) and `bias` (k,) are in steps of the direct convolution's sums.
    """
    products = product_reach(made.weights)
    factor = np.where(made.multiplier > 0, made.multiplier, 1).astype(np.float64)
    for bits in range(FRACTION_BITS, LEAST_FRACTION_BITS - 1, -1):
        unit = (steps * factor[:, None, None] * 2.0**bits).astype(np.float32)
        scaled = np.rint(bias * factor * 2.0**bits)
        if (result_reach(made.at, products, unit) + np.abs(scaled)).max() < SUM_REACH:
            multiplier = np.where(made.multiplier > 0, 2.0**-bits, 0).astype(np.float32)
            return replace(
                made, product_scale=unit, bias=scaled.astype(np.int32), multiplier=multiplier
            )
    raise BadArgument(
        f"a convolution whose tiles could sum to {SUM_REACH} times its output's steps or more"
    )
