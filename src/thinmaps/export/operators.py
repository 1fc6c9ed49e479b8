# SPDX-License-Identifier: Apache-2.0
"""Each operator of a `Network` as standard ONNX nodes, in the form that runtimes fuse.

Convolutions, pools, sums, products and concatenations stand between `DequantizeLinear` and
`QuantizeLinear`, as ONNX Runtime's own quantiser writes them; operators that only move bytes work
on the bytes. A clamp is a `Clip` of bytes behind the convolution, so it stays an integer one.

What a runtime then computes is our result for Conv, heads, Concat, tables, MaxPool, Slice, Pad,
DepthToSpace and Resize from tables; Add, Mul, averages and ConvTranspose may round one step apart
(it uses fused multiply-adds or float sums there).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadArgument
from thinmaps.export.activations import draw_lookup, gathered, is_requantisation
from thinmaps.export.drawing import Drawing
from thinmaps.export.filter_function import draw_filters
from thinmaps.export.resizing import draw_resize
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import (
    Add,
    AveragePool,
    CodedConv,
    Concat,
    Conv,
    ConvTranspose,
    DepthToSpace,
    Lookup,
    MaxPool,
    Mean,
    Mul,
    Operator,
    Pad,
    Picture,
    Quantise,
    Resize,
    Slice,
    Window,
)
from thinmaps.quant import conv_multiplier

FloatArray = NDArray[np.float32]


def draw_node(drawing: Drawing, network: Network, node: Node) -> None:
    """Draw one node; its inputs are drawn, its output's bytes or real values are then known."""
    draw = _DRAW.get(type(node.operator))
    if draw is None:
        raise BadArgument(
            f"node {node.name!r} is a {node.operator.id}, which standard operators do not compute; "
            "export the network without --winograd"
        )
    draw(drawing, network, node)


def weight_scale(multiplier: FloatArray, input_scale: float, output_scale: float) -> FloatArray:
    """Scales `sw` with `fl(fl(sx * sw) / sy) = multiplier`, where there are such, else the nearest.

    A network keeps only the product. Any `sw` that gives it back, bit for bit, is as good as the
    one that calibration had; it lies within a few units in the last place of the quotient.
    """
    quotient = multiplier.astype(np.float64) * output_scale / input_scale
    best = quotient.astype(np.float32)
    candidate = best.copy()
    for _ in range(4):
        candidate = np.nextafter(candidate, np.float32(0))
    for _ in range(9):
        hit = conv_multiplier(input_scale, candidate, output_scale) == multiplier
        missed = conv_multiplier(input_scale, best, output_scale) != multiplier
        best = np.where(hit & missed, candidate, best)
        candidate = np.nextafter(candidate, np.float32(np.inf))
    return np.asarray(best, np.float32)


def _entry(drawing: Drawing, network: Network, node: Node) -> None:
    """`Picture` and `Quantise`: the caller's real values, preprocessed, become bytes.

    A `Picture`'s table is this very quantisation of the preprocessed values.
    """
    made = drawing.quantised(drawing.reals_of(node.inputs[0]), network.output_spec(node), node.name)
    drawing.give_bytes(node.output, made)


def _conv(drawing: Drawing, network: Network, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Conv | CodedConv)
    spec = network.input_specs(node)[0]
    if isinstance(operator, CodedConv):
        weights = draw_filters(drawing, operator.filters, node.output)
    elif network.output_spec(node).dtype == "float32" and _covers(operator, spec.shape):
        _gemm(drawing, network, node)
        return
    else:
        weights = drawing.constant(operator.weights, f"{node.output}/weights")
    constants = _convolution_constants(drawing, network, node, weights)
    inputs = [drawing.reals_of(node.inputs[0]), *constants]
    made = drawing.add(
        "Conv", inputs, f"{node.output}/sum", _window(operator.window) | {"group": operator.groups}
    )
    drawing.give_reals(node.output, made)
    _clamp(drawing, network, node, operator.low, operator.high)


