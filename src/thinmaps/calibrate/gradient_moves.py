# SPDX-License-Identifier: Apache-2.0
"""Operators that move, mix or repeat elements, and their transposes, as ONNX operators.

Maps are `h w c` by shape and `n c h w` in the graph. Slices and resizing are matrices over rows and
over columns, so that their transposes are the transposed matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thinmaps.calibrate.graph_writer import GraphWriter
from thinmaps.graph.operators import DepthToSpace, Resize, Slice

Shape = tuple[int, int, int]


def planes(shape: Shape, batch: int = 1) -> tuple[int, int, int, int]:
    """`n c h w` of a map `h w c`."""
    return batch, shape[2], shape[0], shape[1]


def summed(writer: GraphWriter, g: str, shape: Shape, target: Shape) -> str:
    """Summed over the axes along which an input of `shape` was repeated."""
    axes = [
        axis
        for axis, size, of in zip((2, 3, 1), shape, target, strict=True)
        if size == 1 and of != 1
    ]
    return writer.add("ReduceSum", g, writer.integers(sorted(axes))) if axes else g


def parts(writer: GraphWriter, g: str, sources: Sequence[Shape]) -> list[str]:
    """The channels of each input of a concatenation."""
    found, first = [], 0
    for shape in sources:
        found.append(box(writer, g, (first, 0, 0), shape))
        first += shape[2]
    return found


def box(writer: GraphWriter, value: str, first: tuple[int, int, int], shape: Shape) -> str:
    """The map of `shape` that begins at `first` (channel, row, column)."""
    extents = planes(shape)[1:]
    stops = [at + size for at, size in zip(first, extents, strict=True)]
    return writer.cut(value, first, stops)


def bordered(
    writer: GraphWriter,
    value: str,
    source: Shape,
    target: Shape,
    first: tuple[int, int, int],
    border: float,
) -> str:
    """A map of `target` that holds the one of `source` from `first` (channel, row, column) on."""
    extents = zip(planes(target)[1:], first, planes(source)[1:], strict=True)
    behind = [whole - at - size for whole, at, size in extents]
    pads = writer.integers([0, *first, 0, *behind])
    return writer.add("Pad", value, pads, writer.real(border))


def sliced(writer: GraphWriter, cut: Slice, target: Shape, x: str) -> str:
    """What `operators.Slice` takes."""
    starts = [cut.channel, cut.row, cut.column]
    steps = [1, cut.row_step, cut.column_step]
    last = zip(starts, steps, planes(target)[1:], strict=True)
    stops = [first + step * (count - 1) + 1 for first, step, count in last]
    axes = writer.integers([1, 2, 3])
    places = (writer.integers(starts), writer.integers(stops), axes, writer.integers(steps))
    return writer.add("Slice", x, *places)


def put_back(writer: GraphWriter, cut: Slice, source: Shape, target: Shape, g: str) -> str:
    """Values at the places that the slice took them from, 0 elsewhere."""
    rows = np.eye(source[0])[cut.row + cut.row_step * np.arange(target[0])]
    columns = np.eye(source[1])[cut.column + cut.column_step * np.arange(target[1])]
    placed = mixed(writer, g, rows.T, columns)
    whole = (*source[:2], target[2])
    return bordered(writer, placed, whole, source, (cut.channel, 0, 0), 0.0)


def mixing(resize: Resize, source: Shape) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows and columns of the output as matrices over those of the input."""
    axes = (
        (resize.rows, resize.row_weight, source[0]),
        (resize.columns, resize.column_weight, source[1]),
    )
    matrices = []
    for places, weight, extent in axes:
        matrix = np.zeros((len(places), extent))
        every = np.arange(len(places))
        np.add.at(matrix, (every, places[:, 0]), 1 - weight / 2048)
        np.add.at(matrix, (every, places[:, 1]), weight / 2048)
        matrices.append(matrix)
    return matrices[0], matrices[1]


def mixed(
    writer: GraphWriter, value: str, left: NDArray[np.float64], right: NDArray[np.float64]
) -> str:
    """`left @ value @ right` of every plane."""
    rows = writer.add("MatMul", writer.real(left), value)
    return writer.add("MatMul", rows, writer.real(right))


def to_depth(
    writer: GraphWriter, shuffle: DepthToSpace, source: Shape, target: Shape, g: str
) -> str:
    """The transpose of `DepthToSpace`: blocks of pixels back to channels."""
    b, channels = shuffle.block, target[2]
    blocks = writer.reshaped(g, (-1, channels, source[0], b, source[1], b))
    order = (0, 3, 5, 1, 2, 4) if shuffle.mode == "DCR" else (0, 1, 3, 5, 2, 4)
    turned = writer.add("Transpose", blocks, perm=order)
    return writer.reshaped(turned, (-1, source[2], source[0], source[1]))
