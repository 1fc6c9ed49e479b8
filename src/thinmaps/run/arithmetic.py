# SPDX-License-Identifier: Apache-2.0
"""What every operator computes, in NumPy: the definition that the native engine equals bit for bit.

`compute(node operator, inputs, output spec, first, rows)` makes output rows `first .. first + rows`
of one node. It reads its inputs through `RowSource`, so the same code serves a whole map and a ring
of a few rows; rows outside of a map are virtual padding and never read.

Sums of products are taken in float64, which is exact for every int32 sum that a network may hold
(float32 is exact only to 2**24, which a 3 x 3 window over 58 channels exceeds). Speed is not
an aim here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thinmaps import quant
from thinmaps.graph import operators as op
from thinmaps.types import MapSpec

Array = NDArray[Any]
Float64Array = NDArray[np.float64]


class RowSource(Protocol):
    """Rows of one map, wherever they live."""

    @property
    def spec(self) -> MapSpec:
        """Shape and quantisation of the map."""

    def read(self, first: int, stop: int) -> Array:
        """Rows `first .. stop - 1`, all inside of the map, as `(rows, width, channels)`."""


Inputs = Sequence[RowSource]


def compute(operator: op.Operator, inputs: Inputs, output: MapSpec, first: int, rows: int) -> Array:
    """Output rows `first .. first + rows - 1`: uint8, or float32 where the output is a head."""
    return _DEFINITIONS[type(operator)](operator, inputs, output, first, rows)


def mean_sums(source: RowSource, first: int, rows: int) -> NDArray[np.int32]:
    """What `Mean` adds to its running sums for input rows `first ..`: int32 per channel."""
    values = source.read(first, first + rows).astype(np.int64) - source.spec.zero_point
    return np.asarray(values.sum(axis=(0, 1)), np.int32)


def mean_output(operator: op.Mean, sums: NDArray[np.int32], output: MapSpec) -> Array:
    """The single pixel of `Mean` from its finished sums, as `(1, 1, channels)`."""
    return _finish(sums[None, None], operator.multiplier, output, 0, 255)


def _finish(sums: Array, multiplier: Array, output: MapSpec, low: int, high: int) -> Array:
    """Sums -> the output's type: bytes, or real values straight from the sums."""
    if output.dtype == "float32":
        return sums.astype(np.float32) * multiplier.astype(np.float32)
    return quant.requantise(sums, multiplier, output.zero_point, low, high)


def _padded(source: RowSource, first: int, stop: int, fill: int) -> Array:
    """Rows `first .. stop - 1` with `fill` in those outside of the map."""
    height, width, channels = source.spec.shape
    inside = range(max(first, 0), min(stop, height))
    rows = np.full((stop - first, width, channels), fill, np.uint8)
    if len(inside):
        rows[inside.start - first : inside.stop - first] = source.read(inside.start, inside.stop)
    return rows


def _taps(
    source: RowSource, window: op.Window, output: MapSpec, first: int, rows: int, fill: int
) -> Iterator[tuple[int, int, Array]]:
    """Yield `(r, s, x)` per filter tap: x the bytes under that tap, (rows, output width, c)."""
    top = window.rows(first).first
    block = _padded(source, top, window.rows(first + rows - 1).stop, fill)
    (kernel_rows, kernel_columns), (down, across) = window.kernel, window.stride
    left = window.pads[1]
    reach = (output.width - 1) * across + (kernel_columns - 1) * window.dilation[1] + 1
    right = max(reach - left - source.spec.width, 0)
    block = np.pad(block, ((0, 0), (left, right), (0, 0)), constant_values=fill)
    for r in range(kernel_rows):
        for s in range(kernel_columns):
            i, j = r * window.dilation[0], s * window.dilation[1]
            yield (
                r,
                s,
                block[
                    i : i + (rows - 1) * down + 1 : down,
                    j : j + (output.width - 1) * across + 1 : across,
                ],
            )


