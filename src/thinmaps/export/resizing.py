# SPDX-License-Identifier: Apache-2.0
"""A resize from integer tables as ONNX: `Resize` where its modes give the tables, else gathers.

ONNX knows a resize by its mode, our networks by their source rows, columns and 11-bit weights. The
common modes are tried; where none gives the very tables, the integer arithmetic itself is drawn:
four gathers, products and sums in int32, exact everywhere and slower.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from thinmaps.export.drawing import Drawing
from thinmaps.graph.operators import Resize
from thinmaps.types import MapSpec

Int32Array = NDArray[np.int32]
WEIGHT_ONE = 2048
_MODES = ("asymmetric", "half_pixel", "align_corners")


def draw_resize(
    drawing: Drawing, source: str, output: str, operator: Resize, spec: MapSpec
) -> None:
    """Draw map `output` as the resized map `source` of spec `spec`."""
    for mode in _MODES:
        for attributes in ({"mode": "nearest", "nearest_mode": "floor"}, {"mode": "linear"}):
            if _gives(operator, mode, attributes["mode"], spec):
                named = attributes | {"coordinate_transformation_mode": mode}
                _draw_named(drawing, source, output, operator, named)
                return
    _draw_gathered(drawing, source, output, operator)


def _gives(operator: Resize, transform: str, mode: str, spec: MapSpec) -> bool:
    """Whether ONNX's mode has exactly this operator's tables."""
    axes = (
        (operator.rows, operator.row_weight, spec.height),
        (operator.columns, operator.column_weight, spec.width),
    )
    for sources, weight, extent in axes:
        needed_sources, needed_weight = _table(transform, mode, extent, len(sources))
        if not np.array_equal(weight, needed_weight):
            return False
        # Where the second weight is 0 the second source counts for nothing.
        counted = np.stack([np.ones_like(weight), weight], axis=1) > 0
        if (sources != needed_sources)[counted].any():
            return False
    return True


def _table(
    transform: str, mode: str, extent: int, places: int
) -> tuple[Int32Array, NDArray[np.float32]]:
    """Source places and 2048-fold weights of the second one, as ONNX Runtime computes them.

    Weights are not rounded here: a runtime mixes with the real ones, so the mode is ours only
    where 11 bits hold them exactly.
    """
    x, scale, half = (
        np.arange(places, dtype=np.float32),
        np.float32(places / extent),
        np.float32(0.5),
    )
    if transform == "half_pixel":
        x = (x + half) / scale - half
    elif transform == "align_corners":
        x = x * np.float32(extent - 1) / np.float32(max(places - 1, 1))
    else:
        x = x / scale
    x = np.clip(x, 0, extent - 1)
    low = np.floor(x).astype(np.int32)
    if mode == "nearest":
        return np.stack([low, low], axis=1), np.zeros(places, np.float32)
    weight = (x - low) * np.float32(WEIGHT_ONE)
    high = np.minimum(low + 1, extent - 1)
    return np.stack([low, high], axis=1), np.where(low == high, np.float32(0), weight)


def _draw_named(
    drawing: Drawing, source: str, output: str, operator: Resize, attributes: dict[str, Any]
) -> None:
    spec = drawing.maps[source]
    sizes = np.array([1, spec.channels, len(operator.rows), len(operator.columns)], np.int64)
    inputs = [drawing.reals_of(source), "", "", drawing.constant(sizes, f"{output}/sizes")]
    drawing.give_reals(output, drawing.add("Resize", inputs, f"{output}/resized", attributes))


def _draw_gathered(drawing: Drawing, source: str, output: str, operator: Resize) -> None:
    """`y = (sum + 2**21) >> 22`, or plain copies where all weights are 0."""
    tensor = drawing.bytes_of(source)
    if not operator.row_weight.any() and not operator.column_weight.any():
        for axis, table in ((2, operator.rows[:, 0]), (3, operator.columns[:, 0])):
            tensor = _gather(drawing, tensor, table, axis, output)
        drawing.give_bytes(output, tensor)
        return
    tensor = drawing.add("Cast", [tensor], f"{output}/wide", {"to": TensorProto.INT32})
    axes = (
        (2, operator.rows, operator.row_weight.reshape(1, 1, -1, 1)),
        (3, operator.columns, operator.column_weight.reshape(1, 1, 1, -1)),
    )
    for axis, table, weight in axes:
        terms = [
            _product(drawing, _gather(drawing, tensor, table[:, side], axis, output), part, output)
            for side, part in ((0, WEIGHT_ONE - weight), (1, weight))
        ]
        tensor = drawing.add("Add", terms, f"{output}/mixed")
    half = drawing.constant(np.int32(1 << 21), f"{output}/half")
    one = drawing.constant(np.int32(1 << 22), f"{output}/one")
    tensor = drawing.add("Add", [tensor, half], f"{output}/rounded")
    tensor = drawing.add("Div", [tensor, one], f"{output}/quotient")
    made = drawing.add("Cast", [tensor], f"{output}/bytes", {"to": TensorProto.UINT8})
    drawing.give_bytes(output, made)


def _gather(drawing: Drawing, tensor: str, table: Int32Array, axis: int, hint: str) -> str:
    indices = drawing.constant(np.ascontiguousarray(table), f"{hint}/sources")
    return drawing.add("Gather", [tensor, indices], f"{hint}/gathered", {"axis": axis})


def _product(drawing: Drawing, tensor: str, weight: Int32Array, hint: str) -> str:
    factor = drawing.constant(weight.astype(np.int32), f"{hint}/weight")
    return drawing.add("Mul", [tensor, factor], f"{hint}/weighted")
