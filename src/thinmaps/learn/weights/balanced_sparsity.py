# SPDX-License-Identifier: Apache-2.0
"""Balanced sparsity: every group of weights ends with equally many that are not zero.

A pattern (`patterns.py`) says what a group is and what its members are: single weights along the
input channels, so that units that multiply groups in parallel never wait for each other, or whole
blocks, which the engine skips. Magnitudes m of members go through self-pruning's h:

    n_g = sum of h(m) over the group;  c_g = (n_g - k) / size;  V = mean c_g^2

    "signed"    a multiplier per group on c_g, with a quadratic term; k kept of each, the default
    "variance"  as published, L - l V with l rising by -V: one multiplier on V, whose gradient
                vanishes where V does, so that l runs away and the tail is slow

In the end each group keeps exactly its k largest members, so counts have variance 0 exactly. N:M
sparsity is k = N of groups of M.

Source
    US patent 11449756 (claims: groups, a differentiable mask of selectable sharpness and width,
    the variance of counts, one multiplier found by gradient ascent). The counts by h, the signed
    form, k in place of the mean, groups along channels, blocks and the projection are ours.
    `TopKPerGroup` is the peer: SR-STE of Zhou et al., "Learning N:M Fine-grained Structured Sparse
    Neural Networks From Scratch", 2021, arXiv:2102.04010: the k largest of each group at all times,
    straight-through gradients, and decay of the others.

Cost: that of self-pruning and a sort of each group; SR-STE alone, the sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from thinmaps.errors import BadArgument
from thinmaps.learn.options import TrainingOptions
from thinmaps.learn.weights.constraint import Constraint, ConstraintOptions, Violation
from thinmaps.learn.weights.maps import Attached, MaskedMap, attach_each
from thinmaps.learn.weights.patterns import Blocks, Pattern
from thinmaps.learn.weights.recipe import Recipe
from thinmaps.learn.weights.schedule import Schedule
from thinmaps.learn.weights.selection import Layer, is_convolution, selected, shape_of
from thinmaps.learn.weights.self_pruning import AnalyticThreshold, Gradient, kept_share

Form = Literal["signed", "variance", "sr-ste"]

DECAY = 2e-4  # SR-STE's, of weights that are masked


class BalancedThreshold(AnalyticThreshold):
    """A learnt threshold that, once hard, keeps exactly the pattern's number of each group.

    It begins at the width that keeps as many of all members, wherever they are.
    """

    def __init__(self, weight: Tensor, pattern: Pattern, gradient: Gradient = "clipped") -> None:
        super().__init__(weight, gradient)
        self.pattern, self.floor = pattern, pattern.floors[0]
        magnitudes = pattern.magnitudes(weight.detach())
        members = magnitudes.shape[1]
        first = magnitudes.numel() * (members - pattern.kept_of(members)) // members
        self.start_at(float(magnitudes.flatten().sort().values[first].clamp(min=1e-12)))

    def members(self, stored: Tensor) -> Tensor:
        """h of each member, (groups, members)."""
        return kept_share(self.pattern.magnitudes(stored), self.a, self.b)

    def decide(self, stored: Tensor) -> None:
        """Project on the nearest weights that are balanced."""
        self.mask = self.pattern.largest(stored).to(stored.dtype)


class BlockThreshold(BalancedThreshold):
    """The same where members have many weights: v = w h(m), gradients through m and w."""

    def soft(self, stored: Tensor) -> Tensor:
        """v."""
        return stored * self.soft_kept(stored)

    def kept(self, stored: Tensor) -> Tensor:
        """m > b."""
        return self.pattern.spread(self.pattern.magnitudes(stored) > self.b, stored)

    def soft_kept(self, stored: Tensor) -> Tensor:
        """h."""
        return self.pattern.spread(self.members(stored), stored)


class TopKPerGroup(MaskedMap):
    """SR-STE: the largest of each group, all weights learning, the others decaying."""

    def __init__(self, weight: Tensor, pattern: Pattern, decay: float = DECAY) -> None:
        super().__init__()
        self.pattern, self.decay = pattern, decay

    def soft(self, stored: Tensor) -> Tensor:
        """The masked weight; its gradient goes to all weights, plus decay where masked."""
        made: Tensor = _Refined.apply(stored, self.kept(stored), self.decay)  # type: ignore[no-untyped-call]
        return made

    def kept(self, stored: Tensor) -> Tensor:
        """The largest of each group."""
        return self.pattern.largest(stored)

    def soft_kept(self, stored: Tensor) -> Tensor:
        """The same; it has no softer form."""
        return self.kept(stored).to(stored.dtype)


class _Refined(torch.autograd.Function):
    """w m forwards; g + decay (1 - m) w backwards."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, mask: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(w, mask)
        ctx.decay = decay
        return w * mask

    @staticmethod
    def backward(ctx: Any, *wanted: Any) -> tuple[Tensor, None, None]:
        w, mask = ctx.saved_tensors
        return wanted[0] + ctx.decay * w * ~mask, None, None


