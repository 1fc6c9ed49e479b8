# SPDX-License-Identifier: Apache-2.0
"""The convolutions that kernels.py times: shapes of real networks, with random filters and pixels.

Filters are normally distributed, the largest of each is 127; sums fill the range of a byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Conv, Window
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine
from thinmaps.types import MapSpec

CHECKED_PIXELS = 64

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """A convolution: channels, size of its input, kernel, stride, groups, dilation; pads to fit."""

    name: str
    inputs: int
    outputs: int
    size: tuple[int, int]
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    dilation: int = 1

    @property
    def window(self) -> Window:
        """Padded by as much as keeps the size at stride 1."""
        pad = (self.kernel - 1) * self.dilation // 2
        sides = [(step, step) for step in (self.kernel, self.stride, self.dilation)]
        return Window(*sides, (pad,) * 4)

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = (-(-extent // self.stride) for extent in self.size)
        return height, width

    @property
    def products(self) -> int:
        """Multiplications of one run, padding included."""
        height, width = self.output_size
        taps = self.inputs // self.groups * self.kernel**2
        return height * width * self.outputs * taps


CASES = (
    Case("3x3 64, 56x56", 64, 64, (56, 56)),
    Case("3x3 64, 135x240", 64, 64, (135, 240)),
    Case("3x3 64, 540x960", 64, 64, (540, 960)),
    Case("3x3 128, 28x28", 128, 128, (28, 28)),
    Case("3x3 256, 14x14", 256, 256, (14, 14)),
    Case("3x3 512, 7x7", 512, 512, (7, 7)),
    Case("3x3 s2 64-128, 56x56", 64, 128, (56, 56), stride=2),
    Case("3x3 s2 256-512, 14x14", 256, 512, (14, 14), stride=2),
    Case("3x3 dilated 64, 56x56", 64, 64, (56, 56), dilation=2),
    Case("1x1 64-256, 56x56", 64, 256, (56, 56), 1),
    Case("1x1 256-64, 56x56", 256, 64, (56, 56), 1),
    Case("1x1 512-128, 28x28", 512, 128, (28, 28), 1),
    Case("1x1 16-96, 112x112", 16, 96, (112, 112), 1),
    Case("1x1 96-24, 56x56", 96, 24, (56, 56), 1),
    Case("1x1 576-96, 14x14", 576, 96, (14, 14), 1),
    Case("1x1 960-320, 7x7", 960, 320, (7, 7), 1),
    Case("first 7x7 s2 3-64, 224x224", 3, 64, (224, 224), 7, 2),
    Case("first 3x3 s2 3-32, 224x224", 3, 32, (224, 224), 3, 2),
    Case("depthwise 96 s2, 112x112", 96, 96, (112, 112), 3, 2, 96),
    Case("depthwise 144, 56x56", 144, 144, (56, 56), 3, 1, 144),
    Case("depthwise 576, 14x14", 576, 576, (14, 14), 3, 1, 576),
    Case("depthwise 576 s2, 14x14", 576, 576, (14, 14), 3, 2, 576),
)


class Convolution:
    """A case with filters and pixels, and how thinmaps runs it."""

    def __init__(self, case: Case) -> None:
        random = np.random.default_rng(case.products)
        taps = case.inputs // case.groups * case.kernel**2
        real = random.standard_normal((case.outputs, taps))
        scales = np.abs(real).max(axis=1, keepdims=True) / 127
        weights = np.rint(real / scales).astype(np.int8)
        shape = (case.outputs, case.inputs // case.groups, case.kernel, case.kernel)
        self.pixels = random.integers(0, 256, (*case.size, case.inputs), np.uint8)
        self.weight_scales = scales[:, 0].astype(np.float32)
        self.x = MapSpec(*case.size, case.inputs, 2.0**-7)
        self.y = MapSpec(*case.output_size, case.outputs, float(np.float32(np.sqrt(taps) / 64)))
        bias = random.integers(-5000, 5000, case.outputs, np.int32)
        multiplier = np.float32(self.x.scale) * self.weight_scales / np.float32(self.y.scale)
        self.node = Conv(case.window, case.groups, weights.reshape(shape), bias, multiplier)
        self.made = np.zeros(self.y.shape, np.uint8)
        maps = {"x": self.x, "y": self.y}
        network = Network((Node("conv", self.node, ("x",), "y"),), maps, ("x",), ("y",))
        self.engine = Engine(build(network, schedule="layer"))

    def run(self) -> None:
        """Once, into `made`."""
        self.engine.run_into([self.pixels], [self.made])

    def verify(self) -> None:
        """Refuse to time wrong answers: the definition at pixels drawn at random, and a corner."""
        self.run()
        random = np.random.default_rng(1)
        drawn = random.integers(0, self.y.shape[:2], (CHECKED_PIXELS, 2))
        for row, column in [(0, 0), (self.y.height - 1, self.y.width - 1), *drawn]:
            expected = self._pixel(int(row), int(column))
            np.testing.assert_array_equal(self.made[row, column], expected)

    def _pixel(self, row: int, column: int) -> Array:
        """All channels of one output pixel."""
        window, weights = self.node.window, self.node.weights.astype(np.int64)
        sums = self.node.bias.astype(np.int64)
        group_inputs, group_outputs = weights.shape[1], len(weights) // self.node.groups
        for r, s in np.ndindex(window.kernel):
            i = row * window.stride[0] - window.pads[0] + r * window.dilation[0]
            j = column * window.stride[1] - window.pads[1] + s * window.dilation[1]
            if not (0 <= i < self.x.height and 0 <= j < self.x.width):
                continue
            values = self.pixels[i, j].reshape(-1, group_inputs).repeat(group_outputs, axis=0)
            sums = sums + (weights[:, :, r, s] * values).sum(axis=1)
        return np.clip(np.rint(sums.astype(np.float32) * self.node.multiplier), 0, 255)
