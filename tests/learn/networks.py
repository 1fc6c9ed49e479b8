# SPDX-License-Identifier: Apache-2.0
"""Small modules like those that people train: residual, squeezing, inverted residual, others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual block of CIFAR's ResNets; the shortcut is a slice and a border of zeros."""

    def __init__(self, channels: int, made: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, made, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(made)
        self.conv2 = nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(made)
        self.border = made - channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.border:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.border // 2, self.border // 2))
        return F.relu(x + y)


class SmallResNet(nn.Module):
    """Like ResNet-20, with one block per stage."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Block(8, 8, 1))
        self.layer2 = nn.Sequential(Block(8, 16, 2))
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class ResNet20(nn.Module):
    """He's ResNet-20 for CIFAR-10, under the names of its published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Fire(nn.Module):
    """SqueezeNet's module."""

    def __init__(self, channels: int, squeezed: int, made: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, made, 1)
        self.expand3x3 = nn.Conv2d(squeezed, made, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.squeeze(x))
        return torch.cat([self.act(self.expand1x1(x)), self.act(self.expand3x3(x))], 1)


def small_squeezenet() -> nn.Module:
    """Like SqueezeNet 1.1: ceil_mode pools, concatenations, a convolution as the classifier."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(8, 4, 8),
        Fire(16, 4, 8),
        nn.Dropout(),
        nn.Conv2d(16, 10, 1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
    )


class Inverted(nn.Module):
    """MobileNetV2's bottleneck."""

    def __init__(self, channels: int, made: int, stride: int) -> None:
        super().__init__()
        hidden = 2 * channels
        self.conv = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, made, 1, bias=False),
            nn.BatchNorm2d(made),
        )
        self.has_skip = stride == 1 and channels == made

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_skip else self.conv(x)


def small_mobilenet() -> nn.Module:
    """Like MobileNetV2."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(inplace=True),
        Inverted(8, 8, 1),
        Inverted(8, 12, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )


class Bent(nn.Sequential):
    """A PReLU behind a batch norm that no convolution can take in."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, 2, padding=1),
            nn.PReLU(8),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        )


class Curved(nn.Module):
    """The rest: gates, curves, transposed convolution, resizing, pixel shuffle, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, padding=2)
        self.act = nn.PReLU(8)
        self.gate = nn.Conv2d(8, 8, 1)
        self.pool = nn.AvgPool2d(3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=2)
        self.last = nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act(self.first(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        small = F.silu(self.pool(x))
        up = F.hardswish(self.up(small))
        near = F.interpolate(small, scale_factor=2.0)
        part, _ = (up + near).chunk(2, 1)
        smooth = F.interpolate(small, scale_factor=2.0, mode="bilinear")
        return F.pixel_shuffle(self.last(torch.cat([part, smooth], 1)), 2), small


NETWORKS = {
    "resnet": SmallResNet,
    "squeezenet": small_squeezenet,
    "mobilenet": small_mobilenet,
    "curved": Curved,
    "bent": Bent,
}


def small(name: str, seed: int = 1) -> nn.Module:
    """One of them with random weights and random statistics in its batch norms."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.3, 1.5)
    return model.eval()


def pictures(count: int = 6, size: int = 16, seed: int = 2) -> Tensor:
    """Pictures in real units, n c h w."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
