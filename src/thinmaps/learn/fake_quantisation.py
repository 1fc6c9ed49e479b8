# SPDX-License-Identifier: Apache-2.0
"""Rounding with a gradient: the one place where training meets integers.

Maps inside a student are float32 tensors of *centred codes*, `byte - zero_point`: integers, so that
training stands on the grid and evaluation is exact. Rounding passes its gradient straight through;
what is clipped has none.

Source
    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
    Only Inference", 2018, arXiv:1712.05877; the straight-through estimator is Bengio et al.'s,
    2013, arXiv:1308.3432. Ours: weights are rounded by the very rule of `graph/weights.py`, in
    float64, so that what was trained is what is exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thinmaps.graph.filter_codes import LARGEST, MOST_SHIFT, Reduction, kernel_codes
from thinmaps.graph.weights import LARGEST_BIAS, SMALLEST_WEIGHT_SCALE
from thinmaps.types import MapSpec


def rounded(values: Tensor) -> Tensor:
    """Half to even; the gradient passes unchanged.

    The sum is exact: `round(v) - v` has no more bits than v.

    >>> rounded(torch.tensor([0.5, 1.5, -0.4])).tolist()
    [0.0, 2.0, 0.0]
    """
    return values + (values.round() - values).detach()


def saturated(values: Tensor, low: int, high: int) -> Tensor:
    """Rounded and clipped to low..high; no gradient where it clips.

    >>> x = torch.tensor([-1.0, 0.6, 300.0], requires_grad=True)
    >>> y = saturated(x, 0, 255); y.sum().backward()
    >>> y.tolist(), x.grad.tolist()
    ([0.0, 1.0, 255.0], [0.0, 1.0, 0.0])
    """
    if torch.compiler.is_compiling():  # which fuses by itself, and cannot trace the other
        return rounded(values.clamp(low, high))
    made: Tensor = _Saturated.apply(values, low, high)  # type: ignore[no-untyped-call]
    return made


class _Saturated(torch.autograd.Function):
    """Both in one: a network spends much of a step's time on it, and in two it took twice that."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, low: int, high: int) -> Tensor:
        ctx.low, ctx.high = low, high
        ctx.save_for_backward(values)
        return values.clamp(low, high).round_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        inside = values.clamp(ctx.low, ctx.high) == values
        return gradients[0] * inside, None, None


def requantised(values: Tensor, output: MapSpec, low: int = 0, high: int = 255) -> Tensor:
    """Real codes -> centred codes of a map, clamped to the bytes low..high; as Conv and means."""
    return saturated(values, low - output.zero_point, high - output.zero_point)


def requantised_inside(values: Tensor, output: MapSpec, low: int = 0, high: int = 255) -> Tensor:
    """The same with an odd zero point added before rounding; as Add, Mul and windowed averages."""
    if output.zero_point % 2 == 0:
        return requantised(values, output, low, high)
    return saturated(values + output.zero_point, low, high) - output.zero_point


class IntegerLayer(NamedTuple):
    """Weights (k first) and bias as integers in float64, and the weights' scale, float32 (k,).

    Where codes make the weights, also the coefficients (k, c, codes) and shifts (k,).
    """

    weights: Tensor
    bias: Tensor
    scale: Tensor
    coefficients: Tensor | None = None
    shift: Tensor | None = None


class Codes(NamedTuple):
    """Codes of 3x3 filters (codes, 9), and their pseudo-inverse (9, codes), in float64."""

    table: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, reduction: Reduction, codes: Sequence[int]) -> Codes:
        """Those of these numbers, in the order of the tree."""
        table = kernel_codes(reduction)[list(codes)].astype(np.float64)
        return cls(torch.from_numpy(table), torch.from_numpy(np.linalg.pinv(table)))


def integer_layer(
    weight: Tensor, bias: Tensor, input_scale: float, codes: Codes | None = None
) -> IntegerLayer:
    """The integers that `graph/weights.py` makes of these weights `k c r s`, without a gradient.

    With codes, those that `graph/filter_codes.py` makes of the nearest filters in their span.
    """
    wide, shift = weight.detach().double(), bias.detach().double()
    needed = shift.abs() / (input_scale * LARGEST_BIAS) * (1 + 2.0**-20)
    needed = needed.clamp(min=SMALLEST_WEIGHT_SCALE)
    if codes is not None:
        return _coded_layer(wide, shift, input_scale, needed, codes)
    largest = wide.abs().amax(dim=(1, 2, 3))
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    scale = torch.maximum(scale, needed).float()
    integers = (wide / scale.double()[:, None, None, None]).round().clamp(-127, 127)
    return IntegerLayer(integers, (shift / (scale * input_scale).double()).round(), scale)


def _coded_layer(
    weight: Tensor, bias: Tensor, input_scale: float, needed: Tensor, codes: Codes
) -> IntegerLayer:
    """`filter_codes.quantised` and `FilterCoefficients.made`, in torch."""
    real = weight.flatten(2) @ codes.inverse
    made = (real @ codes.table).abs().amax(dim=(1, 2))
    largest = real.abs().amax(dim=(1, 2))
    powers = 2.0 ** torch.arange(MOST_SHIFT, dtype=torch.float64, device=weight.device)
    shift = (made[:, None] > largest[:, None] * powers).sum(1)
    scale = torch.where(largest > 0, largest * 2.0**shift / LARGEST, torch.ones_like(largest))
    scale = torch.maximum(scale, needed).float()
    steps = real * (2.0**shift / scale.double())[:, None, None]
    coefficients = steps.round().clamp(-LARGEST, LARGEST)
    sums = coefficients @ codes.table * (0.5**shift)[:, None, None]
    integers = (sums + 0.5).floor().clamp(-LARGEST, LARGEST).reshape(weight.shape)
    rounded = (bias / (scale * input_scale).double()).round()
    return IntegerLayer(integers, rounded, scale, coefficients, shift)


def on_grid(
    weight: Tensor, bias: Tensor, input_scale: float, codes: Codes | None = None
) -> tuple[Tensor, Tensor]:
    """Weights and bias rounded to their integers, in real units, with straight-through gradients.

    No weight is clipped: the largest of a channel is its 127. What of a weight lies outside of the
    codes' span is dropped, so that a step along the gradient moves the filters by its part in it.
    """
    layer = integer_layer(weight, bias, input_scale, codes)
    near = (layer.weights * layer.scale.double()[:, None, None, None]).to(weight.dtype)
    shift = (layer.bias * (layer.scale * input_scale).double()).to(bias.dtype)
    return weight + (near - weight).detach(), bias + (shift - bias).detach()