def _covers(operator: Conv, shape: tuple[int, int, int]) -> bool:
    """Whether the filters see the whole map at once, so that the node is a matrix product."""
    window = operator.window
    return operator.groups == 1 and window.kernel == shape[:2] and not any(window.pads)


def _gemm(drawing: Drawing, network: Network, node: Node) -> None:
    """A head: float32 straight from the int32 sums, as a Gemm without a quantised output."""
    operator = node.operator
    assert isinstance(operator, Conv)
    source, output = network.input_specs(node)[0], network.output_spec(node)
    flat = drawing.add("Flatten", [drawing.bytes_of(node.inputs[0])], f"{node.output}/flat")
    real = drawing.dequantised(flat, source, f"{node.output}/flat")
    rows = operator.weights.reshape(output.channels, -1)
    weights = drawing.constant(rows, f"{node.output}/weights")
    inputs = [real, *_convolution_constants(drawing, network, node, weights)]
    made = drawing.add("Gemm", inputs, f"{node.output}/sum", {"transB": 1})
    shape = drawing.constant(np.array([1, output.channels, 1, 1], np.int64), f"{node.output}/shape")
    drawing.give_reals(node.output, drawing.add("Reshape", [made, shape], f"{node.output}/map"))


def _convolution_constants(
    drawing: Drawing, network: Network, node: Node, weights: str, axis: int = 0
) -> list[str]:
    """A tensor of weights (int8, per channel along `axis`) and bias (int32), dequantised."""
    operator = node.operator
    assert isinstance(operator, Conv | CodedConv | ConvTranspose)
    source, output = network.input_specs(node)[0], network.output_spec(node)
    scale = weight_scale(operator.multiplier, source.scale, output.scale)
    name = node.output
    weight_inputs = [
        weights,
        drawing.constant(scale, f"{name}/weight_scale"),
        drawing.constant(np.zeros(len(scale), np.int8), f"{name}/weight_zero_point"),
    ]
    bias_inputs = [
        drawing.constant(operator.bias, f"{name}/bias"),
        drawing.constant(np.float32(source.scale) * scale, f"{name}/bias_scale"),
        drawing.constant(np.zeros(len(scale), np.int32), f"{name}/bias_zero_point"),
    ]
    return [
        drawing.add("DequantizeLinear", weight_inputs, f"{name}/real_weights", {"axis": axis}),
        drawing.add("DequantizeLinear", bias_inputs, f"{name}/real_bias", {"axis": 0}),
    ]


def _conv_transpose(drawing: Drawing, network: Network, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, ConvTranspose)
    window = operator.window
    source, output = network.input_specs(node)[0], network.output_spec(node)
    constants = _turned_constants(drawing, network, node)
    made = [
        (source.shape[i] - 1) * window.stride[i] + (window.kernel[i] - 1) * window.dilation[i] + 1
        for i in range(2)
    ]
    beyond = [output.shape[i] - made[i] + window.pads[i] + window.pads[i + 2] for i in range(2)]
    attributes = _window(window) | {"group": operator.groups, "output_padding": beyond}
    inputs = [drawing.reals_of(node.inputs[0]), *constants]
    real = drawing.add("ConvTranspose", inputs, f"{node.output}/sum", attributes)
    drawing.give_reals(node.output, real)
    _clamp(drawing, network, node, operator.low, operator.high)


