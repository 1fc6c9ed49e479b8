# SPDX-License-Identifier: Apache-2.0
"""Resize and Upsample as integer tables: source rows and columns, and 11-bit weights.

The coordinate and rounding modes are those of ONNX `Resize` (versions 10 to 19) and `Upsample`;
coordinates are computed in float32 as ONNX Runtime does, so that ties fall to the same side.
`operators.Resize` says what the tables mean.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from thinmaps.graph.onnx_draft import Draft
from thinmaps.graph.onnx_graph import Op, Refusal
from thinmaps.graph.operators import Resize

WEIGHT_ONE = 2048  # 11 bits, as `operators.Resize` mixes them
Coordinates = NDArray[np.float32]
_HALF: np.float32 = np.float32(0.5)

# Each takes places, scale, input extent, output extent.
_TRANSFORMS: dict[str, Callable[[Coordinates, np.float32, int, int], Coordinates]] = {
    "half_pixel": lambda x, scale, n, m: (x + _HALF) / scale - _HALF,
    "half_pixel_symmetric": lambda x, scale, n, m: _symmetric(x, scale, n, m),
    "pytorch_half_pixel": lambda x, scale, n, m: (x + _HALF) / scale - _HALF if m > 1 else x * 0,
    "align_corners": lambda x, scale, n, m: x * np.float32(n - 1) / np.float32(max(m - 1, 1)),
    "asymmetric": lambda x, scale, n, m: x / scale,
    "tf_half_pixel_for_nn": lambda x, scale, n, m: (x + _HALF) / scale,
}

_ROUNDINGS: dict[str, Callable[[Coordinates], Coordinates]] = {
    "round_prefer_floor": lambda x: np.ceil(x - _HALF),
    "round_prefer_ceil": lambda x: np.floor(x + _HALF),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _symmetric(x: Coordinates, scale: np.float32, extent: int, places: int) -> Coordinates:
    """half_pixel, centred again where rounding the output size has shifted it."""
    adjustment = np.float32(places) / (scale * np.float32(extent))
    offset = np.float32(extent) / 2 * (1 - adjustment)
    return np.asarray(offset + (x + _HALF) / scale - _HALF, np.float32)


def resize(op: Op, draft: Draft) -> None:
    """Resize or Upsample, nearest or linear."""
    name, (height, width, _) = draft.image(op)
    output = draft.output_shape(op)
    if output == draft.view(op).shape:
        draft.alias(op)
        return
    _check_forms(op, draft)
    scales = _scales(op, draft)
    rows, row_weight = _table(op, height, output[2], scales[0])
    columns, column_weight = _table(op, width, output[3], scales[1])
    draft.make(op, Resize(rows, columns, row_weight, column_weight), (name,))


def _check_forms(op: Op, draft: Draft) -> None:
    """Refuse what the tables cannot hold."""
    mode = op.attributes.get("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear"):
        raise Refusal(f"its mode is {mode!r}, nearest or linear is supported")
    if op.attributes.get("antialias", 0):
        raise Refusal("it filters while shrinking (antialias)")
    if op.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refusal("it keeps the aspect ratio; only 'stretch' is supported")
    if _transform_of(op) not in _TRANSFORMS:
        raise Refusal(f"coordinate_transformation_mode {_transform_of(op)!r} is not supported")
    rounding = op.attributes.get("nearest_mode", "round_prefer_floor")
    if rounding not in _ROUNDINGS:
        raise Refusal(f"nearest_mode {rounding!r} is not supported")
    if draft.output_shape(op)[:2] != draft.view(op).shape[:2]:
        raise Refusal("it resizes channels or the batch")


def _transform_of(op: Op) -> str:
    default = "half_pixel" if _is_modern(op) else "asymmetric"
    return str(op.attributes.get("coordinate_transformation_mode", default))


def _is_modern(op: Op) -> bool:
    """Resize has coordinate and rounding modes since version 11; before, and Upsample, none."""
    return op.op_type == "Resize" and op.opset >= 11


def _scales(op: Op, draft: Draft) -> tuple[np.float32, np.float32]:
    """Scale of height and width as given, or of the sizes."""
    given = draft.parameter(op, "scales", 2 if _is_modern(op) else 1)
    before, after = draft.view(op).shape, draft.output_shape(op)
    if given is None or given.size == 0:
        return np.float32(after[2] / before[2]), np.float32(after[3] / before[3])
    axes = [int(a) % 4 for a in op.attributes.get("axes", range(4))]
    by_axis = dict(zip(axes, np.asarray(given, np.float32).ravel(), strict=True))
    one = np.float32(1)
    return by_axis.get(2, one), by_axis.get(3, one)


def _table(
    op: Op, extent: int, places: int, scale: np.float32
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sources `(places, 2)` and weights of the second one."""
    x = np.arange(places, dtype=np.float32)
    if scale != 1 or places != extent:
        x = np.asarray(_TRANSFORMS[_transform_of(op)](x, scale, extent, places), np.float32)
    if op.attributes.get("mode", "nearest") == "nearest":
        nearest = np.clip(_rounding_of(op, scale)(x), 0, extent - 1).astype(np.int32)
        return np.stack([nearest, nearest], axis=1), np.zeros(places, np.int32)
    x = np.clip(x, 0, extent - 1)
    low = np.floor(x).astype(np.int32)
    high = np.minimum(low + 1, extent - 1)
    weight = np.rint((x - low) * WEIGHT_ONE).astype(np.int32)
    return np.stack([low, high], axis=1), np.where(low == high, 0, weight).astype(np.int32)


def _rounding_of(op: Op, scale: np.float32) -> Callable[[Coordinates], Coordinates]:
    if not _is_modern(op):
        return np.floor if scale >= 1 else np.ceil
    return _ROUNDINGS[op.attributes.get("nearest_mode", "round_prefer_floor")]
