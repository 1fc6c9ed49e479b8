# SPDX-License-Identifier: Apache-2.0
"""Operators of one element: activations, batch-norm, constants added or multiplied, two maps.

All functions of one variable become a `ScalarFunction` of one step; `onnx_fuse` then folds them
into the layer in front, or merges a chain of them into one table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadModel
from thinmaps.graph.float_network import FloatAdd, FloatMul, ScalarFunction
from thinmaps.graph.onnx_draft import Draft, View
from thinmaps.graph.onnx_graph import Op, Refusal
from thinmaps.graph.onnx_operators import Convert

FloatArray = NDArray[np.float32]


def _apply(op: Op, draft: Draft, name: str, *parameters: FloatArray, index: int = 0) -> None:
    """Add a scalar function of the map at input `index`."""
    view = draft.view(op, index)
    if draft.output_shape(op) != view.shape:
        raise Refusal(
            f"its constant enlarges the map from {view.shape} to {draft.output_shape(op)}"
        )
    function = ScalarFunction(((name, parameters),))
    draft.make(op, function, (view.map,), shape=draft.shapes[view.map])


def _number(value: float) -> FloatArray:
    return np.array([value], np.float32)


def _along_channels(constant: NDArray[np.generic], draft: Draft, view: View) -> FloatArray:
    """A constant as 1 or `channels` values; refused where it varies over height or width."""
    values = np.asarray(constant, np.float32)
    if values.size == 1:
        return values.ravel()
    height, width, channels = draft.shapes[view.map]
    has_channels = view.shape == (1, channels, height, width) or view.shape == (1, channels)
    aligned = (1,) * (len(view.shape) - values.ndim) + values.shape
    wanted = (1, channels) + (1,) * (len(view.shape) - 2)
    if not has_channels or aligned != wanted:
        raise Refusal(
            f"its constant has shape {values.shape}; one value, or one per channel, is supported"
        )
    return values.ravel()


def relu(op: Op, draft: Draft) -> None:
    """Relu: a clip from below."""
    _apply(op, draft, "clip", _number(0), _number(np.inf))


def clip(op: Op, draft: Draft) -> None:
    """Clip with constant bounds."""
    low, high = draft.number(op, "min", 1), draft.number(op, "max", 2)
    lowest = _number(-np.inf if low is None else low)
    _apply(op, draft, "clip", lowest, _number(np.inf if high is None else high))


def leaky_relu(op: Op, draft: Draft) -> None:
    """LeakyRelu."""
    _apply(op, draft, "leaky_relu", _number(op.attributes.get("alpha", 0.01)))


def prelu(op: Op, draft: Draft) -> None:
    """PRelu with one slope or one per channel."""
    slope = draft.required(op, 1, "slope")
    _apply(op, draft, "prelu", _along_channels(slope, draft, draft.view(op)))


def hard_sigmoid(op: Op, draft: Draft) -> None:
    """HardSigmoid."""
    alpha, beta = op.attributes.get("alpha", 0.2), op.attributes.get("beta", 0.5)
    _apply(op, draft, "hard_sigmoid", _number(alpha), _number(beta))


def named(name: str) -> Convert:
    """A function without parameters."""

    def convert(op: Op, draft: Draft) -> None:
        _apply(op, draft, name)

    return convert


def elu(op: Op, draft: Draft) -> None:
    """Elu."""
    _apply(op, draft, "elu", _number(op.attributes.get("alpha", 1.0)))


def bound(op: Op, draft: Draft) -> None:
    """Max or Min of a map and one constant: a clip, as some exporters write Relu.

    Max or Min of two lines of one map: a function with a kink, as our export writes PRelu.
    """
    if len(op.inputs) != 2:
        raise Refusal(f"it compares {len(op.inputs)} values; two are supported")
    if (beside := _constant_beside_map(op, draft)) is None:
        _bound_of_lines(op, draft)
        return
    index, values = beside
    if values.size != 1:
        raise Refusal("its constant varies over channels; one value is supported")
    endless = _number(np.inf if op.op_type == "Max" else -np.inf)
    bounds = (values, endless) if op.op_type == "Max" else (endless, values)
    _apply(op, draft, "clip", *bounds, index=index)


def _bound_of_lines(op: Op, draft: Draft) -> None:
    (source, *line), (other, *other_line) = (_line(draft.view(op, i).map, draft) for i in (0, 1))
    if source != other or draft.output_shape(op) != draft.view(op).shape:
        raise Refusal(
            "it compares two maps; a map and one constant, or two lines `slope * x + shift` of "
            "one map, are supported"
        )
    sign = _number(1 if op.op_type == "Max" else -1)
    steps = [("larger_line", (*(sign * p for p in line), *(sign * p for p in other_line)))]
    if op.op_type == "Min":
        steps.append(("affine", (sign, _number(0))))
    draft.make(op, ScalarFunction(tuple(steps)), (source,))


def _line(name: str, draft: Draft) -> tuple[str, FloatArray, FloatArray]:
    """The map from which affine steps lead to map `name`, and their slope and shift together."""
    made = {node.output: node for node in draft.nodes}
    slope, shift = np.ones(1), np.zeros(1)
    while name in made and name not in draft.quantisation:
        function = made[name].operator
        if not isinstance(function, ScalarFunction) or len(function.steps) != 1:
            break
        step, parameters = function.steps[0]
        if step != "affine":
            break
        scale, moved = (np.asarray(p, np.float64) for p in parameters)
        slope, shift = slope * scale, shift + slope * moved
        (name,) = made[name].inputs
    return name, slope.astype(np.float32), shift.astype(np.float32)


def total(op: Op, draft: Draft) -> None:
    """Sum of two."""
    if len(op.inputs) != 2:
        raise Refusal(f"it sums {len(op.inputs)} maps, two are supported")
    addition(op, draft)


def negative(op: Op, draft: Draft) -> None:
    """Neg."""
    _apply(op, draft, "affine", _number(-1), _number(0))


def batch_normalization(op: Op, draft: Draft) -> None:
    """BatchNormalization with its stored statistics: `scale * x + shift` per channel."""
    if op.attributes.get("training_mode", 0):
        raise Refusal("it is in training mode; export the network for inference")
    names = ("scale", "bias", "mean", "variance")
    gamma, beta, mean, variance = (
        np.asarray(draft.required(op, index, name), np.float64)
        for index, name in enumerate(names, start=1)
    )
    channels = draft.shapes[draft.view(op).map][2]
    if {gamma.shape, beta.shape, mean.shape, variance.shape} != {(channels,)}:
        raise BadModel(f"{op} needs {channels} values of scale, bias, mean and variance")
    spread = variance + op.attributes.get("epsilon", 1e-5)
    if not np.all(spread > 0):
        raise BadModel(f"{op} has a variance that is not positive: {spread.min():.3g}")
    scale = gamma / np.sqrt(spread)
    shift = beta - mean * scale
    _apply(op, draft, "affine", scale.astype(np.float32), shift.astype(np.float32))


def _affine(op: Op, draft: Draft, index: int, scale: FloatArray, shift: FloatArray) -> None:
    _apply(op, draft, "affine", scale, shift, index=index)


def _constant_beside_map(op: Op, draft: Draft) -> tuple[int, FloatArray] | None:
    """Index of the map input and the constant's values, or None for two maps."""
    for constant, other in ((1, 0), (0, 1)):
        if draft.is_constant(op, constant):
            values = draft.graph.constants[op.inputs[constant]]
            return other, _along_channels(values, draft, draft.view(op, other))
    return None


