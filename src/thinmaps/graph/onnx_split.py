# SPDX-License-Identifier: Apache-2.0
"""Where the maps end: which ONNX nodes become nodes of the network, which the float tail.

Walking forward, a node becomes a map where all its inputs are maps and its operator allows it;
else it goes behind the last map, if NumPy can compute it there and no convolution follows. Walking
back, activations, slices and joins that only the tail reads leave the network again: in float
behind the last map they cost no memory of the arena and no precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadModel, UnsupportedOperator
from thinmaps.graph.float_network import (
    FloatAdd,
    FloatConcat,
    FloatMul,
    FloatNode,
    ScalarFunction,
    Tail,
)
from thinmaps.graph.onnx_draft import Draft
from thinmaps.graph.onnx_graph import Op, Refusal
from thinmaps.graph.onnx_layout import LAYOUT
from thinmaps.graph.onnx_operators import WINDOWED, Convert
from thinmaps.graph.onnx_pointwise import POINTWISE
from thinmaps.graph.onnx_qdq import QUANTISING
from thinmaps.graph.onnx_tail import tail_node
from thinmaps.graph.operators import Slice

CONVERSIONS: Mapping[str, Convert] = {**WINDOWED, **POINTWISE, **LAYOUT, **QUANTISING}

_BEHIND_ONLY = "it is supported behind the last map only"


@dataclass
class Behind:
    """What the forward walk found behind the last maps."""

    reads: set[str] = field(default_factory=set)  # values that the tail or the user reads
    # Value of the tail -> the first nodes in front of it that could not be maps, and why.
    roots: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # node -> why it has no place at all
    lost: set[str] = field(default_factory=set)  # values that a refused node should have made


def convert(draft: Draft) -> Behind:
    """Convert every node that can be a map; the rest is behind.

    Raises:
        UnsupportedOperator: some nodes fit neither place; all are named with their reasons.
    """
    behind = Behind(reads=set(draft.graph.outputs))
    for op in draft.graph.ops:
        _place(op, draft, behind)
    if behind.refused:
        count = len(behind.refused)
        what = "one operator is" if count == 1 else f"{count} operators are"
        listed = "; ".join(f"{who}: {why}" for who, why in behind.refused.items())
        raise UnsupportedOperator(f"{what} not supported: {listed}")
    return behind


def _place(op: Op, draft: Draft, behind: Behind) -> None:
    """Convert one node, or put it behind, or refuse it."""
    inputs = [name for name in op.inputs if name and name not in draft.graph.constants]
    if behind.lost.intersection(inputs):
        behind.lost.update(op.outputs)
        return
    roots: dict[str, str] = {}
    for name in inputs:
        roots |= behind.roots.get(name, {})
    reason = _BEHIND_ONLY
    if not roots and op.op_type in CONVERSIONS:
        try:
            CONVERSIONS[op.op_type](op, draft)
            return
        except Refusal as refusal:
            reason = str(refusal)
    try:
        tail_node(op, draft)
        _check_reads(inputs, draft)
    except Refusal as refusal:
        _refuse(op, str(refusal) if reason == _BEHIND_ONLY else reason, roots, behind)
        return
    behind.reads.update(inputs)
    for name in op.outputs:
        behind.roots[name] = roots or {str(op): reason}


def _check_reads(inputs: list[str], draft: Draft) -> None:
    """The tail reads last maps, never the network's input."""
    for name in inputs:
        if name in draft.views and draft.views[name].map in draft.graph.inputs:
            raise Refusal(f"it is supported behind the last map only, and reads the input {name!r}")


def _refuse(op: Op, reason: str, roots: Mapping[str, str], behind: Behind) -> None:
    """Blame the node itself, or those that took its inputs out of the maps."""
    behind.lost.update(op.outputs)
    if op.op_type in CONVERSIONS and roots:
        for who, why in roots.items():
            behind.refused.setdefault(who, f"{why} ({op} follows)")
    else:
        behind.refused[str(op)] = reason


def without_trailing(nodes: list[FloatNode], draft: Draft) -> list[FloatNode]:
    """The nodes without those that only the tail reads and that the tail can compute."""
    trailing: set[str] = set()  # by output
    readers: dict[str, set[str]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.output)
    for node in reversed(nodes):
        if readers.get(node.output, set()) <= trailing and _may_trail(node, draft):
            trailing.add(node.output)
    # A map that the network goes on reading would otherwise have to be an output as well.
    while stay := {
        node.output
        for node in nodes
        if node.output in trailing and not all(readers[name] <= trailing for name in node.inputs)
    }:
        trailing -= stay
    return [node for node in nodes if node.output not in trailing]


def _may_trail(node: FloatNode, draft: Draft) -> bool:
    """Whether a node is cheap in float and its ONNX nodes all have a place in the tail.

    A quantised map stays: the file says how its values are rounded.
    """
    if node.output in draft.quantisation:
        return False
    height, width, _ = draft.shapes[node.output]
    cheap = isinstance(node.operator, ScalarFunction | Slice | FloatConcat)
    if not cheap and not (isinstance(node.operator, FloatAdd | FloatMul) and height * width == 1):
        return False
    try:
        _tail_ops([node.output], set(node.inputs), draft)
    except Refusal:
        return False
    return True


def _tail_ops(values: list[str], maps: set[str], draft: Draft) -> tuple[dict[str, Op], list[str]]:
    """ONNX nodes from `maps` to `values`, by name, and the maps they read, in order."""
    ops: dict[str, Op] = {}
    read: list[str] = []
    pending = list(reversed(values))
    while pending:
        name = pending.pop()
        if name in maps:
            if name not in read:
                read.append(name)
        elif name not in draft.graph.constants and name in draft.graph.producer:
            op = draft.graph.producer[name]
            if op.output not in ops:
                ops[op.output] = op
                pending.extend(reversed(tail_node(op, draft).inputs))
        elif name not in draft.graph.constants:
            raise Refusal(f"it reads the network's input {name!r}")
    return ops, read


def last_maps(nodes: list[FloatNode], draft: Draft) -> tuple[Tail, tuple[str, ...]]:
    """The tail, and the maps that it reads: the network's outputs."""
    maps = {node.output for node in nodes}
    outputs = list(draft.graph.outputs)
    try:
        needed, read = _tail_ops(outputs, maps, draft)
    except Refusal as refusal:
        raise BadModel(f"what follows the last map cannot be computed: {refusal}") from None
    ops = [op for op in draft.graph.ops if op.output in needed]
    tail_nodes = tuple(tail_node(op, draft) for op in ops)
    wanted = {name for node in tail_nodes for name in node.inputs} | set(outputs)
    tail = Tail(
        nodes=tail_nodes,
        constants={
            name: _plain(array) for name, array in draft.graph.constants.items() if name in wanted
        },
        outputs=tuple(outputs),
        input_shapes={name: draft.views[name].shape for name in read},
    )
    return tail, tuple(read)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
