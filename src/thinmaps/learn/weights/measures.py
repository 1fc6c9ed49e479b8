# SPDX-License-Identifier: Apache-2.0
"""What weight maps keep of a network, as violations of a budget.

Ours: soft counts carry gradients through the maps, strict ones are those of the hard masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinmaps.learn.weights.constraint import Violation
from thinmaps.learn.weights.maps import Attached
from thinmaps.learn.weights.selection import check_budget


@dataclass
class Density:
    """Kept weights, each counted with its layer's price, as a share of all; `budget` is the wish.

    The violation is `share / budget - 1`, so that budgets of 5 and of 50 % have one scale.

    Attributes:
        maps: those that count.
        budget: the share that may stay, above 0, at most 1.
        prices: of one weight, by layer name: 1 without; multiply-adds per weight for a MAC budget.
    """

    maps: Sequence[Attached]
    budget: float
    prices: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        check_budget(self.budget, "kept weights")

    def __call__(self) -> Violation:
        """One violation, scalar."""
        soft, kept = self.shares()
        return Violation(
            soft / self.budget - 1, torch.full_like(soft.detach(), kept) / self.budget - 1
        )

    def shares(self) -> tuple[Tensor, float]:
        """The soft share with gradients, and the hard one."""
        stats = [(self._price(each.name), each.stats()) for each in self.maps]
        whole = sum(price * found.weights for price, found in stats)
        soft = torch.stack([price * found.soft for price, found in stats]).sum() / whole
        return soft, sum(price * found.kept for price, found in stats) / whole

    def _price(self, name: str) -> float:
        return 1.0 if self.prices is None else float(self.prices[name])
