# SPDX-License-Identifier: Apache-2.0
"""The tail of a network as the ONNX nodes that it came from: `graph/tail.py` read backwards.

The canonical tail keeps every parameter as an attribute; ONNX wants some of them as inputs, and
has moved them over its versions. Here they go where version 19 of its operators reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import helper

from thinmaps.export.drawing import Drawing
from thinmaps.graph.float_network import Tail, TailNode


def draw_tail(drawing: Drawing, tail: Tail) -> None:
    """Draw every node of the tail; the network's outputs are drawn already."""
    for name, constant in tail.constants.items():
        drawing.name_constant(constant, name)
    for node in tail.nodes:
        draw = _DRAW.get(node.op_type, _draw_plain)
        draw(drawing, node)


def _draw_plain(drawing: Drawing, node: TailNode) -> None:
    """Attributes as they are, perhaps under ONNX's names."""
    attributes = {
        _ATTRIBUTE_NAMES.get(name, name): int(value) if isinstance(value, bool) else value
        for name, value in node.attributes.items()
    }
    drawing.place(node.op_type, node.inputs, node.outputs, attributes)


_ATTRIBUTE_NAMES = {"flip_a": "transA", "flip_b": "transB", "last": "select_last_index"}


def _integers(drawing: Drawing, node: TailNode, name: str) -> str:
    values = np.asarray(node.attributes[name], np.int64).reshape(-1)
    return drawing.constant(values, f"{node.outputs[0]}/{name}")


def _draw_with_inputs(*names: str) -> Callable[[Drawing, TailNode], None]:
    """The named attributes become inputs behind the arrays, all others stay attributes."""

    def draw(drawing: Drawing, node: TailNode) -> None:
        inputs = [*node.inputs, *(_integers(drawing, node, name) for name in names)]
        rest = {key: value for key, value in node.attributes.items() if key not in names}
        _draw_plain(drawing, TailNode(node.op_type, tuple(inputs), node.outputs, rest))

    return draw


def _draw_reduction(drawing: Drawing, node: TailNode) -> None:
    axes = node.attributes["axes"]
    inputs = list(node.inputs) if axes is None else [*node.inputs, _integers(drawing, node, "axes")]
    attributes = {"keepdims": int(node.attributes["keepdims"])}
    if axes is not None and not axes:
        attributes["noop_with_empty_axes"] = 1
    drawing.place(node.op_type, inputs, node.outputs, attributes)


def _draw_clip(drawing: Drawing, node: TailNode) -> None:
    bounds = [
        "" if value is None else drawing.constant(np.float32(value), f"{node.outputs[0]}/{name}")
        for name, value in ((name, node.attributes[name]) for name in ("low", "high"))
    ]
    drawing.place("Clip", [*node.inputs, *bounds], node.outputs)


def _draw_cast(drawing: Drawing, node: TailNode) -> None:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(node.attributes["dtype"]))
    drawing.place("Cast", node.inputs, node.outputs, {"to": dtype})


def _draw_softmax(drawing: Drawing, node: TailNode) -> None:
    """Over one axis the operator itself; over several (before version 13) its definition."""
    axes, name = node.attributes["axes"], node.outputs[0]
    if len(axes) == 1:
        drawing.place(node.op_type, node.inputs, node.outputs, {"axis": axes[0]})
        return
    along = _integers(drawing, node, "axes")
    largest = drawing.add("ReduceMax", [node.inputs[0], along], f"{name}/largest")
    shifted = drawing.add("Sub", [node.inputs[0], largest], f"{name}/shifted")
    powers = drawing.add("Exp", [shifted], f"{name}/powers")
    total = drawing.add("ReduceSum", [powers, along], f"{name}/total")
    if node.op_type == "LogSoftmax":
        logarithm = drawing.add("Log", [total], f"{name}/logarithm")
        drawing.place("Sub", [shifted, logarithm], node.outputs)
    else:
        drawing.place("Div", [powers, total], node.outputs)


def _draw_quantisation(drawing: Drawing, node: TailNode) -> None:
    """Scale and zero point are inputs, of one element each."""
    scale, zero_point = node.attributes["scale"], node.attributes["zero_point"]
    inputs = [
        *node.inputs,
        drawing.constant(np.float32(scale), f"{node.outputs[0]}/scale"),
        drawing.constant(np.uint8(zero_point), f"{node.outputs[0]}/zero_point"),
    ]
    drawing.place(node.op_type, inputs, node.outputs)


_DRAW: Mapping[str, Callable[[Drawing, TailNode], Any]] = {
    **dict.fromkeys(
        ("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"),
        _draw_reduction,
    ),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _draw_softmax),
    **dict.fromkeys(("Reshape", "Expand"), _draw_with_inputs("shape")),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _draw_quantisation),
    "Cast": _draw_cast,
    "Clip": _draw_clip,
    "Slice": _draw_with_inputs("starts", "ends", "axes", "steps"),
    "Split": _draw_with_inputs("sizes"),
    "TopK": _draw_with_inputs("k"),
}
