# SPDX-License-Identifier: Apache-2.0
"""The tail of a network in NumPy: float operators behind the last maps (softmax, reshapes, boxes).

`evaluate` runs a `Tail`, which the reader has brought into one canonical form: every parameter is
an attribute (a JSON value), every shape is static, Reshape stands for Flatten, Squeeze and
Unsqueeze too. Arithmetic is float32, as in ONNX. Needs no ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadShape
from thinmaps.graph.float_network import Tail, TailNode
from thinmaps.quant import dequantise, quantise

Array: TypeAlias = NDArray[Any]
Evaluate: TypeAlias = Callable[..., "Array | tuple[Array, ...]"]


def evaluate(tail: Tail, maps: Mapping[str, NDArray[np.float32]]) -> dict[str, Array]:
    """The network's final outputs from its last maps, each float32 `(height, width, channels)`.

    Raises:
        BadShape: a map has not as many elements as the tail was made for.
    """
    values: dict[str, Array] = dict(tail.constants)
    for name, shape in tail.input_shapes.items():
        values[name] = _as_onnx(name, maps[name], tuple(shape))
    for node in tail.nodes:
        values.update(_run(node, [values[name] for name in node.inputs]))
    return {name: values[name] for name in tail.outputs}


def _as_onnx(name: str, map_values: Array, shape: tuple[int, ...]) -> Array:
    """h w c -> n c h w, or whatever shape ONNX gives these elements."""
    if map_values.size != np.prod(shape):
        raise BadShape(f"map {name!r} needs {shape} elements (n c h w), got {map_values.shape}")
    planes = np.ascontiguousarray(np.moveaxis(map_values, -1, 0), np.float32)
    return planes.reshape(shape)


def _run(node: TailNode, inputs: list[Array]) -> dict[str, Array]:
    made = OPERATORS[node.op_type](*inputs, **node.attributes)
    parts = made if isinstance(made, tuple) else (made,)
    # A name may be empty: that output is not wanted.
    return dict(zip(node.outputs, parts, strict=False))


def _axes(axes: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if axes is None else tuple(axes)


def _reduction(function: Callable[..., Array]) -> Evaluate:
    def reduce(x: Array, axes: Sequence[int] | None = None, keepdims: bool = True) -> Array:
        return np.asarray(function(x, axis=_axes(axes), keepdims=keepdims))

    return reduce


def _softmax(x: Array, axes: Sequence[int]) -> Array:
    powers = np.exp(x - x.max(axis=_axes(axes), keepdims=True))
    return np.asarray(powers / powers.sum(axis=_axes(axes), keepdims=True))


def _log_softmax(x: Array, axes: Sequence[int]) -> Array:
    shifted = x - x.max(axis=_axes(axes), keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=_axes(axes), keepdims=True)))


def _sigmoid(x: Array) -> Array:
    # exp of a negative number only, so nothing overflows.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(x.dtype)


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    return np.asarray(np.clip(x * x.dtype.type(alpha) + x.dtype.type(beta), 0, 1))


def _argument(function: Callable[..., Array]) -> Evaluate:
    def best(x: Array, axis: int, keepdims: bool, last: bool = False) -> Array:
        """Ties go to the lowest index, or to the highest where `last`."""
        found = function(np.flip(x, axis) if last else x, axis=axis, keepdims=keepdims)
        return x.shape[axis] - 1 - found if last else found

    return best


def _slice(x: Array, starts: Sequence[int], ends: Sequence[int], **where: Sequence[int]) -> Array:
    places = [slice(None)] * x.ndim
    for axis, start, end, step in zip(where["axes"], starts, ends, where["steps"], strict=True):
        # Going backwards, an end before the first element cannot be written as an index.
        stop = None if step < 0 and end < -x.shape[axis] else end
        places[axis] = slice(start, stop, step)
    return x[tuple(places)]


def _split(x: Array, axis: int, sizes: Sequence[int]) -> tuple[Array, ...]:
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


def _batch_normalization(
    x: Array, scale: Array, shift: Array, mean: Array, variance: Array, epsilon: float
) -> Array:
    factor = scale / np.sqrt(variance + np.float32(epsilon))
    along = (-1,) + (1,) * (x.ndim - 2)
    return np.asarray(x * factor.reshape(along) + (shift - mean * factor).reshape(along))


def _clip(x: Array, low: float | None = None, high: float | None = None) -> Array:
    if low is not None:
        x = np.maximum(x, x.dtype.type(low))
    return x if high is None else np.minimum(x, x.dtype.type(high))


def _gemm(a: Array, b: Array, c: Array | None = None, **how: float) -> Array:
    left = a.T if how["flip_a"] else a
    right = b.T if how["flip_b"] else b
    product = np.float32(how["alpha"]) * (left @ right)
    return np.asarray(product if c is None else product + np.float32(how["beta"]) * c)


def _expectation(x: Array, weights: Array, bias: Array | None = None) -> Array:
    """A convolution 1 x 1 to one channel."""
    mixed = np.tensordot(x, weights[0, :, 0, 0], axes=(1, 0))[:, None]
    return np.asarray(mixed if bias is None else mixed + bias)


def _largest(x: Array, k: int, axis: int, largest: bool) -> tuple[Array, Array]:
    order = np.argsort(-x if largest else x, axis=axis, kind="stable")
    order = np.take(order, range(k), axis=axis)
    return np.take_along_axis(x, order, axis), order


def _folded(function: Callable[[Array, Array], Array]) -> Evaluate:
    def over_all(first: Array, *others: Array) -> Array:
        for other in others:
            first = function(first, other)
        return first

    return over_all


OPERATORS: dict[str, Evaluate] = {
    "Abs": np.abs,
    "Add": np.add,
    "ArgMax": _argument(np.argmax),
    "ArgMin": _argument(np.argmin),
    "BatchNormalization": _batch_normalization,
    "Cast": lambda x, dtype: x.astype(dtype),
    "Ceil": np.ceil,
    "Clip": _clip,
    "Concat": lambda *arrays, axis: np.concatenate(arrays, axis=axis),
    "DequantizeLinear": dequantise,
    "Conv": _expectation,
    "Div": np.divide,
    "Exp": np.exp,
    "Expand": lambda x, shape: np.broadcast_to(x, shape),
    "Floor": np.floor,
    "Gather": lambda x, indices, axis: np.take(x, indices.astype(np.int64), axis=axis),
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5),
    "Identity": lambda x: x,
    "LeakyRelu": lambda x, alpha: np.where(x < 0, x * x.dtype.type(alpha), x),
    "Log": np.log,
    "LogSoftmax": _log_softmax,
    "MatMul": np.matmul,
    "Max": _folded(np.maximum),
    "Min": _folded(np.minimum),
    "Mul": np.multiply,
    "Neg": np.negative,
    "PRelu": lambda x, slope: np.where(x < 0, x * slope, x),
    "Pow": lambda x, power: np.power(x, power).astype(x.dtype),
    "QuantizeLinear": quantise,
    "Reciprocal": np.reciprocal,
    "ReduceL2": _reduction(lambda x, **how: np.sqrt(np.square(x).sum(**how))),
    "ReduceMax": _reduction(np.max),
    "ReduceMean": _reduction(np.mean),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "Relu": lambda x: np.maximum(x, 0),
    "Reshape": np.reshape,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": lambda x: np.logaddexp(x, 0),
    "Split": _split,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Tanh": np.tanh,
    "TopK": _largest,
    "Transpose": lambda x, perm: np.transpose(x, tuple(perm)),
}
