# SPDX-License-Identifier: Apache-2.0
"""Float operators behind the last maps: ONNX node -> canonical `TailNode`.

ONNX has moved parameters from attributes to inputs over its versions; here every parameter that
`tail.py` needs becomes an attribute, resolved once. `tail_node` raises `Refusal` for what the tail
cannot do, so the reader can ask before it decides where a node goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from onnx import helper

from thinmaps.graph.float_network import TailNode
from thinmaps.graph.onnx_draft import Draft
from thinmaps.graph.onnx_graph import Op, Refusal
from thinmaps.graph.onnx_qdq import map_quantisation

Attributes: TypeAlias = dict[str, Any]
_LAST = 2**31 - 1  # ONNX writes "to the end" as any huge number; this one survives JSON


def tail_node(op: Op, draft: Draft) -> TailNode:
    """The canonical form of a node behind the last map."""
    if op.op_type in _RESHAPES:
        shape = draft.output_shape(op)
        return TailNode("Reshape", op.inputs[:1], op.outputs[:1], {"shape": shape})
    if op.op_type not in _FORMS:
        raise Refusal("the operator is not supported")
    inputs, attributes = _FORMS[op.op_type]
    read = tuple(name for name in op.inputs[:inputs] if name)
    op_type = "Identity" if op.op_type == "Dropout" else op.op_type
    outputs = op.outputs if op.op_type in _SEVERAL_OUTPUTS else op.outputs[:1]
    return TailNode(op_type, read, outputs, attributes(op, draft))


def _none(op: Op, draft: Draft) -> Attributes:
    del op, draft
    return {}


def _rank(op: Op, draft: Draft) -> int:
    name = op.inputs[0]
    if name not in draft.graph.shapes:
        raise Refusal("the shape of its input cannot be inferred")
    return len(draft.graph.shapes[name])


def _axis(op: Op, draft: Draft, default: int = 0) -> int:
    return int(op.attributes.get("axis", default)) % _rank(op, draft)


def _on_axis(op: Op, draft: Draft) -> Attributes:
    return {"axis": _axis(op, draft)}


def _softmax(op: Op, draft: Draft) -> Attributes:
    """Before version 13 everything from `axis` on is one axis, by default all but the batch."""
    rank = _rank(op, draft)
    if op.opset < 13:
        return {"axes": tuple(range(_axis(op, draft, 1), rank))}
    return {"axes": (_axis(op, draft, -1),)}


def _argument(op: Op, draft: Draft) -> Attributes:
    return {
        "axis": _axis(op, draft),
        "keepdims": bool(op.attributes.get("keepdims", 1)),
        "last": bool(op.attributes.get("select_last_index", 0)),
    }


def _reduction(op: Op, draft: Draft) -> Attributes:
    axes, rank = draft.parameter(op, "axes", 1), _rank(op, draft)
    given = None if axes is None or axes.size == 0 else sorted(int(a) % rank for a in axes)
    if given is None and op.attributes.get("noop_with_empty_axes", 0):
        given = []
    keep = bool(op.attributes.get("keepdims", 1))
    return {"axes": None if given is None else tuple(given), "keepdims": keep}


def _clip(op: Op, draft: Draft) -> Attributes:
    low, high = draft.number(op, "min", 1), draft.number(op, "max", 2)
    finite = [None if bound is None or math.isinf(bound) else bound for bound in (low, high)]
    return {"low": finite[0], "high": finite[1]}


def _slice(op: Op, draft: Draft) -> Attributes:
    starts, ends = draft.parameter(op, "starts", 1), draft.parameter(op, "ends", 2)
    axes, steps = draft.parameter(op, "axes", 3), draft.parameter(op, "steps", 4)
    if starts is None or ends is None:
        raise Refusal("its bounds are missing")
    count = len(starts)
    return {
        "starts": tuple(max(-_LAST, min(int(s), _LAST)) for s in starts),
        "ends": tuple(max(-_LAST, min(int(e), _LAST)) for e in ends),
        "axes": tuple(range(count)) if axes is None else tuple(int(a) for a in axes),
        "steps": (1,) * count if steps is None else tuple(int(s) for s in steps),
    }


def _split(op: Op, draft: Draft) -> Attributes:
    axis = _axis(op, draft)
    sizes = tuple(draft.output_shape(op, index)[axis] for index in range(len(op.outputs)))
    return {"axis": axis, "sizes": sizes}


def _transpose(op: Op, draft: Draft) -> Attributes:
    reverse = tuple(range(_rank(op, draft)))[::-1]
    return {"perm": tuple(op.attributes.get("perm", reverse))}


def _cast(op: Op, draft: Draft) -> Attributes:
    del draft
    return {"dtype": helper.tensor_dtype_to_np_dtype(op.attributes["to"]).name}


def _gemm(op: Op, draft: Draft) -> Attributes:
    del draft
    return {
        "alpha": float(op.attributes.get("alpha", 1)),
        "beta": float(op.attributes.get("beta", 1)),
        "flip_a": bool(op.attributes.get("transA", 0)),
        "flip_b": bool(op.attributes.get("transB", 0)),
    }


def _top_k(op: Op, draft: Draft) -> Attributes:
    k = draft.number(op, "k", 1)
    if k is None:
        raise Refusal("its k is missing")
    return {
        "k": int(k),
        "axis": _axis(op, draft, -1),
        "largest": bool(op.attributes.get("largest", 1)),
    }


def _expectation(op: Op, draft: Draft) -> Attributes:
    """A 1 x 1 convolution to one channel: the mean of a distribution, as box regression ends."""
    weights = draft.required(op, 1, "weights")
    plain = all(op.attributes.get(name, (1, 1)) == (1, 1) for name in ("strides", "dilations"))
    unpadded = not any(op.attributes.get("pads", ()))
    if weights.shape[0] != 1 or weights.shape[2:] != (1, 1) or not (plain and unpadded):
        raise Refusal("a convolution behind a float operator is supported 1 x 1 to 1 channel only")
    return {}


def _number(name: str, default: float) -> Callable[[Op, Draft], Attributes]:
    return lambda op, draft: {name: float(op.attributes.get(name, default))}


def _hard_sigmoid(op: Op, draft: Draft) -> Attributes:
    del draft
    alpha, beta = op.attributes.get("alpha", 0.2), op.attributes.get("beta", 0.5)
    return {"alpha": float(alpha), "beta": float(beta)}


def _quantisation(op: Op, draft: Draft) -> Attributes:
    """As of uint8: an int8 zero point is rebased, which changes no value."""
    found = map_quantisation(op, draft)
    return {"scale": found.scale, "zero_point": found.zero_point}


def _output_shape(op: Op, draft: Draft) -> Attributes:
    return {"shape": draft.output_shape(op)}


_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_SEVERAL_OUTPUTS = ("Split", "TopK")
_ALL = 1_000_000  # inputs that are arrays; any others are parameters

# Operator -> how many inputs are arrays, and what makes its attributes.
_FORMS: dict[str, tuple[int, Callable[[Op, Draft], Attributes]]] = {
    **dict.fromkeys(
        ("Abs", "Ceil", "Dropout", "Exp", "Floor", "HardSwish", "Identity", "Log", "Neg",
         "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh"),
        (1, _none),
    ),
    **dict.fromkeys(
        ("Add", "Div", "MatMul", "Max", "Min", "Mul", "PRelu", "Pow", "Sub"), (_ALL, _none)
    ),
    **dict.fromkeys(
        ("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"),
        (1, _reduction),
    ),
    **dict.fromkeys(("ArgMax", "ArgMin"), (1, _argument)),
    **dict.fromkeys(("Softmax", "LogSoftmax"), (1, _softmax)),
    "BatchNormalization": (5, _number("epsilon", 1e-5)),
    "Cast": (1, _cast),
    "Clip": (1, _clip),
    "DequantizeLinear": (1, _quantisation),
    "Concat": (_ALL, _on_axis),
    "Conv": (3, _expectation),
    "Expand": (1, _output_shape),
    "Gather": (2, _on_axis),
    "Gemm": (3, _gemm),
    "HardSigmoid": (1, _hard_sigmoid),
    "LeakyRelu": (1, _number("alpha", 0.01)),
    "QuantizeLinear": (1, _quantisation),
    "Slice": (1, _slice),
    "Split": (1, _split),
    "TopK": (1, _top_k),
    "Transpose": (1, _transpose),
}  # fmt: skip
