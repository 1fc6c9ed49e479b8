# SPDX-License-Identifier: Apache-2.0
"""Balanced sparsity: every group of weights ends with equally many that are not zero.

A group is a run of input channels at one place of one filter: `w[k, c : c + size, r, s]`. Units
that multiply groups in parallel then never wait for each other.

    n_g = sum of h over the group (`self_pruning`);  c_g = (n_g - k) / size;  V = mean c_g^2

    "signed"    a multiplier per group on c_g, with a quadratic term; k kept of each, the default
    "variance"  as published, L - l V with l rising by -V: one multiplier on V, whose gradient
                vanishes where V does, so that l runs away and the tail is slow

In the end each group keeps exactly its k largest weights, so counts have variance 0 exactly. N:M
sparsity is k = N of groups of M.

Source
    US patent 11449756 (claims: groups, a differentiable mask of selectable sharpness and width,
    the variance of counts, one multiplier found by gradient ascent). The counts by h, the signed
    form, k in place of the mean, groups along channels and the projection are ours.
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
from thinmaps.learn.weights.recipe import Recipe
from thinmaps.learn.weights.schedule import Schedule
from thinmaps.learn.weights.selection import Layer, is_convolution, selected
from thinmaps.learn.weights.self_pruning import AnalyticThreshold, Gradient

Form = Literal["signed", "variance", "sr-ste"]

# Of a b: softer edges than self-pruning has, because a weight far from an edge moves no count, and
# the projection makes up for the rest.
FIRST_FLOOR, LAST_FLOOR = 3.0, 12.0
DECAY = 2e-4  # SR-STE's, of weights that are masked


@dataclass(frozen=True)
class Groups:
    """`kept` of each `size` neighbouring input channels, as in 2 of 4."""

    kept: int
    size: int

    def __post_init__(self) -> None:
        if not 1 <= self.kept <= self.size:
            raise BadArgument(
                f"groups keep 1 to all of their weights, got {self.kept} of {self.size}"
            )

    def split(self, tensor: Tensor) -> Tensor:
        """A weight (k, c, ...) as (groups, size)."""
        channels = tensor.shape[1]
        return tensor.reshape(len(tensor), channels, -1).transpose(1, 2).reshape(-1, self.size)

    def joined(self, groups: Tensor, like: Tensor) -> Tensor:
        """The inverse of `split`."""
        filters, channels = like.shape[:2]
        return groups.reshape(filters, -1, channels).transpose(1, 2).reshape(like.shape)

    def largest(self, weight: Tensor) -> Tensor:
        """True at the `kept` largest magnitudes of each group; earlier channels win ties."""
        groups = self.split(weight.detach().abs())
        order = groups.argsort(dim=1, descending=True, stable=True)[:, : self.kept]
        mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, True)
        return self.joined(mask, weight)

    def counts(self, mask: Tensor) -> Tensor:
        """How many of each group are there; sums of what is between 0 and 1 too."""
        return self.split(mask).sum(1)


class BalancedThreshold(AnalyticThreshold):
    """A learnt threshold that, once hard, keeps exactly `groups.kept` of each group.

    It begins at the width that keeps as many of all weights, wherever they are.
    """

    def __init__(self, weight: Tensor, groups: Groups, gradient: Gradient = "clipped") -> None:
        super().__init__(weight, gradient)
        self.groups, self.floor = groups, FIRST_FLOOR
        magnitudes = weight.detach().abs().flatten().sort().values
        first = len(magnitudes) * (groups.size - groups.kept) // groups.size
        self.start_at(float(magnitudes[first]))

    def decide(self, stored: Tensor) -> None:
        """Project on the nearest weights that are balanced."""
        self.mask = self.groups.largest(stored).to(stored.dtype)


class TopKPerGroup(MaskedMap):
    """SR-STE: the largest of each group, all weights learning, the others decaying."""

    def __init__(self, weight: Tensor, groups: Groups, decay: float = DECAY) -> None:
        super().__init__()
        self.groups, self.decay = groups, decay

    def soft(self, stored: Tensor) -> Tensor:
        """The masked weight; its gradient goes to all weights, plus decay where masked."""
        made: Tensor = _Refined.apply(stored, self.kept(stored), self.decay)  # type: ignore[no-untyped-call]
        return made

    def kept(self, stored: Tensor) -> Tensor:
        """The largest of each group."""
        return self.groups.largest(stored)

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
        groups = found.groups
        counts = groups.counts(found.soft_kept(each.stored))
        if self.form == "signed":
            return (counts - groups.kept) / groups.size
        return counts.var(correction=0).reshape(1) / groups.size**2


def unbalanced(maps: Sequence[Attached]) -> float:
    """The share of groups of which hard thresholds keep another number than they shall."""
    wrong = []
    for each in maps:
        found = each.map
        assert isinstance(found, BalancedThreshold)
        wrong.append(found.groups.counts(found.kept(each.stored).float()) != found.groups.kept)
    return float(torch.cat(wrong).float().mean())


@dataclass(frozen=True)
class BalancedSparsity:
    """Keep `groups.kept` of every `groups.size` input channels, at every place of every filter.

    Attributes:
        groups: as in `Groups(2, 4)`.
        layers: names; without, all convolutions whose input channels such groups divide.
        form: "signed" (ours), "variance" (as published; nothing then says how many stay, so that
            the signed mean joins it) or "sr-ste" (the peer).
        step: of the multipliers.
        limit: of the multipliers of single groups.
    """

    groups: Groups
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
            BadArgument: there is no such layer, or groups do not divide its input channels.
            BadModel: no layer was named and groups fit none.
        """
        found = selected(model, self.layers, self._fits)
        for name, layer in found.items():
            if layer.weight.shape[1] % self.groups.size:
                raise BadArgument(
                    f"groups of {self.groups.size} do not divide the {layer.weight.shape[1]} input "
                    f"channels of {name!r}"
                )
        kind: Any = TopKPerGroup if self.form == "sr-ste" else BalancedThreshold
        return attach_each(found, partial(kind, groups=self.groups))

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
        sharper = Schedule(floors, "floor", FIRST_FLOOR, LAST_FLOOR)
        total = Constraint("total", MeanCount(maps), ConstraintOptions("eq", "augmented", 1.0))
        if self.form == "signed":
            return [sharper, total, Constraint("groups", Imbalance(maps), signed)]
        published = ConstraintOptions("eq", "lagrangian", self.step)
        return [sharper, total, Constraint("variance", Imbalance(maps, "variance"), published)]

    def _fits(self, layer: Layer) -> bool:
        """Whether groups divide the input channels of a convolution."""
        return is_convolution(layer) and layer.weight.shape[1] % self.groups.size == 0


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
            wanted = stats.weights * found.groups.kept / found.groups.size
            soft.append(stats.soft / wanted - 1)
            strict.append(stats.kept / wanted - 1)
        made = torch.stack(soft)
        return Violation(made, made.detach().new_tensor(strict))
