# SPDX-License-Identifier: Apache-2.0
"""He's ResNet-20 for CIFAR-10 in torch, under the names of its published weights.

Source
    He et al., "Deep Residual Learning for Image Recognition", 2016, arXiv:1512.03385, section 4.2,
    with shortcuts of option A: every second pixel, and channels of zeros.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 32, 64)
BLOCKS = 3  # per width


class Block(nn.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, channels: int, made: int) -> None:
        super().__init__()
        self.stride, self.added = made // channels, made - channels
        self.conv1 = nn.Conv2d(channels, made, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(made)
        self.conv2 = nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(made)

    def forward(self, x: Tensor) -> Tensor:
        """A map of `made` channels."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.added:
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.added // 2, self.added // 2))
        return functional.relu(y + x)


class ResNet20(nn.Module):
    """Pictures `n channels 32 32` -> scores of ten classes; of other sizes in fours too."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        before = (WIDTHS[0], *WIDTHS)
        for at, made in enumerate(WIDTHS):
            blocks = [Block(before[at] if not i else made, made) for i in range(BLOCKS)]
            setattr(self, f"layer{at + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(WIDTHS[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """The scores."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: Tensor = self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return scores


def resnet20(weights: Path) -> ResNet20:
    """The network with the weights of a safetensors file, in evaluation mode."""
    network = ResNet20()
    network.load_state_dict(load_file(weights), strict=False)
    return network.eval()
