# SPDX-License-Identifier: Apache-2.0
"""The surrogate of `block_code`: both matrices, offsets and centres as real numbers that learn.

Source
    Floors passed straight through where they do not clip: Bengio et al., 2013, arXiv:1308.3432;
    steps that learn with what they quantise, the step being the size of a row here: Esser et al.,
    "Learned Step Size Quantization", 2020, arXiv:1902.08153. Ours: training computes with the very
    integers that are folded, shifts included, so that it sees what will run.

    code   = clamp(floor(s), 0, largest),  s = analysis (x - zero point) + offset, in codes
    x'     = clamp(floor(synthesis (code - centre) + 1/2) + zero point, 0, 255), in bytes

Gradients. Rounding of matrices, offsets and centres passes them on; codes and restored bytes pass
them where they are not clamped.

Units. A parameter is 1 where its component's entry is the largest at the start, an offset or centre
is counted in codes: a step of an optimizer that looks at signs means the same for strong components
and for weak ones.

Cost: while training, two grouped convolutions whose stride is their kernel, with as many channels
as a block has components.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from thinmaps.codecs.base import Codec
from thinmaps.codecs.block_code import MOST_OFFSET, BlockCode, FreeTransform
from thinmaps.codecs.transform import MOST_SHIFT, QUARTERS
from thinmaps.learn.fake_quantisation import rounded
from thinmaps.learn.surrogates.base import Surrogate
from thinmaps.types import MapSpec

LARGEST = 127  # entry of a matrix


class _Clipped(torch.autograd.Function):
    """`clamp(floor(sums / divisor), least, most)`; the gradient passes where nothing is clamped."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, divisor: Tensor, least: Tensor, most: Tensor) -> Tensor:
        shifted = (sums / divisor).floor_()
        made = torch.minimum(torch.maximum(shifted, least), most)
        ctx.save_for_backward(made == shifted, divisor)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        inside, divisor = ctx.saved_tensors
        return gradients[0].mul(inside).div_(divisor), None, None, None


