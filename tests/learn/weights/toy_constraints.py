# SPDX-License-Identifier: Apache-2.0
"""A problem whose constraints are those of a normalisation: 64 numbers, mean 0 and variance 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from thinmaps.learn.weights.constraint import Constraint, ConstraintOptions, Violation


@dataclass(frozen=True)
class Solved:
    """Where the solver stood in the end."""

    violation: float
    multiplier: float


def solve(options: ConstraintOptions, steps: int, rate: float) -> Solved:
    """Gradient descent from a point far off, and a step of the multipliers after each of its."""
    generator = torch.Generator().manual_seed(0)
    target = 2 * torch.randn(64, generator=generator, dtype=torch.float64) + 1
    x = target.clone().requires_grad_()

    def missed() -> Violation:
        return Violation(torch.stack([x.mean(), x.var(correction=0) - 1]))

    constraint = Constraint("moments", missed, options)
    for _ in range(steps):
        loss = 0.5 * (x - target).square().mean() + constraint.parts()["moments"]
        (slope,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            x.sub_(rate * slope)
        constraint.after(lambda values: values)
    watched = constraint.watched()
    return Solved(watched["moments violation"], watched["moments multiplier"])
