# SPDX-License-Identifier: Apache-2.0
"""ResNet-18 of resnets.py as a PyTorch module with the same weights, batch normalisation folded."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c, k, 3, stride, 1), nn.ReLU(inplace=True), nn.Conv2d(k, k, 3, 1, 1)
        )
        self.skip = nn.Identity() if c == k else nn.Conv2d(c, k, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Input to output."""
        return self.body(x).add_(self.skip(x)).relu_()


def resnet18(model: onnx.ModelProto) -> nn.Module:
    """The module of the network that `resnets.resnet18` or `resnets.resnet` made, channels last."""
    blocks = [
        Block(64 << max(stage - (at == 0), 0), 64 << stage, 2 if stage and not at else 1)
        for stage in range(4)
        for at in range(2)
    ]
    network = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 1000),
    )
    # Both list parameters in the order in which they are used, a block's skip last.
    with torch.no_grad():
        stored = model.graph.initializer
        for parameter, tensor in zip(network.parameters(), stored, strict=True):
            parameter.copy_(torch.from_numpy(np.array(numpy_helper.to_array(tensor))))
    return network.eval().to(memory_format=torch.channels_last)
