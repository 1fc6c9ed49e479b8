# SPDX-License-Identifier: Apache-2.0
"""Real filters and biases -> int8 and int32, one scale per output channel.

Symmetric in -127..127 with scale max|w| / 127; 1 where all weights are zero; raised until
|bias / (sx * sw)| < 2^30. A convolution that brings integer weights (from a QDQ file, or rounded
by calibration) keeps them and their scale. A channel whose sum(|w|) * 255 + |bias| reaches 2^31
could overflow its accumulator for some picture and is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadModel
from thinmaps.graph.filter_codes import Reduction, quantised, spanning_codes
from thinmaps.graph.float_network import FloatConv

LARGEST_BIAS = 2**30
LARGEST_SUM = 2**31

# Weights that need a smaller scale are zero in every respect that matters, and the product of
# this scale with the smallest scale of a map is still a normal float32.
SMALLEST_WEIGHT_SCALE = 2.0**-80


@dataclass(frozen=True, eq=False)
class IntegerWeights:
    """Weights and bias of a convolution as the network stores them; `scale` per output channel."""

    weights: NDArray[np.int8]
    bias: NDArray[np.int32]
    scale: NDArray[np.float32]


def integer_weights(name: str, conv: FloatConv, input_scale: float) -> IntegerWeights:
    """Quantise a convolution's weights (unless it brings integers) and its bias.

    Raises:
        BadModel: a weight or bias is not finite, or a channel's sum could leave int32.
    """
    if not (np.isfinite(conv.weights).all() and np.isfinite(conv.bias).all()):
        raise BadModel(f"node {name!r} has weights or biases that are not finite (NaN or infinity)")
    if conv.integer_weights is not None and conv.weight_scale is not None:
        weights, scale = conv.integer_weights, np.asarray(conv.weight_scale, np.float32)
    else:
        scale = weight_scales(conv, input_scale)
        weights = round_weights(conv.weights, scale)
    product = (np.float32(input_scale) * scale).astype(np.float64)
    bias = np.rint(conv.bias.astype(np.float64) / product)
    sums = np.abs(weights.astype(np.float64)).sum(axis=(1, 2, 3)) * 255 + np.abs(bias)
    if sums.max(initial=0) >= LARGEST_SUM:
        channel = int(sums.argmax())
        raise BadModel(
            f"node {name!r}: output channel {channel} could reach a sum of {sums[channel]:.4g}, "
            "accumulators hold less than 2^31; split its filter or rescale its bias"
        )
    return IntegerWeights(weights, bias.astype(np.int32), scale)


def codes_fit(conv: FloatConv) -> bool:
    """Whether an engine can make a layer's filters of codes: 3x3, channels of a group in fours."""
    return (
        not conv.transposed and conv.weights.shape[2:] == (3, 3) and conv.weights.shape[1] % 4 == 0
    )


def codes_of(conv: FloatConv) -> tuple[Reduction, tuple[int, ...]] | None:
    """The codes that make a layer's real filters, where an engine can make them too."""
    return spanning_codes(conv.weights) if codes_fit(conv) else None


def coded(conv: FloatConv, input_scale: float) -> FloatConv:
    """The layer with filters that codes make, where they do make its real ones; else itself."""
    codes = codes_of(conv)
    if codes is None:
        return conv
    least = _least_scales(conv, input_scale)
    filters, scale = quantised(conv.weights, *codes, least)
    return replace(conv, coded=filters, integer_weights=filters.made(), weight_scale=scale)


def weight_scales(conv: FloatConv, input_scale: float) -> NDArray[np.float32]:
    """Scale per output channel: the largest weight becomes 127, and the bias stays below 2^30."""
    largest = np.abs(conv.weights.astype(np.float64)).max(axis=(1, 2, 3))
    scale = np.where(largest > 0, largest / 127, 1.0)
    return np.maximum(scale, _least_scales(conv, input_scale)).astype(np.float32)


def _least_scales(conv: FloatConv, input_scale: float) -> NDArray[np.float64]:
    """The scales for which the bias is in reach."""
    # A little above the bound, so that rounding to float32 cannot fall below it again.
    needed = np.abs(conv.bias.astype(np.float64)) / (input_scale * LARGEST_BIAS) * (1 + 2.0**-20)
    return np.maximum(needed, SMALLEST_WEIGHT_SCALE)


def round_weights(weights: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """`rne(w / sw)`, saturated to -127..127."""
    quotient = np.rint(weights.astype(np.float64) / scale.astype(np.float64)[:, None, None, None])
    return np.clip(quotient, -127, 127).astype(np.int8)