def clipped(sums: Tensor, divisor: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """`clamp(floor(sums / divisor), least, most)`; the gradient passes where nothing is clamped.

    `divisor` is a power of two and `sums` are integers below 2**24, so that what is compiled, which
    adds the rounding to the quotient, is exact too.
    """
    if torch.compiler.is_compiling():  # which cannot trace the other where sizes vary
        quotient = sums / divisor
        return (quotient + (quotient.floor() - quotient).detach()).clamp(least, most)
    made: Tensor = _Clipped.apply(sums, divisor, least, most)  # type: ignore[no-untyped-call]
    return made


class BlockCodeSurrogate(Surrogate):
    """Matrices that learn. Starts as the codec it stands for, whose widths and units it keeps.

    Every group has as many components here as the largest one, and as many channels: parameters
    `(components, channels, rows, columns)` in the form of grouped convolutions. What is filled up
    has no bits, and stays 0.
    """

    codec_id = "block_code"
    takes_codes = True
    largest: Tensor
    analysis_unit: Tensor
    synthesis_unit: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, codec: Codec, spec: MapSpec) -> None:
        super().__init__(spec)
        self.require(codec)
        assert isinstance(codec, BlockCode)
        self.unit_rows, self.start = codec.unit_rows, codec.transform
        self.groups = len(self.start.counts)
        self.count = int(self.start.counts.max())
        analysis, synthesis = self._matrices(self.start)
        units = [_largest(matrix, (1, 2, 3)) for matrix in (analysis, synthesis)]
        self.analysis = nn.Parameter(analysis / units[0])
        self.synthesis = nn.Parameter(synthesis / units[1])
        scale = 2.0 ** -self.start.analysis_shift.astype(np.float64)
        self.offset = nn.Parameter(self._column(self.start.offset * scale))
        self.centre = nn.Parameter(self._column(self.start.centre / QUARTERS))
        for name, buffer in (
            ("largest", self._column(self.start.largest)),
            ("analysis_unit", units[0]),
            ("synthesis_unit", units[1]),
        ):
            self.register_buffer(name, buffer)
        for name in ("lowest", "highest"):
            self.register_buffer(name, torch.zeros(len(self.largest)), persistent=False)
        self.forget()

    # The start as tensors, and back

    def _matrices(self, transform: FreeTransform) -> tuple[Tensor, Tensor]:
        """Both matrices in codes per byte and bytes per code, filled up."""
        analysis, synthesis = (
            torch.zeros(self.groups, self.count, transform.group, transform.rows, transform.columns)
            for _ in range(2)
        )
        for place, group in enumerate(transform.groups()):
            count, channels = len(group.analysis), group.channels.stop - group.channels.start
            shape = (count, transform.rows, transform.columns, channels)
            down = 2.0 ** -transform.analysis_shift[group.components].astype(np.float64)
            back = 2.0 ** -transform.synthesis_shift[group.channels].astype(np.float64)
            here = (group.analysis * down[:, None]).reshape(shape).transpose(0, 3, 1, 2)
            there = (group.synthesis.T.reshape(shape) * back).transpose(0, 3, 1, 2)
            analysis[place, :count, :channels] = torch.from_numpy(here)
            synthesis[place, :count, :channels] = torch.from_numpy(there)
        return analysis.flatten(0, 1), synthesis.flatten(0, 1)

    def _column(self, per_component: NDArray[Any]) -> Tensor:
        """One number per component as (components, 1, 1), filled up with zeros."""
        column = torch.zeros(self.groups, self.count)
        for place, group in enumerate(self.start.groups()):
            own = np.asarray(per_component[group.components], np.float32)
            column[place, : len(own)] = torch.from_numpy(own)
        return column.reshape(-1, 1, 1)

    def _of_codec(self, column: Tensor, kind: type) -> NDArray[Any]:
        """The reverse: the numbers of the codec's own components."""
        filled = column.detach().reshape(self.groups, self.count).cpu().numpy()
        parts = [row[:count] for row, count in zip(filled, self.start.counts, strict=True)]
        return np.concatenate(parts).astype(kind)

    # The integers, with the gradients of real numbers

    def analysis_integers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Matrix, offset and divisor (2**shift) of each component."""
        real = self.analysis * self.analysis_unit
        divisor = _divisor(_largest(real.detach(), (1, 2, 3)).flatten(1).unsqueeze(-1))
        matrix = rounded(real * divisor[..., None]).clamp(-LARGEST, LARGEST)
        offset = rounded(self.offset * divisor).clamp(-MOST_OFFSET, MOST_OFFSET)
        return matrix, offset, divisor

    def synthesis_integers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Matrix, centre in codes, and divisor (2**shift) of each channel."""
        real = self.synthesis * self.synthesis_unit
        grouped = real.reshape(self.groups, self.count, *real.shape[1:])
        divisor = _divisor(_largest(grouped.detach(), (1, 3, 4)))  # (groups, 1, channels, 1, 1)
        matrix = rounded(grouped * divisor).clamp(-LARGEST, LARGEST).reshape(real.shape)
        quarters = rounded(self.centre * QUARTERS).clamp(min=0)
        centre = torch.minimum(quarters, QUARTERS * self.largest) / QUARTERS
        return matrix, centre, divisor.reshape(-1, 1, 1)

    def codec(self) -> BlockCode:
        """The codec that the parameters fold into."""
        with torch.no_grad():
            analysis, offset, below = self.analysis_integers()
            synthesis, centre, above = self.synthesis_integers()
        channels = self.start.synthesis_shift.size
        matrices: list[list[NDArray[np.int8]]] = [[], []]
        for place, group in enumerate(self.start.groups()):
            own = slice(place * self.count, place * self.count + len(group.analysis))
            width = group.channels.stop - group.channels.start
            for found, made in zip(matrices, (analysis, synthesis), strict=True):
                pixels = made[own, :width].permute(0, 2, 3, 1).flatten(1).to(torch.int8)
                found.append(pixels.cpu().numpy())
        shifts = torch.log2(above.flatten()[:channels]).to(torch.uint8).cpu().numpy()
        transform = replace(
            self.start,
            analysis=np.concatenate([each.ravel() for each in matrices[0]]),
            analysis_shift=self._of_codec(torch.log2(below), np.uint8),
            synthesis=np.concatenate([each.T.ravel() for each in matrices[1]]),
            synthesis_shift=shifts,
            analysis_offset=self._of_codec(offset, np.int32),
            synthesis_centre=self._of_codec(centre * QUARTERS, np.int32),
        )
        return BlockCode(self.unit_rows, transform)

    # Forwards

    def restored(self, values: Tensor) -> Tensor:
        """`restored_codes` of what the values are on the map's grid."""
        return self.restored_codes(rounded(values.float() / self.spec.scale)) * self.spec.scale

    def restored_bytes(self, codes: Tensor) -> Tensor:
        """Bytes of a map, uint8 `n c h w`, encoded and decoded by the codec, all at once."""
        with torch.no_grad():
            restored = self.restored_codes(codes.float() - self.spec.zero_point)
        return (restored + self.spec.zero_point).to(torch.uint8)

    def restored_codes(self, codes: Tensor) -> Tensor:
        """Distances from the zero point, encoded and decoded, in float32: all sums are integers."""
        with torch.autocast(codes.device.type, enabled=False):
            return self._through_blocks(codes.float())

    def _through_blocks(self, levels: Tensor) -> Tensor:
        _, channels, high, wide = levels.shape
        start = self.start
        edges = (0, -wide % start.columns, 0, -high % start.rows)
        padded = functional.pad(levels, edges, mode="replicate") if any(edges) else levels
        if absent := self.groups * start.group - channels:
            padded = functional.pad(padded, (0, 0, 0, 0, 0, absent))
        codes = self._codes(padded)
        self._watch(codes)
        matrix, centre, divisor = self.synthesis_integers()
        stride = (start.rows, start.columns)
        half = torch.floor(divisor / 2).flatten()
        sums = functional.conv_transpose2d(codes - centre, matrix, half, stride, groups=self.groups)
        zero_point = torch.tensor(float(self.spec.zero_point), device=levels.device)
        made = clipped(sums, divisor, -zero_point, 255 - zero_point)
        return made[:, :channels, :high, :wide]

    def _codes(self, levels: Tensor) -> Tensor:
        """The code of every component of every block, with the gradient of where it lies."""
        matrix, offset, divisor = self.analysis_integers()
        stride = (self.start.rows, self.start.columns)
        sums = functional.conv2d(levels, matrix, offset.flatten(), stride, groups=self.groups)
        return clipped(sums, divisor, torch.zeros_like(divisor), self.largest)

    # What never changes

    def _watch(self, codes: Tensor) -> None:
        if not self.training:
            return
        with torch.no_grad():
            self.lowest.copy_(torch.minimum(self.lowest, codes.amin(dim=(0, 2, 3))))
            self.highest.copy_(torch.maximum(self.highest, codes.amax(dim=(0, 2, 3))))

    def dead_bits(self) -> int:
        """Stored bits that no code since `forget` has changed: leading ones of what codes span."""
        low = self._of_codec(self.lowest, np.int64)
        high = self._of_codec(self.highest, np.int64)
        if np.any(low > high):
            return 0
        alive = np.ceil(np.log2((low ^ high) + 1)).astype(np.int64)
        return int((self.start.width - alive).sum())

    def forget(self) -> None:
        """Begin anew to watch for dead bits."""
        self.lowest.fill_(256)
        self.highest.fill_(-1)


def _largest(matrix: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The largest entry along axes, 1 where all are 0."""
    found = matrix.abs().amax(dim=axes, keepdim=True)
    return torch.where(found > 0, found, 1.0)


def _divisor(largest: Tensor) -> Tensor:
    """The power of two that brings `largest` next to the largest entry of int8."""
    # A hair of room: entries that came from integers meet the bound exactly, up to rounding.
    shift = torch.floor(torch.log2(LARGEST * (1 + 1e-6) / largest)).clamp(0, MOST_SHIFT)
    return torch.exp2(shift)
