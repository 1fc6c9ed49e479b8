# SPDX-License-Identifier: Apache-2.0
"""Operators with a window or weights: ONNX node -> `FloatNode`, one small function per operator.

Each function reads the node, checks what it needs, and adds at most one node to the draft. A form
that we do not have raises `Refusal` with the reason; the reader collects all of them. Geometry
follows the ONNX operator specification, version 1 to 23; where it leaves room, ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from thinmaps.errors import BadModel
from thinmaps.graph.float_network import FloatAveragePool, FloatConv, FloatMean
from thinmaps.graph.onnx_draft import Draft, MapShape
from thinmaps.graph.onnx_graph import Op, Refusal
from thinmaps.graph.onnx_weights import Weights, bias_of, integer_bias_of, weights_of
from thinmaps.graph.operators import MaxPool, Window

Convert: TypeAlias = Callable[[Op, Draft], None]


def window_of(op: Op, kernel: tuple[int, ...], shape: MapShape) -> Window:
    """Kernel, stride, dilation and pads of a node; `auto_pad` is resolved for a map of `shape`."""
    if len(kernel) != 2:
        raise Refusal(f"its kernel has {len(kernel)} axes, only height and width are supported")
    stride = tuple(op.attributes.get("strides", (1, 1)))
    dilation = tuple(op.attributes.get("dilations", (1, 1)))
    mode = op.attributes.get("auto_pad", "NOTSET")
    pads = tuple(op.attributes.get("pads", (0, 0, 0, 0)))
    if mode.startswith("SAME"):
        ends = [
            _same_pads(shape[axis], kernel[axis], stride[axis], dilation[axis], mode)
            for axis in (0, 1)
        ]
        pads = (ends[0][0], ends[1][0], ends[0][1], ends[1][1])
    elif mode == "VALID":
        pads = (0, 0, 0, 0)
    if min(pads) < 0:
        raise Refusal(f"it has negative pads {pads}")
    top, left, bottom, right = pads
    _check_reach(op, kernel, dilation, (shape[0] + top + bottom, shape[1] + left + right))
    return Window((kernel[0], kernel[1]), stride, dilation, (top, left, bottom, right))


def _check_reach(
    op: Op, kernel: Sequence[int], dilation: Sequence[int], padded: tuple[int, int]
) -> None:
    """ONNX's shape inference gives a window larger than its padded map one place; none is right."""
    rows, columns = ((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    if (rows > padded[0] or columns > padded[1]) and not op.attributes.get("ceil_mode", 0):
        raise BadModel(
            f"{op} has a window of {rows}x{columns} over a padded map of {padded[0]}x{padded[1]}; "
            "choose a larger size (--size HxW)"
        )


def _same_pads(extent: int, kernel: int, stride: int, dilation: int, mode: str) -> tuple[int, int]:
    """Pads before and after, so that the output has `ceil(extent / stride)` places."""
    places = -(-extent // stride)
    total = max((places - 1) * stride + (kernel - 1) * dilation + 1 - extent, 0)
    return _halves(total, more_first=mode == "SAME_LOWER")


def _halves(total: int, *, more_first: bool) -> tuple[int, int]:
    small = total // 2
    return (total - small, small) if more_first else (small, total - small)


def convolution(op: Op, draft: Draft) -> None:
    """Conv: weights k c r s as they are."""
    name, shape = draft.image(op)
    weights = weights_of(op, draft, 1)
    if weights.values.ndim != 4:
        axes = weights.values.ndim - 2
        raise Refusal(f"it convolves {axes} axes, only height and width (2) are supported")
    groups = int(op.attributes.get("group", 1))
    _check_channels(op, weights.values.shape[1] * groups, shape[2])
    if weights.values.shape[0] % groups:
        raise BadModel(
            f"{op} has {weights.values.shape[0]} filters, not divisible by {groups} groups"
        )
    window = window_of(op, weights.values.shape[2:], shape)
    draft.make(op, _layer(op, draft, window, groups, weights), (name,))


def _check_channels(op: Op, needed: int, came: int) -> None:
    if needed != came:
        raise BadModel(f"{op} has weights for {needed} channels, its input has {came}")


def _layer(op: Op, draft: Draft, window: Window, groups: int, weights: Weights) -> FloatConv:
    return FloatConv(
        window=window,
        groups=groups,
        weights=weights.values,
        bias=bias_of(op, draft, 2, weights.values.shape[0]),
        transposed=op.op_type == "ConvTranspose",
        integer_weights=weights.integers,
        weight_scale=weights.scale,
        integer_bias=integer_bias_of(op, draft, 2, draft.view(op).map, weights),
        coded=weights.coded,
    )


def transposed_convolution(op: Op, draft: Draft) -> None:
    """ConvTranspose: ONNX stores c k r s with k per group; ours is k c r s with c per group."""
    name, shape = draft.image(op)
    stored = weights_of(op, draft, 1)
    if stored.values.ndim != 4:
        raise Refusal("only height and width (2 axes) are supported")
    groups = int(op.attributes.get("group", 1))
    channels, per_group, rows, columns = stored.values.shape
    _check_channels(op, channels, shape[2])
    weights = stored.arranged(
        lambda w: (
            w.reshape(groups, channels // groups, per_group, rows, columns)
            .swapaxes(1, 2)
            .reshape(groups * per_group, channels // groups, rows, columns)
        )
    )
    window = _transposed_window(op, (rows, columns), shape)
    draft.make(op, _layer(op, draft, window, groups, weights), (name,))


def _transposed_window(op: Op, kernel: tuple[int, int], shape: MapShape) -> Window:
    """The window of a ConvTranspose: `output_shape` and `auto_pad` become pads."""
    mode = op.attributes.get("auto_pad", "NOTSET")
    stride = tuple(op.attributes.get("strides", (1, 1)))
    dilation = tuple(op.attributes.get("dilations", (1, 1)))
    extra = tuple(op.attributes.get("output_padding", (0, 0)))
    wanted = op.attributes.get("output_shape")
    if wanted is None and not mode.startswith("SAME"):
        pads = tuple(op.attributes.get("pads", (0, 0, 0, 0))) if mode == "NOTSET" else (0,) * 4
    else:
        sizes = wanted[-2:] if wanted is not None else (shape[0] * stride[0], shape[1] * stride[1])
        full = [
            stride[a] * (shape[a] - 1) + extra[a] + (kernel[a] - 1) * dilation[a] + 1
            for a in (0, 1)
        ]
        ends = [
            _halves(max(full[a] - sizes[a], 0), more_first=mode != "SAME_UPPER") for a in (0, 1)
        ]
        pads = (ends[0][0], ends[1][0], ends[0][1], ends[1][1])
    top, left, bottom, right = pads
    return Window(kernel, stride, dilation, (top, left, bottom, right))


def gemm(op: Op, draft: Draft) -> None:
    """Gemm behind a flattened map: a convolution whose kernel is the whole map."""
    view = draft.view(op)
    if draft.is_constant(op, 0) or not _is_flat(view.shape, bool(op.attributes.get("transA", 0))):
        raise Refusal(f"it multiplies shape {view.shape}, one flattened map is needed")
    alpha = np.float32(op.attributes.get("alpha", 1.0))
    flipped = bool(op.attributes.get("transB", 0))
    _fully_connected(op, draft, alpha, flipped=flipped)


def matmul(op: Op, draft: Draft) -> None:
    """MatMul of a flattened map and constant weights."""
    if draft.is_constant(op, 0):
        raise Refusal("its first factor is a constant; a flattened map times weights is supported")
    if not _is_flat(draft.view(op).shape, transposed=False):
        raise Refusal(f"it multiplies shape {draft.view(op).shape}, one flattened map is needed")
    _fully_connected(op, draft, np.float32(1), flipped=False)


def _is_flat(shape: tuple[int, ...], transposed: bool) -> bool:
    return len(shape) == 2 and shape[int(transposed)] == 1


def _fully_connected(op: Op, draft: Draft, alpha: np.float32, *, flipped: bool) -> None:
    """Weights (elements, outputs), or flipped, over elements in c h w order."""
    view = draft.view(op)
    height, width, channels = draft.shapes[view.map]
    stored = weights_of(op, draft, 1)
    if stored.values.ndim != 2:
        raise Refusal(f"its weights have {stored.values.ndim} axes, two are needed")
    matrix = stored if flipped else stored.arranged(lambda w: w.T)
    outputs, elements = matrix.values.shape
    if elements != channels * height * width:
        raise BadModel(
            f"{op} has weights for {elements} inputs, the map in front of it has {channels} x "
            f"{height} x {width}; the network needs its own input size"
        )
    weights = matrix.arranged(lambda w: w.reshape(outputs, channels, height, width)).scaled(alpha)
    draft.output_shape(op)
    window = Window((height, width))
    draft.make(op, _layer(op, draft, window, 1, weights), (view.map,), shape=(1, 1, outputs))


def max_pool(op: Op, draft: Draft) -> None:
    """MaxPool; its indices are not made."""
    if len(op.outputs) > 1 and op.outputs[1]:
        raise Refusal("its indices are read; only the maxima are supported")
    name, shape = draft.image(op)
    window = window_of(op, op.attributes["kernel_shape"], shape)
    draft.make(op, MaxPool(window), (name,))


def average_pool(op: Op, draft: Draft) -> None:
    """AveragePool; over the whole map it is a mean, which needs no rows held."""
    name, shape = draft.image(op)
    window = window_of(op, op.attributes["kernel_shape"], shape)
    whole = window.kernel == shape[:2] and window.pads == (0, 0, 0, 0)
    if whole and window.dilation == (1, 1) and draft.output_shape(op)[2:] == (1, 1):
        draft.make(op, FloatMean(), (name,))
        return
    counted = bool(op.attributes.get("count_include_pad", 0))
    draft.make(op, FloatAveragePool(window, counted), (name,))


def global_average_pool(op: Op, draft: Draft) -> None:
    """GlobalAveragePool."""
    name, _ = draft.image(op)
    draft.make(op, FloatMean(), (name,))


def global_max_pool(op: Op, draft: Draft) -> None:
    """GlobalMaxPool: a MaxPool whose kernel is the whole map."""
    name, (height, width, _) = draft.image(op)
    draft.make(op, MaxPool(Window((height, width))), (name,))


def reduce_mean(op: Op, draft: Draft) -> None:
    """ReduceMean over height and width, in n c h w or in n c (h w); keepdims 0 or 1."""
    view = draft.view(op)
    height, width, channels = draft.shapes[view.map]
    axes = draft.parameter(op, "axes", 1)
    rank = len(view.shape)
    over = sorted(int(a) % rank for a in (range(rank) if axes is None else axes.ravel()))
    spatial = {(1, channels, height, width): [2, 3], (1, channels, height * width): [2]}
    if view.shape not in spatial or over != spatial[view.shape]:
        raise Refusal(
            f"it takes the mean of shape {view.shape} over axes {over}; only height and width "
            f"together are supported in front of the last map"
        )
    draft.make(op, FloatMean(), (view.map,), shape=(1, 1, channels))


WINDOWED: dict[str, Convert] = {
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Gemm": gemm,
    "MatMul": matmul,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "ReduceMean": reduce_mean,
}
