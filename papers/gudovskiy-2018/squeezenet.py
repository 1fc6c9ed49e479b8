# SPDX-License-Identifier: Apache-2.0
"""SqueezeNet 1.1 in PyTorch, with torchvision's names of parameters.

Source
    Iandola et al., "SqueezeNet", 2016, arXiv:1602.07360, and the authors' version 1.1: smaller
    filters in front, pooling earlier.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Fires = tuple[tuple[int, int, int] | None, ...]

# Channels in, squeezed, and made by each half, of fire2 to fire9; None is a pooling.
FIRES: Fires = (
    (64, 16, 64),
    (128, 16, 64),
    None,
    (128, 32, 128),
    (256, 32, 128),
    None,
    (256, 48, 192),
    (384, 48, 192),
    (384, 64, 256),
    (512, 64, 256),
)


class Fire(nn.Module):
    """A 1 x 1 convolution to few channels, and two beside each other back to many."""

    def __init__(self, channels: int, squeezed: int, made: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeezed, made, 1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeezed, made, 3, padding=1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Both halves, one behind the other."""
        few = self.squeeze_activation(self.squeeze(maps))
        narrow = self.expand1x1_activation(self.expand1x1(few))
        return torch.cat([narrow, self.expand3x3_activation(self.expand3x3(few))], 1)


class SqueezeNet(nn.Module):
    """1,000 classes of ImageNet from pictures of any size; fewer fire modules for tests."""

    def __init__(self, classes: int = 1000, fires: Fires = FIRES) -> None:
        super().__init__()
        widths = [fire[2] for fire in fires if fire is not None]
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2),
            nn.ReLU(),
            _pooling(),
            *(_pooling() if fire is None else Fire(*fire) for fire in fires),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(2 * widths[-1], classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores `n classes` of pictures `n 3 h w`."""
        return self.classifier(self.features(pictures)).flatten(1)


def _pooling() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


# The squeezed map of each fire module, by its name in the student.
SQUEEZED = {
    f"fire{number}": f"features.{place}.squeeze_activation"
    for number, place in zip(
        range(2, 10), [3 + at for at, fire in enumerate(FIRES) if fire], strict=True
    )
}
