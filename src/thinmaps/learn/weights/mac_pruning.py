# SPDX-License-Identifier: Apache-2.0
"""Pruning driven by multiply-adds: layers that work more may lose more, by a rule, untrained.

Each layer l has an allowance: the error that pruning may cause per removed weight. From the layer's
share of the operations, f_l = MAC_l / sum of MACs, and one number e for the network:

    allowance_l = e (f_l / max f)^g        g in 0 to 1; 0 gives every layer the same
    threshold   = t sigma_l                sigma_l: the standard deviation of the layer's weights
    error       = sqrt(sum of w^2 over the removed / their number) / sigma_l

t is the largest for which the error is within the allowance. e follows from a budget.

Source
    US patent application 20190050735 (abstract: allowance per weight from the load of the layer, a
    threshold from its deviation, a loop that updates and prunes again) and US patent 10832135 (the
    error per removed weight). Not found there, ours: the power law of the allowance, that errors
    are relative to sigma, bisection on e, and the root of the mean square: the published error,
    a norm over a count, falls as layers grow, so that large layers lose more whatever they do. It
    is `error_per_weight(..., published=True)`.

Cost: one forward pass and a sort of the weights. Of a Gaussian layer no weight need be read:
`gaussian_error`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinmaps.errors import BadArgument
from thinmaps.learn.weights.maps import FixedMask, attach
from thinmaps.learn.weights.selection import check_budget, layer_costs, selected

LOOP_FACTOR = 0.95
BISECTIONS = 60


@dataclass(frozen=True)
class PrunedLayer:
    """What the rule decided for a layer.

    Attributes:
        macs: of the dense layer and one picture.
        allowance: of the error per removed weight, in standard deviations.
        threshold: weights of a smaller magnitude go; in the weights' unit.
        density: the share of weights that stays.
    """

    macs: int
    allowance: float
    threshold: float
    density: float


@dataclass(frozen=True)
class MacPruning:
    """A pruned network by layers; `budget` is what was asked of `mac_share`."""

    layers: Mapping[str, PrunedLayer]
    budget: float

    @property
    def mac_share(self) -> float:
        """Multiply-adds with weights that are not zero, of all."""
        whole = sum(each.macs for each in self.layers.values())
        return sum(each.macs * each.density for each in self.layers.values()) / whole


def error_per_weight(weights: Tensor, threshold: float, *, published: bool = False) -> float:
    """Of removing all weights below a threshold; 0 where none is.

    The root of their mean square, or, as published, the root of their sum of squares over their
    number.
    """
    removed = weights.detach().double().abs()
    removed = removed[removed < threshold]
    if not len(removed):
        return 0.0
    total = float(removed.square().sum())
    return math.sqrt(total) / len(removed) if published else math.sqrt(total / len(removed))


def loop_threshold(
    weights: Tensor, allowance: float, *, start: float = 3.0, published: bool = False
) -> float:
    """The published search: start high, prune, and while the error is too large, lower and prune.

    `start` is in standard deviations, the allowance in the weights' unit. Each turn keeps 95 %.
    """
    threshold = start * float(weights.detach().double().std(correction=0))
    while error_per_weight(weights, threshold, published=published) > allowance:
        threshold *= LOOP_FACTOR
    return threshold


def largest_threshold(weights: Tensor, allowance: float) -> float:
    """What the loop approaches from above: the largest threshold whose error is allowed, exactly.

    The mean square of the n smallest magnitudes grows with n, so that n is found by search.
    """
    ranked = _Ranked.of(weights, 1.0)
    return ranked.threshold(ranked.removable(allowance))


def gaussian_error(threshold: float) -> tuple[float, float]:
    """(share removed, error per weight) of Gaussian weights of deviation 1.

    With p = erf(t / sqrt 2) removed, the error is sqrt((p - sqrt(2 / pi) t exp(-t^2 / 2)) / p).

    >>> [[round(x, 2) for x in gaussian_error(t)] for t in (0.5, 1.0, 2.0)]
    [[0.38, 0.28], [0.68, 0.54], [0.95, 0.88]]
    """
    if threshold <= 0:
        return 0.0, 0.0
    removed = math.erf(threshold / math.sqrt(2))
    density = math.sqrt(2 / math.pi) * threshold * math.exp(-threshold * threshold / 2)
    return removed, math.sqrt(max(removed - density, 0.0) / removed)


def choose_thresholds(
    model: nn.Module,
    example: Tensor,
    budget: float,
    *,
    layers: Iterable[str] | None = None,
    exponent: float = 0.5,
) -> MacPruning:
    """Thresholds with which a share `budget` of the layers' multiply-adds is left.

    `layers` are all convolutions where none is named. The share is at most one step of the
    finest sorted weights from the budget. The model stays as it is.

    Raises:
        BadArgument: the budget is no share above 0, the exponent none from 0 to 1; no such layer.
        BadModel: there is no convolution; a layer does not run on the example.
    """
    check_budget(budget, "multiply-adds")
    check_exponent(exponent)
    found = selected(model, layers)
    macs = {name: cost.macs for name, cost in layer_costs(model, example, found).items()}
    heaviest = max(macs.values())
    ranked = {
        name: _Ranked.of(layer.weight, (macs[name] / heaviest) ** exponent)
        for name, layer in found.items()
    }
    scale = _scale_within(budget, ranked, macs)
    return MacPruning({name: each.at(scale, macs[name]) for name, each in ranked.items()}, budget)


def prune_by_macs(
    model: nn.Module,
    example: Tensor,
    budget: float,
    *,
    layers: Iterable[str] | None = None,
    exponent: float = 0.5,
) -> MacPruning:
    """`choose_thresholds`, and masks on the layers, in place: `bake` the model or train it on."""
    chosen = choose_thresholds(model, example, budget, layers=layers, exponent=exponent)
    found = selected(model, chosen.layers)
    for name, each in chosen.layers.items():
        weight = found[name].weight.detach()
        attach(found[name], FixedMask(weight.double().abs() >= each.threshold))
    return chosen


def check_exponent(exponent: float) -> None:
    """Of the load, g above.

    Raises:
        BadArgument: it is not 0 to 1.
    """
    if not 0 <= exponent <= 1:
        raise BadArgument(f"the exponent of the load is 0 to 1, got {exponent}")


@dataclass(frozen=True, eq=False)
class _Ranked:
    """A layer's magnitudes, sorted, and its share of the allowance, both in the weights' unit.

    `means` are mean squares of the smallest one, the smallest two, and so on.
    """

    magnitudes: Tensor
    means: Tensor
    deviation: float
    portion: float

    @classmethod
    def of(cls, weight: Tensor, portion: float) -> _Ranked:
        values = weight.detach().double()
        deviation = float(values.std(correction=0))
        magnitudes = values.abs().flatten().sort().values
        counts = torch.arange(1, len(magnitudes) + 1, dtype=torch.float64)
        means = magnitudes.square().cumsum(0) / counts
        return cls(magnitudes, means, deviation, portion * deviation)

    def removable(self, allowance: float) -> int:
        """How many of the smallest may go: whose mean square is within the allowance's."""
        return int(torch.searchsorted(self.means, allowance**2, right=True))

    def threshold(self, removed: int) -> float:
        """The smallest magnitude that stays; above all of them where none does."""
        all_go = removed == len(self.magnitudes)
        return float(2 * self.magnitudes[-1] if all_go else self.magnitudes[removed])

    def density(self, scale: float) -> float:
        count = len(self.magnitudes)
        return (count - self.removable(scale * self.portion)) / count

    def at(self, scale: float, macs: int) -> PrunedLayer:
        allowance = scale * self.portion / self.deviation if self.deviation else 0.0
        threshold = self.threshold(self.removable(scale * self.portion))
        return PrunedLayer(macs, allowance, threshold, self.density(scale))


def _scale_within(budget: float, ranked: Mapping[str, _Ranked], macs: Mapping[str, int]) -> float:
    """The least e with which no more than the budget is left, by bisection."""
    whole = sum(macs.values())

    def left(scale: float) -> float:
        return sum(macs[name] * each.density(scale) for name, each in ranked.items()) / whole

    low, high = 0.0, 1.0
    while left(high) > budget:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if left(middle) <= budget else (middle, high)
    return high if left(low) > budget else low