def _grouped_product(x: Array, weights: Array, groups: int) -> Float64Array:
    """`(rows, columns, c)` times `(k, c / groups)` -> `(rows, columns, k)`, exact in float64."""
    rows, columns, channels = x.shape
    grouped = x.reshape(rows * columns, groups, channels // groups).transpose(1, 0, 2)
    filters = weights.reshape(groups, -1, channels // groups).transpose(0, 2, 1)
    product = grouped.astype(np.float64) @ filters.astype(np.float64)
    return np.asarray(product.transpose(1, 0, 2).reshape(rows, columns, -1))


def _conv(
    o: op.Conv | op.CodedConv, inputs: Inputs, output: MapSpec, first: int, rows: int
) -> Array:
    zero_point, weights = inputs[0].spec.zero_point, o.weights
    sums: Array = np.broadcast_to(
        o.bias.astype(np.float64), (rows, output.width, output.channels)
    ).copy()
    for r, s, x in _taps(inputs[0], o.window, output, first, rows, zero_point):
        sums += _grouped_product(x.astype(np.int32) - zero_point, weights[:, :, r, s], o.groups)
    return _finish(sums, o.multiplier, output, o.low, o.high)


def _winograd_conv(
    o: op.WinogradConv, inputs: Inputs, output: MapSpec, first: int, rows: int
) -> Array:
    """Whole tiles, of which the rows asked for are kept."""
    tile, top = o.step_rows, first // o.step_rows * o.step_rows
    down, across = (-(-extent // tile) for extent in (first + rows - top, output.width))
    tiles = tiles_of(inputs[0], o.window, (top, tile, o.bt.shape[1]), (down, across))
    d = tiles.astype(np.int64) - inputs[0].spec.zero_point
    bt, at = o.bt.astype(np.int64), o.at.astype(np.int64)
    transformed = np.einsum("ai,yxcij,bj->abyxc", bt, d, bt, optimize=True)
    scaled = (transformed * o.input_scale[:, :, None, None].astype(np.int64) + (1 << 14)) >> 15
    v = np.clip(scaled, -128, 127).reshape(*scaled.shape[:2], down * across, -1)
    products = v.astype(np.float64) @ o.weights.transpose(2, 3, 1, 0).astype(np.float64)
    unit = o.product_scale.astype(np.float32).transpose(1, 2, 0)[:, :, None]
    z = np.rint(products.astype(np.float32) * unit).astype(np.int64)
    y = np.einsum("ia,abtk,jb->tijk", at, z, at, optimize=True) + o.bias.astype(np.int64)
    y = y.reshape(down, across, tile, tile, -1).transpose(0, 2, 1, 3, 4)
    sums = y.reshape(down * tile, across * tile, -1)[first - top :][:rows, : output.width]
    return _finish(sums, o.multiplier, output, o.low, o.high)


def tiles_of(
    source: RowSource, window: op.Window, extents: tuple[int, int, int], tiles: tuple[int, int]
) -> Array:
    """The bytes under some rows and columns of `tiles`: (rows, columns, c, n, n).

    `extents` are the output row that the first belongs to, a tile's outputs m, and its inputs n per
    side. What lies outside of the map is its zero point.
    """
    (top, tile, side), fill = extents, source.spec.zero_point
    start, left = top - window.pads[0], window.pads[1]
    block = _padded(source, start, start + (tiles[0] - 1) * tile + side, fill)
    right = max((tiles[1] - 1) * tile + side - left - source.spec.width, 0)
    block = np.pad(block, ((0, 0), (left, right), (0, 0)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(block, (side, side), axis=(0, 1))
    return windows[::tile, ::tile][:, : tiles[1]]


def _conv_transpose(
    o: op.ConvTranspose, inputs: Inputs, output: MapSpec, first: int, rows: int
) -> Array:
    source, window = inputs[0], o.window
    sums: Array = np.broadcast_to(
        o.bias.astype(np.float64), (rows, output.width, output.channels)
    ).copy()
    for i in range(rows):
        for r in range(window.kernel[0]):
            row, odd = divmod(first + i + window.pads[0] - r * window.dilation[0], window.stride[0])
            if odd == 0 and 0 <= row < source.spec.height:
                x = source.read(row, row + 1).astype(np.int32) - source.spec.zero_point
                _scatter_row(o, x, r, sums[i])
    return _finish(sums, o.multiplier, output, o.low, o.high)


def _scatter_row(o: op.ConvTranspose, x: Array, r: int, sums: Array) -> None:
    """Add one input row, seen through filter row `r`, to one output row of sums."""
    for s in range(o.window.kernel[1]):
        product = _grouped_product(x, o.weights[:, :, r, s], o.groups)[0]
        columns = np.arange(x.shape[1]) * o.window.stride[1] - o.window.pads[1]
        columns += s * o.window.dilation[1]
        inside = (columns >= 0) & (columns < sums.shape[0])
        sums[columns[inside]] += product[inside]


def _max_pool(o: op.MaxPool, inputs: Inputs, output: MapSpec, first: int, rows: int) -> Array:
    # Padding with the smallest byte is the same as ignoring pads: every window touches the map.
    result = np.zeros((rows, output.width, output.channels), np.uint8)
    for _, _, x in _taps(inputs[0], o.window, output, first, rows, 0):
        np.maximum(result, x, out=result)
    return result


def _average_pool(
    o: op.AveragePool, inputs: Inputs, output: MapSpec, first: int, rows: int
) -> Array:
    spec = inputs[0].spec
    sums = np.zeros((rows, output.width, output.channels), np.int64)
    for _, _, x in _taps(inputs[0], o.window, output, first, rows, spec.zero_point):
        sums += x.astype(np.int64) - spec.zero_point
    down = divisor_along(o, 0, spec.height, np.arange(first, first + rows))
    across = divisor_along(o, 1, spec.width, np.arange(output.width))
    multiplier = o.multiplier[np.outer(down, across)][:, :, None]
    product = sums.astype(np.float32) * multiplier
    return quant.round_and_saturate_inside(product, output.zero_point)


def divisor_along(
    o: op.AveragePool, axis: int, extent: int, places: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many window elements count along one axis, for output places along it."""
    window = o.window
    before, after = (window.pads[axis], window.pads[axis + 2]) if o.count_include_pad else (0, 0)
    taps = np.arange(window.kernel[axis]) * window.dilation[axis] - window.pads[axis]
    positions = places[:, None] * window.stride[axis] + taps
    return np.asarray(((positions >= -before) & (positions < extent + after)).sum(axis=1))


def _read_broadcast(source: RowSource, output: MapSpec, first: int, rows: int) -> Array:
    """Rows beside the output's rows; a map of height 1 beside a taller one gives its only row."""
    if source.spec.height == 1 and output.height > 1:
        return source.read(0, 1)
    return source.read(first, first + rows)


def _add(o: op.Add, inputs: Inputs, output: MapSpec, first: int, rows: int) -> Array:
    terms = [
        (_read_broadcast(x, output, first, rows).astype(np.int32) - x.spec.zero_point).astype(
            np.float32
        )
        * np.float32(ratio)
        for x, ratio in zip(inputs, o.ratio, strict=True)
    ]
    return quant.round_and_saturate_inside(terms[0] + terms[1], output.zero_point, o.low, o.high)


def _mul(o: op.Mul, inputs: Inputs, output: MapSpec, first: int, rows: int) -> Array:
    a, b = (
        _read_broadcast(x, output, first, rows).astype(np.int32) - x.spec.zero_point for x in inputs
    )
    product = (a * b).astype(np.float32) * np.float32(o.multiplier[0])
    return quant.round_and_saturate_inside(product, output.zero_point, o.low, o.high)


def _lookup(o: op.Lookup, inputs: Inputs, output: MapSpec, first: int, rows: int) -> Array:
    x = inputs[0].read(first, first + rows)
    channel = np.arange(output.channels) if len(o.table) > 1 else 0
    return np.asarray(o.table[channel, x])


def _picture(o: op.Picture, inputs: Inputs, output: MapSpec, first: int, rows: int) -> Array:
    x = inputs[0].read(first, first + rows)[:, :, list(o.source)]
    return o.table[np.arange(output.channels), x]


def _quantise(o: op.Quantise, inputs: Inputs, output: MapSpec, first: int, rows: int) -> Array:
    return quant.quantise(inputs[0].read(first, first + rows), output.scale, output.zero_point)


def _concat(o: op.Concat, inputs: Inputs, output: MapSpec, first: int, rows: int) -> Array:
    parts = [table[x.read(first, first + rows)] for x, table in zip(inputs, o.table, strict=True)]
    return np.concatenate(parts, axis=2)


def _slice(o: op.Slice, inputs: Inputs, output: MapSpec, first: int, rows: int) -> Array:
    top = o.row + first * o.row_step
    block = inputs[0].read(top, top + (rows - 1) * o.row_step + 1)[:: o.row_step]
    right = o.column + (output.width - 1) * o.column_step + 1
    return block[:, o.column : right : o.column_step, o.channel : o.channel + output.channels]


def _pad(o: op.Pad, inputs: Inputs, output: MapSpec, first: int, rows: int) -> Array:
    result = np.full((rows, output.width, output.channels), o.value, np.uint8)
    _, width, channels = inputs[0].spec.shape
    block = _padded(inputs[0], first - o.top, first - o.top + rows, o.value)
    result[:, o.left : o.left + width, o.channel : o.channel + channels] = block
    return result


def _resize(o: op.Resize, inputs: Inputs, output: MapSpec, first: int, rows: int) -> Array:
    sums = np.zeros((rows, output.width, output.channels), np.int64)
    for i, row in enumerate(range(first, first + rows)):
        low_row, high_row = (inputs[0].read(int(r), int(r) + 1)[0] for r in o.rows[row])
        weight = int(o.row_weight[row])
        mixed = low_row.astype(np.int64) * (2048 - weight) + high_row.astype(np.int64) * weight
        across = o.column_weight.astype(np.int64)[:, None]
        sums[i] = mixed[o.columns[:, 0]] * (2048 - across) + mixed[o.columns[:, 1]] * across
    return ((sums + (1 << 21)) >> 22).astype(np.uint8)


def _depth_to_space(
    o: op.DepthToSpace, inputs: Inputs, output: MapSpec, first: int, rows: int
) -> Array:
    i, j = np.arange(first, first + rows)[:, None, None], np.arange(output.width)[None, :, None]
    c = np.arange(output.channels)[None, None, :]
    place = i % o.block * o.block + j % o.block
    feature = place * output.channels + c if o.mode == "DCR" else c * o.block**2 + place
    top = first // o.block
    block = inputs[0].read(top, (first + rows - 1) // o.block + 1)
    return np.asarray(block[i // o.block - top, j // o.block, feature])


_DEFINITIONS: dict[type[op.Operator], Callable[..., Array]] = {
    op.Conv: _conv,
    op.WinogradConv: _winograd_conv,
    op.CodedConv: _conv,
    op.ConvTranspose: _conv_transpose,
    op.MaxPool: _max_pool,
    op.AveragePool: _average_pool,
    op.Add: _add,
    op.Mul: _mul,
    op.Lookup: _lookup,
    op.Picture: _picture,
    op.Quantise: _quantise,
    op.Concat: _concat,
    op.Slice: _slice,
    op.Pad: _pad,
    op.Resize: _resize,
    op.DepthToSpace: _depth_to_space,
}
