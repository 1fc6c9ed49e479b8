# SPDX-License-Identifier: Apache-2.0
"""The operators of a `Network`: their constants, their geometry, which input rows a row needs.

An operator is a frozen dataclass. Fields annotated `NDArray` are tensors (stored as such in the
file), all others are JSON values. Shapes and quantisation of its maps are in their `MapSpec`s and
are handed to the methods. `run/interpret.py` defines what each operator computes; this page
defines only its data flow:

* `input_rows(index, row, inputs, output)`: the rows of input `index` that work row `row` reads,
  as a `RowRange` that is monotone in `row` and may reach outside of the map (virtual padding).
* `work_rows(inputs, output)`: how many rows of work the node has. They are the rows of its output,
  except for `Mean`, which works through the rows of its *input* and has its output at the end.
* `rows_made(done, ...)`: output rows that exist once `done` work rows are done.
* `state_bytes(...)`: memory that lives from the node's first step to its last (running sums).
* `scratch_bytes(...)`: memory that lives in each step of the node alone.
* `step_rows`: work rows that no step may part, counted from row 0.

Filters are `k c r s` (output channel, input channel of the group, row, column); maps are `h w c`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps.graph.filter_codes import FilterCoefficients
from thinmaps.types import MapSpec, RowRange

if TYPE_CHECKING:
    from typing import TypeAlias

    Specs: TypeAlias = Sequence[MapSpec]


@dataclass(frozen=True)
class Window:
    """A sliding window: kernel, stride, dilation as (rows, columns), pads as ONNX orders them."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right

    def rows(self, row: int) -> RowRange:
        """Input rows under output row `row`, padding included."""
        first = row * self.stride[0] - self.pads[0]
        return RowRange(first, first + (self.kernel[0] - 1) * self.dilation[0] + 1)


@dataclass(frozen=True, eq=False)
class Operator(ABC):
    """What a node computes. Final subclasses carry an `id`."""

    id: ClassVar[str]
    # Inputs whose bytes the output may overwrite when they die in the same step: element i of
    # the output depends on nothing of that input but its element i.
    in_place: ClassVar[tuple[int, ...]] = ()

    @abstractmethod
    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """Rows of input `index` read by work row `row`, unclamped and monotone in `row`."""

    def work_rows(self, inputs: Specs, output: MapSpec) -> int:
        """Rows of work of the whole node."""
        del inputs
        return output.height

    def rows_made(self, done: int, inputs: Specs, output: MapSpec) -> int:
        """Output rows that exist after `done` work rows."""
        del inputs, output
        return done

    def state_bytes(self, inputs: Specs, output: MapSpec) -> int:
        """Bytes that live from the first to the last step of the node."""
        del inputs, output
        return 0

    def scratch_bytes(self, inputs: Specs, output: MapSpec) -> int:
        """Bytes that live in every step of the node anew."""
        del inputs, output
        return 0

    @property
    def step_rows(self) -> int:
        """A step starts at a multiple of so many work rows, and ends at one or at the last row."""
        return 1


@dataclass(frozen=True, eq=False)
class RowWise(Operator):
    """Work row `row` reads row `row` of every input; an input of height 1 is broadcast."""

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """Row `row`, or row 0 of a 1 x 1 input beside a taller output."""
        if inputs[index].height == 1 and output.height > 1:
            return RowRange(0, 1)
        return RowRange(row, row + 1)


@dataclass(frozen=True, eq=False)
class Picture(RowWise):
    """Picture bytes -> map bytes: `y[c] = table[c][x[source[c]]]`.

    The input is the caller's uint8 picture in RGB (or grey). `source` reorders channels (BGR).
    """

    id: ClassVar[str] = "picture"
    table: NDArray[np.uint8]  # (channels, 256)
    source: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Quantise(RowWise):
    """The caller's float32 rows -> map bytes, `rne(x / scale) + zero_point` of the output."""

    id: ClassVar[str] = "quantise"


@dataclass(frozen=True, eq=False)
class Conv(Operator):
    """`y = sat(rne(fl(acc) * multiplier) + zy)`, clamped to low..high; acc int32 with its bias.

    `acc = bias + sum w * (x - zx)`; padding contributes nothing. With a float32 output (a head)
    `y = fl(acc) * multiplier`. Gemm is a Conv on a 1 x 1 map, or with a kernel as large as the
    map.
    """

    id: ClassVar[str] = "conv"
    window: Window
    groups: int
    weights: NDArray[np.int8]  # k c r s
    bias: NDArray[np.int32]  # k
    multiplier: NDArray[np.float32]  # k
    low: int = 0
    high: int = 255

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """The window's rows."""
        return self.window.rows(row)


