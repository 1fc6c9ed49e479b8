# SPDX-License-Identifier: Apache-2.0
"""Predicted seconds of a step, from the work of its node and the rates of a machine.

    seconds(rows) = overhead
                  + filters, once from where they lie; then from the cache, once per further row
                  + rows * (products, sums that become bytes, bytes of other operators)
                  + bytes of its rows that do not stay in the cache, at the rate beyond it

each quantity divided by its rate. The filters are what makes thin steps dear: a step walks all of
its node's filters, and between two steps of a node the other nodes' filters displace them. Only a
network whose filters all fit in half of the cache finds them there. A node with more than 1 MiB of
them is walked once per step, the others once per row (`kFiltersInCache` in native/conv.cc). The
rows of a step count against the other half of the cache, and only where a window reads them: what
an operator reads byte by byte is fetched ahead of it.

A convolution by tiles (`WinogradConv`) has its own count of products, and transforms besides. One
that makes its filters of coefficients (`CodedConv`) does so in every step.

A convolution that skips zero blocks of its filters reads and multiplies only the others, for whole
vectors of pixels, and lays the rows under its window in planes before.

Nothing here measures. Rates are handed in: one of the tables below, or what `measure/machine.py`
found. A plan made with wrong rates is as right as any other, only slower or larger than need be.

Cost: a few array look-ups for all steps of a schedule.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.graph.zero_blocks import BLOCK, used_blocks
from thinmaps.plan.flow import IntArray
from thinmaps.plan.scratch import (
    LANES,
    MOST_TILES,
    TILE_POINTS,
    TILE_VECTORS,
    whole_lanes,
)
from thinmaps.types import MapSpec
from thinmaps.winograd.exact import OUTPUTS

FloatArray = NDArray[np.float64]
Layer = op.Conv | op.CodedConv | op.ConvTranspose

# Output channels of a block, and bytes of a quad, as the engine lays filters out (filters.h).
BLOCK_CHANNELS = 16
QUAD_BYTES = 4
# Filters that the engine reads once per row; more are read once per step (native/conv.cc).
FILTERS_PER_ROW_BYTES = 1 << 20
# Additions that make filters of coefficients, to bytes that a sum of two maps makes in that time.
ADDED_PER_POINTWISE = 4.0
# Bytes of a block that is not zero, with its place (native/sparse_row.h).
BLOCK_BYTES = BLOCK[0] * BLOCK[1] + 4


@dataclass(frozen=True)
class MachineRates:
    """What one core does in a second, one thing at a time; see the page's head."""

    products_per_second: float  # int8 x uint8, of dense convolutions, those of padding included
    depthwise_products_per_second: float
    sums_per_second: float  # int32 sums that become bytes
    pooled_bytes_per_second: float  # read by windows without filters, once per window
    pointwise_bytes_per_second: float  # made by sums, products and resizes of maps
    copied_bytes_per_second: float  # made by tables, means and rearrangements
    coded_bytes_per_second: float  # raw bytes through an encoder or a decoder
    near_bytes_per_second: float  # read from the second-level cache
    far_bytes_per_second: float  # read from beyond it
    cache_bytes: int  # of the second level
    tile_pixels: int  # a row of a dense convolution is done in whole tiles of so many pixels
    step_seconds: float  # of a step that does next to nothing
    # Of convolutions that skip zero blocks of their filters:
    block_products_per_second: float  # of blocks that are not zero, in whole vectors of pixels
    laid_bytes_per_second: float  # of input rows, laid in planes
    block_sums_per_second: float  # sums that become bytes
    # Of convolutions by Winograd's algorithm:
    point_products_per_second: float  # of points of inputs and of filters
    points_per_second: float  # of input channels, from the bytes under tiles
    tile_sums_per_second: float  # outputs, from the sums of their points to bytes


