# SPDX-License-Identifier: Apache-2.0
"""Operators with a window, and their transposes, as ONNX operators.

The transpose of a convolution is a transposed convolution with the same filters; with stride 1 also
a convolution with turned filters. Averages are convolutions with ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thinmaps.calibrate.gradient_moves import Shape, bordered, box, planes
from thinmaps.calibrate.graph_writer import GraphWriter
from thinmaps.graph.float_network import FloatAveragePool, FloatConv
from thinmaps.graph.operators import MaxPool, Window

SMALLEST = float(np.finfo(np.float32).min)


def real_weights(conv: FloatConv) -> NDArray[np.float32]:
    """The filters that the uint8 network uses: the integers times their scale where there are."""
    if conv.integer_weights is None or conv.weight_scale is None:
        return conv.weights
    scale = np.asarray(conv.weight_scale, np.float32).reshape(-1, 1, 1, 1)
    return np.asarray(conv.integer_weights * scale, np.float32)


def averaged_elements(pool: FloatAveragePool, source: Shape, target: Shape) -> NDArray[np.float32]:
    """The divisor at every place of the output, (height, width)."""
    counts = []
    for axis in range(2):
        before, behind = pool.window.pads[axis], pool.window.pads[axis + 2]
        if not pool.count_include_pad:
            before = behind = 0
        taps = np.arange(pool.window.kernel[axis]) * pool.window.dilation[axis]
        firsts = np.arange(target[axis]) * pool.window.stride[axis] - pool.window.pads[axis]
        places = firsts[:, None] + taps
        counts.append(((places >= -before) & (places < source[axis] + behind)).sum(axis=1))
    return np.outer(counts[0], counts[1]).astype(np.float32)


def _geometry(window: Window, large: Shape, small: Shape) -> tuple[dict[str, list[int]], list[int]]:
    """Attributes of a window between a large and a small map, and what the last window leaves.

    The pads behind are those that the last window needs, whatever was declared: rounding up makes
    them larger, rounding down leaves rows and columns that no window sees.
    """
    behind = [
        (small[axis] - 1) * window.stride[axis]
        + (window.kernel[axis] - 1) * window.dilation[axis]
        + 1
        - window.pads[axis]
        - large[axis]
        for axis in range(2)
    ]
    attributes = {
        "kernel_shape": list(window.kernel),
        "strides": list(window.stride),
        "dilations": list(window.dilation),
        "pads": [*window.pads[:2], *(max(0, pad) for pad in behind)],
    }
    return attributes, [max(0, -pad) for pad in behind]


def _by_input(weights: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Filters `k c r s` with inputs first, as ONNX wants them to go the other way."""
    k, c, r, s = weights.shape
    grouped = weights.reshape(groups, k // groups, c, r, s).swapaxes(1, 2)
    return grouped.reshape(groups * c, k // groups, r, s)


def convolve(writer: GraphWriter, conv: FloatConv, source: Shape, target: Shape, x: str) -> str:
    """The convolution, transposed or not, with its bias."""
    weights, bias = real_weights(conv), writer.real(conv.bias)
    if not conv.transposed:
        attributes, _ = _geometry(conv.window, source, target)
        return writer.add("Conv", x, writer.real(weights), bias, group=conv.groups, **attributes)
    attributes, left = _geometry(conv.window, target, source)
    filters = writer.real(_by_input(weights, conv.groups))
    return writer.add(
        "ConvTranspose", x, filters, bias, group=conv.groups, output_padding=left, **attributes
    )


def convolve_back(
    writer: GraphWriter, conv: FloatConv, source: Shape, target: Shape, g: str
) -> str:
    """The transpose of the convolution, without the bias."""
    weights = real_weights(conv)
    if conv.transposed:
        attributes, _ = _geometry(conv.window, target, source)
        filters = writer.real(_by_input(weights, conv.groups))
        return writer.add("Conv", g, filters, group=conv.groups, **attributes)
    attributes, left = _geometry(conv.window, source, target)
    reach = [
        (size - 1) * step
        for size, step in zip(conv.window.kernel, conv.window.dilation, strict=True)
    ]
    turned = [reach[at % 2] - pad for at, pad in enumerate(attributes["pads"])]
    if conv.window.stride == (1, 1) and min(turned) >= 0 and not any(left):
        # The same sums, and runtimes are several times faster at them.
        flipped = _by_input(weights, conv.groups)[:, :, ::-1, ::-1]
        attributes["pads"] = turned
        return writer.add("Conv", g, writer.real(flipped), group=conv.groups, **attributes)
    return writer.add(
        "ConvTranspose",
        g,
        writer.real(weights),
        group=conv.groups,
        output_padding=left,
        **attributes,
    )


def divisors(writer: GraphWriter, pool: FloatAveragePool, source: Shape, target: Shape) -> str:
    """`averaged_elements` as a constant `1 1 h w`."""
    return writer.real(averaged_elements(pool, source, target)[None, None])


def average(
    writer: GraphWriter, pool: FloatAveragePool, source: Shape, target: Shape, x: str
) -> str:
    """Sums by a convolution with ones: runtimes disagree about the divisors of padded averages."""
    attributes, _ = _geometry(pool.window, source, target)
    ones = writer.real(np.ones((source[2], 1, *pool.window.kernel)))
    sums = writer.add("Conv", x, ones, group=source[2], **attributes)
    return writer.add("Div", sums, divisors(writer, pool, source, target))


def spread(writer: GraphWriter, window: Window, source: Shape, target: Shape, g: str) -> str:
    """Each value to all places under its window."""
    attributes, left = _geometry(window, source, target)
    ones = writer.real(np.ones((source[2], 1, *window.kernel)))
    return writer.add("ConvTranspose", g, ones, group=source[2], output_padding=left, **attributes)


def _padded(pool: MaxPool, source: Shape, target: Shape) -> tuple[tuple[int, int], Shape]:
    """Rows and columns before the map, and the shape with the border that the windows reach."""
    top, left, bottom, right = _geometry(pool.window, source, target)[0]["pads"]
    return (top, left), (source[0] + top + bottom, source[1] + left + right, source[2])


def largest(
    writer: GraphWriter, pool: MaxPool, source: Shape, target: Shape, x: str
) -> tuple[str, str]:
    """The largest value under each window, and its place in the padded map."""
    (top, left), padded = _padded(pool, source, target)
    if padded != source:
        x = bordered(writer, x, source, padded, (0, top, left), SMALLEST)
    attributes, _ = _geometry(pool.window, source, target)
    value, places = writer.add_several("MaxPool", [x], 2, {**attributes, "pads": [0] * 4})
    return value, places


def scattered(
    writer: GraphWriter,
    pool: MaxPool,
    shapes: tuple[Shape, Shape],
    winners: str,
    g: str,
    batch: int,
) -> str:
    """Each value added to the place in the source that its window's largest came from.

    `shapes` are those of the source and the target, `winners` the places that `largest` gave.
    """
    (top, left), padded = _padded(pool, *shapes)
    elements, values = int(np.prod(padded)), int(np.prod(shapes[1]))
    places = writer.reshaped(winners, (1, values))
    places = writer.add("Expand", places, writer.integers((batch, values)))
    nothing = writer.add("ConstantOfShape", writer.integers((batch, elements)))
    flat = writer.reshaped(g, (batch, values))
    sums = writer.add("ScatterElements", nothing, places, flat, axis=1, reduction="add")
    return box(writer, writer.reshaped(sums, planes(padded, batch)), (0, top, left), shapes[0])