@dataclass(frozen=True, eq=False)
class WinogradConv(Operator):
    """An r x r convolution of stride 1, m x m outputs at a time: fewer products, of rounded bytes.

    Not equal to the `Conv` that it stands for; `calibrate/winograd_scales.py` makes one of it.
    Tiles are counted from the map's first row and column, so a row is the same in whichever step it
    is made. Per tile, `d` its n x n inputs less the zero point, n = m + r - 1, padding 0, and per
    position (a, b) of its mu x mu products:

        V[a,b,c] = sum bt[a,i] bt[b,j] d[i,j,c]                              below 2^15
        v[a,b,c] = (V[a,b,c] * input_scale[a,b,c] + 2^14) >> 15, saturated to int8
        M[k,a,b] = sum over c of weights[k,c,a,b] v[a,b,c]                   below 2^31
        Z[k,a,b] = rne(fl(M[k,a,b]) * product_scale[k,a,b])                  below 2^31
        Y[k,i,j] = bias[k] + sum at[i,a] at[j,b] Z[k,a,b]                    below 2^31
        y        = sat(rne(fl(Y) * multiplier) + zy), clamped to low..high

    The bounds hold for every input (`graph/winograd_bounds.py`). Steps do whole rows of tiles.
    """

    id: ClassVar[str] = "winograd_conv"
    MOST_TILES: ClassVar[int] = 8  # that are done together, as in native/winograd_scaled.cc
    window: Window
    at: NDArray[np.int8]  # m, mu
    bt: NDArray[np.int8]  # mu, n
    input_scale: NDArray[np.int32]  # mu mu c, in 2^-15, 1 to 2^15 - 1
    weights: NDArray[np.int8]  # k c mu mu
    product_scale: NDArray[np.float32]  # k mu mu
    bias: NDArray[np.int32]  # k, in steps of Y
    multiplier: NDArray[np.float32]  # k, from steps of Y to those of the output
    low: int = 0
    high: int = 255

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """All rows of the tile that `row` belongs to."""
        first = row // self.step_rows * self.step_rows - self.window.pads[0]
        return RowRange(first, first + self.step_rows + self.window.kernel[0] - 1)

    def scratch_bytes(self, inputs: Specs, output: MapSpec) -> int:
        """Per tile, the bytes of 16 channels and the sums of 16 outputs at every position."""
        positions, channels = len(self.bt) ** 2, -(-inputs[0].channels // 16) * 16
        down, across = (-(-extent // self.step_rows) for extent in output.shape[:2])
        tile_bytes = -(-positions * (channels + 4 * 16) // 64) * 64
        return min(down * across, self.MOST_TILES) * tile_bytes

    @property
    def step_rows(self) -> int:
        """The m rows of a tile."""
        return len(self.at)


@dataclass(frozen=True, eq=False)
class CodedConv(Operator):
    """A `Conv` whose 3x3 filters are made of coefficients and codes when it runs.

    `graph/filter_codes.py` defines them. Only coefficients are stored, in the file and in memory.
    Each group has a multiple of 4 input channels.
    """

    id: ClassVar[str] = "coded_conv"
    MANY_INPUTS: ClassVar[int] = 128
    MANY_PIXELS: ClassVar[int] = 1 << 12
    window: Window
    groups: int
    filters: FilterCoefficients
    bias: NDArray[np.int32]  # k
    multiplier: NDArray[np.float32]  # k
    low: int = 0
    high: int = 255

    @property
    def weights(self) -> NDArray[np.int8]:
        """The filters `k c r s`, made anew at every call."""
        return self.filters.made()

    def scratch_bytes(self, inputs: Specs, output: MapSpec) -> int:
        """Filters of 2 blocks of 16 outputs, which are made at a time.

        So at most 2 threads share a step; 4 where many pixels of few channels are worth more. An
        instruction set may fill a block up, to less than twice its bytes.
        """
        per_group = inputs[0].channels // self.groups
        pixels = output.height * output.width
        shared = pixels >= self.MANY_PIXELS and per_group <= self.MANY_INPUTS
        return (4 if shared else 2) * 16 * 9 * per_group

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """The window's rows."""
        return self.window.rows(row)


@dataclass(frozen=True, eq=False)
class ConvTranspose(Operator):
    """Transposed convolution: input (i, j) adds to output (i * stride - pad + r * dilation, ...).

    Filters are `k c r s` here as everywhere (ONNX stores c k r s). Same requantisation as Conv.
    """

    id: ClassVar[str] = "conv_transpose"
    window: Window
    groups: int
    weights: NDArray[np.int8]
    bias: NDArray[np.int32]
    multiplier: NDArray[np.float32]
    low: int = 0
    high: int = 255

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """All i with row = i * stride - pad + r * dilation for some filter row r (a hull)."""
        reach = (self.window.kernel[0] - 1) * self.window.dilation[0]
        padded = row + self.window.pads[0]
        stride = self.window.stride[0]
        return RowRange(-((reach - padded) // stride), padded // stride + 1)


@dataclass(frozen=True, eq=False)
class MaxPool(Operator):
    """The largest byte under the window; pads are ignored. Input and output share scale and zp."""

    id: ClassVar[str] = "max_pool"
    window: Window

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """The window's rows."""
        return self.window.rows(row)


@dataclass(frozen=True, eq=False)
class AveragePool(Operator):
    """`sat(rne(fl(sum of (x - zx)) * multiplier[n]) + zy)`, n the divisor at that place.

    The divisor counts the elements under the window that lie in the map, and those in the
    declared padding too where `count_include_pad`; never those beyond it (ceil_mode's overhang).
    `multiplier[n] = fl(sx / (sy * n))`, entry 0 unused.
    """

    id: ClassVar[str] = "average_pool"
    window: Window
    count_include_pad: bool
    multiplier: NDArray[np.float32]  # (kernel rows * kernel columns + 1,)

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """The window's rows."""
        return self.window.rows(row)


@dataclass(frozen=True, eq=False)
class Mean(Operator):
    """Mean over height and width, int32 running sums: `sat(rne(fl(sum of (x - zx)) * m) + zy)`.

    With a float32 output (a head) `y = fl(sum) * m`. `multiplier` holds one value.
    """

    id: ClassVar[str] = "mean"
    multiplier: NDArray[np.float32]  # (1,)

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """Work row `row` adds input row `row` to the sums."""
        return RowRange(row, row + 1)

    def work_rows(self, inputs: Specs, output: MapSpec) -> int:
        """One per input row."""
        return inputs[0].height

    def rows_made(self, done: int, inputs: Specs, output: MapSpec) -> int:
        """The single output row, after the last input row."""
        return int(done == inputs[0].height)

    def state_bytes(self, inputs: Specs, output: MapSpec) -> int:
        """One int32 sum per channel."""
        return 4 * inputs[0].channels


@dataclass(frozen=True, eq=False)
class Add(RowWise):
    """`sat(rne(fl(fl((a - za) * ra) + fl((b - zb) * rb))) + zy)`, clamped to low..high.

    `ratio = (fl(sa / sy), fl(sb / sy))`. An input of height and width 1 is broadcast.
    """

    id: ClassVar[str] = "add"
    in_place: ClassVar[tuple[int, ...]] = (0, 1)
    ratio: NDArray[np.float32]  # (2,)
    low: int = 0
    high: int = 255


@dataclass(frozen=True, eq=False)
class Mul(RowWise):
    """`sat(rne(fl((a - za) * (b - zb)) * m) + zy)`; m = fl(fl(sa * sb) / sy). b may be 1 x 1."""

    id: ClassVar[str] = "mul"
    in_place: ClassVar[tuple[int, ...]] = (0, 1)
    multiplier: NDArray[np.float32]  # (1,)
    low: int = 0
    high: int = 255


@dataclass(frozen=True, eq=False)
class Lookup(RowWise):
    """`y = table[x]`, one table of 256 entries, or one per channel."""

    id: ClassVar[str] = "lookup"
    in_place: ClassVar[tuple[int, ...]] = (0,)
    table: NDArray[np.uint8]  # (1 or channels, 256)


@dataclass(frozen=True, eq=False)
class Concat(RowWise):
    """Inputs side by side in channels, each through a table; identity tables are plain copies.

    A producer may write its slice straight into this map's rows (see `plan`); then that part of
    the step is no work. That is legal only where the input's table is the identity.
    """

    id: ClassVar[str] = "concat"
    table: NDArray[np.uint8]  # (inputs, 256)

    def is_copy(self, index: int) -> bool:
        """Whether input `index` arrives unchanged."""
        return bool(np.array_equal(self.table[index], np.arange(256)))


@dataclass(frozen=True, eq=False)
class Slice(Operator):
    """`y[i, j, c] = x[row + i * row_step, column + j * column_step, channel + c]`."""

    id: ClassVar[str] = "slice"
    row: int = 0
    row_step: int = 1
    column: int = 0
    column_step: int = 1
    channel: int = 0

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """One row."""
        first = self.row + row * self.row_step
        return RowRange(first, first + 1)


@dataclass(frozen=True, eq=False)
class Pad(Operator):
    """A border of `value` (a byte: the quantised constant) around the map; channels too."""

    id: ClassVar[str] = "pad"
    top: int = 0
    left: int = 0
    channel: int = 0
    value: int = 0

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """Row `row - top`; outside of the map it is all border."""
        return RowRange(row - self.top, row - self.top + 1)


@dataclass(frozen=True, eq=False)
class Resize(Operator):
    """Nearest or bilinear resize from integer tables; scale and zero point stay.

    Output row i mixes input rows `rows[i, 0]` and `rows[i, 1]` with weights `2048 - row_weight[i]`
    and `row_weight[i]`, columns likewise: `y = (sum + 2**21) >> 22`. Nearest has all weights 0.
    Both columns of `rows` are non-decreasing and lie inside the map.
    """

    id: ClassVar[str] = "resize"
    rows: NDArray[np.int32]  # (output height, 2)
    columns: NDArray[np.int32]  # (output width, 2)
    row_weight: NDArray[np.int32]  # (output height,), 0..2048
    column_weight: NDArray[np.int32]  # (output width,), 0..2048

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """From the upper to the lower source row."""
        return RowRange(int(self.rows[row, 0]), int(self.rows[row, 1]) + 1)


@dataclass(frozen=True, eq=False)
class DepthToSpace(Operator):
    """`y[i, j, c] = x[i // b, j // b, f]` with b = block, C = output channels.

    DCR: `f = (i % b * b + j % b) * C + c`. CRD: `f = c * b * b + i % b * b + j % b`.
    """

    id: ClassVar[str] = "depth_to_space"
    block: int
    mode: Literal["DCR", "CRD"] = "DCR"

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """Row `row // block`."""
        return RowRange(row // self.block, row // self.block + 1)


@dataclass(frozen=True, eq=False)
class Encode(RowWise):
    """Raw rows -> the codec's payloads. Inserted by `plan` where an edge is held encoded."""

    id: ClassVar[str] = "encode"
    unit_rows: int = field(default=1)
    halo_rows: int = field(default=0)

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """The whole coding unit that holds `row`, and the codec's halo."""
        first = row // self.unit_rows * self.unit_rows
        return RowRange(first - self.halo_rows, first + self.unit_rows + self.halo_rows)

    @property
    def step_rows(self) -> int:
        """The rows of a coding unit."""
        return self.unit_rows


@dataclass(frozen=True, eq=False)
class Decode(RowWise):
    """A codec's payloads -> raw rows, for one reader of the edge."""

    id: ClassVar[str] = "decode"
    unit_rows: int = field(default=1)
    halo_units: int = field(default=0)

    def input_rows(self, index: int, row: int, inputs: Specs, output: MapSpec) -> RowRange:
        """The rows of the coding unit that holds `row`, and of its halo units."""
        first = row // self.unit_rows * self.unit_rows
        halo = self.halo_units * self.unit_rows
        return RowRange(first - halo, first + self.unit_rows + halo)

    @property
    def step_rows(self) -> int:
        """The rows of a coding unit."""
        return self.unit_rows


OPERATORS: dict[str, type[Operator]] = {
    operator.id: operator
    for operator in (
        Picture, Quantise, Conv, WinogradConv, CodedConv, ConvTranspose, MaxPool, AveragePool, Mean,
        Add, Mul, Lookup, Concat, Slice, Pad, Resize, DepthToSpace, Encode, Decode,
    )
}  # fmt: skip
