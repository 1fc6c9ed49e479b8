# SPDX-License-Identifier: Apache-2.0
"""Make an ONNX model static: batch 1, every size known, constants folded, dead nodes gone.

One walk over the nodes in execution order does it all: a node whose inputs are constants is
computed by ONNX's reference evaluator, `Shape` of a known shape is a constant, and any other node
gets its output types from ONNX's own shape inference, one node at a time, so that a size that does
not fit is reported with the node's name. DequantizeLinear is never folded: `onnx_qdq` reads the
stored integers from it. Value names never change, so ranges collected on the clean model are found
by name. One rewrite saves an operator: a difference of maps becomes a sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.inliner
import onnx.shape_inference
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from thinmaps.errors import BadModel
from thinmaps.graph.onnx_graph import Shape, attribute_values, default_opset, static_shape

DEFAULT_SIZE = (224, 224)
# No honest map or constant is larger; sizes beyond this come from damaged files.
_MOST_ELEMENTS = 2**31
_POOLS_CORRECTED = 22  # version of the standard operators
IR_VERSION = 10  # of the file format; runtimes refuse versions newer than themselves
# Operators in whose constants an infinity means "no bound"; anywhere else it is damage.
_MAY_BE_INFINITE = ("Clip", "Min", "Max", "Where")


def clean(
    model: onnx.ModelProto, size: tuple[int, int] | None = None
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A static copy of `model` and notes for the user (a size that we had to choose).

    `size` (height, width) fixes dynamic sizes and overrides static ones.

    Raises:
        BadModel: a size does not fit (the node is named), a weight is NaN or infinite, an input
            is not a float32 map.
    """
    _check(model)
    model = onnx.inliner.inline_local_functions(model) if model.functions else model
    inputs, notes = _fix_inputs(model, size)
    walk = _Walk(default_opset(model), _cure(size, notes))
    walk.constants.update({t.name: _array(t) for t in model.graph.initializer})
    walk.types.update({value.name: value.type for value in inputs})
    for node in model.graph.node:
        walk.visit(node)
    nodes = _alive(walk.nodes, [value.name for value in model.graph.output])
    _refuse_damaged_weights(nodes, walk.constants)
    _refuse_fixed_batch(model, nodes, walk.constants)
    return _rebuild(model, inputs, nodes, walk), notes


def _cure(size: tuple[int, int] | None, notes: tuple[str, ...]) -> str:
    if size is not None:
        return f"; this network does not accept --size {size[0]}x{size[1]}"
    return "; the network's own size is needed (--size HxW)" if notes else ""


def _check(model: onnx.ModelProto) -> None:
    """ONNX's own checker: cycles, missing inputs and attributes, tensors of the wrong length.

    It insists on types of values that we infer anyway, and that many files leave out.
    """
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    del typed.graph.value_info[:]
    for value in typed.graph.output:
        value.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    try:
        onnx.checker.check_model(typed)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise BadModel(f"the network is not valid ONNX: {reason}") from None


