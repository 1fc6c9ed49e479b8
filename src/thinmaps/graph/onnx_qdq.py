# SPDX-License-Identifier: Apache-2.0
"""Networks that arrive quantised: QuantizeLinear and DequantizeLinear around float operators.

Written so by ONNX Runtime's quantiser and by torch. A pair on a map becomes the map's scale and
zero point (int8 maps are rebased by 128); a pair with another scale on the same map is a table. A
DequantizeLinear of a constant becomes the layer's integer weights, exactly as stored, or its int32
bias. Maps that only move values (MaxPool, Slice, Concat) and have no pair take their neighbour's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadModel
from thinmaps.graph.filter_codes import FilterCoefficients
from thinmaps.graph.float_network import (
    FloatConcat,
    FloatNode,
    FloatPad,
    MapQuantisation,
    ScalarFunction,
)
from thinmaps.graph.onnx_draft import Draft, Stored
from thinmaps.graph.onnx_graph import OnnxGraph, Op, Refusal
from thinmaps.graph.operators import DepthToSpace, MaxPool, Resize, Slice

NO_CODES: Mapping[str, FilterCoefficients] = {}
_SAME_VALUES = MaxPool | Slice | Resize | DepthToSpace | FloatPad | FloatConcat


def unpack_constants(
    graph: OnnxGraph, coded: Mapping[str, FilterCoefficients] = NO_CODES
) -> tuple[OnnxGraph, dict[str, Stored]]:
    """The graph without DequantizeLinear of constants, and what those constants were stored as.

    `coded` says which constants are filters that were made of coefficients.

    The dequantised arrays become constants of the graph under the same value names; a Transpose of
    such a constant is carried out on both forms.
    """
    constants: dict[str, NDArray[Any]] = dict(graph.constants)
    stored: dict[str, Stored] = {}
    ops: list[Op] = []
    for op in graph.ops:
        if op.op_type == "DequantizeLinear" and op.inputs[0] in constants:
            item = _stored(op, constants)
            stored[op.output] = replace(item, coded=coded.get(op.inputs[0]))
        elif op.op_type in ("Transpose", "Identity") and op.inputs[0] in stored:
            stored[op.output] = _rearranged(op, stored[op.inputs[0]])
        else:
            ops.append(op)
            continue
        constants[op.output] = stored[op.output].values
    shapes = {**graph.shapes, **{name: item.integers.shape for name, item in stored.items()}}
    return replace(graph, ops=tuple(ops), constants=constants, shapes=shapes), stored


def _stored(op: Op, constants: Mapping[str, NDArray[Any]]) -> Stored:
    """The integers of a DequantizeLinear, its zero point taken off, and their scale."""
    integers, scale, zero_point = _parameters(op, constants)
    if scale.size > 1 and op.attributes.get("block_size", 0):
        raise BadModel(f"{op} has a scale per block; one per tensor or per channel is supported")
    axis = int(op.attributes.get("axis", 1)) if scale.size > 1 else None
    along = [1] * integers.ndim
    if axis is not None:
        if not -integers.ndim <= axis < integers.ndim or integers.shape[axis] != scale.size:
            raise BadModel(f"{op} has {scale.size} scales along axis {axis} of {integers.shape}")
        along[axis] = scale.size
    if zero_point.size not in (1, scale.size):
        raise BadModel(f"{op} has {zero_point.size} zero points for {scale.size} scales")
    shift = zero_point.astype(np.int64).reshape(along if zero_point.size > 1 else ())
    scales = scale.astype(np.float32).ravel()
    return Stored(np.asarray(integers.astype(np.int64) - shift), scales, axis)


def _rearranged(op: Op, item: Stored) -> Stored:
    if op.op_type == "Identity":
        return item
    order = op.attributes.get("perm", tuple(range(item.integers.ndim))[::-1])
    axis = None if item.axis is None else order.index(item.axis % item.integers.ndim)
    return replace(item, integers=item.integers.transpose(order), axis=axis, coded=None)


def _parameters(
    op: Op, constants: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Input (empty if no constant), scale and zero point of a quantisation node."""
    missing = [name for name in op.inputs[1:] if name and name not in constants]
    if missing:
        raise BadModel(f"{op} needs constant scale and zero point, {missing[0]!r} is computed")
    scale = np.asarray(constants[op.inputs[1]])
    if not np.all(np.isfinite(scale)) or not np.all(scale > 0):
        raise BadModel(f"{op} needs positive finite scales, got {scale.ravel()[:3].tolist()}")
    has_zero_point = len(op.inputs) > 2 and bool(op.inputs[2])
    zero_point = constants[op.inputs[2]] if has_zero_point else np.zeros(1, np.uint8)
    return constants.get(op.inputs[0], np.zeros(0, np.uint8)), scale, np.asarray(zero_point)


def map_quantisation(op: Op, draft: Draft) -> MapQuantisation:
    """Scale and zero point that a node gives a map, as of uint8."""
    _, scale, zero_point = _parameters(op, draft.graph.constants)
    if scale.size != 1 or zero_point.size != 1:
        raise Refusal(f"it quantises a map with {scale.size} scales, one per map is supported")
    if zero_point.dtype not in (np.uint8, np.int8):
        raise Refusal(f"it quantises a map to {zero_point.dtype}, 8 bits are supported")
    rebase = 128 if zero_point.dtype == np.int8 else 0
    return MapQuantisation(float(np.float32(scale.item())), int(zero_point.item()) + rebase)


def quantize_linear(op: Op, draft: Draft) -> None:
    """QuantizeLinear of a map: the first one on a map gives its scale and zero point."""
    draft.quantisation.setdefault(draft.view(op).map, map_quantisation(op, draft))
    draft.alias(op)


def dequantize_linear(op: Op, draft: Draft) -> None:
    """DequantizeLinear: ends a pair. Where the map has another scale already, a table."""
    found, view = map_quantisation(op, draft), draft.view(op)
    first = draft.graph.producer[op.inputs[0]]
    if first.op_type == "QuantizeLinear" and map_quantisation(first, draft) != found:
        raise Refusal("its scale or zero point is not that of the QuantizeLinear in front")
    if draft.quantisation.get(view.map) == found:
        draft.alias(op)
        return
    draft.make(op, ScalarFunction(()), (view.map,), shape=draft.shapes[view.map])
    draft.quantisation[op.output] = found


QUANTISING = {"QuantizeLinear": quantize_linear, "DequantizeLinear": dequantize_linear}


def complete(
    nodes: Sequence[FloatNode], draft: Draft, inputs: Sequence[str]
) -> dict[str, MapQuantisation]:
    """The quantisation of every map that has a pair or a neighbour that can lend one.

    Writers leave out pairs where their kernels fuse (torch does between a convolution and the sum
    behind it); `quantise` refuses what is still missing, unless calibration fills it in.
    """
    known = dict(draft.quantisation)
    while any(_lends(node, known) for node in nodes):
        pass
    maps = [*inputs, *(node.output for node in nodes)]
    return {name: known[name] for name in maps if name in known}


def _lends(node: FloatNode, known: dict[str, MapQuantisation]) -> bool:
    """Pass scale and zero point over a node that keeps values; True if something is new."""
    if not isinstance(node.operator, _SAME_VALUES):
        return False
    sides = {known[name] for name in node.inputs if name in known}
    if node.output not in known and len(sides) == 1 and all(n in known for n in node.inputs):
        known[node.output] = sides.pop()
        return True
    new = [name for name in node.inputs if name not in known and node.output in known]
    for name in new:
        known[name] = known[node.output]
    return bool(new)