# The first three as `measure/machine.py` found them on one quiet core of an AMD EPYC (Zen 4), two
# digits. But the rate beyond the cache is the one found there while the other cores were busy: what
# lies there is shared, and on the quiet machine reading filters hid behind the products wholly.
_PORTABLE = MachineRates(
    products_per_second=26e9,
    depthwise_products_per_second=3.6e9,
    sums_per_second=0.67e9,
    pooled_bytes_per_second=18e9,
    pointwise_bytes_per_second=2.4e9,
    copied_bytes_per_second=3.7e9,
    coded_bytes_per_second=54e9,
    near_bytes_per_second=110e9,
    far_bytes_per_second=35e9,
    cache_bytes=1 << 20,
    tile_pixels=1,
    step_seconds=0.080e-6,
    block_products_per_second=5e9,
    laid_bytes_per_second=1.5e9,
    block_sums_per_second=0.5e9,
    point_products_per_second=37e9,
    points_per_second=6.9e9,
    tile_sums_per_second=0.9e9,
)
_AVX2 = replace(
    _PORTABLE,
    products_per_second=64e9,
    depthwise_products_per_second=19e9,
    sums_per_second=4.7e9,
    pooled_bytes_per_second=20e9,
    pointwise_bytes_per_second=11e9,
    coded_bytes_per_second=51e9,
    step_seconds=0.070e-6,
    block_products_per_second=62e9,
    laid_bytes_per_second=4e9,
    block_sums_per_second=4.2e9,
    point_products_per_second=90e9,
    points_per_second=19e9,
    tile_sums_per_second=1.9e9,
)
_AVX512 = replace(
    _PORTABLE,
    products_per_second=230e9,
    depthwise_products_per_second=41e9,
    sums_per_second=10e9,
    pooled_bytes_per_second=28e9,
    pointwise_bytes_per_second=12e9,
    copied_bytes_per_second=80e9,
    coded_bytes_per_second=49e9,
    far_bytes_per_second=30e9,
    tile_pixels=4,
    step_seconds=0.068e-6,
    block_products_per_second=220e9,
    laid_bytes_per_second=9e9,
    block_sums_per_second=8e9,
    point_products_per_second=115e9,
    points_per_second=20e9,
    tile_sums_per_second=2.2e9,
)
# A Xeon with AMX and 2 MiB of second-level cache: rates of products, sums and bytes from a 3x3
# convolution of 64 channels and from what ResNet-18 gains by thicker steps there. The rest is not
# measured there, and as above: blocks are multiplied with AVX-512 there too.
_AMX = replace(
    _AVX512,
    products_per_second=1750e9,
    sums_per_second=12e9,
    near_bytes_per_second=157e9,
    far_bytes_per_second=38e9,
    cache_bytes=2 << 20,
    tile_pixels=16,
)
RATES: Mapping[str, MachineRates] = {
    "portable": _PORTABLE,
    "avx2": _AVX2,
    "avx512": _AVX512,
    "amx": _AMX,
}
# One for all machines, so that the same network gives the same plan everywhere.
DEFAULT_MACHINE = "avx512"
DEFAULT_RATES = RATES[DEFAULT_MACHINE]


@dataclass(frozen=True)
class _Work:
    """A node's seconds: of a step, of a further row; bytes of a row that windows read and make."""

    step_seconds: float
    row_seconds: float
    row_bytes: int


class _Tiles(NamedTuple):
    """Seconds of a step by Winograd's algorithm: its own, a tile's, a walk's over the filters."""

    step_seconds: float
    tile_seconds: float
    columns: int  # of tiles, in a row of the map
    filter_seconds: float


_NO_TILES = _Tiles(0.0, 0.0, 0, 0.0)


class StepCost:
    """Predicted seconds of steps of one lowered network on a machine with given rates."""

    def __init__(
        self,
        network: Network,
        rates: MachineRates,
        skipping: Collection[str] = (),
        winograd: Collection[str] = (),
    ) -> None:
        """Nodes named in `skipping` skip the zero blocks of their filters.

        Those in `winograd` do each step as it is predicted to be faster, directly or in tiles.
        """
        self._room_bytes = rates.cache_bytes // 2
        self._far_bytes_per_second = rates.far_bytes_per_second
        near = sum(_filter_bytes(network, node) for node in network.nodes) <= self._room_bytes
        works = [
            _skipping(network, node, rates, near)
            if node.name in skipping
            else _work(network, node, rates, near)
            for node in network.nodes
        ]
        self._step = np.array([work.step_seconds for work in works])
        self._row = np.array([work.row_seconds for work in works])
        self._bytes = np.array([work.row_bytes for work in works], np.int64)
        self._tiled = np.array([node.name in winograd for node in network.nodes])
        tiles = [
            _exact_tiles(network, node, rates, near) if node.name in winograd else _NO_TILES
            for node in network.nodes
        ]
        self._tiles = np.array(tiles).reshape(-1, len(_Tiles._fields)).T

    def __call__(self, nodes: IntArray | int, rows: IntArray | int) -> FloatArray:
        """Seconds of steps of `rows` work rows of nodes `nodes`, one for each."""
        found = self.direct(nodes, rows)
        if not self._tiled.any():
            return found
        return np.where(self._tiled[nodes], np.minimum(found, self.tiled(nodes, rows)), found)

    def direct(self, nodes: IntArray | int, rows: IntArray | int) -> FloatArray:
        """Seconds of such steps without Winograd's algorithm."""
        found: FloatArray = self._step[nodes] + rows * self._row[nodes] + self._beyond(nodes, rows)
        return found

    def tiled(self, nodes: IntArray | int, rows: IntArray | int) -> FloatArray:
        """Seconds of such steps by Winograd's algorithm, of nodes that were named for it."""
        step_seconds, tile_seconds, columns, filter_seconds = self._tiles[:, nodes]
        tiles = np.ceil(np.asarray(rows) / OUTPUTS) * columns
        walks = np.ceil(tiles / MOST_TILES)
        seconds = step_seconds + tiles * tile_seconds + walks * filter_seconds
        found: FloatArray = seconds + self._beyond(nodes, rows)
        return found

    def _beyond(self, nodes: IntArray | int, rows: IntArray | int) -> FloatArray:
        """Seconds for bytes of rows that do not stay in the cache."""
        beyond: FloatArray = np.maximum(self._bytes[nodes] * rows - self._room_bytes, 0)
        return beyond / self._far_bytes_per_second

    def total(self, nodes: IntArray, rows: IntArray) -> float:
        """Seconds of a whole schedule."""
        return float(np.sum(self(nodes, rows)))


