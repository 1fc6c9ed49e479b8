# SPDX-License-Identifier: Apache-2.0
"""A codec as a model-local ONNX function: bytes -> the bytes that its readers see.

The function is the codec's own `standard_operators`, between two casts; exact, since nothing in
them reaches 2**24. A lossless codec changes nothing and needs no function. One function per codec
configuration: edges with equal arithmetic share it. What the codec is stands in the metadata, by
the name of the tensor that it holds, so that the file can be read back (`graph/onnx_codecs.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from thinmaps.codecs.base import Codec, StandardOperator
from thinmaps.export.drawing import OPSET, Drawing
from thinmaps.file.codec_text import to_text
from thinmaps.graph.onnx_codecs import DOMAIN, METADATA


def draw_codec(drawing: Drawing, name: str, codec: Codec) -> None:
    """Let the readers of map `name`, drawn from here on, see what `codec` restores.

    Raises:
        BadArgument: the codec is lossy and defines no standard operators.
    """
    operators = codec.standard_operators(drawing.maps[name])
    drawing.metadata[METADATA + drawing.bytes_of(name)] = to_text(codec)
    if not operators:
        return
    function = _function(codec.id, operators)
    drawing.functions.setdefault(function.SerializeToString(deterministic=True), function)
    restored = drawing.add(
        function.name, [drawing.bytes_of(name)], f"{name}/{codec.id}", domain=DOMAIN
    )
    drawing.give_bytes(name, restored)


def _function(codec_id: str, operators: Sequence[StandardOperator]) -> onnx.FunctionProto:
    """`y = codec(x)`, uint8 `n c h w`; named after the codec and a digest of its arithmetic."""
    nodes = [helper.make_node("Cast", ["x"], ["real_0"], to=TensorProto.FLOAT)]
    for place, operator in enumerate(operators):
        if operator.name in _DRAWN_APART:
            nodes += _DRAWN_APART[operator.name](place, operator)
            continue
        names = [f"operand_{place}_{i}" for i in range(len(operator.operands))]
        for name, operand in zip(names, operator.operands, strict=True):
            # (channels,) becomes (channels, 1, 1) beside n c h w; bounds stay scalars.
            shaped = np.asarray(operand.reshape(operand.shape + (1, 1) * operand.ndim))
            nodes.append(_constant(name, shaped.astype(np.float32)))
        inputs, output = [f"real_{place}", *names], f"real_{place + 1}"
        nodes.append(helper.make_node(operator.name, inputs, [output]))
    last = f"real_{len(operators)}"
    nodes.append(helper.make_node("Cast", [last], ["y"], to=TensorProto.UINT8))
    digest = hashlib.sha256(b"".join(n.SerializeToString(deterministic=True) for n in nodes))
    name = f"{codec_id}_{digest.hexdigest()[:12]}"
    return helper.make_function(DOMAIN, name, ["x"], ["y"], nodes, [helper.make_opsetid("", OPSET)])


def _constant(name: str, value: NDArray[Any]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def _lookup(place: int, operator: StandardOperator) -> list[onnx.NodeProto]:
    """`real_place`, bytes, through a table (256, channels or 1) to `real_{place + 1}`.

    The table is stored as bytes, a channel's 256 together, and indexed by 256*channel + byte.
    """
    table = np.asarray(operator.operands[0])
    first = 256 * np.arange(table.shape[1], dtype=np.int64).reshape(-1, 1, 1)
    within, index, byte = (f"{name}_{place}" for name in ("within", "index", "byte"))
    return [
        _constant(f"first_{place}", first),
        _constant(f"table_{place}", table.T.ravel().astype(np.uint8)),
        helper.make_node("Cast", [f"real_{place}"], [within], to=TensorProto.INT64),
        helper.make_node("Add", [within, f"first_{place}"], [index]),
        helper.make_node("Gather", [f"table_{place}", index], [byte]),
        helper.make_node("Cast", [byte], [f"real_{place + 1}"], to=TensorProto.FLOAT),
    ]


def _convolution(place: int, operator: StandardOperator) -> list[onnx.NodeProto]:
    """A convolution, or its transpose, whose stride is its kernel unless `sizes` say otherwise."""
    weights = np.asarray(operator.operands[0], np.float32)
    inputs = [f"real_{place}", f"weights_{place}"]
    window: dict[str, Any] = {"strides": list(weights.shape[2:])}
    if any(operator.sizes):
        stride, padding = operator.sizes
        window = {"strides": [stride] * 2, "pads": [padding] * 4}
        if operator.name == "ConvTranspose":
            window["output_padding"] = [1, 1]
    return [
        _constant(f"weights_{place}", weights),
        helper.make_node(operator.name, inputs, [f"real_{place + 1}"], **window),
    ]


def _padding(place: int, operator: StandardOperator) -> list[onnx.NodeProto]:
    """The last row and column again, below and to the right."""
    below, right = operator.sizes
    inputs = [f"real_{place}", f"pads_{place}"]
    return [
        _constant(f"pads_{place}", np.array([0, 0, 0, 0, 0, 0, below, right], np.int64)),
        helper.make_node("Pad", inputs, [f"real_{place + 1}"], mode="edge"),
    ]


def _cropping(place: int, operator: StandardOperator) -> list[onnx.NodeProto]:
    """The first rows and columns."""
    names = [f"{name}_{place}" for name in ("starts", "ends", "axes")]
    values = ([0, 0], operator.sizes, [2, 3])
    return [
        *(_constant(name, np.array(v, np.int64)) for name, v in zip(names, values, strict=True)),
        helper.make_node("Slice", [f"real_{place}", *names], [f"real_{place + 1}"]),
    ]


_DRAWN_APART: dict[str, Callable[[int, StandardOperator], list[onnx.NodeProto]]] = {
    "Gather": _lookup,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Pad": _padding,
    "Crop": _cropping,
}
