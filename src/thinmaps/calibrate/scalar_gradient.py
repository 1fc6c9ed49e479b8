# SPDX-License-Identifier: Apache-2.0
"""Functions of one variable and their derivatives, as ONNX operators.

A `ScalarFunction` is a chain of steps. The pair (value, derivative) goes through it from left to
right, as dual numbers do: each step gives its own value and slope, and slopes multiply. At a kink
the derivative is that of one side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from thinmaps.calibrate.graph_writer import GraphWriter
from thinmaps.graph.float_network import FloatArray, ScalarFunction

# (writer, value, parameters) -> value and slope behind the step
Step = Callable[..., tuple[str, str]]


def value_and_derivative(writer: GraphWriter, function: ScalarFunction, x: str) -> tuple[str, str]:
    """Names of `f(x)` and `f'(x)` for a map `n c h w`."""
    value = held = x
    derivative = held_derivative = writer.real(1.0)
    for name, parameters in function.steps:
        if name == "hold":
            held, held_derivative = value, derivative
        elif name == "times_held":
            left = writer.add("Mul", derivative, held)
            right = writer.add("Mul", value, held_derivative)
            derivative = writer.add("Add", left, right)
            value = writer.add("Mul", value, held)
        else:
            value, slope = _STEPS[name](writer, value, *parameters)
            derivative = writer.add("Mul", derivative, slope)
    return value, derivative


def inside(writer: GraphWriter, value: str, low: str | None, high: str | None) -> str:
    """Where `low < value < high`, as booleans; at least one bound is given."""
    above = writer.add("Greater", value, low) if low else None
    below = writer.add("Less", value, high) if high else None
    if above and below:
        return writer.add("And", above, below)
    found = above or below
    assert found, "a clamp has a bound"
    return found


def _affine(writer: GraphWriter, x: str, scale: FloatArray, shift: FloatArray) -> tuple[str, str]:
    slope = writer.per_channel(scale)
    return writer.add("Add", writer.add("Mul", x, slope), writer.per_channel(shift)), slope


def _leaky(writer: GraphWriter, x: str, slope: FloatArray) -> tuple[str, str]:
    negative = writer.add("Less", x, writer.real(0))
    chosen = writer.add("Where", negative, writer.per_channel(slope), writer.real(1))
    return writer.add("Mul", x, chosen), chosen


def _clip(writer: GraphWriter, x: str, low: FloatArray, high: FloatArray) -> tuple[str, str]:
    bounds = writer.per_channel(low), writer.per_channel(high)
    clipped = writer.add("Min", writer.add("Max", x, bounds[0]), bounds[1])
    return clipped, writer.add("Cast", inside(writer, x, *bounds), to=1)


def _hard_sigmoid(
    writer: GraphWriter, x: str, alpha: FloatArray, beta: FloatArray
) -> tuple[str, str]:
    line, slope = _affine(writer, x, alpha, beta)
    value, passes = _clip(writer, line, np.zeros(1, np.float32), np.ones(1, np.float32))
    return value, writer.add("Mul", slope, passes)


def _sigmoid(writer: GraphWriter, x: str) -> tuple[str, str]:
    value = writer.add("Sigmoid", x)
    return value, writer.add("Sub", value, writer.add("Mul", value, value))


def _tanh(writer: GraphWriter, x: str) -> tuple[str, str]:
    value = writer.add("Tanh", x)
    return value, writer.add("Sub", writer.real(1), writer.add("Mul", value, value))


def _times(gate: Step, *parameters: float) -> Step:
    """`x * gate(x)`: its slope is `gate(x) + x * gate'(x)`."""

    def product(writer: GraphWriter, x: str) -> tuple[str, str]:
        value, slope = gate(writer, x, *(np.full(1, given, np.float32) for given in parameters))
        return writer.add("Mul", x, value), writer.add("Add", value, writer.add("Mul", x, slope))

    return product


def _elu(writer: GraphWriter, x: str, alpha: FloatArray) -> tuple[str, str]:
    zero = writer.real(0)
    negative = writer.add("Less", x, zero)
    # exp of a negative number only, so nothing overflows.
    power = writer.add("Exp", writer.add("Min", x, zero))
    slope = writer.add("Mul", power, writer.per_channel(alpha))
    curve = writer.add("Sub", slope, writer.per_channel(alpha))
    value = writer.add("Where", negative, curve, x)
    return value, writer.add("Where", negative, slope, writer.real(1))


def _larger_line(writer: GraphWriter, x: str, *lines: FloatArray) -> tuple[str, str]:
    (first, slope), (second, other) = (_affine(writer, x, *lines[i : i + 2]) for i in (0, 2))
    chosen = writer.add("Where", writer.add("Greater", first, second), slope, other)
    return writer.add("Max", first, second), chosen


def _abs(writer: GraphWriter, x: str) -> tuple[str, str]:
    return writer.add("Abs", x), writer.add("Sign", x)


def _erf(writer: GraphWriter, x: str) -> tuple[str, str]:
    bell = writer.add("Exp", writer.add("Neg", writer.add("Mul", x, x)))
    return writer.add("Erf", x), writer.add("Mul", bell, writer.real(2 / math.sqrt(math.pi)))


def _exp(writer: GraphWriter, x: str) -> tuple[str, str]:
    value = writer.add("Exp", x)
    return value, value


def _softplus(writer: GraphWriter, x: str) -> tuple[str, str]:
    return writer.add("Softplus", x), writer.add("Sigmoid", x)


_STEPS: dict[str, Step] = {
    "affine": _affine,
    "leaky_relu": _leaky,
    "prelu": _leaky,
    "clip": _clip,
    "hard_sigmoid": _hard_sigmoid,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "hard_swish": _times(_hard_sigmoid, 1 / 6, 0.5),
    "silu": _times(_sigmoid),
    "elu": _elu,
    "larger_line": _larger_line,
    "abs": _abs,
    "erf": _erf,
    "exp": _exp,
    "softplus": _softplus,
}
