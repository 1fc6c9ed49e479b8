# SPDX-License-Identifier: Apache-2.0
"""Blocks of a map to components and back: a matrix in integers each way, one byte per component.

No codec by itself: `klt` and `channel_dct` hold a `Transform`, `block_code` one whose quantisers
are not tied to the zero point; they differ in how the matrices come about and how the codes are
stored. In integers only, so that every implementation and the exported ONNX network give the same
bytes.

Source
    Transform coding with a quantiser per component is classical (Goyal, "Theoretical Foundations of
    Transform Coding", IEEE Signal Processing Magazine, 2001). Ours: the form of the integers. A
    row of int8 is scaled so that the step of its component is a power of two, so that quantising is
    a shift and both directions are one and the same operation, a product of bytes.

A block is `rows x columns` pixels of `group` channels that lie side by side, at most 128 elements,
counted pixel by pixel, a pixel's channels together; the last group of a map may be smaller. Blocks
that reach over the right or lower edge repeat the last column or row, and what they restore there
is left out. A group has `counts` components, which may be fewer than it has elements.

Arithmetic, for elements x of a block in a map of zero point z
    code_k = clamp(floor((sum_i analysis_ki * (x_i - z) + offset_k) / 2**s_k), 0, 2**w_k - 1)
    x'_i   = clamp(floor((floor(sum_k synthesis_ik * (code_k - centre_k / 4)) + half) / 2**t_c) + z,
                   0, 255)
where `half` is half of the divisor, so that it rounds half up, `s` is the component's
`analysis_shift`, `w` its `width`, and `t` the `synthesis_shift` of the element's channel. In a
`Transform` offset and centre are those of a zero code: `zero_code * 2**s + half` and `4 *
zero_code`, so that a block of zero points comes back exactly. Matrices are int8, shifts at most 15
and sums have at most 128 terms, so that nothing exceeds 2**24, up to where float32 is exact.

Several codes may restore the same block, because what is clamped or left out does not show.

Cost: a multiplication per element and component each way. The matrices, two bytes per element and
component of each group, belong to the plan. The native twin is transform.h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import StandardOperator, UInt8Array, check_codes
from thinmaps.errors import BadArgument, BadShape
from thinmaps.types import MapSpec

Int32Array = NDArray[np.int32]
Int8Array = NDArray[np.int8]

MOST_ELEMENTS = 128
MOST_SHIFT = 15
WIDEST = 8
LANES = 16  # outputs that the native twin computes side by side
QUAD = 4  # inputs that it multiplies at once
QUARTERS = 4  # that a centre counts of a code


class Group(NamedTuple):
    """The matrices of one group: its channels, its components, and both directions."""

    channels: slice
    components: slice
    analysis: Int8Array  # (components, elements)
    synthesis: Int8Array  # (elements, components)


def _bytes(*values: int) -> UInt8Array:
    return np.array(values, np.uint8)


@dataclass(frozen=True, eq=False)
class BlockTransform(ABC):
    """Matrices and widths of every group; by default one channel, unchanged.

    `counts` are components per group; `width` and `analysis_shift` are per component,
    `synthesis_shift` per channel. `analysis` and `synthesis` hold the groups' matrices one after
    the other, in C order. Abstract but for where the codes lie: `offset` and `centre`.
    """

    rows: int = 1
    columns: int = 1
    group: int = 1
    counts: NDArray[np.int32] = field(default_factory=lambda: np.ones(1, np.int32))
    width: NDArray[np.uint8] = field(default_factory=lambda: _bytes(8))
    analysis: NDArray[np.int8] = field(default_factory=lambda: np.ones(1, np.int8))
    analysis_shift: NDArray[np.uint8] = field(default_factory=lambda: _bytes(0))
    synthesis: NDArray[np.int8] = field(default_factory=lambda: np.ones(1, np.int8))
    synthesis_shift: NDArray[np.uint8] = field(default_factory=lambda: _bytes(0))

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "group"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MOST_ELEMENTS:
                raise BadArgument(f"{name} must be an integer in 1..{MOST_ELEMENTS}, got {value!r}")
        if self.pixels * self.group > MOST_ELEMENTS:
            raise BadArgument(
                f"a block has at most {MOST_ELEMENTS} elements, got {self.rows} rows x "
                f"{self.columns} columns x {self.group} channels"
            )
        self._check_counts()
        self._check_tables()

    def _check_counts(self) -> None:
        counts, groups = self.counts, -(-self.synthesis_shift.size // self.group)
        if self.synthesis_shift.ndim != 1 or not groups:
            raise BadArgument(
                f"synthesis_shift must be (channels,), got {self.synthesis_shift.shape}"
            )
        if counts.dtype != np.int32 or counts.shape != (groups,):
            raise BadArgument(
                f"counts must be int32 ({groups},), got {counts.dtype} {counts.shape}"
            )
        if counts.min() < 0 or counts.max() > MOST_ELEMENTS or not counts.any():
            raise BadArgument(
                f"counts must lie in 0..{MOST_ELEMENTS} and not all be 0, got {counts.tolist()}"
            )

    def _check_tables(self) -> None:
        products = int((self.counts * self.elements_of_groups()).sum())
        channels, components = self.synthesis_shift.size, self.components
        self._check_table("width", np.uint8, components, (1, WIDEST))
        self._check_table("analysis", np.int8, products, (-128, 127))
        self._check_table("analysis_shift", np.uint8, components, (0, MOST_SHIFT))
        self._check_table("synthesis", np.int8, products, (-128, 127))
        self._check_table("synthesis_shift", np.uint8, channels, (0, MOST_SHIFT))

    def _check_table(self, name: str, kind: type, elements: int, limits: tuple[int, int]) -> None:
        """Refuse a table of another type, length or range."""
        table, (least, most) = getattr(self, name), limits
        if table.dtype != kind or table.shape != (elements,):
            raise BadArgument(
                f"{name} must be {np.dtype(kind)} ({elements},), got {table.dtype} {table.shape}"
            )
        if table.min() < least or table.max() > most:
            raise BadArgument(
                f"{name} must be in {least}..{most}, got {table.min()}..{table.max()}"
            )

    @property
    @abstractmethod
    def offset(self) -> Int32Array:
        """What is added to the sum of each component before it is shifted to a code."""

    @property
    @abstractmethod
    def centre(self) -> Int32Array:
        """The place, in quarters of a code, that restores nothing but zero points."""

    @abstractmethod
    def lowered(self, by: Int32Array) -> Mapping[str, NDArray[Any]]:
        """The tables behind offset and centre for codes that are less by so much."""

    @property
    def pixels(self) -> int:
        """Pixels of a block."""
        return self.rows * self.columns

    @property
    def components(self) -> int:
        """Components of all groups: codes per block."""
        return int(self.counts.sum())

    @property
    def largest(self) -> Int32Array:
        """The largest code of each component that its width can hold."""
        return (1 << self.width.astype(np.int32)) - 1

    def elements_of_groups(self) -> Int32Array:
        """Elements of a block in each group."""
        channels = self.synthesis_shift.size
        first = np.arange(0, channels, self.group)
        return np.asarray(np.minimum(self.group, channels - first) * self.pixels, np.int32)

    def groups(self) -> Iterator[Group]:
        """Every group in the order of its channels."""
        component, product = 0, 0
        for place, elements in enumerate(self.elements_of_groups()):
            count = int(self.counts[place])
            stop = product + count * int(elements)
            first = place * self.group
            yield Group(
                slice(first, first + int(elements) // self.pixels),
                slice(component, component + count),
                self.analysis[product:stop].reshape(count, elements),
                self.synthesis[product:stop].reshape(elements, count),
            )
            component, product = component + count, stop

    def check_spec(self, spec: MapSpec, unit_rows: int, codec_id: str) -> None:
        """Refuse maps of other channels, and units that end inside of a block."""
        channels = self.synthesis_shift.size
        if spec.channels != channels:
            raise BadShape(
                f"{codec_id} has matrices for {channels} channels, the map has {spec.channels}"
            )
        if unit_rows % self.rows and unit_rows < spec.height:
            raise BadShape(
                f"{codec_id} has blocks of {self.rows} rows, so that unit_rows must be a multiple "
                f"of it or the whole map of {spec.height} rows, got {unit_rows}"
            )

    def counts_of(self, spec: MapSpec, rows: int) -> tuple[int, int]:
        """Blocks below each other and side by side in a unit of `rows` rows."""
        return -(-rows // self.rows), -(-spec.width // self.columns)

    def codes(self, rows: UInt8Array, zero_point: int) -> UInt8Array:
        """Codes of `rows` (rows, width, channels): (blocks down, blocks across, components)."""
        high, wide, channels = rows.shape
        edges = ((0, -high % self.rows), (0, -wide % self.columns), (0, 0))
        padded = np.pad(rows, edges, mode="edge")
        down, across = len(padded) // self.rows, padded.shape[1] // self.columns
        split = padded.reshape(down, self.rows, across, self.columns, channels)
        pixels = split.transpose(0, 2, 1, 3, 4)
        codes = np.empty((down, across, self.components), np.uint8)
        for group in self.groups():
            x = pixels[..., group.channels].reshape(down, across, -1).astype(np.float32)
            sums = ((x - zero_point) @ group.analysis.T.astype(np.float32)).astype(np.int32)
            codes[..., group.components] = self._quantised(sums, group.components)
        return codes

    def _quantised(self, sums: Int32Array, components: slice) -> Int32Array:
        codes = (sums + self.offset[components]) >> self.analysis_shift[components].astype(np.int32)
        return np.asarray(codes.clip(0, self.largest[components]), np.int32)

    def values(self, codes: UInt8Array, zero_point: int) -> UInt8Array:
        """Rows from codes (blocks down, blocks across, components), edges of blocks included."""
        down, across, _ = codes.shape
        channels = self.synthesis_shift.size
        pixels = np.empty((down, across, self.rows, self.columns, channels), np.uint8)
        for group in self.groups():
            levels = codes[..., group.components].astype(np.float32)
            levels -= self.centre[group.components] / np.float32(QUARTERS)
            sums = np.floor(levels @ group.synthesis.T.astype(np.float32)).astype(np.int32)
            shift = self.synthesis_shift[group.channels].astype(np.int32)
            x = sums.reshape(down, across, self.rows, self.columns, -1) + (1 << shift >> 1) >> shift
            pixels[..., group.channels] = (x + zero_point).clip(0, 255)
        rows = pixels.transpose(0, 2, 1, 3, 4)
        return rows.reshape(down * self.rows, across * self.columns, channels)

    def bounds(self, zero_point: int) -> tuple[UInt8Array, UInt8Array]:
        """The least and the largest code of each component that any block has."""
        low, high = (np.empty(self.components, np.uint8) for _ in range(2))
        for group in self.groups():
            matrix = group.analysis.astype(np.int32)
            up, down = np.maximum(matrix, 0).sum(axis=1), np.minimum(matrix, 0).sum(axis=1)
            least = up * -zero_point + down * (255 - zero_point)
            most = up * (255 - zero_point) + down * -zero_point
            low[group.components] = self._quantised(least, group.components)
            high[group.components] = self._quantised(most, group.components)
        return low, high

    def check_codes(self, codes: UInt8Array, zero_point: int, codec_id: str) -> None:
        """Refuse codes (..., components) that no block has, naming the first."""
        check_codes(codes, *self.bounds(zero_point), codec_id, "component")

    def standard_operators(
        self, spec: MapSpec, order: NDArray[np.int32] | None = None
    ) -> tuple[StandardOperator, ...]:
        """Both directions as convolutions whose stride is their kernel.

        With `order`, channel `order[i]` of the map is what is channel i here.
        """
        analysis, synthesis = (np.zeros(self._kernel_shape(), np.float32) for _ in range(2))
        for group in self.groups():
            here = (group.components, group.channels)
            shape = (-1, self.rows, self.columns, group.synthesis.shape[0] // self.pixels)
            analysis[here] = group.analysis.reshape(shape).transpose(0, 3, 1, 2)
            synthesis[here] = group.synthesis.T.reshape(shape).transpose(0, 3, 1, 2)
        synthesis_shift = self.synthesis_shift
        if order is not None:
            place = np.argsort(order)
            analysis, synthesis = analysis[:, place], synthesis[:, place]
            synthesis_shift = synthesis_shift[place]
        whole = (1 << self.analysis_shift.astype(np.int32)).astype(np.float32)
        zero = np.float32(spec.zero_point)
        down, across = self.counts_of(spec, spec.height)
        below = down * self.rows - spec.height
        right = across * self.columns - spec.width
        return (
            StandardOperator("Add", (-zero,)),
            *([StandardOperator("Pad", (), (below, right))] if below or right else []),
            StandardOperator("Conv", (analysis,)),
            StandardOperator("Add", (self.offset.astype(np.float32),)),
            StandardOperator("Mul", ((1 / whole).astype(np.float32),)),
            StandardOperator("Floor"),
            StandardOperator("Max", (np.float32(0),)),
            StandardOperator("Min", (self.largest.astype(np.float32),)),
            StandardOperator("Add", ((self.centre / -QUARTERS).astype(np.float32),)),
            StandardOperator("ConvTranspose", (synthesis,)),
            *_rounded(synthesis_shift),
            StandardOperator("Add", (zero,)),
            StandardOperator("Clip", (np.float32(0), np.float32(255))),
            *([StandardOperator("Crop", (), (spec.height, spec.width))] if below or right else []),
        )

    def _kernel_shape(self) -> tuple[int, int, int, int]:
        return self.components, self.synthesis_shift.size, self.rows, self.columns

    def native_integers(self, zero_point: int) -> Int32Array:
        """Rows, columns, group, groups; then of each group its components and its two stages.

        A stage is what turns bytes into bytes: `LANES` outputs at a time, of which it has bias and
        shift, and for the way to codes the largest code, and as bytes the bits that are stored and
        the least and largest code that is ever written; all 0 where there is no output.
        """
        low, high = self.bounds(zero_point)
        numbers = [np.array([self.rows, self.columns, self.group, len(self.counts)])]
        for group in self.groups():
            numbers.append(np.array([len(group.analysis)]))
            shift = self.analysis_shift[group.components].astype(np.int32)
            bias = self.offset[group.components]
            bias = bias - zero_point * group.analysis.astype(np.int32).sum(axis=1)
            largest = self.largest[group.components]
            table = _lanes(bias, shift, largest)
            limits = _byte_lanes(largest, low[group.components], high[group.components])
            numbers.append(np.concatenate([table, limits], axis=1).ravel())
            shift = np.tile(self.synthesis_shift[group.channels].astype(np.int32), self.pixels)
            bias = (zero_point << shift) + (1 << shift >> 1)
            quarters = group.synthesis.astype(np.int32) @ self.centre[group.components]
            bias = bias + (-quarters // QUARTERS)
            numbers.append(_lanes(bias, shift).ravel())
        return np.concatenate(numbers).astype(np.int32)

    def native_tables(self) -> UInt8Array:
        """The matrices of each group's two stages, outputs by `LANES` and inputs by `QUAD`."""
        stages = [m for group in self.groups() for m in (group.analysis, group.synthesis)]
        return np.concatenate([_tiles(matrix) for matrix in stages]).view(np.uint8)


