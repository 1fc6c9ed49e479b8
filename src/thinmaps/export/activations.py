# SPDX-License-Identifier: Apache-2.0
"""A lookup table as standard ONNX: the function that made it where one is found, else a Gather.

A table of 256 bytes says all about an activation. ONNX has no operator for it but `Gather`, which
is exact everywhere and slow (4 ns per element in ONNX Runtime, against 0.2 for its own tables of
LeakyRelu and Sigmoid). So the common functions are tried first, then two lines (`lines.py`: PRelu,
with an affine before); one is taken only if it gives the very table, computed here in float32 as
a runtime does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.export.drawing import Drawing
from thinmaps.export.lines import TwoLines, two_lines
from thinmaps.quant import dequantise, quantise
from thinmaps.types import MapSpec

Table = NDArray[np.uint8]
Reals = NDArray[np.float32]

EVERY_BYTE = np.arange(256, dtype=np.uint8)


def draw_lookup(drawing: Drawing, source: str, output: str, table: Table) -> None:
    """Draw map `output` as `table[source]`; `table` is (1 or channels, 256)."""
    before, after = drawing.maps[source], drawing.maps[output]
    if len(table) == 1 and np.array_equal(table[0], EVERY_BYTE) and _alike(before, after):
        drawing.give_bytes(output, drawing.bytes_of(source))
    elif len(table) == 1 and (found := _named(table[0], before, after)) is not None:
        _draw_function(drawing, source, output, *found)
    elif (lines := two_lines(table)) is not None and _reproduces(lines, table, before, after):
        _draw_lines(drawing, source, output, lines)
    else:
        drawing.give_bytes(output, gathered(drawing, drawing.bytes_of(source), table, output))


def is_requantisation(table: Table, before: MapSpec, after: MapSpec) -> bool:
    """Whether a table of 256 does no more than change scale and zero point."""
    return bool(np.array_equal(table, _table_of(lambda x: x, before, after)))


def gathered(drawing: Drawing, tensor: str, table: Table, hint: str) -> str:
    """`table[channel, byte]` for a uint8 tensor `n c h w`, exactly."""
    index = drawing.add("Cast", [tensor], f"{hint}/index", {"to": 6})  # 6: int32
    if len(table) > 1:
        first = np.arange(len(table), dtype=np.int32).reshape(1, -1, 1, 1) * 256
        offset = drawing.constant(first, f"{hint}/table_of_channel")
        index = drawing.add("Add", [index, offset], f"{hint}/index")
    flat = drawing.constant(table.ravel(), f"{hint}/table")
    return drawing.add("Gather", [flat, index], f"{hint}/bytes")


def _alike(a: MapSpec, b: MapSpec) -> bool:
    return (a.scale, a.zero_point) == (b.scale, b.zero_point)


def _table_of(function: Callable[[Reals], Reals], before: MapSpec, after: MapSpec) -> Table:
    """The table of a float32 function between two maps."""
    made = function(dequantise(EVERY_BYTE, before.scale, before.zero_point))
    return quantise(made, after.scale, after.zero_point)


def _sigmoid(x: Reals) -> Reals:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))), np.float32)


def _hard_sigmoid(x: Reals, alpha: float, beta: float) -> Reals:
    line = x * np.float32(alpha) + np.float32(beta)
    return np.asarray(np.clip(line, np.float32(0), np.float32(1)), np.float32)


def _leaky_relu(x: Reals, slope: float) -> Reals:
    return np.where(x < 0, x * np.float32(slope), x)


_FUNCTIONS: Mapping[str, Callable[[Reals], Reals]] = {
    "Identity": lambda x: x,
    "Relu": lambda x: np.maximum(x, np.float32(0)),
    "Sigmoid": _sigmoid,
    "Tanh": lambda x: np.tanh(x),
    "HardSwish": lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5),
    "Silu": lambda x: x * _sigmoid(x),
}
_HARD_SIGMOIDS = ((0.2, 0.5), (1 / 6, 0.5))


def _named(table: Table, before: MapSpec, after: MapSpec) -> tuple[str, dict[str, Any]] | None:
    """Name and attributes of the function that gives exactly `table`."""
    for name, function in _FUNCTIONS.items():
        if np.array_equal(table, _table_of(function, before, after)):
            return name, {}
    for alpha, beta in _HARD_SIGMOIDS:
        made = _table_of(partial(_hard_sigmoid, alpha=alpha, beta=beta), before, after)
        if np.array_equal(table, made):
            return "HardSigmoid", {"alpha": alpha, "beta": beta}
    slope = _leaky_slope(table, before, after)
    return None if slope is None else ("LeakyRelu", {"alpha": slope})


def _leaky_slope(table: Table, before: MapSpec, after: MapSpec) -> float | None:
    """A slope below zero with which LeakyRelu gives exactly `table`, with the fewest digits."""
    x = dequantise(EVERY_BYTE, before.scale, before.zero_point).astype(np.float64)
    codes = table.astype(np.float64) - after.zero_point
    inner = (x < 0) & (table > 0) & (table < 255)
    if not inner.any():
        return None
    bounds = np.stack([codes - 0.5, codes + 0.5]) * after.scale / np.where(inner, x, 1)
    low, high = bounds.min(axis=0)[inner].max(), bounds.max(axis=0)[inner].min()
    for digits in range(1, 9):
        slope = float(np.float32(float(f"{(low + high) / 2:.{digits}g}")))
        made = _table_of(partial(_leaky_relu, slope=slope), before, after)
        if np.array_equal(table, made):
            return slope
    return None


def _draw_function(
    drawing: Drawing, source: str, output: str, name: str, attributes: Mapping[str, Any]
) -> None:
    real = drawing.reals_of(source)
    if name == "Silu":
        gate = drawing.add("Sigmoid", [real], f"{output}/gate")
        made = drawing.add("Mul", [real, gate], f"{output}/function")
    elif name == "Identity":
        made = real
    else:
        made = drawing.add(name, [real], f"{output}/function", attributes)
    drawing.give_reals(output, made)


def _real_lines(lines: TwoLines, before: MapSpec, after: MapSpec) -> tuple[Reals, Reals]:
    """Slope and shift of both signed lines between real values, (2, channels) in float32."""
    slope = lines.sign * lines.slope * (after.scale / before.scale)
    shift = lines.slope * before.zero_point + lines.shift - after.zero_point
    return slope.astype(np.float32), (lines.sign * shift * after.scale).astype(np.float32)


def _reproduces(lines: TwoLines, table: Table, before: MapSpec, after: MapSpec) -> bool:
    """Whether the lines give the very table where each operation rounds to float32."""
    slope, shift = _real_lines(lines, before, after)
    x = dequantise(EVERY_BYTE, before.scale, before.zero_point)
    outer = (slope[:, :, None] * x + shift[:, :, None]).max(axis=0)
    made = lines.sign.astype(np.float32)[:, None] * outer
    return bool(np.array_equal(quantise(made, after.scale, after.zero_point), table))


def _draw_lines(drawing: Drawing, source: str, output: str, lines: TwoLines) -> None:
    """`sign * max(sign * line 0, sign * line 1)`; a sign that does nothing is left out."""

    def per_channel(op_type: str, tensor: str, values: Reals, hint: str) -> str:
        constant = drawing.constant(values.reshape(1, -1, 1, 1), f"{output}/{hint}")
        return drawing.add(op_type, [tensor, constant], f"{output}/line")

    slope, shift = _real_lines(lines, drawing.maps[source], drawing.maps[output])
    real = drawing.reals_of(source)
    scaled = [per_channel("Mul", real, slope[i], "slope") for i in range(2)]
    made = [per_channel("Add", scaled[i], shift[i], "shift") for i in range(2)]
    outer = drawing.add("Max", made, f"{output}/outer")
    if (lines.sign < 0).any():
        outer = per_channel("Mul", outer, lines.sign.astype(np.float32), "sign")
    drawing.give_reals(output, outer)