@dataclass(frozen=True)
class Imbalance:
    """What the groups of some layers miss: signed per group, or the variance of each layer.

    Multipliers follow the soft counts: hard ones jump by whole weights, and multipliers that
    follow those hunt without end.
    """

    maps: Sequence[Attached]
    form: Literal["signed", "variance"] = "signed"

    def __call__(self) -> Violation:
        """Of all layers, flat."""
        return Violation(torch.cat([self._missed(each) for each in self.maps]))

    def _missed(self, each: Attached) -> Tensor:
        found = each.map
        assert isinstance(found, BalancedThreshold)
        members = found.members(each.stored)
        counts, size = members.sum(1), members.shape[1]
        if self.form == "signed":
            return (counts - found.pattern.kept_of(size)) / size
        return counts.var(correction=0).reshape(1) / size**2


def unbalanced(maps: Sequence[Attached]) -> float:
    """The share of groups of which hard thresholds keep another number than they shall."""
    wrong = []
    for each in maps:
        found = each.map
        assert isinstance(found, BalancedThreshold)
        magnitudes = found.pattern.magnitudes(each.stored)
        counts = (magnitudes > found.b).sum(1)
        wrong.append(counts != found.pattern.kept_of(magnitudes.shape[1]))
    return float(torch.cat(wrong).float().mean())


@dataclass(frozen=True)
class BalancedSparsity:
    """Keep as many members of every group.

    Attributes:
        pattern: `Groups(2, 4)` for 2 of every 4 input channels at every place of every filter,
            `Blocks(0.5)` for half of the blocks that the engine skips.
        layers: names; without, all convolutions whose channels the pattern divides.
        form: "signed" (ours), "variance" (as published; nothing then says how many stay, so that
            the signed mean joins it) or "sr-ste" (the peer).
        step: of the multipliers.
        limit: of the multipliers of single groups.
    """

    pattern: Pattern
    layers: Sequence[str] | None = None
    form: Form = "signed"
    step: float = 0.02
    limit: float = 1.0

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise BadArgument(f"balance is kept by one of {get_args(Form)}, got {self.form!r}")

    def attach(self, model: nn.Module) -> list[Attached]:
        """Put maps on the layers.

        Raises:
            BadArgument: there is no such layer, or the pattern does not divide its channels.
            BadModel: no layer was named and the pattern fits none.
        """
        found = selected(model, self.layers, self._fits)
        for name, layer in found.items():
            if reason := self.pattern.misfit(layer.weight, shape_of(layer).groups):
                raise BadArgument(f"{reason} of {name!r}")
        soft = BlockThreshold if isinstance(self.pattern, Blocks) else BalancedThreshold
        kind: Any = TopKPerGroup if self.form == "sr-ste" else soft
        return attach_each(found, partial(kind, pattern=self.pattern))

    def recipe(
        self,
        model: nn.Module,
        soft_steps: int,
        fine_steps: int = 0,
        options: TrainingOptions | None = None,
    ) -> Recipe:
        """Attach the maps, and say how to train them.

        Raises:
            As `attach`.
        """
        maps = self.attach(model)
        companions = [] if self.form == "sr-ste" else self._companions(maps)
        return Recipe(soft_steps, fine_steps, companions, options or TrainingOptions())

    def _companions(self, maps: Sequence[Attached]) -> list[Any]:
        signed = ConstraintOptions("eq", "augmented", self.step, self.limit)
        floors = [each.map for each in maps]
        sharper = Schedule(floors, "floor", *self.pattern.floors)
        total = Constraint("total", MeanCount(maps), ConstraintOptions("eq", "augmented", 1.0))
        if self.form == "signed":
            return [sharper, total, Constraint("groups", Imbalance(maps), signed)]
        published = ConstraintOptions("eq", "lagrangian", self.step)
        return [sharper, total, Constraint("variance", Imbalance(maps, "variance"), published)]

    def _fits(self, layer: Layer) -> bool:
        """Whether the pattern divides the channels of a convolution."""
        is_whole = self.pattern.misfit(layer.weight, shape_of(layer).groups) is None
        return is_convolution(layer) and is_whole


@dataclass(frozen=True)
class MeanCount:
    """The mean count of each layer's groups over k, less 1."""

    maps: Sequence[Attached]

    def __call__(self) -> Violation:
        """One violation per layer."""
        soft, strict = [], []
        for each in self.maps:
            stats, found = each.stats(), each.map
            assert isinstance(found, BalancedThreshold)
            members = found.pattern.magnitudes(each.stored.detach()).shape[1]
            wanted = stats.weights * found.pattern.kept_of(members) / members
            soft.append(stats.soft / wanted - 1)
            strict.append(stats.kept / wanted - 1)
        made = torch.stack(soft)
        return Violation(made, made.detach().new_tensor(strict))
