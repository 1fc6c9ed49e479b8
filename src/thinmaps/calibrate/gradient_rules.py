# SPDX-License-Identifier: Apache-2.0
"""Every operator of a `FloatNetwork`, and its vector-Jacobian product, as ONNX operators.

`forward` writes what a node computes on one picture, `1 c h w`. `backward` takes the gradient `g`
of some number with respect to the node's output, for several such numbers at once (`p c h w`), and
writes the gradients with respect to its inputs:

    convolution           transposed convolution with the same filters, and the other way round
    clamp                 passes where the output lies strictly between its bounds
    sum, product          itself; times the other; summed where an input was broadcast
    average               g / divisor, spread by a transposed convolution with ones
    largest of a window   to the place that won; the first one where several are equal
    function              times its derivative (`scalar_gradient.py`)
    bytes that move       moved back; what nobody read gets 0
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thinmaps.calibrate.gradient_moves import (
    Shape,
    bordered,
    box,
    mixed,
    mixing,
    parts,
    planes,
    put_back,
    sliced,
    summed,
    to_depth,
)
from thinmaps.calibrate.gradient_windows import (
    average,
    convolve,
    convolve_back,
    divisors,
    largest,
    scattered,
    spread,
)
from thinmaps.calibrate.graph_writer import GraphWriter
from thinmaps.calibrate.scalar_gradient import inside, value_and_derivative
from thinmaps.errors import BadModel
from thinmaps.graph.float_network import (
    FloatAdd,
    FloatAveragePool,
    FloatConcat,
    FloatConv,
    FloatMean,
    FloatMul,
    FloatNode,
    FloatPad,
    ScalarFunction,
)
from thinmaps.graph.operators import DepthToSpace, MaxPool, Resize, Slice


@dataclass(frozen=True)
class Place:
    """A node in the graph: values `h w c` of its inputs and output, by name and shape.

    `kept` is what `forward` leaves for `backward`: the winners of a window, a derivative.
    """

    node: FloatNode
    sources: tuple[Shape, ...]
    target: Shape
    inputs: tuple[str, ...]
    output: str = ""
    kept: str = ""


def forward(writer: GraphWriter, place: Place) -> tuple[str, str]:
    """The node's output, and what `backward` needs beside it ("" for nothing)."""
    operator, inputs, source = place.node.operator, place.inputs, place.sources[0]
    kept = ""
    match operator:
        case FloatConv():
            value = convolve(writer, operator, source, place.target, inputs[0])
        case FloatAdd():
            value = writer.add("Add", *inputs)
        case FloatMul():
            value = writer.add("Mul", *inputs)
        case FloatMean():
            value = writer.add("GlobalAveragePool", *inputs)
        case FloatAveragePool():
            value = average(writer, operator, source, place.target, inputs[0])
        case FloatConcat():
            value = writer.add("Concat", *inputs, axis=1)
        case ScalarFunction():
            value, kept = value_and_derivative(writer, operator, inputs[0])
        case FloatPad():
            first = (operator.channel, operator.top, operator.left)
            value = bordered(writer, inputs[0], source, place.target, first, operator.value)
        case MaxPool():
            value, kept = largest(writer, operator, source, place.target, inputs[0])
        case Slice():
            value = sliced(writer, operator, place.target, inputs[0])
        case Resize():
            rows, columns = mixing(operator, source)
            value = mixed(writer, inputs[0], rows, columns.T)
        case DepthToSpace():
            value = writer.add(
                "DepthToSpace", *inputs, blocksize=operator.block, mode=operator.mode
            )
        case _:
            raise BadModel(f"node {place.node.name!r}: no gradient of {type(operator).__name__}")
    return _clamped(writer, place.node, value), kept


def backward(writer: GraphWriter, place: Place, gradient: str, batch: int) -> list[str]:
    """The gradient of each input from that of the output, `batch` of them at once."""
    g = _unclamped(writer, place, gradient)
    operator, source, target = place.node.operator, place.sources[0], place.target
    match operator:
        case FloatConv():
            return [convolve_back(writer, operator, source, target, g)]
        case FloatAdd():
            return [summed(writer, g, shape, target) for shape in place.sources]
        case FloatMul():
            factors = place.inputs[::-1]
            return [
                summed(writer, writer.add("Mul", g, factor), shape, target)
                for factor, shape in zip(factors, place.sources, strict=True)
            ]
        case FloatMean():
            share = writer.add("Mul", g, writer.real(1 / (source[0] * source[1])))
            return [writer.add("Expand", share, writer.integers(planes(source, batch)))]
        case FloatAveragePool():
            share = writer.add("Div", g, divisors(writer, operator, source, target))
            return [spread(writer, operator.window, source, target, share)]
        case FloatConcat():
            return parts(writer, g, place.sources)
        case ScalarFunction():
            return [writer.add("Mul", g, place.kept)]
        case FloatPad():
            first = (operator.channel, operator.top, operator.left)
            return [box(writer, g, first, source)]
        case MaxPool():
            return [scattered(writer, operator, (source, target), place.kept, g, batch)]
        case Slice():
            return [put_back(writer, operator, source, target, g)]
        case Resize():
            rows, columns = mixing(operator, source)
            return [mixed(writer, g, rows.T, columns)]
        case DepthToSpace():
            return [to_depth(writer, operator, source, target, g)]
        case _:
            raise BadModel(f"node {place.node.name!r}: no gradient of {type(operator).__name__}")


def _bounds(writer: GraphWriter, node: FloatNode) -> tuple[str, str]:
    """Names of the clamp's bounds, "" where there is none."""
    low, high = (
        writer.real(bound) if np.isfinite(bound) else "" for bound in (node.low, node.high)
    )
    return low, high


def _clamped(writer: GraphWriter, node: FloatNode, value: str) -> str:
    low, high = _bounds(writer, node)
    return writer.add("Clip", value, low, high) if low or high else value


def _unclamped(writer: GraphWriter, place: Place, gradient: str) -> str:
    low, high = _bounds(writer, place.node)
    if not (low or high):
        return gradient
    passes = inside(writer, place.output, low, high)
    return writer.add("Where", passes, gradient, writer.real(0))
