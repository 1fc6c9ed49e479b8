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
        n, _, h, w = pictures.shape
        if self.margin >= min(h, w):
            raise BadArgument(f"a crop by {self.margin} pixels needs larger pictures than {h}x{w}")
        if not self.margin:
            return pictures
        padded = functional.pad(pictures, (self.margin,) * 4, mode="reflect")
        corners = torch.randint(2 * self.margin + 1, (2, n, 1)).to(pictures.device)
        return _gathered(padded, corners[0], corners[1], (h, w))


@dataclass(frozen=True)
class RandomWindow:
    """A square of `side` pixels out of each picture, anywhere: a cheaper step, at the same scale.

    Raises:
        BadArgument: the side is not positive, or larger than a picture.
    """

    side: int

    def __post_init__(self) -> None:
        if self.side < 1:
            raise BadArgument(f"the side of a window is 1 pixel or more, got {self.side}")

    def __call__(self, pictures: Tensor) -> Tensor:
        """A batch `n c side side`."""
        n, _, h, w = pictures.shape
        if self.side > min(h, w):
            raise BadArgument(f"a window of {self.side} pixels needs larger pictures than {h}x{w}")
        top = torch.randint(h - self.side + 1, (n, 1)).to(pictures.device)
        left = torch.randint(w - self.side + 1, (n, 1)).to(pictures.device)
        return _gathered(pictures, top, left, (self.side, self.side))


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


def _gathered(pictures: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows of (height, width) at corners `(n, 1)`."""
    n, c = pictures.shape[:2]
    rows = top + torch.arange(size[0], device=pictures.device)
    columns = left + torch.arange(size[1], device=pictures.device)
    picture = torch.arange(n, device=pictures.device)[:, None, None, None]
    channel = torch.arange(c, device=pictures.device)[None, :, None, None]
    return pictures[picture, channel, rows[:, None, :, None], columns[:, None, None, :]]