def _work(network: Network, node: Node, rates: MachineRates, near: bool) -> _Work:
    inputs, output = network.input_specs(node), network.output_spec(node)
    operator = node.operator
    if isinstance(operator, op.CodedConv):
        return _coded(operator, inputs[0], output, rates)
    if isinstance(operator, op.Conv | op.ConvTranspose):
        return _convolution(operator, inputs[0], output, rates, near)
    if isinstance(operator, op.WinogradConv):
        return _tiles(operator, inputs[0], output, rates)
    rows = operator.work_rows(inputs, output)
    made = output.height * output.row_bytes / rows
    seconds = made / rates.copied_bytes_per_second
    if isinstance(operator, op.MaxPool | op.AveragePool):
        taps = operator.window.kernel[0] * operator.window.kernel[1]
        seconds = made * taps / rates.pooled_bytes_per_second
    elif isinstance(operator, op.Add | op.Mul | op.Resize | op.Quantise):
        seconds = made / rates.pointwise_bytes_per_second
    elif isinstance(operator, op.Mean):
        seconds = inputs[0].row_bytes / rates.copied_bytes_per_second
    elif isinstance(operator, op.Encode | op.Decode):
        raw = inputs[0] if isinstance(operator, op.Encode) else output
        seconds = raw.row_bytes / rates.coded_bytes_per_second
    return _Work(rates.step_seconds, seconds, 0)