@dataclass
class _Walk:
    """What is known while walking through the nodes."""

    opset: int
    cure: str  # what a message about sizes ends with
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def visit(self, node: onnx.NodeProto) -> None:
        """Fold the node, or keep it and infer the types of its outputs."""
        if self._folds(node) or self._adds(node):
            return
        self.nodes.append(node)
        if all(name in self.types or name in self.constants for name in node.input if name):
            self.types.update(self._infer(node))
            self._check_shapes(node)

    def _adds(self, node: onnx.NodeProto) -> bool:
        """`a - b` of two maps is `a + (-b)`, and the sign goes into the layer that makes b."""
        if node.op_type != "Sub" or not all(self._is_map(name) for name in node.input):
            return False
        minus = f"{node.output[0]}_minus"
        name = node.name or node.output[0]
        self.visit(helper.make_node("Neg", [node.input[1]], [minus], name=f"{name}_minus"))
        self.visit(helper.make_node("Add", [node.input[0], minus], node.output, name=name))
        return True

    def _is_map(self, name: str) -> bool:
        return name not in self.constants and len(self._shape(name) or ()) == 4

    def _check_shapes(self, node: onnx.NodeProto) -> None:
        """What shape inference lets pass: empty maps, a Reshape that spells out every size."""
        for name in filter(None, node.output):
            shape = self._shape(name) or (1,)
            if min(shape) < 1:
                raise BadModel(self._misfit(node, f"nothing is left, {shape}"))
            self._check_extent(node, shape)
        if node.op_type != "Reshape":
            return
        before, after = (self._shape(name) for name in (node.input[0], node.output[0]))
        if before is not None and after is not None and math.prod(before) != math.prod(after):
            raise BadModel(self._misfit(node, f"it makes {after} of {before}"))

    def _check_extent(self, node: onnx.NodeProto, shape: Shape) -> None:
        if math.prod(shape) > _MOST_ELEMENTS:
            raise BadModel(self._misfit(node, f"{shape} is too large"))

    def _shape(self, name: str) -> Shape | None:
        return static_shape(self.types[name]) if name in self.types else None

    def _folds(self, node: onnx.NodeProto) -> bool:
        if node.domain not in ("", "ai.onnx") or node.op_type == "DequantizeLinear":
            return False
        feeds: dict[str, NDArray[Any]] | None
        if node.op_type in ("Shape", "Size") and node.input[0] in self.types:
            shape = static_shape(self.types[node.input[0]])
            # Only its shape is looked at, so all elements may be one zero in memory.
            feeds = None if shape is None else {node.input[0]: np.broadcast_to(_ZERO, shape)}
        elif node.op_type != "Constant" and not any(node.input):
            return False  # without inputs only a Constant is certain to be constant
        elif all(name in self.constants for name in node.input if name):
            feeds = {name: self.constants[name] for name in node.input if name}
        else:
            return False
        if feeds is None:
            return False
        for made in self._infer(node).values():
            self._check_extent(node, static_shape(made) or ())
        self.constants.update(_evaluate(node, feeds, self.opset))
        return True

    def _infer(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """Types of a node's outputs; empty for an operator that ONNX does not define."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            schema = onnx.defs.get_schema(node.op_type, self._version(node), domain)
        except onnx.defs.SchemaError:
            return {}
        promised = attribute_values(node).get("num_outputs", len(node.output))
        if promised != len(node.output):  # ONNX's inference would read past its end
            raise BadModel(self._misfit(node, f"it has {len(node.output)} outputs, not {promised}"))
        constants = {name: self.constants[name] for name in node.input if name in self.constants}
        types = {name: self.types[name] for name in node.input if name in self.types}
        types |= {name: _tensor_type(array) for name, array in constants.items()}
        try:
            return dict(
                onnx.shape_inference.infer_node_outputs(
                    schema,
                    node,
                    types,
                    {name: numpy_helper.from_array(a, name) for name, a in constants.items()},
                    opset_imports=[helper.make_opsetid("", self.opset)],
                )
            )
        except Exception as error:  # the binding raises several unrelated types
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "unknown sizes"
            raise BadModel(self._misfit(node, reason)) from None

    def _version(self, node: onnx.NodeProto) -> int:
        """Pools are inferred by their newest rule: no window may start in the last padding.

        Older versions of the specification overlooked that case of ceil_mode; runtimes did not.
        """
        pools = ("MaxPool", "AveragePool")
        return max(self.opset, _POOLS_CORRECTED) if node.op_type in pools else self.opset

    def _misfit(self, node: onnx.NodeProto, reason: str) -> str:
        name = node.name or node.output[0]
        return f"node {name!r} ({node.op_type}) does not fit its inputs: {reason}{self.cure}"


_ZERO = np.float32(0)


def _tensor_type(array: NDArray[Any]) -> onnx.TypeProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_type_proto(kind, array.shape)


def _array(tensor: onnx.TensorProto) -> NDArray[Any]:
    try:
        return numpy_helper.to_array(tensor)
    except ValueError as error:  # fewer bytes than its shape needs
        raise BadModel(f"tensor {tensor.name!r} is damaged: {error}") from None


def _evaluate(
    node: onnx.NodeProto, feeds: Mapping[str, NDArray[Any]], opset: int
) -> dict[str, NDArray[Any]]:
    """Compute a node on constants."""
    given = [helper.make_value_info(name, _tensor_type(array)) for name, array in feeds.items()]
    names = [name for name in node.output if name]
    made = [helper.make_empty_tensor_value_info(name) for name in names]
    graph = helper.make_graph([node], "constants", given, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        values = ReferenceEvaluator(model).run(names, dict(feeds))
    except Exception as error:  # whatever a malformed node makes the evaluator raise
        name = node.name or names[0]
        raise BadModel(
            f"node {name!r} ({node.op_type}) cannot be computed from its constants: {error}"
        ) from None
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _fix_inputs(
    model: onnx.ModelProto, size: tuple[int, int] | None
) -> tuple[list[onnx.ValueInfoProto], tuple[str, ...]]:
    """The graph's true inputs with static shapes, batch 1."""
    weights = {tensor.name for tensor in model.graph.initializer}
    fixed: list[onnx.ValueInfoProto] = []
    notes: list[str] = []
    for value in model.graph.input:
        if value.name in weights:
            continue
        dims = [
            max(d.dim_value, 0) if d.HasField("dim_value") else 0
            for d in value.type.tensor_type.shape.dim
        ]
        _check_input(value, dims)
        height, width = size or (dims[2] or DEFAULT_SIZE[0], dims[3] or DEFAULT_SIZE[1])
        if size is None and 0 in dims[2:]:
            notes.append(
                f"input {value.name!r} has no fixed size: {height}x{width} is used (--size HxW "
                f"chooses another)"
            )
        kind = TensorProto.FLOAT
        fixed.append(helper.make_tensor_value_info(value.name, kind, [1, dims[1], height, width]))
    if not fixed:
        raise BadModel("the network has no input")
    return fixed, tuple(notes)


def _check_input(value: onnx.ValueInfoProto, dims: list[int]) -> None:
    """An input must be a float32 map n c h w whose channels are known."""
    kind = value.type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        came = TensorProto.DataType.Name(kind).lower()
        raise BadModel(f"input {value.name!r} must be float32, got {came}; export it in float32")
    if len(dims) != 4:
        raise BadModel(
            f"input {value.name!r} must have four axes (n c h w), got {len(dims)}; only networks "
            f"that read pictures or maps are supported"
        )
    if dims[1] < 1:
        raise BadModel(f"input {value.name!r} must have a fixed number of channels")


def _alive(nodes: list[onnx.NodeProto], outputs: list[str]) -> list[onnx.NodeProto]:
    """The nodes that some output depends on."""
    needed = set(outputs)
    alive: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            alive.append(node)
    return alive[::-1]


def _refuse_damaged_weights(
    nodes: list[onnx.NodeProto], constants: Mapping[str, NDArray[Any]]
) -> None:
    """NaN is damage everywhere, infinity everywhere but in bounds."""
    for node in nodes:
        for name in node.input:
            array = constants.get(name)
            if array is None or array.dtype.kind != "f":
                continue
            endless = node.op_type not in _MAY_BE_INFINITE and bool(np.isinf(array).any())
            if endless or bool(np.isnan(array).any()):
                what = "an infinite value" if endless else "NaN"
                raise BadModel(
                    f"tensor {name!r} of node {node.name or node.output[0]!r} ({node.op_type}) "
                    f"holds {what}; weights must be finite"
                )


def _refuse_fixed_batch(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: Mapping[str, NDArray[Any]]
) -> None:
    """A Reshape that spells out a batch above 1 would silently mix pictures into channels."""
    weights = {tensor.name for tensor in model.graph.initializer}
    batches = {
        value.type.tensor_type.shape.dim[0].dim_value
        for value in model.graph.input
        if value.name not in weights
    }
    for node in nodes:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        target = constants[node.input[1]]
        if target.size and int(target[0]) > 1 and int(target[0]) in batches:
            raise BadModel(
                f"node {node.name or node.output[0]!r} (Reshape) fixes the batch to "
                f"{int(target[0])}; export the network with batch 1 or a dynamic batch"
            )


def _rebuild(
    model: onnx.ModelProto,
    inputs: list[onnx.ValueInfoProto],
    nodes: list[onnx.NodeProto],
    walk: _Walk,
) -> onnx.ModelProto:
    """A model of the kept nodes, with the type of every value."""
    names = [value.name for value in model.graph.output]
    read = {name for node in nodes for name in node.input} | set(names)
    made = [name for node in nodes for name in node.output if name]
    typed = {name: walk.types[name] for name in made if name in walk.types}
    given = {value.name: value for value in model.graph.output}
    outputs = [
        helper.make_value_info(name, typed[name]) if name in typed else given[name]
        for name in names
    ]
    graph = helper.make_graph(
        nodes,
        model.graph.name or "network",
        inputs,
        outputs,
        [numpy_helper.from_array(a, name) for name, a in walk.constants.items() if name in read],
        value_info=[
            helper.make_value_info(name, kind) for name, kind in typed.items() if name not in names
        ],
    )
    return helper.make_model(
        graph,
        opset_imports=list(model.opset_import),
        ir_version=min(model.ir_version, IR_VERSION),
    )
