# SPDX-License-Identifier: Apache-2.0
"""First and second moments of what a convolution's filters see.

A patch is the input under one output position, flattened as a filter of its group is (channel, row,
column). Rounding weights needs the mean of patches and of their outer products; a few dozen
positions per picture say as much as all of them, because neighbouring patches are nearly alike.
Positions lie on a grid whose corner moves from picture to picture, so that all are visited.

Columns beyond `CHUNK` are cut into chunks, and products between two chunks are not kept: memory is
at most columns * CHUNK doubles per group, cost positions * columns * CHUNK products per picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thinmaps.graph.float_network import FloatArray, FloatConv, MapQuantisation
from thinmaps.graph.operators import Window
from thinmaps.quant import dequantise, quantise

POSITIONS = 48
CHUNK = 1152

Float64Array = NDArray[np.float64]


class Moments:
    """Running sums over patches, per group of the convolution.

    Products are of patches as the uint8 network sees them; their means are kept with and without
    the quantisation of the map.
    """

    def __init__(self, conv: FloatConv) -> None:
        columns = conv.weights[0].size
        self.window = conv.window
        self.groups = conv.groups
        self.patches = 0
        self.real_sums = np.zeros((conv.groups, columns))
        self.sums = np.zeros((conv.groups, columns))
        self.chunks = [slice(at, min(at + CHUNK, columns)) for at in range(0, columns, CHUNK)]
        self.products = [
            np.zeros((conv.groups, chunk.stop - chunk.start, chunk.stop - chunk.start))
            for chunk in self.chunks
        ]

    def add(
        self,
        values: FloatArray,
        quantisation: MapQuantisation,
        output: tuple[int, int],
        picture: int,
    ) -> None:
        """Count patches of one picture's map `(c, h, w)`; `output` is (height, width)."""
        rows, columns = grid(output, picture)
        found = patches(values, self.window, rows, columns)
        grouped = found.reshape(len(found), self.groups, -1).transpose(1, 0, 2)
        self.patches += len(found)
        self.real_sums += grouped.sum(axis=1)
        seen = round_trip(grouped, quantisation)
        self.sums += seen.sum(axis=1)
        for chunk, products in zip(self.chunks, self.products, strict=True):
            part = seen[:, :, chunk]
            products += np.matmul(part.transpose(0, 2, 1), part)

    @property
    def real_mean(self) -> Float64Array:
        """Mean patch of the float map, (groups, columns)."""
        return self.real_sums / self.patches

    @property
    def mean(self) -> Float64Array:
        """Mean patch of the quantised map, (groups, columns)."""
        return self.sums / self.patches

    @property
    def second(self) -> list[Float64Array]:
        """Mean outer product of patches per chunk, (groups, columns, columns)."""
        return [products / self.patches for products in self.products]


def round_trip(values: FloatArray, quantisation: MapQuantisation) -> FloatArray:
    """Values as the uint8 map holds them."""
    codes = quantise(values, quantisation.scale, quantisation.zero_point)
    return dequantise(codes, quantisation.scale, quantisation.zero_point)


def grid(output: tuple[int, int], picture: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of about `POSITIONS` output positions, another set for each picture."""
    side = max(1, int(POSITIONS**0.5))
    axes = []
    for length, turn in zip(output, (picture, picture // side), strict=True):
        step = max(1, length // side)
        axes.append(np.arange(turn % step, length, step)[: side + 1])
    rows, columns = np.meshgrid(*axes, indexing="ij")
    return rows.ravel(), columns.ravel()


def patches(
    values: FloatArray, window: Window, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> FloatArray:
    """The input under output positions, (positions, channels * kernel rows * kernel columns)."""
    top, left, bottom, right = window.pads
    padded = np.pad(values, ((0, 0), (top, bottom), (left, right)))
    taps = [
        padded[
            :,
            rows * window.stride[0] + r * window.dilation[0],
            columns * window.stride[1] + s * window.dilation[1],
        ]
        for r in range(window.kernel[0])
        for s in range(window.kernel[1])
    ]
    stacked = np.stack(taps, axis=1)  # channels, taps, positions
    return np.ascontiguousarray(stacked.reshape(-1, len(rows)).T)
