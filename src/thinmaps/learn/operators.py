# SPDX-License-Identifier: Apache-2.0
"""The torch twin of every operator of a `Network`: what `run/arithmetic.py` defines, and gradients.

A module is made of (operator, specs of its inputs, spec of its output) and maps centred codes
`n c h w` (`fake_quantisation.py`) to centred codes, or to real values where its output is a head.
`forward(inputs, exact)`: with `exact`, sums are taken in float64 and equal the definition bit for
bit; without, in float32 (or what autocast chooses), and all roundings pass gradients through.
Constants are buffers that no state dict holds: they follow from scales and sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from thinmaps.graph import operators as op
from thinmaps.learn.fake_quantisation import (
    Codes,
    IntegerLayer,
    integer_layer,
    on_grid,
    requantised,
    requantised_inside,
)
from thinmaps.run.arithmetic import divisor_along
from thinmaps.types import MapSpec

Specs = Sequence[MapSpec]


class Twin(nn.Module):
    """One operator at one size. `sums` says whether `exact` makes a difference."""

    sums: ClassVar[bool] = False

    def __init__(self, operator: Any, inputs: Specs, output: MapSpec) -> None:
        super().__init__()
        self.operator, self.inputs, self.output = operator, tuple(inputs), output

    def hold(self, name: str, array: NDArray[Any] | np.generic) -> None:
        """A constant, moved with the module and kept out of state dicts."""
        self.register_buffer(name, torch.from_numpy(np.array(array)), persistent=False)

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """Centred codes of the output."""
        raise NotImplementedError


def twin_of(operator: op.Operator, inputs: Specs, output: MapSpec) -> Twin:
    """The module of an operator; layers are of `Layer`, which also takes weights."""
    return _TWINS[type(operator)](operator, inputs, output)


def _framed(x: Tensor, window: op.Window, output: MapSpec, fill: float) -> Tensor:
    """Exactly the elements that the windows of the output see, `fill` outside of the map."""
    edges = []
    for axis, (extent, made) in enumerate(
        zip(x.shape[2:], (output.height, output.width), strict=True)
    ):
        reach = (made - 1) * window.stride[axis] + (window.kernel[axis] - 1) * window.dilation[axis]
        edges.append((window.pads[axis], reach + 1 - extent - window.pads[axis]))
    (top, bottom), (left, right) = edges
    if (top, bottom, left, right) == (0, 0, 0, 0):
        return x
    return F.pad(x, (left, right, top, bottom), value=fill)


class Layer(Twin):
    """Conv, CodedConv, ConvTranspose. Weights come with each call, as the module shapes them."""

    sums = True
    input_scale: Tensor
    output_scale: Tensor
    table: Tensor
    inverse: Tensor

    def __init__(self, operator: Any, inputs: Specs, output: MapSpec) -> None:
        super().__init__(operator, inputs, output)
        self.hold("input_scale", np.float32(inputs[0].scale))
        self.hold("output_scale", np.float32(output.scale))
        self.is_coded = isinstance(operator, op.CodedConv)
        if self.is_coded:
            codes = Codes.of(operator.filters.reduction, operator.filters.codes)
            self.register_buffer("table", codes.table, persistent=False)
            self.register_buffer("inverse", codes.inverse, persistent=False)

    @property
    def codes(self) -> Codes | None:
        """The codes that make the layer's filters, if some do."""
        return Codes(self.table, self.inverse) if self.is_coded else None

    def integers(self, weight: Tensor, bias: Tensor) -> IntegerLayer:
        """What the network stores of weights `k c r s` and a bias in real units."""
        return integer_layer(weight, bias, self.inputs[0].scale, self.codes)

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor, exact: bool) -> Tensor:
        """The layer's output from centred codes, weights `k c r s` and a bias, in real units."""
        o, output = self.operator, self.output
        if not exact:
            near, shift = on_grid(weight, bias, self.inputs[0].scale, self.codes)
            if output.dtype == "float32":
                return self._sums(x, near * self.input_scale, shift).float()
            # Scales go into the weights, which are fewer than the codes.
            near = near * (self.input_scale / self.output_scale)
            return self._codes(self._sums(x, near, shift / self.output_scale).float())
        layer = self.integers(weight, bias)
        sums = self._sums(x.double(), layer.weights, layer.bias).float()
        product = self.input_scale * layer.scale
        multiplier = product / self.output_scale
        made = sums * multiplier[:, None, None]
        return made if output.dtype == "float32" else requantised(made, output, o.low, o.high)

    def _codes(self, values: Tensor) -> Tensor:
        return requantised(values, self.output, self.operator.low, self.operator.high)

    def _sums(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        o, window = self.operator, self.operator.window
        if isinstance(o, op.ConvTranspose):
            return self._transposed(x, weight) + bias[:, None, None]
        pads = window.pads
        if pads[:2] == pads[2:]:
            padding = pads[:2]
        else:
            x, padding = _framed(x, window, self.output, 0.0), (0, 0)
        return F.conv2d(x, weight, bias, window.stride, padding, window.dilation, o.groups)

    def _transposed(self, x: Tensor, weight: Tensor) -> Tensor:
        """Without padding, then cut: rows above and columns left of the output fall away."""
        o, window = self.operator, self.operator.window
        grouped = weight.reshape(o.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
        whole = F.conv_transpose2d(
            x, grouped, None, window.stride, groups=o.groups, dilation=window.dilation
        )
        top, left = window.pads[:2]
        below = self.output.height + top - whole.shape[2]
        right = self.output.width + left - whole.shape[3]
        return F.pad(whole, (-left, right, -top, below))


class Quantise(Twin):
    """Real values -> centred codes, a true division."""

    scale: Tensor

    def __init__(self, operator: Any, inputs: Specs, output: MapSpec) -> None:
        super().__init__(operator, inputs, output)
        # A tensor: some devices multiply by the reciprocal of a plain number.
        self.hold("scale", np.float32(output.scale))

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """`rne(x / scale)`, clipped."""
        return requantised(inputs[0].float() / self.scale, self.output)


class MaxPool(Twin):
    """The largest code under each window."""

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """Padding never wins: every window touches the map."""
        window = self.operator.window
        framed = _framed(inputs[0], window, self.output, -256.0)
        return F.max_pool2d(framed, window.kernel, window.stride, 0, window.dilation)


class AveragePool(Twin):
    """Sums under windows times a multiplier that counts what they see."""

    multiplier: Tensor

    def __init__(self, operator: Any, inputs: Specs, output: MapSpec) -> None:
        super().__init__(operator, inputs, output)
        spec = inputs[0]
        down = divisor_along(operator, 0, spec.height, np.arange(output.height))
        across = divisor_along(operator, 1, spec.width, np.arange(output.width))
        self.hold("multiplier", operator.multiplier[np.outer(down, across)])

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """A window sums less than 2**16 codes, so float32 is exact."""
        window, output = self.operator.window, self.output
        framed = _framed(inputs[0], window, output, 0.0)
        sums = torch.zeros((), device=framed.device)
        for r in range(window.kernel[0]):
            for s in range(window.kernel[1]):
                i, j = r * window.dilation[0], s * window.dilation[1]
                rows = slice(i, i + (output.height - 1) * window.stride[0] + 1, window.stride[0])
                columns = slice(j, j + (output.width - 1) * window.stride[1] + 1, window.stride[1])
                sums = sums + framed[:, :, rows, columns]
        return requantised_inside(sums * self.multiplier, output)


class Mean(Twin):
    """The mean over a map."""

    sums = True
    multiplier: Tensor

    def __init__(self, operator: Any, inputs: Specs, output: MapSpec) -> None:
        super().__init__(operator, inputs, output)
        self.hold("multiplier", operator.multiplier)

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """Large maps sum past 2**24, so the exact sum is float64."""
        x = inputs[0].double() if exact else inputs[0]
        made = x.sum((2, 3), keepdim=True).float() * self.multiplier
        return made if self.output.dtype == "float32" else requantised(made, self.output)


class Add(Twin):
    """Sum of two maps."""

    ratio: Tensor

    def __init__(self, operator: Any, inputs: Specs, output: MapSpec) -> None:
        super().__init__(operator, inputs, output)
        self.hold("ratio", operator.ratio)

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """Three float32 operations, each rounded."""
        total = inputs[0] * self.ratio[0] + inputs[1] * self.ratio[1]
        return requantised_inside(total, self.output, self.operator.low, self.operator.high)


class Mul(Twin):
    """Product of two maps."""

    multiplier: Tensor

    def __init__(self, operator: Any, inputs: Specs, output: MapSpec) -> None:
        super().__init__(operator, inputs, output)
        self.hold("multiplier", operator.multiplier)

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """The product of two codes is exact."""
        made = inputs[0] * inputs[1] * self.multiplier
        return requantised_inside(made, self.output, self.operator.low, self.operator.high)


class _Tables(Twin):
    """Tables of 256 bytes; the gradient is the slope between the neighbouring entries."""

    entries: Tensor
    slopes: Tensor

    def hold_tables(self, tables: NDArray[np.uint8]) -> None:
        """Centred entries and their slopes, for `(tables, 256)` bytes."""
        entries = tables.astype(np.float32)
        self.hold("entries", entries - self.output.zero_point)
        self.hold("slopes", np.gradient(entries, axis=1).astype(np.float32))

    def looked_up(self, x: Tensor, source: MapSpec, table: Tensor) -> Tensor:
        """`entries[table][byte]` for each element, `table` broadcast beside it."""
        place = (x.detach() + source.zero_point).long() + 256 * table
        made = self.entries.flatten()[place]
        if not x.requires_grad:
            return made
        return made + self.slopes.flatten()[place] * (x - x.detach())


class Lookup(_Tables):
    """A function of one variable."""

    channel: Tensor

    def __init__(self, operator: Any, inputs: Specs, output: MapSpec) -> None:
        super().__init__(operator, inputs, output)
        self.hold_tables(operator.table)
        self.hold("channel", np.arange(len(operator.table)).reshape(-1, 1, 1))

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """One table, or one per channel."""
        return self.looked_up(inputs[0], self.inputs[0], self.channel)


class Concat(_Tables):
    """Maps side by side."""

    places: Tensor

    def __init__(self, operator: Any, inputs: Specs, output: MapSpec) -> None:
        super().__init__(operator, inputs, output)
        self.hold_tables(operator.table)
        self.hold("places", np.arange(len(operator.table)))

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """Copies where the table is the identity."""
        parts = [
            x + (spec.zero_point - self.output.zero_point)
            if self.operator.is_copy(i)
            else self.looked_up(x, spec, self.places[i])
            for i, (x, spec) in enumerate(zip(inputs, self.inputs, strict=True))
        ]
        return torch.cat(parts, 1)


class Slice(Twin):
    """Every n-th row and column, some channels."""

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """A view."""
        o, made = self.operator, self.output
        rows = slice(o.row, o.row + (made.height - 1) * o.row_step + 1, o.row_step)
        columns = slice(o.column, o.column + (made.width - 1) * o.column_step + 1, o.column_step)
        return inputs[0][:, o.channel : o.channel + made.channels, rows, columns]


class Pad(Twin):
    """A border."""

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """In space and in channels."""
        o, made, x = self.operator, self.output, inputs[0]
        pads: list[int] = []
        sizes = ((o.left, made.width), (o.top, made.height), (o.channel, made.channels))
        for (before, extent), held in zip(sizes, x.shape[:0:-1], strict=True):
            pads += [before, extent - before - held]
        return F.pad(x, pads, value=float(o.value - made.zero_point))


class Resize(Twin):
    """Rows and columns mixed from integer tables."""

    rows: Tensor
    columns: Tensor
    down: Tensor
    across: Tensor

    def __init__(self, operator: Any, inputs: Specs, output: MapSpec) -> None:
        super().__init__(operator, inputs, output)
        for name in ("rows", "columns"):
            self.hold(name, getattr(operator, name).T.astype(np.int64))
        self.hold("down", operator.row_weight.astype(np.float64)[:, None])
        self.hold("across", operator.column_weight.astype(np.float64))
        self.is_nearest = not (operator.row_weight.any() or operator.column_weight.any())

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """Linear sums reach 2**30: float64. `(sum + 2**21) >> 22` rounds half up."""
        x = inputs[0]
        if self.is_nearest:
            return x[:, :, self.rows[0]][:, :, :, self.columns[0]]
        wide = x.double() + self.inputs[0].zero_point
        mixed = wide[:, :, self.rows[0]] * (2048 - self.down)
        mixed = mixed + wide[:, :, self.rows[1]] * self.down
        sums = mixed[..., self.columns[0]] * (2048 - self.across)
        real = (sums + mixed[..., self.columns[1]] * self.across) / 2.0**22
        made = real + ((real + 0.5).floor() - real).detach()
        return (made - self.output.zero_point).float()


class DepthToSpace(Twin):
    """Channels become pixels of a block."""

    def forward(self, inputs: list[Tensor], exact: bool) -> Tensor:
        """CRD is torch's pixel shuffle; DCR has the channel innermost."""
        x, block = inputs[0], self.operator.block
        if self.operator.mode == "DCR":
            count, channels, height, width = x.shape
            x = x.reshape(count, block * block, -1, height, width).transpose(1, 2)
            x = x.reshape(count, channels, height, width)
        return F.pixel_shuffle(x, block)


_TWINS: dict[type[op.Operator], Callable[[Any, Specs, MapSpec], Twin]] = {
    op.Quantise: Quantise,
    op.Conv: Layer,
    op.CodedConv: Layer,
    op.ConvTranspose: Layer,
    op.MaxPool: MaxPool,
    op.AveragePool: AveragePool,
    op.Mean: Mean,
    op.Add: Add,
    op.Mul: Mul,
    op.Lookup: Lookup,
    op.Concat: Concat,
    op.Slice: Slice,
    op.Pad: Pad,
    op.Resize: Resize,
    op.DepthToSpace: DepthToSpace,
}
