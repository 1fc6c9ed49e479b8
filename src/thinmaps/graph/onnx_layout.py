# SPDX-License-Identifier: Apache-2.0
"""Operators that move elements: views, Concat, Split, Slice, Pad, Resize, DepthToSpace.

Those that move nothing (a Slice of everything, a Pad by zero, a Resize to the same size) become
views and leave no node.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps.graph.float_network import FloatConcat, FloatConv, FloatPad
from thinmaps.graph.onnx_draft import Draft
from thinmaps.graph.onnx_graph import Op, Refusal
from thinmaps.graph.onnx_operators import Convert
from thinmaps.graph.onnx_resize import resize
from thinmaps.graph.operators import DepthToSpace, Slice, Window

_FLOAT32 = 1  # TensorProto.FLOAT


def same_elements(op: Op, draft: Draft) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze, Identity, Dropout: a view."""
    draft.alias(op)


def cast(op: Op, draft: Draft) -> None:
    """Cast of float32 to float32."""
    if op.attributes["to"] != _FLOAT32:
        raise Refusal("it converts a map to another type, which is supported behind the last map")
    draft.alias(op)


def transpose(op: Op, draft: Draft) -> None:
    """Transpose that moves nothing, shuffles channels, or is a DepthToSpace spelled out."""
    view = draft.view(op)
    height, width, channels = draft.shapes[view.map]
    order = op.attributes.get("perm", tuple(range(len(view.shape)))[::-1])
    moved = [axis for axis in order if view.shape[axis] > 1]
    rank = len(view.shape)
    split = view.shape[1 : rank - 2]
    splits_channels = math.prod(split) == channels and view.shape[-2:] == (height, width)
    if moved == sorted(moved):
        draft.alias(op)
    elif splits_channels and order[-2:] == (rank - 2, rank - 1):
        axes = [axis - 1 for axis in order[1:-2]]
        sources = np.arange(channels).reshape(split).transpose(axes).ravel()
        draft.make(op, _shuffle(sources), (view.map,), shape=(height, width, channels))
    elif splits_channels and order in _BLOCK_AXES and _is_square(split, order):
        mode, axis = _BLOCK_AXES[order]
        block = view.shape[axis]
        shape = (height * block, width * block, channels // block**2)
        draft.make(op, DepthToSpace(block, mode), (view.map,), shape=shape)
    else:
        raise Refusal("it reorders the axes of a map, which is supported behind the last map only")


# Order of (1, c, b, b, h, w) or (1, b, b, c, h, w) that ends as (1, c, h, b, w, b) -> mode, an
# axis of length b.
_BLOCK_AXES: dict[tuple[int, ...], tuple[Literal["DCR", "CRD"], int]] = {
    (0, 1, 4, 2, 5, 3): ("CRD", 2),
    (0, 3, 4, 1, 5, 2): ("DCR", 1),
}


def _is_square(split: tuple[int, ...], order: tuple[int, ...]) -> bool:
    """Whether both axes of a block have the same length."""
    return split[order[3] - 1] == split[order[5] - 1]


def _shuffle(sources: NDArray[np.int64]) -> FloatConv:
    """Output channel k is input channel `sources[k]`: a 1 x 1 convolution with a permutation.

    Exact on bytes where input and output share a scale, and no operator of its own is needed.
    """
    weights = np.eye(len(sources), dtype=np.float32)[sources][:, :, None, None]
    return FloatConv(Window((1, 1)), 1, weights, np.zeros(len(sources), np.float32))


def concat(op: Op, draft: Draft) -> None:
    """Concat along channels."""
    images = [draft.image(op, index) for index in range(len(op.inputs))]
    rank = len(draft.view(op).shape)
    if op.attributes["axis"] % rank != 1:
        raise Refusal("it joins maps along another axis than channels")
    if len(images) == 1:
        draft.alias(op)
        return
    draft.make(op, FloatConcat(), tuple(name for name, _ in images))


def split(op: Op, draft: Draft) -> None:
    """Split: one Slice per output."""
    name, _ = draft.image(op)
    axis = op.attributes.get("axis", 0) % len(draft.view(op).shape)
    start = 0
    for index, output in enumerate(op.outputs):
        if output:
            draft.make(op, _slice({axis: (start, 1)}), (name,), index=index)
        start += draft.output_shape(op, index)[axis]


def _slice(taken: dict[int, tuple[int, int]]) -> Slice:
    """A Slice from (start, step) per axis of n c h w."""
    if taken.get(0, (0, 1)) != (0, 1):
        raise Refusal("it slices the batch")
    channel, channel_step = taken.get(1, (0, 1))
    if channel_step != 1:
        raise Refusal(f"it takes every {channel_step}th channel; a step is supported in space only")
    row, column = taken.get(2, (0, 1)), taken.get(3, (0, 1))
    return Slice(row[0], row[1], column[0], column[1], channel)


def slice_of(op: Op, draft: Draft) -> None:
    """Slice with constant bounds; negative indices count from the end."""
    name, _ = draft.image(op)
    shape = draft.view(op).shape
    starts, ends = draft.parameter(op, "starts", 1), draft.parameter(op, "ends", 2)
    axes, steps = draft.parameter(op, "axes", 3), draft.parameter(op, "steps", 4)
    assert starts is not None, "shape inference has seen the bounds"
    assert ends is not None, "shape inference has seen the bounds"
    chosen = range(len(starts)) if axes is None else [int(a) % len(shape) for a in axes]
    taken = {}
    for index, axis in enumerate(chosen):
        step = 1 if steps is None else int(steps[index])
        if step < 1:
            raise Refusal(f"it slices backwards (step {step})")
        start, _, _ = slice(int(starts[index]), int(ends[index]), step).indices(shape[axis])
        taken[axis] = (start, step)
    if draft.output_shape(op) == shape:
        draft.alias(op)
    else:
        draft.make(op, _slice(taken), (name,))


def pad(op: Op, draft: Draft) -> None:
    """Pad with a constant, in space and in channels."""
    mode = op.attributes.get("mode", "constant")
    if mode != "constant":
        raise Refusal(f"it pads in mode {mode!r}, only 'constant' is supported")
    name, _ = draft.image(op)
    rank = len(draft.view(op).shape)
    pads = draft.parameter(op, "pads", 1)
    axes = draft.constant(op, 3, "axes")
    assert pads is not None, "shape inference has seen the pads"
    chosen = range(rank) if axes is None else [int(a) % rank for a in axes]
    before = dict(zip(chosen, pads[: len(pads) // 2], strict=True))
    after = dict(zip(chosen, pads[len(pads) // 2 :], strict=True))
    if min(pads) < 0 or before.get(0, 0) or after.get(0, 0):
        raise Refusal(f"its pads are {pads.tolist()}; none may be negative or add to the batch")
    if not any(pads):
        draft.alias(op)
        return
    value = draft.number(op, "value", 2)
    top, left, channel = (int(before.get(axis, 0)) for axis in (2, 3, 1))
    draft.make(op, FloatPad(top, left, channel, value or 0.0), (name,))


def depth_to_space(op: Op, draft: Draft) -> None:
    """DepthToSpace, DCR and CRD."""
    name, _ = draft.image(op)
    mode = op.attributes.get("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise Refusal(f"its mode is {mode!r}, DCR or CRD is needed")
    draft.make(op, DepthToSpace(int(op.attributes["blocksize"]), mode), (name,))


LAYOUT: dict[str, Convert] = {
    **dict.fromkeys(
        ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"), same_elements
    ),
    "Cast": cast,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_of,
    "Pad": pad,
    "DepthToSpace": depth_to_space,
    "Resize": resize,
    "Upsample": resize,
}
