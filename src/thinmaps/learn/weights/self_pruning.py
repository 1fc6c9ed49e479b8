# SPDX-License-Identifier: Apache-2.0
"""Self-pruning: an analytic threshold whose sharpness and width a network learns with its weights.

Symbols: w a weight, a > 0 the sharpness of both edges, b > 0 the half-width, sigma the logistic.

    s1 = sigma(a (w - b)),  s2 = sigma(-a (w + b)),  h = s1 + s2,  v = w h
    h(0) = 1 - tanh(a b / 2);  h is near 1/2 at |w| = b and goes to 1{|w| > b} as a grows
    d1 = s1 (1 - s1),  d2 = s2 (1 - s2)
    dv/dw = h + a w (d1 - d2)
    dv/da = w ((w - b) d1 - (w + b) d2)
    dv/db = -a w (d1 + d2)

At |w| = b the second term of dv/dw is about a b / 4, 10 at a b = 40. "clipped" bounds dv/dw by 2,
"straight" takes h for it, "exact" leaves it.

Source
    US patent application 20190180184 (claims: an interval around 0 in which h is 0, parameters of
    sharpness and of width, a cost that is also minimised over both). Not found there, ours: the
    formula of h, the gradients' choice, the cost, and a b = floor + softplus(p), b = s softplus(q)
    with s the standard deviation of the layer's weights at first, so one start suits all layers;
    the second softplus bends at 1/10, so that a rate is one of standard deviations per step.
    `SoftThreshold` is the peer: Kusupati et al., "Soft Threshold Weight Reparameterization", 2020,
    arXiv:2002.03231; its soft count is ours, for the same constraint.

Cost: some ten operations per weight and step, and one tensor kept for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from thinmaps.errors import BadArgument
from thinmaps.learn.companion import Companion
from thinmaps.learn.options import TrainingOptions
from thinmaps.learn.weights.constraint import Constraint, ConstraintOptions
from thinmaps.learn.weights.maps import Attached, MaskedMap, attach_each
from thinmaps.learn.weights.measures import Density
from thinmaps.learn.weights.recipe import Recipe
from thinmaps.learn.weights.schedule import Schedule
from thinmaps.learn.weights.selection import check_budget, layer_costs, selected

Gradient = Literal["exact", "clipped", "straight"]

STEEPEST = 2.0  # of dv/dw where it is clipped
BEND = 10.0  # of the softplus of a width: linear above 1/10 of a standard deviation
FIRST_WIDTH = 0.05  # in standard deviations of the layer
FIRST_FLOOR, LAST_FLOOR = 6.0, 40.0  # of a b; h(0) is 0.005 at 6
CLOSED = 0.6  # the share of the soft training after which budget and floor are final
NEAR = 3.0  # |a (|w| - b)| below which a weight's soft and hard values differ notably


def edges(w: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """s1 and s2: how much a weight is kept for being above b, and for being below -b."""
    return torch.sigmoid(a * (w - b)), torch.sigmoid(-a * (w + b))


def kept_share(w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """h, between 0 and 1.

    >>> one = torch.tensor(1.0)
    >>> [round(float(kept_share(torch.tensor(w), 12 * one, one)), 3) for w in (0.0, 1.0, -2.0)]
    [0.0, 0.5, 1.0]
    """
    above, below = edges(w, a, b)
    return above + below


class _Thresholded(torch.autograd.Function):
    """v = w h with the gradients of the table above; keeps w, a and b."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, a: Tensor, b: Tensor, gradient: Gradient) -> Tensor:
        ctx.save_for_backward(w, a, b)
        ctx.gradient = gradient
        return w * kept_share(w, a, b)

    @staticmethod
    def backward(ctx: Any, *wanted: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        w, a, b = ctx.saved_tensors
        (g,) = wanted
        s1, s2 = edges(w, a, b)
        d1, d2 = s1 * (1 - s1), s2 * (1 - s2)
        slope = s1 + s2
        if ctx.gradient != "straight":
            slope = slope + a * w * (d1 - d2)
        if ctx.gradient == "clipped":
            slope = slope.clamp(max=STEEPEST)
        by_a = (g * w * ((w - b) * d1 - (w + b) * d2)).sum()
        by_b = -(g * a * w * (d1 + d2)).sum()
        return g * slope, by_a, by_b, None


def thresholded(w: Tensor, a: Tensor, b: Tensor, gradient: Gradient = "clipped") -> Tensor:
    """v = w h(w; a, b); a and b are scalars."""
    made: Tensor = _Thresholded.apply(w, a, b, gradient)  # type: ignore[no-untyped-call]
    return made


class AnalyticThreshold(MaskedMap):
    """v = w h on a layer's weight, with a and b of its own; `floor` bounds a b from below."""

    deviation: Tensor

    def __init__(self, weight: Tensor, gradient: Gradient = "clipped") -> None:
        super().__init__()
        if gradient not in get_args(Gradient):
            raise BadArgument(f"a gradient is one of {get_args(Gradient)}, got {gradient!r}")
        self.gradient = gradient
        self.floor = FIRST_FLOOR
        self.register_buffer("deviation", _deviation(weight))
        self.width = nn.Parameter(torch.zeros(()))
        self.sharpness = nn.Parameter(torch.tensor(-2.0))
        self.start_at(FIRST_WIDTH * float(self.deviation))

    def start_at(self, b: float) -> None:
        """Set the half-width, in the weights' unit, above 0."""
        bent = BEND * b / float(self.deviation)
        with torch.no_grad():
            self.width.fill_((bent + math.log(-math.expm1(-bent))) / BEND)

    @property
    def b(self) -> Tensor:
        """The half-width, in the weights' unit."""
        return self.deviation * functional.softplus(self.width, beta=BEND)

    @property
    def a(self) -> Tensor:
        """The sharpness; at least floor / b."""
        return (self.floor + functional.softplus(self.sharpness)) / self.b

    def soft(self, stored: Tensor) -> Tensor:
        """v."""
        return thresholded(stored, self.a, self.b, self.gradient)

    def kept(self, stored: Tensor) -> Tensor:
        """|w| > b."""
        return stored.abs() > self.b

    def soft_kept(self, stored: Tensor) -> Tensor:
        """h."""
        return kept_share(stored, self.a, self.b)

    def near_edge(self, stored: Tensor) -> float:
        """The share of weights whose values hardening changes notably."""
        near = (self.a * (stored.abs() - self.b)).abs() < NEAR
        return float(near.float().mean())


class SoftThreshold(MaskedMap):
    """The peer: sign(w) relu(|w| - sigma(s)), with a learned s per layer.

    The paper starts s far below and lets weight decay raise the threshold (`decay.Decay`). The soft
    count, which a constraint needs, is sigma(a (|w| - sigma(s))) with a sigma(s) = `floor`.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        first = float(FIRST_WIDTH * _deviation(weight))
        self.floor = FIRST_FLOOR
        self.s = nn.Parameter(torch.tensor(math.log(first / (1 - first))))

    @property
    def threshold(self) -> Tensor:
        """sigma(s), in the weights' unit."""
        return torch.sigmoid(self.s)

    def soft(self, stored: Tensor) -> Tensor:
        """The shrunk weights; exactly 0 within the threshold."""
        return self.values(stored)

    def values(self, stored: Tensor) -> Tensor:
        """The same; once hard, with the threshold that it had."""
        return stored.sign() * functional.relu(stored.abs() - self.threshold)

    def kept(self, stored: Tensor) -> Tensor:
        """|w| > sigma(s)."""
        return stored.abs() > self.threshold

    def soft_kept(self, stored: Tensor) -> Tensor:
        """A logistic edge in place of the step, whose gradient would be 0."""
        return torch.sigmoid(self.floor * (stored.abs() / self.threshold - 1))


@dataclass(frozen=True)
class PruningPenalty(Companion):
    """The cost with fixed prices, without a budget: what the patent's claims describe.

    Adds `width_price * sum exp(-b / s) + sharpness_price * sum (1 / (a b))^2` over the layers.
    """

    maps: Sequence[Attached]
    width_price: float
    sharpness_price: float

    def parts(self) -> dict[str, Tensor]:
        """Both terms."""
        maps = [each.map for each in self.maps]
        thresholds = [found for found in maps if isinstance(found, AnalyticThreshold)]
        widths = torch.stack([torch.exp(-found.b / found.deviation) for found in thresholds])
        edges_ = torch.stack([(1 / (found.a * found.b)).square() for found in thresholds])
        return {
            "widths": self.width_price * widths.sum(),
            "sharpness": self.sharpness_price * edges_.sum(),
        }


@dataclass(frozen=True)
class SelfPruning:
    """Prune to a budget by learned thresholds.

    Attributes:
        budget: the share of weights that stays, above 0, at most 1; of multiply-adds with
            `example`.
        layers: names; all convolutions without.
        example: a picture n c h w, to count multiply-adds.
        gradient: of the analytic threshold.
        peer: soft thresholds in place of analytic ones, under the same budget.
        constraint: how the budget is kept.
    """

    budget: float
    layers: Sequence[str] | None = None
    example: Tensor | None = None
    gradient: Gradient = "clipped"
    peer: bool = False
    constraint: ConstraintOptions = field(
        default_factory=lambda: ConstraintOptions("le", "augmented", step=0.5, restart=True)
    )

    def __post_init__(self) -> None:
        check_budget(self.budget, "weights or multiply-adds")

    def attach(self, model: nn.Module) -> list[Attached]:
        """Put thresholds on the layers.

        Raises:
            BadArgument: there is no such layer.
            BadModel: no layer was named and there is no convolution.
        """
        analytic = partial(AnalyticThreshold, gradient=self.gradient)
        return attach_each(selected(model, self.layers), SoftThreshold if self.peer else analytic)

    def recipe(
        self,
        model: nn.Module,
        soft_steps: int,
        fine_steps: int = 0,
        options: TrainingOptions | None = None,
    ) -> Recipe:
        """Attach the thresholds, and say how to train them to the budget.

        Raises:
            As `attach`, and BadModel: a layer does not run on the example.
        """
        prices = self._prices(model)
        maps = self.attach(model)
        density = Density(maps, 1.0, prices)
        thresholds = [each.map for each in maps]
        companions = [
            Schedule([density], "budget", 1.0, self.budget, CLOSED, shape="cubic"),
            Schedule(thresholds, "floor", FIRST_FLOOR, LAST_FLOOR, CLOSED),
            Constraint("density", density, self.constraint),
        ]
        return Recipe(soft_steps, fine_steps, companions, options or TrainingOptions())

    def _prices(self, model: nn.Module) -> dict[str, float] | None:
        """Multiply-adds per weight of each layer, where those are the budget."""
        if self.example is None:
            return None
        layers = selected(model, self.layers)
        costs = layer_costs(model, self.example, layers)
        return {name: costs[name].macs / layer.weight.numel() for name, layer in layers.items()}


def _deviation(weight: Tensor) -> Tensor:
    """The standard deviation of a tensor; 1 where it is 0."""
    found = weight.detach().float().std(correction=0)
    return torch.where(found > 0, found, torch.ones_like(found))
