# SPDX-License-Identifier: Apache-2.0
"""Export: the uint8 network as one standard ONNX file, so that any runtime gives our numbers.

The file takes what the original model took (float32 `n c h w`, preprocessed) and gives what it
gave, under the same names. In between it is a QDQ network (`operators.py`); a codec on an edge is
a model-local function of standard operators (`codec_functions.py`), and the tail follows as the
nodes it was. Schedules and arenas have no place in ONNX: a runtime holds its maps whole.

Nothing of the machine that wrote it is in the file: no paths, traces or doc strings. The same
model gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from thinmaps.codecs.base import Codec
from thinmaps.export.codec_functions import draw_codec
from thinmaps.export.drawing import Drawing
from thinmaps.export.operators import draw_node
from thinmaps.export.tail import draw_tail
from thinmaps.file import Model, write_atomically
from thinmaps.graph.float_network import Tail
from thinmaps.graph.network import Network, Node


def export(model: Model, path: str | Path) -> None:
    """Write `model` as ONNX to `path`, whole or not at all.

    Raises:
        BadArgument: the path cannot be written, or a codec cannot be expressed in ONNX.
    """
    drawn = to_onnx(model.plan.source, model.plan.codecs, model.tail)
    write_atomically(Path(path), drawn.SerializeToString(deterministic=True))


def to_onnx(
    network: Network, codecs: Mapping[str, Codec] | None = None, tail: Tail | None = None
) -> onnx.ModelProto:
    """The ONNX model of a network, its codecs and its tail.

    Without a tail the outputs are the network's, float32 `n c h w`.

    Raises:
        BadArgument: a codec on an edge is lossy and has no standard operators, or a node has none.
    """
    tail = tail or Tail((), {}, network.outputs)
    drawing = Drawing(network.maps, _reserved(network, tail))
    for name in network.inputs:
        drawing.give_input(name)
    for node in network.nodes:
        draw_node(drawing, network, node)
        if node.output in network.outputs:
            _draw_output(drawing, node.output, tail)
        if codecs and node.output in codecs:
            draw_codec(drawing, node.output, codecs[node.output])
    draw_tail(drawing, tail)
    inputs = [_float_input(network, name) for name in network.inputs]
    return drawing.model(inputs, tail.outputs)


def node_to_onnx(network: Network, node: Node) -> onnx.ModelProto:
    """One node alone: its input maps in, its output map out, as bytes (a head: float32).

    For judging an operator on the very maps that its network has there.
    """
    drawing = Drawing(network.maps, {*node.inputs, f"{node.output}"})
    inputs = []
    for name in dict.fromkeys(node.inputs):
        spec = network.maps[name]
        shape = (1, spec.channels, spec.height, spec.width)
        if name in network.inputs:
            drawing.give_input(name)
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        else:
            drawing.give_bytes(name, name)
            inputs.append(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))
    draw_node(drawing, network, node)
    head = network.output_spec(node).dtype == "float32"
    made = drawing.reals_of(node.output) if head else drawing.bytes_of(node.output)
    drawing.place("Identity", [made], [node.output])
    return drawing.model(inputs, [node.output])


def _draw_output(drawing: Drawing, name: str, tail: Tail) -> None:
    """A last map's real values under its own name, in the shape that the tail reads."""
    spec, real = drawing.maps[name], drawing.reals_of(name)
    shape = (1, spec.channels, spec.height, spec.width)
    needed = tuple(tail.input_shapes.get(name, shape))
    if needed == shape:
        drawing.place("Identity", [real], [name])
    else:
        sizes = drawing.constant(np.array(needed, np.int64), f"{name}/shape")
        drawing.place("Reshape", [real, sizes], [name])


def _reserved(network: Network, tail: Tail) -> set[str]:
    """The names that the original file gave, which ours must not take."""
    names = {*network.inputs, *network.outputs, *tail.outputs, *tail.constants}
    for node in tail.nodes:
        names.update(node.inputs, node.outputs)
    return names


def _float_input(network: Network, name: str) -> onnx.ValueInfoProto:
    """The original input; a picture's, too, is what preprocessing makes of it."""
    spec = network.maps[name]
    readers = network.readers[name]
    channels = network.output_spec(readers[0]).channels if readers else spec.channels
    shape = (1, channels, spec.height, spec.width)
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
