# SPDX-License-Identifier: Apache-2.0
"""Pruning and quantising together, of weights and feature maps, in one cost.

Symbols: u a weight behind its threshold, or an element of a map; s a step; b a number of bits.

    Qdq_b(u) = s_b clip(round(u / s_b), -2^(b-1) + 1, 2^(b-1) - 1)     maps: 0 to 2^b - 1
    levels "bits"     sum over b of pi_b Qdq_b(u), pi = softmax(theta / tau), one theta per tensor
    levels "points"   of one b: sum over its code points q of q softmax(-(u - q)^2 / (2 tau^2 s^2))
    cost              loss + constraints, or prices, on
                      weights: sum of n h_mean sum pi_b b, over all weights
                      maps:    sum of m sum pi_b b, over all elements

0 is a code point of every b, so pruned weights stay 0 in every average, and h_mean makes them cost
no bits. tau falls; then the largest pi is taken and nothing but the kept weights learns.

Source
    US patent applications 20200293893 and 20230004813 (claims: weights through h, a weighted
    average of quantisations for all levels, maps likewise, one cost with three terms). Not found
    there, ours: what a level is ("bits" by default), softmax weights, the terms. Gradients of steps
    are those of `quantiser.py`; mixtures of widths as in Cai and Vasconcelos, "EdMIPS", 2020,
    arXiv:2004.05795. The peer is `dead_zone.py`.

Cost: a quantisation per level and forward pass; "points" makes 2^b copies of the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from thinmaps.errors import BadArgument
from thinmaps.learn.companion import Companion
from thinmaps.learn.named_maps import NamedMaps
from thinmaps.learn.options import TrainingOptions
from thinmaps.learn.weights.constraint import Constraint, ConstraintOptions, Violation
from thinmaps.learn.weights.maps import (
    ActivationMap,
    Attached,
    WeightMap,
    WeightStats,
    attach_behind,
    attach_each,
)
from thinmaps.learn.weights.quantiser import Grid, best_step, dequantised
from thinmaps.learn.weights.recipe import Recipe
from thinmaps.learn.weights.schedule import Schedule
from thinmaps.learn.weights.selection import selected
from thinmaps.learn.weights.self_pruning import FIRST_FLOOR, LAST_FLOOR, AnalyticThreshold

WIDTHS = (2, 3, 4, 6, 8)
FIRST_TEMPERATURE, LAST_TEMPERATURE = 1.0, 0.05
PRUNED = 0.4  # the share of the soft training after which thresholds are sharp
COOL = 0.7  # and after which the temperature is low: one after the other, as both are not smooth


class Mixture(nn.Module):
    """Quantisations at several widths, averaged; the part that weights and maps share."""

    chosen: Tensor

    def __init__(self, widths: Sequence[int], is_signed: bool) -> None:
        super().__init__()
        _check_widths(widths)
        self.grids = [Grid(width, is_signed) for width in widths]
        self.tau = FIRST_TEMPERATURE
        self.theta = nn.Parameter(torch.zeros(len(widths)))
        self.log_steps = nn.Parameter(torch.zeros(len(widths)))
        self.register_buffer("chosen", torch.tensor(-1))

    def start_at(self, values: Tensor) -> None:
        """Steps of the least squared error on these values."""
        steps = [best_step(values, grid) for grid in self.grids]
        with torch.no_grad():
            self.log_steps.copy_(torch.tensor(steps).log())

    def shares(self) -> Tensor:
        """pi."""
        return torch.softmax(self.theta / self.tau, 0)

    def bits(self) -> Tensor:
        """The mean width, with gradients; once chosen, that one."""
        widths = self.theta.new_tensor([grid.bits for grid in self.grids])
        return (self.shares() * widths).sum() if self.chosen < 0 else widths[self.chosen]

    def choose(self) -> None:
        """Take the width of the largest share."""
        self.chosen = self.theta.argmax()

    def forward(self, u: Tensor) -> Tensor:
        """The average, or the chosen one."""
        steps = self.log_steps.exp()
        if self.chosen >= 0:
            at = int(self.chosen)
            return dequantised(u, steps[at], self.grids[at])
        made = [dequantised(u, step, grid) for step, grid in zip(steps, self.grids, strict=True)]
        return (self.shares().reshape(-1, *[1] * u.ndim) * torch.stack(made)).sum(0)


class MixedQuantiser(WeightMap):
    """The average of quantisations of a weight."""

    def __init__(self, weight: Tensor, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.mixture = Mixture(widths, is_signed=True)
        self.mixture.start_at(weight.detach())

    def soft(self, stored: Tensor) -> Tensor:
        """The average; zeros stay zero."""
        made: Tensor = self.mixture(stored)
        return made

    frozen = soft

    def decide(self, stored: Tensor) -> None:
        """The width of the largest share."""
        self.mixture.choose()

    def stats(self, stored: Tensor) -> WeightStats:
        """Weights that are stored, at the mean width; a threshold in front has its own count."""
        with torch.no_grad():
            kept = int(self(stored).count_nonzero())
        soft = stored.detach().count_nonzero().to(stored.dtype)
        return WeightStats(stored.numel(), soft, kept, soft * self.mixture.bits())


class MixedMapQuantiser(ActivationMap):
    """The average of quantisations of a rectified map; its steps are those of the first batch."""

    started: Tensor

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.mixture = Mixture(widths, is_signed=False)
        self.register_buffer("started", torch.tensor(False))

    def soft(self, made: Tensor) -> Tensor:
        """The average; negative values become 0."""
        if not self.started:
            self.mixture.start_at(made.detach())
            self.started.fill_(True)
        quantised: Tensor = self.mixture(made)
        return quantised

    frozen = soft

    def decide(self) -> None:
        """The width of the largest share."""
        self.mixture.choose()

    def bits(self) -> Tensor:
        """Of an element."""
        return self.mixture.bits()


class SoftPoints(WeightMap):
    """The other reading of a level: an average over the code points of one width."""

    def __init__(self, weight: Tensor, bits: int = 4) -> None:
        super().__init__()
        self.grid, self.tau = Grid(bits, is_signed=True), FIRST_TEMPERATURE
        step = best_step(weight.detach(), self.grid)
        self.log_step = nn.Parameter(torch.tensor(math.log(step)))

    def soft(self, stored: Tensor) -> Tensor:
        """Goes to the nearest code point as tau goes to 0."""
        step = self.log_step.exp()
        levels = torch.arange(self.grid.lowest, self.grid.highest + 1, dtype=stored.dtype)
        levels = levels.to(stored.device)
        distance = (stored / step).unsqueeze(-1) - levels
        shares = torch.softmax(-distance.square() / (2 * self.tau**2), -1)
        return step * (shares * levels).sum(-1)

    def decide(self, stored: Tensor) -> None:
        """The nearest code point follows from the step."""

    def frozen(self, stored: Tensor) -> Tensor:
        """The nearest code points."""
        return dequantised(stored, self.log_step.exp(), self.grid)

    def stats(self, stored: Tensor) -> WeightStats:
        """All weights that are not 0, at one width."""
        with torch.no_grad():
            kept = int(self.frozen(stored).count_nonzero())
        soft = stored.detach().count_nonzero().to(stored.dtype)
        return WeightStats(stored.numel(), soft, kept, soft * self.grid.bits)


@dataclass(frozen=True)
class WeightBits:
    """Stored bits per weight, over layers with a threshold and a quantiser, beside a budget."""

    pairs: Sequence[tuple[Attached, Attached]]
    budget: float

    def __call__(self) -> Violation:
        """`bits / budget - 1`; the multipliers follow the soft bits too."""
        return Violation(self.bits() / self.budget - 1)

    def bits(self) -> Tensor:
        """The mean, with gradients of thresholds and shares."""
        spent, weights = [], 0
        for threshold, quantiser in self.pairs:
            stats, found = threshold.stats(), quantiser.map
            assert isinstance(found, MixedQuantiser)
            spent.append(stats.soft * found.mixture.bits())
            weights += stats.weights
        return torch.stack(spent).sum() / weights


@dataclass(frozen=True)
class MapBits:
    """Bits per element of quantised maps, each with its elements, beside a budget."""

    maps: Sequence[tuple[MixedMapQuantiser, int]]
    budget: float

    def __call__(self) -> Violation:
        """`bits / budget - 1`."""
        return Violation(self.bits() / self.budget - 1)

    def bits(self) -> Tensor:
        """The mean."""
        spent = torch.stack([elements * each.bits() for each, elements in self.maps]).sum()
        return spent / sum(elements for _, elements in self.maps)


@dataclass(frozen=True)
class Prices(Companion):
    """The cost with fixed prices in place of budgets: what the patent's claims describe.

    Per stored bit of a weight and of an element of a map; None where there are none.
    """

    weights: WeightBits | None
    maps: MapBits | None
    weight_price: float = 0.0
    map_price: float = 0.0

    def parts(self) -> dict[str, Tensor]:
        """The terms that have a price."""
        found = {}
        if self.weights is not None:
            found["weight bits"] = self.weight_price * self.weights.bits()
        if self.maps is not None:
            found["map bits"] = self.map_price * self.maps.bits()
        return found


@dataclass(frozen=True)
class JointPruneQuantise:
    """Prune and quantise under budgets of stored bits.

    Attributes:
        weight_bits: the mean over all weights, pruned ones too, above 0.
        map_bits: the mean over all elements of the maps behind `map_layers`; None for no maps.
        layers: names; all convolutions without.
        map_layers: modules whose outputs are quantised, such as ReLUs; they are never negative.
        widths: to choose from, 2 to 8.
        step: of the multipliers.
    """

    weight_bits: float
    map_bits: float | None = None
    layers: Sequence[str] | None = None
    map_layers: Sequence[str] = ()
    widths: Sequence[int] = WIDTHS
    step: float = 0.5

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, self.map_bits):
            if bits is not None and not 0 < bits <= 8:
                raise BadArgument(f"a budget of stored bits is above 0, at most 8, got {bits}")
        _check_widths(self.widths)
        if (self.map_bits is None) != (not self.map_layers):
            raise BadArgument("a budget for maps and the layers whose maps it is for come together")

    def recipe(
        self,
        model: nn.Module,
        example: Tensor,
        soft_steps: int,
        fine_steps: int = 0,
        options: TrainingOptions | None = None,
    ) -> Recipe:
        """Attach thresholds and quantisers, and say how to train them.

        Raises:
            BadArgument: there is no such layer.
            BadModel: no layer was named and there is no convolution.
        """
        elements = _elements(model, example, self.map_layers)
        pairs = self._attach(model)
        weights = WeightBits(pairs, self.weight_bits)
        kept = ConstraintOptions("le", "augmented", self.step, restart=True)
        thresholds = [threshold.map for threshold, _ in pairs]
        cooled: list[Any] = [quantiser.map.mixture for _, quantiser in pairs]
        companions: list[Companion] = [
            Schedule(thresholds, "floor", FIRST_FLOOR, LAST_FLOOR, PRUNED),
            Constraint("weight bits", weights, kept),
        ]
        if self.map_bits is not None:
            maps = [(_quantised_map(model, name, self.widths), n) for name, n in elements.items()]
            cooled += [each.mixture for each, _ in maps]
            companions.append(Constraint("map bits", MapBits(maps, self.map_bits), kept))
        cooling = (FIRST_TEMPERATURE, LAST_TEMPERATURE, COOL)
        companions.append(Schedule(cooled, "tau", *cooling, shape="geometric"))
        return Recipe(soft_steps, fine_steps, companions, options or TrainingOptions())

    def _attach(self, model: nn.Module) -> list[tuple[Attached, Attached]]:
        """A threshold and a quantiser on every layer."""
        found = selected(model, self.layers)
        thresholds = attach_each(found, AnalyticThreshold)
        quantisers = attach_each(found, partial(MixedQuantiser, widths=self.widths))
        return list(zip(thresholds, quantisers, strict=True))


def _check_widths(widths: Sequence[int]) -> None:
    if not widths or any(not 2 <= width <= 8 for width in widths):
        raise BadArgument(f"widths are 2 to 8 bits, got {list(widths)}")


def _elements(model: nn.Module, example: Tensor, layers: Sequence[str]) -> dict[str, int]:
    """How many elements each of the modules puts out for one picture."""
    is_training = model.training
    with NamedMaps(model, layers) as seen, torch.no_grad():
        model.eval()(example[:1])
        model.train(is_training)
        return {name: seen.maps[name].numel() for name in layers}


def _quantised_map(model: nn.Module, name: str, widths: Sequence[int]) -> MixedMapQuantiser:
    made = MixedMapQuantiser(widths)
    attach_behind(model.get_submodule(name), made)
    return made
