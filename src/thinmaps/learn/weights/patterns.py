# SPDX-License-Identifier: Apache-2.0
"""Which weights stay or go together, and how many of them each group keeps.

    Groups(2, 4)   members are single weights, groups runs of input channels at one place of one
                   filter, `w[k, c : c + size, r, s]`: N:M sparsity
    Blocks(0.5)    members are blocks of 4 output by 4 input channels of one tap, groups all blocks
                   of 4 output channels: what the engine skips (`graph/zero_blocks.py`), the share
                   of them that stays

A group ends with exactly its number of members, those of the largest magnitudes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thinmaps.errors import BadArgument
from thinmaps.graph.zero_blocks import BLOCK
from thinmaps.learn.weights.selection import check_budget


class Pattern(ABC):
    """How a layer's weights `k c r s`, or (k, c), fall into groups of members."""

    # Of a b while thresholds learn (`self_pruning`), first and last.
    floors: ClassVar[tuple[float, float]]

    @abstractmethod
    def magnitudes(self, weight: Tensor) -> Tensor:
        """Of each member, (groups, members); the mean of its weights'."""

    @abstractmethod
    def spread(self, members: Tensor, like: Tensor) -> Tensor:
        """What each weight gets of its member, in the shape of `like`."""

    @abstractmethod
    def kept_of(self, members: int) -> int:
        """How many members of a group stay."""

    @abstractmethod
    def misfit(self, weight: Tensor, groups: int) -> str | None:
        """Why a layer with so many groups of input channels cannot be divided; None if it can."""

    def largest(self, weight: Tensor) -> Tensor:
        """True where a weight's member is among the largest; earlier ones win ties."""
        members = self.magnitudes(weight.detach())
        order = members.argsort(dim=1, descending=True, stable=True)
        kept = order[:, : self.kept_of(members.shape[1])]
        mask = torch.zeros_like(members, dtype=torch.bool).scatter_(1, kept, True)
        return self.spread(mask, weight)


@dataclass(frozen=True)
class Groups(Pattern):
    """`kept` of each `size` neighbouring input channels, as in 2 of 4."""

    kept: int
    size: int
    # Softer edges than self-pruning has, because a weight far from an edge moves no count, and the
    # projection makes up for the rest.
    floors: ClassVar[tuple[float, float]] = (3.0, 12.0)

    def __post_init__(self) -> None:
        if not 1 <= self.kept <= self.size:
            raise BadArgument(
                f"groups keep 1 to all of their weights, got {self.kept} of {self.size}"
            )

    def split(self, tensor: Tensor) -> Tensor:
        """A weight (k, c, ...) as (groups, size)."""
        channels = tensor.shape[1]
        return tensor.reshape(len(tensor), channels, -1).transpose(1, 2).reshape(-1, self.size)

    def magnitudes(self, weight: Tensor) -> Tensor:
        """Of single weights."""
        return self.split(weight.abs())

    def spread(self, members: Tensor, like: Tensor) -> Tensor:
        """The inverse of `split`."""
        filters, channels = like.shape[:2]
        return members.reshape(filters, -1, channels).transpose(1, 2).reshape(like.shape)

    def kept_of(self, members: int) -> int:
        """`kept`."""
        return self.kept

    def misfit(self, weight: Tensor, groups: int) -> str | None:
        """Where `size` does not divide the input channels."""
        if weight.shape[1] % self.size == 0:
            return None
        return f"groups of {self.size} do not divide the {weight.shape[1]} input channels"


@dataclass(frozen=True)
class Blocks(Pattern):
    """A share `kept` of the blocks of every 4 output channels."""

    kept: float
    # Means of 16 magnitudes lie close together, so that their edges have to be sharper.
    floors: ClassVar[tuple[float, float]] = (12.0, 40.0)

    def __post_init__(self) -> None:
        check_budget(self.kept, "blocks")

    def magnitudes(self, weight: Tensor) -> Tensor:
        """Mean magnitudes of blocks."""
        k, c = weight.shape[:2]
        blocks = weight.abs().reshape(k // BLOCK[0], BLOCK[0], c // BLOCK[1], BLOCK[1], -1)
        return blocks.mean((1, 3)).reshape(k // BLOCK[0], -1)

    def spread(self, members: Tensor, like: Tensor) -> Tensor:
        """A block's to its weights."""
        k, c = like.shape[:2]
        blocks = members.reshape(k // BLOCK[0], 1, c // BLOCK[1], 1, -1)
        return blocks.expand(-1, BLOCK[0], -1, BLOCK[1], -1).reshape(like.shape)

    def kept_of(self, members: int) -> int:
        """The nearest number to the share, at least one."""
        return max(1, round(self.kept * members))

    def misfit(self, weight: Tensor, groups: int) -> str | None:
        """Where channels are no whole blocks."""
        k, c = weight.shape[:2]
        if k % (groups * BLOCK[0]) == 0 and c % BLOCK[1] == 0:
            return None
        return (
            f"blocks of {BLOCK[0]} x {BLOCK[1]} channels do not divide {k // groups} x {c} channels"
        )
