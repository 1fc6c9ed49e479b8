# SPDX-License-Identifier: Apache-2.0
"""The peer of joint pruning and quantising: one quantiser whose learned dead zone prunes.

Symbols: A the 0.99 quantile of |w|, B the bits, d the width of the dead zone, t_b and t_d logits.

    B = round(2 + (most - 2) |tanh t_b|),  d = 2 A (1 - |tanh t_d|)
    Q = 2^(B-1) - 1,  s = (A - d/2) / (Q - 1/2),  c = (d - s) / 2
    q = clip(round(sign(w) relu(|w| - c) / s), -Q, Q),  weight = s q + c sign(q)

Straight-through gradients of rounding, clip and relu. Decay of both logits (`decay.Decay`) widens
the dead zone and takes bits away; the loss holds against it.

Source
    CoDeQ, 2025, arXiv:2512.12981, by the formulas of its authors' code, restated. No constraint
    belongs to it, so a budget is met by trying decays.

Cost: some fifteen operations per weight and step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from thinmaps.learn.fake_quantisation import rounded
from thinmaps.learn.weights.maps import WeightMap, WeightStats

MOST_BITS = 8
QUANTILE = 0.99
FIRST_LOGIT = 3.0  # tanh is 0.995: all bits, a dead zone of half a percent of the range


class DeadZone(WeightMap):
    """The quantiser; its logits are `zone` (t_d) and `width` (t_b)."""

    def __init__(self) -> None:
        super().__init__()
        self.zone = nn.Parameter(torch.tensor(FIRST_LOGIT))
        self.width = nn.Parameter(torch.tensor(FIRST_LOGIT))

    def bits(self) -> Tensor:
        """B, rounded, with the gradient of what is rounded."""
        return rounded(2 + (MOST_BITS - 2) * self.width.tanh().abs())

    def soft(self, stored: Tensor) -> Tensor:
        """The dequantised weight."""
        end = torch.quantile(stored.detach().abs().flatten(), QUANTILE).clamp(min=1e-12)
        zone = 2 * end * (1 - self.zone.tanh().abs())
        most = 2 ** (self.bits() - 1) - 1
        step = (end - zone / 2) / (most - 0.5)
        centre = (zone - step) / 2
        beyond = stored.abs() - centre
        shrunk = stored.sign() * (beyond + (functional.relu(beyond) - beyond).detach())
        integers = rounded(shrunk / step)
        limited = torch.maximum(torch.minimum(integers, most), -most)
        integers = integers + (limited - integers).detach()
        return step * integers + centre * integers.detach().sign()

    frozen = soft

    def decide(self, stored: Tensor) -> None:
        """Logits learn no more; which weights are in the zone still follows from their values."""

    def stats(self, stored: Tensor) -> WeightStats:
        """Weights outside the dead zone, at the width of the layer."""
        with torch.no_grad():
            kept = int(self(stored).count_nonzero())
        count = stored.detach().new_tensor(float(kept))
        return WeightStats(stored.numel(), count, kept, count * self.bits())
