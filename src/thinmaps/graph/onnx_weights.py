# SPDX-License-Identifier: Apache-2.0
"""Weights of one layer while the reader rearranges them: floats, and a QDQ file's integers.

Both always go through the same rearrangement, so a QDQ file's integers stay exactly as stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadModel
from thinmaps.graph.filter_codes import FilterCoefficients
from thinmaps.graph.onnx_draft import Draft
from thinmaps.graph.onnx_graph import Op, Refusal

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Weights:
    """Float weights; from a QDQ file also int8 weights and their scale per output channel."""

    values: FloatArray
    integers: NDArray[np.int8] | None = None
    scale: FloatArray | None = None
    coded: FilterCoefficients | None = None  # what the integers were made of

    def arranged(self, how: Callable[[NDArray[Any]], NDArray[Any]]) -> Weights:
        """The same weights in another order of axes, which no codes make."""
        integers = None if self.integers is None else np.ascontiguousarray(how(self.integers))
        values = np.ascontiguousarray(how(self.values))
        return replace(self, values=values, integers=integers, coded=None)

    def scaled(self, factor: np.float32) -> Weights:
        """All weights times a factor."""
        if factor == 1:
            return self
        scale = None if self.scale is None else np.asarray(self.scale * factor, np.float32)
        return replace(self, values=np.asarray(self.values * factor, np.float32), scale=scale)


def weights_of(op: Op, draft: Draft, index: int) -> Weights:
    """The weights of a layer as the file has them."""
    values = np.asarray(draft.required(op, index, "weights"), np.float32)
    stored = draft.stored.get(op.inputs[index])
    if stored is None:
        return Weights(values)
    output_axis = _output_axis(op, values.ndim)
    if stored.axis is not None and stored.axis % values.ndim != output_axis:
        raise Refusal(
            f"its weights are quantised along axis {stored.axis}, one scale per output channel "
            f"(axis {output_axis}) is needed"
        )
    low, high = int(stored.integers.min()), int(stored.integers.max())
    if low < -128 or high > 127:
        raise Refusal(
            f"its weights reach {low}..{high} around their zero point, int8 (-128..127) is needed; "
            f"quantise weights to int8"
        )
    channels = values.shape[output_axis] * _output_groups(op)
    scale = np.resize(np.asarray(stored.scale, np.float32), channels)
    return Weights(values, stored.integers.astype(np.int8), scale, stored.coded)


def _output_axis(op: Op, rank: int) -> int:
    """The axis of the stored weights that counts output channels."""
    if op.op_type == "ConvTranspose":
        return 1
    if op.op_type == "MatMul" or (op.op_type == "Gemm" and not op.attributes.get("transB", 0)):
        return rank - 1
    return 0


def _output_groups(op: Op) -> int:
    """ConvTranspose stores the output channels of one group; its scales repeat per group."""
    return int(op.attributes.get("group", 1)) if op.op_type == "ConvTranspose" else 1


def bias_of(op: Op, draft: Draft, index: int, channels: int) -> FloatArray:
    """The bias of a layer, zeros where it has none; Gemm's may be a scalar or a row."""
    array = draft.constant(op, index, "bias")
    if array is None:
        return np.zeros(channels, np.float32)
    beta = np.float32(op.attributes.get("beta", 1.0) if op.op_type == "Gemm" else 1.0)
    flat = np.asarray(array, np.float32).ravel() * beta
    if flat.size not in (1, channels):
        raise BadModel(f"{op} has {flat.size} bias values for {channels} output channels")
    return np.array(np.broadcast_to(flat, channels), np.float32)


def integer_bias_of(
    op: Op, draft: Draft, index: int, source: str, weights: Weights
) -> NDArray[np.int32] | None:
    """The stored int32 bias, where its scale is the input's times the weights' (as it should be).

    Otherwise None: the float bias is then quantised at that scale like any other.
    """
    name = op.inputs[index] if index < len(op.inputs) else ""
    stored, known = draft.stored.get(name), draft.quantisation.get(source)
    beta = op.attributes.get("beta", 1.0) if op.op_type == "Gemm" else 1.0
    if stored is None or known is None or weights.scale is None or beta != 1:
        return None
    due = np.float32(known.scale) * weights.scale
    if not np.allclose(stored.scale, due, rtol=1e-5, atol=0):
        return None
    return np.array(np.broadcast_to(stored.integers.ravel(), due.shape), np.int32)