@dataclass(frozen=True, eq=False)
class Transform(BlockTransform):
    """A transform whose zero points stay exact: `zero_code` per component stands for them."""

    zero_code: NDArray[np.uint8] = field(default_factory=lambda: _bytes(0))

    def _check_tables(self) -> None:
        super()._check_tables()
        self._check_table("zero_code", np.uint8, self.components, (0, 255))
        if np.any(self.zero_code > self.largest):
            raise BadArgument("zero_code must be a code of the component's width")

    @property
    def offset(self) -> Int32Array:
        """The zero code's, and half a step, so that codes are rounded half up."""
        shift = self.analysis_shift.astype(np.int32)
        return np.asarray((self.zero_code << shift) + (1 << shift >> 1), np.int32)

    @property
    def centre(self) -> Int32Array:
        """The zero code."""
        return QUARTERS * self.zero_code.astype(np.int32)

    def lowered(self, by: Int32Array) -> Mapping[str, NDArray[Any]]:
        """The zero code."""
        return {"zero_code": (self.zero_code - by).astype(np.uint8)}


def _rounded(shift: UInt8Array) -> tuple[StandardOperator, ...]:
    """`floor((x + half) / 2**shift)`, exact in float32."""
    whole = np.float32(1) * (1 << shift.astype(np.int32))
    half = np.floor(whole / 2).astype(np.float32)
    return (
        StandardOperator("Add", (half,)),
        StandardOperator("Mul", ((1 / whole).astype(np.float32),)),
        StandardOperator("Floor"),
    )


def _lanes(*rows: NDArray[np.integer]) -> Int32Array:
    """Numbers per output as (tiles, rows, LANES)."""
    table = np.stack([np.asarray(row, np.int32) for row in rows])
    table = np.pad(table, ((0, 0), (0, -table.shape[1] % LANES)))
    return np.ascontiguousarray(table.reshape(len(rows), -1, LANES).transpose(1, 0, 2))


def _byte_lanes(*rows: NDArray[np.integer]) -> Int32Array:
    """Up to four rows of bytes per output as one row of numbers, (tiles, 1, LANES)."""
    table = _lanes(*rows, *[np.zeros_like(rows[0])] * (4 - len(rows))).astype(np.uint8)
    return table.reshape(-1, 1, 4 * LANES).view(np.int32)


def _tiles(matrix: Int8Array) -> Int8Array:
    """(outputs, inputs) as (tiles of LANES, quads, LANES, QUAD), filled up with zeros."""
    outputs, inputs = matrix.shape
    whole = np.pad(matrix, ((0, -outputs % LANES), (0, -inputs % QUAD)))
    tiles = whole.reshape(whole.shape[0] // LANES, LANES, whole.shape[1] // QUAD, QUAD)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3)).ravel()
