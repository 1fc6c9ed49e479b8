# SPDX-License-Identifier: Apache-2.0
"""Decay of a map's parameters towards 0, beside the optimizer: what drives some published methods.

Source
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, arXiv:1711.05101.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from thinmaps.errors import BadArgument
from thinmaps.learn.companion import Companion, Mean


@dataclass(frozen=True)
class Decay(Companion):
    """Each step takes a share `rate` of every parameter away: that of AdamW's `lr * weight_decay`.

    Raises:
        BadArgument: the rate is no share from 0 to 1.
    """

    parameters: Sequence[nn.Parameter]
    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise BadArgument(f"a decay takes a share of 0 to 1 in each step, got {self.rate}")

    def after(self, mean: Mean) -> None:
        """Shrink."""
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.mul_(1 - self.rate)
