# SPDX-License-Identifier: Apache-2.0
"""A slow and obvious executor of `FloatNetwork`, in NumPy: the reader's output must run as is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import singledispatch

import numpy as np

from thinmaps.graph import tail
from thinmaps.graph.float_network import (
    FloatAdd,
    FloatAveragePool,
    FloatConcat,
    FloatConv,
    FloatMean,
    FloatMul,
    FloatNetwork,
    FloatPad,
    ScalarFunction,
)
from thinmaps.graph.operators import DepthToSpace, MaxPool, Resize, Slice, Window
from thinmaps.quant import dequantise, quantise


def run(network: FloatNetwork, pictures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Final outputs, the tail included, from inputs n c h w."""
    return tail.evaluate(network.tail, run_maps(network, pictures))


def run_maps(network: FloatNetwork, pictures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every map, h w c float32; those with a scale are rounded to it."""
    maps = {
        name: rounded(network, name, np.moveaxis(pictures[name][0], 0, -1))
        for name in network.inputs
    }
    for node in network.nodes:
        shape = network.shapes[node.output]
        made = compute(node.operator, [maps[name] for name in node.inputs], shape)
        assert made.shape == shape, (node.name, made.shape, shape)
        made = np.clip(made, node.low, node.high).astype(np.float32)
        maps[node.output] = rounded(network, node.output, made)
    return maps


def rounded(network: FloatNetwork, name: str, values: np.ndarray) -> np.ndarray:
    """Values on the grid of a QDQ network's map."""
    if name not in (network.quantisation or {}):
        return values
    scale, zero_point = dataclasses.astuple(network.quantisation[name])
    return dequantise(quantise(values, scale, zero_point), scale, zero_point)


@singledispatch
def compute(operator, inputs, shape):
    raise NotImplementedError(operator)


def windows(x: np.ndarray, window: Window, shape, fill: float) -> np.ndarray:
    """(kernel rows * columns, height, width, channels): what each tap sees."""
    (rows, columns), (down, right) = window.kernel, window.dilation
    height = (shape[0] - 1) * window.stride[0] + (rows - 1) * down + 1
    width = (shape[1] - 1) * window.stride[1] + (columns - 1) * right + 1
    top, left = window.pads[:2]
    canvas = np.full(
        (max(height, top + x.shape[0]), max(width, left + x.shape[1]), x.shape[2]), fill
    )
    canvas[top : top + x.shape[0], left : left + x.shape[1]] = x
    taps = [
        canvas[
            r * down : r * down + (shape[0] - 1) * window.stride[0] + 1 : window.stride[0],
            s * right : s * right + (shape[1] - 1) * window.stride[1] + 1 : window.stride[1],
        ]
        for r in range(rows)
        for s in range(columns)
    ]
    return np.stack(taps)


@compute.register
def _(operator: FloatConv, inputs, shape):
    x, groups = inputs[0].astype(np.float64), operator.groups
    k, c, r, s = operator.weights.shape
    taps = operator.weights.astype(np.float64).reshape(groups, k // groups, c, r * s)
    if operator.transposed:
        return _transposed(operator, x, taps, shape) + operator.bias
    seen = windows(x, operator.window, shape, 0.0)
    seen = seen.reshape(r * s, shape[0] * shape[1], groups, c).transpose(2, 0, 1, 3)
    y = sum(seen[:, t] @ taps[..., t].transpose(0, 2, 1) for t in range(r * s))
    return y.transpose(1, 0, 2).reshape(shape) + operator.bias


def _transposed(operator: FloatConv, x, taps, shape):
    window, groups = operator.window, operator.groups
    y = np.zeros(shape)
    grouped = x.reshape(*x.shape[:2], groups, -1)
    for i, j, r, s in np.ndindex(*x.shape[:2], *window.kernel):
        row = i * window.stride[0] - window.pads[0] + r * window.dilation[0]
        column = j * window.stride[1] - window.pads[1] + s * window.dilation[1]
        if 0 <= row < shape[0] and 0 <= column < shape[1]:
            tap = taps[..., r * window.kernel[1] + s]
            y[row, column] += np.einsum("gc,gkc->gk", grouped[i, j], tap).ravel()
    return y


@compute.register
def _(operator: MaxPool, inputs, shape):
    return windows(inputs[0], operator.window, shape, -np.inf).max(axis=0)


@compute.register
def _(operator: FloatAveragePool, inputs, shape):
    x, window = inputs[0], operator.window
    if operator.count_include_pad:
        top, left, bottom, right = window.pads
        counted = np.ones((x.shape[0] + top + bottom, x.shape[1] + left + right, 1))
        divisor = windows(
            counted, Window(window.kernel, window.stride, window.dilation), (*shape[:2], 1), 0.0
        )
    else:
        divisor = windows(np.ones_like(x), window, shape, 0.0)
    return windows(x, window, shape, 0.0).sum(axis=0) / divisor.sum(axis=0)


@compute.register
def _(operator: FloatMean, inputs, shape):
    return inputs[0].mean(axis=(0, 1), keepdims=True)


@compute.register
def _(operator: FloatAdd, inputs, shape):
    return inputs[0] + inputs[1]


@compute.register
def _(operator: FloatMul, inputs, shape):
    return inputs[0] * inputs[1]


@compute.register
def _(operator: FloatConcat, inputs, shape):
    return np.concatenate(inputs, axis=-1)


@compute.register
def _(operator: ScalarFunction, inputs, shape):
    return operator(inputs[0])


@compute.register
def _(operator: FloatPad, inputs, shape):
    y = np.full(shape, operator.value)
    height, width, channels = inputs[0].shape
    y[
        operator.top : operator.top + height,
        operator.left : operator.left + width,
        operator.channel : operator.channel + channels,
    ] = inputs[0]
    return y


@compute.register
def _(operator: Slice, inputs, shape):
    taken = inputs[0][
        operator.row :: operator.row_step,
        operator.column :: operator.column_step,
        operator.channel :,
    ]
    return taken[: shape[0], : shape[1], : shape[2]]


@compute.register
def _(operator: Resize, inputs, shape):
    x = inputs[0].astype(np.float64)
    row_weight = operator.row_weight[:, None, None] / 2048
    column_weight = operator.column_weight[None, :, None] / 2048
    x = x[operator.rows[:, 0]] * (1 - row_weight) + x[operator.rows[:, 1]] * row_weight
    left, right = x[:, operator.columns[:, 0]], x[:, operator.columns[:, 1]]
    return left * (1 - column_weight) + right * column_weight


@compute.register
def _(operator: DepthToSpace, inputs, shape):
    x, b = inputs[0], operator.block
    y = np.zeros(shape)
    for i, j, c in np.ndindex(*shape):
        place = i % b * b + j % b
        f = place * shape[2] + c if operator.mode == "DCR" else c * b * b + place
        y[i, j, c] = x[i // b, j // b, f]
    return y