def addition(op: Op, draft: Draft) -> None:
    """Add: a constant shifts, two maps are summed."""
    if beside := _constant_beside_map(op, draft):
        _affine(op, draft, beside[0], _number(1), beside[1])
        return
    draft.make(op, FloatAdd(), *_two_maps(op, draft))


def multiplication(op: Op, draft: Draft) -> None:
    """Mul: a constant scales, two maps are multiplied."""
    if beside := _constant_beside_map(op, draft):
        _affine(op, draft, beside[0], beside[1], _number(0))
        return
    draft.make(op, FloatMul(), *_two_maps(op, draft))


def subtraction(op: Op, draft: Draft) -> None:
    """Sub of a constant, or from one."""
    beside = _constant_beside_map(op, draft)
    if beside is None:
        raise Refusal(
            "it subtracts two flattened maps, which is supported behind the last map only"
        )
    index, values = beside
    if index == 0:
        _affine(op, draft, 0, _number(1), -values)
    else:
        _affine(op, draft, 1, _number(-1), values)


def division(op: Op, draft: Draft) -> None:
    """Div by a constant."""
    beside = _constant_beside_map(op, draft)
    if beside is None or beside[0] != 0:
        raise Refusal("it divides by a map, which is supported behind the last map only")
    if not np.all(beside[1]):
        raise Refusal("it divides by zero")
    _affine(op, draft, 0, (1 / beside[1].astype(np.float64)).astype(np.float32), _number(0))


def _two_maps(op: Op, draft: Draft) -> tuple[tuple[str, str]]:
    """Names of two maps of one shape; a 1 x 1 map of as many channels comes second."""
    (first, large), (second, small) = draft.image(op, 0), draft.image(op, 1)
    if large[0] * large[1] < small[0] * small[1]:
        first, large, second, small = second, small, first, large
    if large[2] != small[2] or small[:2] not in (large[:2], (1, 1)):
        raise Refusal(
            f"it combines maps h w c of {large} and {small}; equal shapes, or a 1 x 1 map of as "
            f"many channels, are supported"
        )
    return ((first, second),)


POINTWISE: dict[str, Convert] = {
    "Relu": relu,
    "Clip": clip,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "HardSigmoid": hard_sigmoid,
    "Elu": elu,
    "Max": bound,
    "Min": bound,
    "Sum": total,
    "Sigmoid": named("sigmoid"),
    "Tanh": named("tanh"),
    "HardSwish": named("hard_swish"),
    "Abs": named("abs"),
    "Erf": named("erf"),
    "Exp": named("exp"),
    "Softplus": named("softplus"),
    "Neg": negative,
    "BatchNormalization": batch_normalization,
    "Add": addition,
    "Mul": multiplication,
    "Sub": subtraction,
    "Div": division,
}
