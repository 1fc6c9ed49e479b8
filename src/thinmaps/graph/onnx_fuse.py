# SPDX-License-Identifier: Apache-2.0
"""Fusion: two nodes of a draft become one where nobody else reads the map between them.

    conv, affine                -> conv with scaled weights    (batch-norm, a bias that was an Add)
    layer, clip                 -> the same with a clamp       (Relu, Relu6, Clip)
    function, function          -> one function                (batch-norm and PRelu of a concat)
    function f of x, x * f(x)   -> one function                (SiLU, HardSwish written out)
    pad by zero, conv           -> conv with pads
    slice, slice                -> one slice                   (one exported per axis)

A slice of a slice is merged even where others read the first one.
The result carries the second node's output name, so ranges are looked up under the last name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from thinmaps.graph.float_network import (
    FloatAdd,
    FloatAveragePool,
    FloatConv,
    FloatMul,
    FloatNode,
    FloatPad,
    ScalarFunction,
)
from thinmaps.graph.onnx_draft import MapShape
from thinmaps.graph.operators import Slice

Shapes: TypeAlias = Mapping[str, MapShape]
Rule: TypeAlias = Callable[[FloatNode, FloatNode, Shapes], FloatNode | None]


def fuse(nodes: Sequence[FloatNode], shapes: Shapes, kept: Set[str]) -> list[FloatNode]:
    """Fuse pairs until none is left. Maps in `kept` are read from outside and stay."""
    result = list(nodes)
    while (found := _first_pair(result, shapes, kept)) is not None:
        gone, second, fused = found
        result = [fused if node is second else node for node in result if node is not gone]
    return result


def _first_pair(
    nodes: Sequence[FloatNode], shapes: Shapes, kept: Set[str]
) -> tuple[FloatNode | None, FloatNode, FloatNode] | None:
    """The first node if it is gone by then, the second node, and what the second becomes."""
    producer = {node.output: node for node in nodes}
    reads = Counter(name for node in nodes for name in node.inputs)
    for second in nodes:
        for name in second.inputs:
            first = producer.get(name)
            if first is None:
                continue
            alone = reads[name] == 1 and name not in kept
            for rule in RULES if alone else SHARED_RULES:
                if (fused := rule(first, second, shapes)) is not None:
                    return first if alone else None, second, fused
    return None


def _join(first: FloatNode, second: FloatNode) -> FloatNode:
    """`first`, making what `second` made."""
    return replace(first, output=second.output)


def _only_step(node: FloatNode, name: str) -> tuple[np.ndarray, ...] | None:
    """Parameters of a scalar function that is the single step `name`."""
    if not isinstance(node.operator, ScalarFunction) or len(node.operator.steps) != 1:
        return None
    step, parameters = node.operator.steps[0]
    return parameters if step == name else None


def affine_into_conv(first: FloatNode, second: FloatNode, shapes: Shapes) -> FloatNode | None:
    """`scale * conv + shift` is a convolution; of stored integers only the scale may change."""
    del shapes
    parameters, conv = _only_step(second, "affine"), first.operator
    if parameters is None or not isinstance(conv, FloatConv) or _is_clamped(first):
        return None
    scale, shift = (np.asarray(p, np.float64) for p in parameters)
    if conv.weight_scale is not None and np.any(scale <= 0):
        return None
    stored = conv.weight_scale
    folded = replace(
        conv,
        weight_scale=None if stored is None else np.asarray(stored * scale, np.float32),
        integer_bias=None,
        weights=np.asarray(conv.weights * scale.reshape(-1, 1, 1, 1), np.float32),
        bias=np.asarray(conv.bias * scale + shift, np.float32),
    )
    return replace(_join(first, second), operator=folded)


def clip_into_producer(first: FloatNode, second: FloatNode, shapes: Shapes) -> FloatNode | None:
    """Relu and Clip become the clamp of the node in front."""
    del shapes
    parameters = _only_step(second, "clip")
    may_clamp = isinstance(first.operator, FloatConv | FloatAdd | FloatMul | FloatAveragePool)
    if parameters is None or not may_clamp:
        return None
    low, high = (float(p.item()) for p in parameters)
    clamp = [min(max(bound, low), high) for bound in (first.low, first.high)]
    return replace(_join(first, second), low=clamp[0], high=clamp[1])


def _is_clamped(node: FloatNode) -> bool:
    return node.low > -np.inf or node.high < np.inf


def gate(first: FloatNode, second: FloatNode, shapes: Shapes) -> FloatNode | None:
    """`x * f(x)` is a function of x."""
    del shapes
    function = first.operator
    if not isinstance(function, ScalarFunction) or not isinstance(second.operator, FloatMul):
        return None
    if sorted(second.inputs) != sorted((first.output, *first.inputs)) or _is_clamped(second):
        return None
    steps = (("hold", ()), *function.steps, ("times_held", ()))
    return replace(second, operator=ScalarFunction(steps), inputs=first.inputs)


def merge_functions(first: FloatNode, second: FloatNode, shapes: Shapes) -> FloatNode | None:
    """One function after the other."""
    del shapes
    f, g = first.operator, second.operator
    if not isinstance(f, ScalarFunction) or not isinstance(g, ScalarFunction):
        return None
    return replace(_join(first, second), operator=ScalarFunction(f.steps + g.steps))


def pad_into_conv(first: FloatNode, second: FloatNode, shapes: Shapes) -> FloatNode | None:
    """A border of zeros is the convolution's own padding."""
    pad, conv = first.operator, second.operator
    if not isinstance(pad, FloatPad) or not isinstance(conv, FloatConv) or conv.transposed:
        return None
    before, after = shapes[first.inputs[0]], shapes[first.output]
    if pad.value != 0 or before[2] != after[2]:
        return None
    border = (
        pad.top,
        pad.left,
        after[0] - before[0] - pad.top,
        after[1] - before[1] - pad.left,
    )
    top, left, bottom, right = (a + b for a, b in zip(conv.window.pads, border, strict=True))
    window = replace(conv.window, pads=(top, left, bottom, right))
    return replace(second, operator=replace(conv, window=window), inputs=first.inputs)


def merge_slices(first: FloatNode, second: FloatNode, shapes: Shapes) -> FloatNode | None:
    """A slice of a slice."""
    del shapes
    a, b = first.operator, second.operator
    if not isinstance(a, Slice) or not isinstance(b, Slice):
        return None
    merged = Slice(
        row=a.row + b.row * a.row_step,
        row_step=a.row_step * b.row_step,
        column=a.column + b.column * a.column_step,
        column_step=a.column_step * b.column_step,
        channel=a.channel + b.channel,
    )
    return replace(second, operator=merged, inputs=first.inputs)


# The order matters: what folds into a layer must not merge into a table first.
RULES: tuple[Rule, ...] = (
    affine_into_conv,
    clip_into_producer,
    gate,
    merge_functions,
    pad_into_conv,
    merge_slices,
)
# These pay although others read the map between: it is work saved, and often nobody is left.
SHARED_RULES: tuple[Rule, ...] = (merge_slices,)
