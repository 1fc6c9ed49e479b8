# SPDX-License-Identifier: Apache-2.0
"""Tiny networks, loaders and options for the tests of training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thinmaps.learn import DistillationLosses, TrainingOptions, distill

CLASSES = 5


def network(seed: int = 0, classes: int = CLASSES, width: int = 6) -> nn.Sequential:
    """Two convolutions and a head for pictures of any size."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


def pictures(count: int, seed: int = 1) -> Tensor:
    """Noise, float 3 x 8 x 8 each."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def batches(count: int, each: int = 4) -> list[Tensor]:
    """A loader that is a list."""
    return list(pictures(count * each).split(each))


def options(**changed: Any) -> TrainingOptions:
    """On the CPU, at rates that show in a few steps, with a row per step."""
    chosen = {"accelerator": "cpu", "network_rate": 1e-2, "log_every": 1, **changed}
    return TrainingOptions(**chosen)


def parted_run(loader: list[Tensor]) -> nn.Module:
    """A student after a run by layers, then whole, with a parameter that nothing uses."""
    student = network(2)
    student.register_parameter("idle", nn.Parameter(torch.ones(3)))
    losses = DistillationLosses(maps=["1", "3"], layerwise_until=0.5)
    chosen = options(optimizer=torch.optim.SGD)
    distill(student, network(1), loader, steps=4, losses=losses, options=chosen)
    return student


def weights(module: nn.Module) -> Tensor:
    """All parameters, flat."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).cpu()
