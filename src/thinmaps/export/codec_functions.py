# SPDX-License-Identifier: Apache-2.0
"""A codec as a model-local ONNX function: bytes -> the bytes that its readers see.

The function is the codec's own `standard_operators`, between two casts; exact, since nothing in
them reaches 2**24. A lossless codec changes nothing and needs no function. One function per codec
configuration: edges with equal arithmetic share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from thinmaps.codecs.base import Codec, StandardOperator
from thinmaps.export.drawing import OPSET, Drawing

DOMAIN = "thinmaps.codecs"


def draw_codec(drawing: Drawing, name: str, codec: Codec) -> None:
    """Let the readers of map `name`, drawn from here on, see what `codec` restores.

    Raises:
        BadArgument: the codec is lossy and defines no standard operators.
    """
    operators = codec.standard_operators(drawing.maps[name])
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
        names = [f"operand_{place}_{i}" for i in range(len(operator.operands))]
        for name, operand in zip(names, operator.operands, strict=True):
            # (channels,) becomes (channels, 1, 1) beside n c h w; Clip's bounds stay scalars.
            shaped = operand.reshape(operand.shape + (1, 1) * operand.ndim)
            value = numpy_helper.from_array(np.asarray(shaped, np.float32))
            nodes.append(helper.make_node("Constant", [], [name], value=value))
        inputs, output = [f"real_{place}", *names], f"real_{place + 1}"
        nodes.append(helper.make_node(operator.name, inputs, [output]))
    last = f"real_{len(operators)}"
    nodes.append(helper.make_node("Cast", [last], ["y"], to=TensorProto.UINT8))
    digest = hashlib.sha256(b"".join(n.SerializeToString(deterministic=True) for n in nodes))
    name = f"{codec_id}_{digest.hexdigest()[:12]}"
    return helper.make_function(DOMAIN, name, ["x"], ["y"], nodes, [helper.make_opsetid("", OPSET)])
