# SPDX-License-Identifier: Apache-2.0
"""The draft of a `FloatNetwork`: what the operator functions of the reader read and write.

ONNX values are arrays of any rank; ours are maps `h w c`. A `View` says that an ONNX value holds
exactly the elements of a map, in n c h w order, in whatever ONNX shape: so Reshape, Flatten,
Squeeze, Identity and Dropout are no nodes at all, and a Gemm sees the map behind its flat input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadModel
from thinmaps.graph.filter_codes import FilterCoefficients
from thinmaps.graph.float_network import FloatNode, FloatOperator, MapQuantisation
from thinmaps.graph.onnx_graph import OnnxGraph, Op, Refusal, Shape

MapShape: TypeAlias = tuple[int, int, int]  # height, width, channels


@dataclass(frozen=True)
class View:
    """An ONNX value of shape `shape` that holds map `map`."""

    map: str
    shape: Shape


@dataclass(frozen=True, eq=False)
class Stored:
    """A constant as a QDQ file stores it, zero point taken off: `value = scale * integers`."""

    integers: NDArray[np.int64]
    scale: NDArray[np.float32]  # (1,), or one per element of `axis`
    axis: int | None
    coded: FilterCoefficients | None = None  # what the integers were made of

    @property
    def values(self) -> NDArray[np.float32]:
        """Dequantised, in float32 as `DequantizeLinear` does."""
        along = [1] * self.integers.ndim
        if self.axis is not None:
            along[self.axis] = -1
        return self.integers.astype(np.float32) * self.scale.reshape(along)


@dataclass
class Draft:
    """Nodes made so far, in execution order, and what every ONNX value is."""

    graph: OnnxGraph
    stored: Mapping[str, Stored] = field(default_factory=dict)  # QDQ constants, by value name
    quantisation: dict[str, MapQuantisation] = field(default_factory=dict)  # by map name
    views: dict[str, View] = field(default_factory=dict)
    shapes: dict[str, MapShape] = field(default_factory=dict)  # by map name
    nodes: list[FloatNode] = field(default_factory=list)

    def add_input(self, name: str) -> None:
        """An input of the network, n c h w."""
        shape = self.graph.shapes[name]
        self.views[name] = View(name, shape)
        self.shapes[name] = map_shape(shape)

    def view(self, op: Op, index: int = 0) -> View:
        """The map behind an input, in any shape."""
        name = op.inputs[index]
        if name not in self.views:
            raise Refusal(f"its input {name!r} is a constant where a map is needed")
        return self.views[name]

    def image(self, op: Op, index: int = 0) -> tuple[str, MapShape]:
        """The map behind an input that has the map's own shape: n c h w, or n c of a 1 x 1 map."""
        view = self.view(op, index)
        height, width, channels = self.shapes[view.map]
        own = [(1, channels, height, width), *([(1, channels)] if height * width == 1 else [])]
        if view.shape not in own:
            raise Refusal(
                f"it reads shape {view.shape} of a map that is {own[0]} (n c h w); a map can only "
                f"be reshaped behind the last map or in front of a fully connected layer"
            )
        return view.map, self.shapes[view.map]

    def constant(self, op: Op, index: int, what: str = "parameter") -> NDArray[Any] | None:
        """A constant input, None where it is absent."""
        if index >= len(op.inputs) or not op.inputs[index]:
            return None
        name = op.inputs[index]
        if name not in self.graph.constants:
            raise Refusal(f"its {what} {name!r} is computed at run time, a constant is needed")
        return self.graph.constants[name]

    def required(self, op: Op, index: int, what: str) -> NDArray[Any]:
        """A constant input that must be there."""
        array = self.constant(op, index, what)
        if array is None:
            raise BadModel(f"{op} has no {what}")
        return array

    def parameter(self, op: Op, attribute: str, index: int) -> NDArray[Any] | None:
        """A parameter that older operator versions keep in an attribute, newer ones in an input."""
        if attribute in op.attributes:
            return np.asarray(op.attributes[attribute])
        return self.constant(op, index, attribute)

    def number(self, op: Op, attribute: str, index: int) -> float | None:
        """A parameter of one element."""
        array = self.parameter(op, attribute, index)
        if array is not None and array.size != 1:
            raise Refusal(f"its {attribute} has {array.size} values, one is needed")
        return None if array is None else float(array.item())

    def is_constant(self, op: Op, index: int) -> bool:
        """Whether input `index` is a constant."""
        return op.inputs[index] in self.graph.constants

    def output_shape(self, op: Op, index: int = 0) -> Shape:
        """ONNX shape of an output."""
        name = op.outputs[index]
        if name not in self.graph.shapes:
            raise Refusal("the shape of its output cannot be inferred")
        return self.graph.shapes[name]

    def make(
        self,
        op: Op,
        operator: FloatOperator,
        inputs: tuple[str, ...],
        *,
        index: int = 0,
        shape: MapShape | None = None,
    ) -> None:
        """Add a node that makes output `index` of `op`; `shape` where ONNX has another rank."""
        onnx_shape = self.output_shape(op, index)
        output = op.outputs[index]
        self.shapes[output] = shape or map_shape(onnx_shape)
        self.views[output] = View(output, onnx_shape)
        name = op.name if len(op.outputs) == 1 else output
        self.nodes.append(FloatNode(name, operator, inputs, output))

    def alias(self, op: Op, index: int = 0) -> None:
        """Output `index` holds the same elements as the first input: no node."""
        self.views[op.outputs[index]] = View(self.view(op).map, self.output_shape(op, index))


def map_shape(shape: Shape) -> MapShape:
    """`h w c` of an ONNX shape n c h w or n c.

    >>> map_shape((1, 8, 5, 6)), map_shape((1, 10))
    ((5, 6, 8), (1, 1, 10))
    """
    if len(shape) not in (2, 4) or shape[0] != 1 or min(shape) < 1:
        raise Refusal(f"its output has shape {shape}, a map is (1, c, h, w) or (1, c)")
    channels, height, width = (*shape[1:], 1, 1)[:3]
    return height, width, channels