def _turned_constants(drawing: Drawing, network: Network, node: Node) -> list[str]:
    """Weights as ONNX wants them here, `c k/g r s` where ours are `k c/g r s`, and bias.

    Where there are groups no axis of theirs holds a scale per output channel, so the turn comes
    behind the dequantisation; float constants ONNX Runtime would quantise anew, coarser.
    """
    operator = node.operator
    assert isinstance(operator, ConvTranspose)
    groups, (k, c, r, s) = operator.groups, operator.weights.shape
    if groups == 1:
        swapped = operator.weights.swapaxes(0, 1)
        weights = drawing.constant(swapped, f"{node.output}/weights")
        return _convolution_constants(drawing, network, node, weights, axis=1)
    weights = drawing.constant(operator.weights, f"{node.output}/weights")
    real, bias = _convolution_constants(drawing, network, node, weights)
    name = f"{node.output}/turned_weights"
    grouped = drawing.constant(np.array([groups, k // groups, c, r, s], np.int64), name)
    turned = drawing.constant(np.array([groups * c, k // groups, r, s], np.int64), name)
    real = drawing.add("Reshape", [real, grouped], name)
    real = drawing.add("Transpose", [real], name, {"perm": [0, 2, 1, 3, 4]})
    return [drawing.add("Reshape", [real, turned], name), bias]


def _window(window: Window) -> dict[str, Any]:
    return {
        "kernel_shape": list(window.kernel),
        "strides": list(window.stride),
        "dilations": list(window.dilation),
        "pads": list(window.pads),
    }


def _clamp(drawing: Drawing, network: Network, node: Node, low: int, high: int) -> None:
    """Bound the bytes of a node's output, where that is more than saturation does."""
    if (low, high) == (0, 255) or network.output_spec(node).dtype == "float32":
        return
    bounds = [
        drawing.constant(np.uint8(low), f"{node.output}/low"),
        drawing.constant(np.uint8(high), f"{node.output}/high"),
    ]
    inputs = [drawing.bytes_of(node.output), *bounds]
    drawing.give_bytes(node.output, drawing.add("Clip", inputs, f"{node.output}/clamped"))


def _pool_window(network: Network, node: Node, window: Window) -> dict[str, Any]:
    """A pool's window, its end pads stretched to the last window: then no mode of rounding counts.

    Right wherever pads hold nothing: under a maximum, and an average that does not count them.
    """
    source, output = network.input_specs(node)[0], network.output_spec(node)
    pads = list(window.pads)
    for axis in range(2):
        last = (output.shape[axis] - 1) * window.stride[axis]
        reach = last + (window.kernel[axis] - 1) * window.dilation[axis] + 1
        pads[axis + 2] = max(pads[axis + 2], reach - source.shape[axis] - pads[axis])
    return _window(window) | {"pads": pads}


def _max_pool(drawing: Drawing, network: Network, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, MaxPool)
    attributes = _pool_window(network, node, operator.window)
    real = drawing.reals_of(node.inputs[0])
    drawing.give_reals(
        node.output, drawing.add("MaxPool", [real], f"{node.output}/largest", attributes)
    )


def _average_pool(drawing: Drawing, network: Network, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, AveragePool)
    attributes = _pool_window(network, node, operator.window)
    ceil_mode = 0
    if operator.count_include_pad:
        ceil_mode = int(attributes["pads"] != list(operator.window.pads))
        attributes = _window(operator.window) | {"count_include_pad": 1, "ceil_mode": ceil_mode}
    if operator.window.dilation == (1, 1):
        del attributes["dilations"]
    real = drawing.reals_of(node.inputs[0])
    average = drawing.add("AveragePool", [real], f"{node.output}/average", attributes)
    if operator.window.dilation != (1, 1) or ceil_mode:
        # ONNX Runtime's integer pool knows no dilation, and divides by too much where a counted
        # window overhangs. It is not chosen in front of a maximum of one.
        average = drawing.add("Max", [average], f"{node.output}/average")
    drawing.give_reals(node.output, average)


def _simple(op_type: str) -> Callable[[Drawing, Network, Node], None]:
    """An operator of one or two maps without attributes, in real values."""

    def draw(drawing: Drawing, network: Network, node: Node) -> None:
        reals = [drawing.reals_of(name) for name in node.inputs]
        drawing.give_reals(node.output, drawing.add(op_type, reals, f"{node.output}/{op_type}"))
        operator = node.operator
        if isinstance(operator, Add | Mul):
            _clamp(drawing, network, node, operator.low, operator.high)

    return draw


def _lookup(drawing: Drawing, network: Network, node: Node) -> None:
    assert isinstance(node.operator, Lookup)
    draw_lookup(drawing, node.inputs[0], node.output, node.operator.table)


def _concat(drawing: Drawing, network: Network, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Concat)
    specs, output = network.input_specs(node), network.output_spec(node)
    pairs = list(zip(operator.table, specs, strict=True))
    if all(is_requantisation(table, spec, output) for table, spec in pairs):
        reals = [drawing.reals_of(name) for name in node.inputs]
        made = drawing.add("Concat", reals, f"{node.output}/side_by_side", {"axis": 1})
        drawing.give_reals(node.output, made)
        return
    parts = [
        gathered(drawing, drawing.bytes_of(name), table[None], f"{node.output}/part_{i}")
        for i, (name, table) in enumerate(zip(node.inputs, operator.table, strict=True))
    ]
    joined = drawing.add("Concat", parts, f"{node.output}/bytes", {"axis": 1})
    drawing.give_bytes(node.output, joined)


def _slice(drawing: Drawing, network: Network, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Slice)
    height, width, channels = network.output_spec(node).shape
    starts = np.array([operator.channel, operator.row, operator.column], np.int64)
    steps = np.array([1, operator.row_step, operator.column_step], np.int64)
    ends = starts + (np.array([channels, height, width]) - 1) * steps + 1
    constants = [
        drawing.constant(np.asarray(value, np.int64), f"{node.output}/{what}")
        for what, value in (
            ("starts", starts),
            ("ends", ends),
            ("axes", [1, 2, 3]),
            ("steps", steps),
        )
    ]
    tensor = drawing.add("Slice", [drawing.bytes_of(node.inputs[0]), *constants], node.name)
    drawing.give_bytes(node.output, tensor)


def _pad(drawing: Drawing, network: Network, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Pad)
    source, output = network.input_specs(node)[0], network.output_spec(node)
    before = np.array([0, operator.channel, operator.top, operator.left])
    sizes = [(1, *(spec.shape[axis] for axis in (2, 0, 1))) for spec in (source, output)]
    after = np.array(sizes[1]) - np.array(sizes[0]) - before
    constants = [
        drawing.constant(np.concatenate([before, after]).astype(np.int64), f"{node.output}/pads"),
        drawing.constant(np.uint8(operator.value), f"{node.output}/value"),
    ]
    tensor = drawing.add("Pad", [drawing.bytes_of(node.inputs[0]), *constants], node.name)
    drawing.give_bytes(node.output, tensor)


def _resize(drawing: Drawing, network: Network, node: Node) -> None:
    assert isinstance(node.operator, Resize)
    source = network.input_specs(node)[0]
    draw_resize(drawing, node.inputs[0], node.output, node.operator, source)


def _depth_to_space(drawing: Drawing, network: Network, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, DepthToSpace)
    attributes = {"blocksize": operator.block, "mode": operator.mode}
    inputs = [drawing.bytes_of(node.inputs[0])]
    drawing.give_bytes(node.output, drawing.add("DepthToSpace", inputs, node.name, attributes))


_DRAW: Mapping[type[Operator], Callable[[Drawing, Network, Node], None]] = {
    Picture: _entry,
    Quantise: _entry,
    Conv: _conv,
    CodedConv: _conv,
    ConvTranspose: _conv_transpose,
    MaxPool: _max_pool,
    AveragePool: _average_pool,
    Mean: _simple("GlobalAveragePool"),
    Add: _simple("Add"),
    Mul: _simple("Mul"),
    Lookup: _lookup,
    Concat: _concat,
    Slice: _slice,
    Pad: _pad,
    Resize: _resize,
    DepthToSpace: _depth_to_space,
}
