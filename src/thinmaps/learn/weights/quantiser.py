# SPDX-License-Identifier: Apache-2.0
"""One quantiser with a learned step, for weights and for rectified maps.

    q = round(clip(u / s, lowest, highest)),  dequantised s q
    weights of b bits: -2^(b-1) + 1 to 2^(b-1) - 1;  maps: 0 to 2^b - 1

Gradients: that of u is 1 within the clip and 0 beyond; that of s is q - u / s within and q beyond,
over sqrt(elements * highest).

Source
    Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153. Ours: the first step is
    that of the least squared error, by search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thinmaps.learn.fake_quantisation import rounded

SEARCHED = 80  # steps that are tried, down to that share of the largest magnitude


@dataclass(frozen=True)
class Grid:
    """The integers of a width."""

    bits: int
    is_signed: bool

    @property
    def lowest(self) -> int:
        """The smallest integer."""
        return 1 - 2 ** (self.bits - 1) if self.is_signed else 0

    @property
    def highest(self) -> int:
        """The largest integer."""
        return int(2 ** (self.bits - 1) if self.is_signed else 2**self.bits) - 1


def dequantised(u: Tensor, step: Tensor, grid: Grid) -> Tensor:
    """s q, with the gradients above; `step` is a scalar above 0."""
    scale = 1 / math.sqrt(max(u.numel(), 1) * grid.highest)
    step = step.detach() + scale * (step - step.detach())
    return step * rounded((u / step).clamp(grid.lowest, grid.highest))


def best_step(values: Tensor, grid: Grid) -> float:
    """The step of the least squared error among `SEARCHED` even shares of the largest magnitude.

    1 where all values are 0.
    """
    largest = float(values.detach().abs().max() if grid.is_signed else values.detach().max())
    if not largest > 0:
        return 1.0
    steps = [largest / grid.highest * (k + 1) / SEARCHED for k in range(SEARCHED)]
    with torch.no_grad():
        errors = [
            float((dequantised(values, values.new_tensor(step), grid) - values).square().sum())
            for step in steps
        ]
    return steps[errors.index(min(errors))]
