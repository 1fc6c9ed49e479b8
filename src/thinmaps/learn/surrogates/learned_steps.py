# SPDX-License-Identifier: Apache-2.0
"""Uniform quantisation whose step per channel learns: the part that scalar surrogates share.

Forwards a map is what the codec's integers make of it, so that training sees what will run.
Backwards, with the value v, the step s and the level q that v is restored to, all from the zero
point on:
    restored r = q s    dr/dv = 1     dr/d(log s) = r - v    inside; where levels end 0 and r
    symbol   q          dq/dv = 1/s   dq/d(log s) = -v / s   inside; where levels end 0 and 0

Source
    The gradient of a step is that of Esser et al., "Learned Step Size Quantization", 2020,
    arXiv:1902.08153; rounding passes straight through (Bengio et al., 2013, arXiv:1308.3432).
    Ours: logarithms of steps, so that a learning rate is a share of a step whatever its size; one
    pair of outputs, so that what bits and what errors say reaches a step together.

Cost: some ten passes over the map forwards and back, by hand: as single operators of torch they
took twice the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Hard(NamedTuple):
    """What a codec's integers make of centred bytes `n c h w`, all float32 and exact.

    `inside` is where no level is missing, None where none ever is.
    """

    levels: Tensor
    restored: Tensor
    inside: Tensor | None


Rule = Callable[[Tensor], Hard]


def quantised(values: Tensor, log_step: Tensor, scale: float, rule: Rule) -> tuple[Tensor, Tensor]:
    """Restored values and their levels, with gradients for `values` and `log_step` (channels,).

    `values` stand on the map's grid of `scale`, 1 for centred codes; `log_step` is in logarithms of
    bytes.
    """
    if torch.compiler.is_compiling():  # which fuses by itself, and cannot trace the other
        return composed(values, log_step, scale, rule)
    made: tuple[Tensor, Tensor] = _Quantised.apply(values, log_step, scale, rule)  # type: ignore[no-untyped-call]
    return made


def composed(values: Tensor, log_step: Tensor, scale: float, rule: Rule) -> tuple[Tensor, Tensor]:
    """`quantised` in operators whose gradients torch knows; restored up to float32's rounding."""
    hard = rule((values.detach() / scale).round())
    step = (log_step.exp() * scale).reshape(-1, 1, 1)
    real = (values if hard.inside is None else values * hard.inside) / step

    def through(wanted: Tensor) -> Tensor:
        return real + (wanted - real).detach()

    return through(hard.restored * scale / step) * step, through(hard.levels)


def exact_table(integers: Tensor, fraction_bits: int) -> Tensor:
    """Integers below 2**24 per channel over 2**fraction_bits, float32 (channels, 1, 1)."""
    return (integers.float() * 2.0**-fraction_bits).reshape(-1, 1, 1)


class _Quantised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, log_step: Tensor, scale: float, rule: Rule
    ) -> tuple[Tensor, Tensor]:
        hard = rule(values if scale == 1 else (values / scale).round_())
        restored = hard.restored if scale == 1 else hard.restored * scale
        step = (log_step.exp() * scale).reshape(-1, 1, 1)
        ctx.save_for_backward(values, restored, step, hard.inside)
        ctx.set_materialize_grads(False)
        return restored, hard.levels

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        values, restored, step, inside = ctx.saved_tensors
        of_restored, of_levels = gradients
        passed = _sum(of_restored, None if of_levels is None else of_levels / step)
        if passed is None:
            return None, None, None, None
        passed = passed if inside is None else passed * inside
        of_step = -(passed * values).sum(dim=(0, 2, 3))
        if of_restored is not None:
            of_step += (of_restored * restored).sum(dim=(0, 2, 3))
        return passed, of_step, None, None


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