def _convolution(
    operator: op.Conv | op.ConvTranspose,
    source: MapSpec,
    output: MapSpec,
    rates: MachineRates,
    near: bool,
) -> _Work:
    row_bytes = _row_bytes(source, output)
    sums = output.width * output.channels / rates.sums_per_second
    if _is_depthwise(operator, source, output):
        taps = operator.window.kernel[0] * operator.window.kernel[1]
        products = output.width * output.channels * taps
        seconds = products / rates.depthwise_products_per_second
        return _Work(rates.step_seconds, seconds, row_bytes)
    filter_bytes = _packed_bytes(operator, source, output)
    pixels = -(-output.width // rates.tile_pixels) * rates.tile_pixels
    products = filter_bytes * pixels
    if isinstance(operator, op.ConvTranspose):
        products = products // (operator.window.stride[0] * operator.window.stride[1])
    near_seconds = filter_bytes / rates.near_bytes_per_second
    first = near_seconds if near else filter_bytes / rates.far_bytes_per_second
    again = near_seconds if filter_bytes <= FILTERS_PER_ROW_BYTES else 0.0
    row_seconds = products / rates.products_per_second + sums + again
    return _Work(rates.step_seconds + first - again, row_seconds, row_bytes)


def _tiles(
    operator: op.WinogradConv, source: MapSpec, output: MapSpec, rates: MachineRates
) -> _Work:
    """A convolution by tiles: transforms at the rate of sums, filters once per few tiles."""
    positions = len(operator.bt) ** 2
    blocks = -(-output.channels // BLOCK_CHANNELS) * BLOCK_CHANNELS
    filter_bytes = positions * source.channels * blocks
    tiles = -(-output.width // operator.step_rows) / operator.step_rows  # of a row
    near = filter_bytes <= rates.cache_bytes // 2
    rate = rates.near_bytes_per_second if near else rates.far_bytes_per_second
    seconds = tiles * filter_bytes / rates.products_per_second
    seconds += tiles * positions * (source.channels + blocks) / rates.sums_per_second
    seconds += tiles / operator.MOST_TILES * filter_bytes / rate
    return _Work(rates.step_seconds, seconds, _row_bytes(source, output))


def _coded(operator: op.CodedConv, source: MapSpec, output: MapSpec, rates: MachineRates) -> _Work:
    """A convolution that makes its filters, once per step, of coefficients that lie far away."""
    filter_bytes = _packed_bytes(operator, source, output)
    pixels = -(-output.width // rates.tile_pixels) * rates.tile_pixels
    row_seconds = filter_bytes * pixels / rates.products_per_second
    row_seconds += output.width * output.channels / rates.sums_per_second
    row_seconds += filter_bytes / rates.near_bytes_per_second
    additions = filter_bytes * len(operator.filters.codes)
    first = additions / (ADDED_PER_POINTWISE * rates.pointwise_bytes_per_second)
    first += operator.filters.coefficients.nbytes / rates.far_bytes_per_second
    return _Work(rates.step_seconds + first, row_seconds, _row_bytes(source, output))


def _exact_tiles(network: Network, node: Node, rates: MachineRates, near: bool) -> _Tiles:
    """A convolution by Winograd's algorithm: its filters are walked once per block of tiles."""
    assert isinstance(node.operator, op.Conv)
    source, output = network.input_specs(node)[0], network.output_spec(node)
    outputs = whole_lanes(output.channels)
    pairs = -(-source.channels // 2)
    filters = TILE_POINTS * outputs * 2 * pairs  # of two bytes
    seconds = filters / rates.point_products_per_second
    seconds += TILE_POINTS * source.channels / rates.points_per_second
    seconds += OUTPUTS * OUTPUTS * outputs / rates.tile_sums_per_second
    fits = 2 * filters <= rates.cache_bytes // 2
    walk = 2 * filters / (rates.near_bytes_per_second if fits else rates.far_bytes_per_second)
    first = 0.0 if near or not fits else 2 * filters / rates.far_bytes_per_second - walk
    return _Tiles(rates.step_seconds + first, seconds, -(-output.width // OUTPUTS), walk)


def _skipping(network: Network, node: Node, rates: MachineRates, near: bool) -> _Work:
    """A convolution that skips zero blocks: its rows are laid in planes first.

    A tile of one vector keeps the processor waiting for its sums as long as one of two.
    """
    operator, source = node.operator, network.input_specs(node)[0]
    output = network.output_spec(node)
    assert isinstance(operator, op.Conv)
    window = operator.window
    blocks = int(used_blocks(operator.weights, operator.groups).sum())
    tiles = -(-output.width // (LANES * TILE_VECTORS))
    pixels = tiles * max(whole_lanes(-(-output.width // tiles)), 2 * LANES)
    products = blocks * BLOCK[0] * BLOCK[1] * pixels
    filters = blocks * BLOCK_BYTES
    pixels_laid = output.width * min(window.kernel[1], window.stride[1])
    laid = pixels_laid * source.channels / rates.laid_bytes_per_second
    fresh = min(window.stride[0], window.kernel[0]) * laid
    row_seconds = products / rates.block_products_per_second + fresh
    row_seconds += output.width * output.channels / rates.block_sums_per_second
    row_seconds += tiles * filters / rates.near_bytes_per_second
    first = window.kernel[0] * laid - fresh
    first += 0.0 if near else filters / rates.far_bytes_per_second
    return _Work(rates.step_seconds + first, row_seconds, _row_bytes(source, output))


def _row_bytes(source: MapSpec, output: MapSpec) -> int:
    """Bytes that a row reads, those of an earlier row left out, and makes."""
    both = source.height * source.row_bytes + output.height * output.row_bytes
    return both // max(output.height, 1)


def _packed_bytes(operator: Layer, source: MapSpec, output: MapSpec) -> int:
    """Bytes of a dense convolution's filters with the zeros that fill blocks and quads."""
    height, width = operator.window.kernel
    groups, per_group = operator.groups, source.channels // operator.groups
    blocks = -(-output.channels // groups // BLOCK_CHANNELS)
    run = per_group * width if groups == 1 else per_group
    runs = height if groups == 1 else height * width
    return groups * blocks * BLOCK_CHANNELS * runs * -(-run // QUAD_BYTES) * QUAD_BYTES


def _filter_bytes(network: Network, node: Node) -> int:
    """Bytes of a node's filters; 0 where it has none."""
    operator = node.operator
    if isinstance(operator, op.CodedConv):
        return operator.filters.coefficients.nbytes
    if not isinstance(operator, op.Conv | op.ConvTranspose):
        return 0
    source, output = network.input_specs(node)[0], network.output_spec(node)
    if _is_depthwise(operator, source, output):
        return output.channels * operator.window.kernel[0] * operator.window.kernel[1]
    return _packed_bytes(operator, source, output)


def _is_depthwise(operator: op.Conv | op.ConvTranspose, source: MapSpec, output: MapSpec) -> bool:
    return operator.groups == source.channels == output.channels > 1
