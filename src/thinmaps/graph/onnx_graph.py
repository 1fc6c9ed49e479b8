# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph as plain Python: what the rooms of the reader hand to each other.

`parse` turns a clean ModelProto (static shapes, constants folded; see `onnx_clean`) into an
`OnnxGraph` of `Op`s. Attributes become Python values, constants become arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Shape: TypeAlias = tuple[int, ...]


class Refusal(Exception):
    """Why one operator cannot become a node of the network; the reader collects all of them."""


@dataclass(frozen=True, eq=False)
class Op:
    """One ONNX node. `name` is never empty: a nameless node takes its first output's name."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int

    @property
    def output(self) -> str:
        """The first output."""
        return self.outputs[0]

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.op_type})"


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """Nodes in execution order; shapes of all values that shape inference knows."""

    ops: tuple[Op, ...]
    constants: Mapping[str, NDArray[Any]]
    shapes: Mapping[str, Shape]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @cached_property
    def producer(self) -> dict[str, Op]:
        """Value name -> the node that makes it."""
        return {name: op for op in self.ops for name in op.outputs if name}


def attribute_values(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes as Python values: strings decoded, lists as tuples, tensors as arrays."""
    return {a.name: _plain(helper.get_attribute_value(a)) for a in node.attribute}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(item) for item in value)
    return value


def default_opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators that the model imports."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def static_shape(type_proto: onnx.TypeProto) -> Shape | None:
    """Sizes of a tensor type, or None unless all of them are known."""
    if not type_proto.tensor_type.HasField("shape"):
        return None
    dims = type_proto.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") for dim in dims):
        return None
    return tuple(dim.dim_value for dim in dims)


def parse(model: onnx.ModelProto) -> OnnxGraph:
    """The graph of a clean model."""
    graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = {value.name: static_shape(value.type) for value in values}
    shapes |= {name: np.shape(array) for name, array in constants.items()}
    opset = default_opset(model)
    return OnnxGraph(
        ops=tuple(_op(node, opset) for node in graph.node),
        constants=constants,
        shapes={name: shape for name, shape in shapes.items() if shape is not None},
        inputs=tuple(value.name for value in graph.input if value.name not in constants),
        outputs=tuple(value.name for value in graph.output),
    )


def _op(node: onnx.NodeProto, opset: int) -> Op:
    standard = node.domain in ("", "ai.onnx")
    return Op(
        name=node.name or next(name for name in node.output if name),
        op_type=node.op_type if standard else f"{node.domain}.{node.op_type}",
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes=attribute_values(node),
        opset=opset,
    )
