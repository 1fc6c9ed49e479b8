# SPDX-License-Identifier: Apache-2.0
"""Random changes of pictures that change no answer; each is called with a batch, float n c h w.

They draw from torch's generator of the CPU, whatever the device, so a checkpoint holds where they
stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from thinmaps.errors import BadArgument

Augmentation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class RandomCrop:
    """Each picture moved by up to `margin` pixels; what is missing is its mirror image.

    Raises:
        BadArgument: the margin is negative, or not smaller than a picture.
    """

    margin: int = 4

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise BadArgument(f"the margin of a crop is 0 pixels or more, got {self.margin}")

    def __call__(self, pictures: Tensor) -> Tensor:
        """A batch of the same shape."""
        n, c, h, w = pictures.shape
        if self.margin >= min(h, w):
            raise BadArgument(f"a crop by {self.margin} pixels needs larger pictures than {h}x{w}")
        if not self.margin:
            return pictures
        padded = functional.pad(pictures, (self.margin,) * 4, mode="reflect")
        corners = torch.randint(2 * self.margin + 1, (2, n, 1)).to(pictures.device)
        rows = corners[0] + torch.arange(h, device=pictures.device)
        columns = corners[1] + torch.arange(w, device=pictures.device)
        picture = torch.arange(n, device=pictures.device)[:, None, None, None]
        channel = torch.arange(c, device=pictures.device)[None, :, None, None]
        return padded[picture, channel, rows[:, None, :, None], columns[:, None, None, :]]


@dataclass(frozen=True)
class RandomFlip:
    """Each picture mirrored left to right, or not, with equal chances."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """A batch of the same shape."""
        flipped = torch.rand(len(pictures)).to(pictures.device) < 0.5
        return torch.where(flipped[:, None, None, None], pictures.flip(3), pictures)


@dataclass(frozen=True)
class InTurn:
    """One augmentation after the other: `InTurn(RandomCrop(4), RandomFlip())`."""

    augmentations: tuple[Augmentation, ...]

    def __init__(self, *augmentations: Augmentation) -> None:
        object.__setattr__(self, "augmentations", augmentations)

    def __call__(self, pictures: Tensor) -> Tensor:
        """A batch of the same shape."""
        for augmentation in self.augmentations:
            pictures = augmentation(pictures)
        return pictures
