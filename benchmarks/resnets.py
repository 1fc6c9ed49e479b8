# SPDX-License-Identifier: Apache-2.0
"""ResNet-18 and ResNet-50 as float ONNX, with random weights: speed and memory need shapes only.

Source
    He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385. The stride of
    a bottleneck sits in its 3x3 convolution, as in the networks that people download today.

Weights follow He's initialisation, so that a convolution and its Relu keep the size of values; the
last convolution of a block is scaled down, so that sums do not grow from block to block. Biases
stand for folded batch normalisation. The same seed gives the same network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

CLASSES = 1000
BRANCH_GAIN = 0.5  # of the last convolution of a block


@dataclass
class Drawing:
    """An ONNX graph that grows node by node; a map is named by the node that makes it."""

    generator: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list)
    stored: list[TensorProto] = field(default_factory=list)

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Append a node; the name of its output."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def random(self, shape: tuple[int, ...], deviation: float) -> str:
        """Append normally distributed weights; their name."""
        values = deviation * self.generator.standard_normal(shape, np.float32)
        self.stored.append(numpy_helper.from_array(values, f"weights_{len(self.stored)}"))
        return self.stored[-1].name

    def convolution(
        self, x: str, shape: tuple[int, int, int], stride: int = 1, gain: float = 1.0
    ) -> str:
        """A square convolution with bias; `shape` is (k, c, r)."""
        k, c, r = shape
        weights = self.random((k, c, r, r), gain * math.sqrt(2 / (c * r * r)))
        bias = self.random((k,), 0.1 * gain)
        return self.node(
            "Conv", x, weights, bias, kernel_shape=[r, r], strides=[stride] * 2, pads=[r // 2] * 4
        )

    def block(self, x: str, c: int, k: int, stride: int, bottleneck: bool) -> str:
        """A residual block from `c` to `k` channels."""
        inner = k // 4 if bottleneck else k
        # (filters, channels, kernel), stride
        basic = [((k, c, 3), stride), ((k, k, 3), 1)]
        narrow = [((inner, c, 1), 1), ((inner, inner, 3), stride), ((k, inner, 1), 1)]
        *front, (shape, last_stride) = narrow if bottleneck else basic
        y = x
        for front_shape, front_stride in front:
            y = self.node("Relu", self.convolution(y, front_shape, front_stride))
        y = self.convolution(y, shape, last_stride, BRANCH_GAIN)
        skip = x if c == k and stride == 1 else self.convolution(x, (k, c, 1), stride, 0.7)
        return self.node("Relu", self.node("Add", y, skip))


def resnet(
    blocks: tuple[int, ...],
    *,
    bottleneck: bool,
    stem: int = 64,
    size: tuple[int, int] = (224, 224),
    seed: int = 0,
) -> onnx.ModelProto:
    """A residual network with `blocks` in each stage, for pictures of `size` (height, width)."""
    drawing = Drawing(np.random.default_rng(seed))
    x = drawing.node("Relu", drawing.convolution("picture", (stem, 3, 7), 2))
    x = drawing.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    c = stem
    for stage, count in enumerate(blocks):
        k = stem * 2**stage * (4 if bottleneck else 1)
        for at in range(count):
            x = drawing.block(x, c, k, 2 if stage and not at else 1, bottleneck)
            c = k
    x = drawing.node("Flatten", drawing.node("GlobalAveragePool", x))
    classes, bias = drawing.random((CLASSES, c), c**-0.5), drawing.random((CLASSES,), 0.1)
    x = drawing.node("Gemm", x, classes, bias, transB=1)
    graph = helper.make_graph(
        drawing.nodes,
        "resnet",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, CLASSES])],
        drawing.stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def resnet18() -> onnx.ModelProto:
    """ResNet-18, 11.7 million weights."""
    return resnet((2, 2, 2, 2), bottleneck=False)


def resnet50() -> onnx.ModelProto:
    """ResNet-50, 25.6 million weights."""
    return resnet((3, 4, 6, 3), bottleneck=True)
