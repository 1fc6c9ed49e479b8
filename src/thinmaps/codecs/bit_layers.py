# SPDX-License-Identifier: Apache-2.0
"""Convolutions over bits with binary outputs, in integers: what projects bits, and what restores.

No codec by itself: `gf2` holds two sequences of `BitLayer`.

Source
    Gudovskiy, Hodgkinson, Rigazio, 2018, arXiv:1808.05285: bits, real weights, and a bit that is 1
    where the sum exceeds a half. Ours: weights are int8 (binary and ternary ones are its special
    cases), and bias, rounding and normalisation are folded into a threshold per output.

    bit_o = [ sum over the set bits i of the window of w_oi  >=  threshold_o ]

A kernel of 1 x 1 looks at a pixel. A kernel of 3 x 3 has stride 2 and padding 1: `project` makes
`ceil(size / 2)` pixels, tap (y, x) of output (i, j) being input (2i + y - 1, 2j + x - 1); `restore`
is its transpose, whose output has whatever size was projected: output (2i + y - 1, 2j + x - 1)
adds tap (y, x) of input (i, j). Padding is bits that are not set.

Sums have magnitudes below 2**24, so that float32 holds them exactly. Cost: an addition per weight
and set bit; the native twins count bits instead (gf2_layers.h).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import StandardOperator, UInt8Array
from thinmaps.errors import BadArgument

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]

EXACT = 1 << 24
KERNELS = (1, 3)
STRIDE = 2
LANES = 16  # outputs that the native twin counts side by side
WORD = 32  # bits that it counts at once
MOST_WORDS = 256  # of one pixel, each group's bits in words of their own; bounds its stack


class Tap(NamedTuple):
    """The weights of one place of a window (groups, inputs, outputs), of those that have any."""

    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    weights: Float32Array


class Slice(NamedTuple):
    """Weights as masks: `weights = sum of factor * mask` over slices, plus `Slices.every`."""

    factor: int
    mask: NDArray[np.bool_]


class Slices(NamedTuple):
    """A layer's weights as bits: sums are `factor * popcount(x & mask)`, and `every * popcount(x)`.

    Binary and 0/1 weights are one mask, ternary ones two, others as many as they have bits. Factors
    are powers of two, none larger than the one before it, and only the first may be negative.
    """

    every: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True, eq=False)
class BitLayer:
    """One convolution over bits; by default eight bits to themselves.

    `weights` are (outputs, inputs of a group, kernel, kernel) and `threshold` is (outputs,);
    outputs and inputs of a group lie side by side.
    """

    groups: int = 1
    weights: NDArray[np.int8] = field(
        default_factory=lambda: np.eye(8, dtype=np.int8)[..., None, None]
    )
    threshold: NDArray[np.int32] = field(default_factory=lambda: np.ones(8, np.int32))

    def __post_init__(self) -> None:
        shape = self.weights.shape
        if self.weights.dtype != np.int8 or len(shape) != 4 or not self.weights.size:
            raise BadArgument(
                f"weights must be int8 (outputs, inputs of a group, kernel, kernel), "
                f"got {self.weights.dtype} {shape}"
            )
        if shape[2] not in KERNELS or shape[3] != shape[2]:
            raise BadArgument(
                f"weights need kernels of 1 x 1 or 3 x 3, got {shape[2]} x {shape[3]}"
            )
        if type(self.groups) is not int or self.groups < 1 or shape[0] % self.groups:
            raise BadArgument(
                f"groups must be a positive integer that divides the {shape[0]} outputs, "
                f"got {self.groups!r}"
            )
        if self.threshold.dtype != np.int32 or self.threshold.shape != shape[:1]:
            raise BadArgument(
                f"threshold must be int32 ({shape[0]},), "
                f"got {self.threshold.dtype} {self.threshold.shape}"
            )
        self._check_sums()

    def _check_sums(self) -> None:
        size = np.abs(self.weights.astype(np.int16))
        most = int(size.reshape(self.outputs, -1).sum(axis=1, dtype=np.int64).max())
        if most >= EXACT or int(np.abs(self.threshold.astype(np.int64)).max()) >= EXACT:
            raise BadArgument(
                f"sums of weights and the threshold must stay below 2**24, where float32 is exact; "
                f"got sums up to {most} and thresholds {self.threshold.min()} to "
                f"{self.threshold.max()}"
            )
        words = self.groups * max(-(-n // WORD) for n in (self.group_inputs, self.group_outputs))
        if words > MOST_WORDS:
            raise BadArgument(
                f"weights take {words} words of {WORD} bits for a pixel's {self.inputs} inputs or "
                f"{self.outputs} outputs in {self.groups} groups; at most {MOST_WORDS} are held"
            )

    @property
    def kernel(self) -> int:
        """1 or 3."""
        return int(self.weights.shape[2])

    @property
    def group_inputs(self) -> int:
        """Input bits of a group."""
        return int(self.weights.shape[1])

    @property
    def group_outputs(self) -> int:
        """Output bits of a group."""
        return self.outputs // self.groups

    @property
    def inputs(self) -> int:
        """Input bits of a pixel."""
        return self.group_inputs * self.groups

    @property
    def outputs(self) -> int:
        """Output bits of a pixel."""
        return int(self.weights.shape[0])

    def projected(self, size: int) -> int:
        """Rows or columns that `project` makes of `size`."""
        return size if self.kernel == 1 else -(-size // STRIDE)

    def project(self, bits: UInt8Array) -> UInt8Array:
        """Bits (rows, columns, inputs) -> (projected rows, projected columns, outputs)."""
        high, wide = (self.projected(size) for size in bits.shape[:2])
        stride, around = (1, 0) if self.kernel == 1 else (STRIDE, 1)
        padded = np.pad(bits, ((around, around), (around, around), (0, 0)))
        sums = np.zeros((high, wide, self.outputs), np.float32)
        for (y, x), tap in self._taps.items():
            sums += self._summed(padded[y::stride, x::stride][:high, :wide], tap)
        return self._thresholded(sums)

    def restore(self, bits: UInt8Array, rows: int, columns: int) -> UInt8Array:
        """Bits (projected rows, projected columns, inputs) -> (rows, columns, outputs)."""
        high, wide = bits.shape[:2]
        stride, around = (1, 0) if self.kernel == 1 else (STRIDE, 1)
        shape = (stride * high + around, stride * wide + around, self.outputs)
        padded = np.zeros(shape, np.float32)
        for (y, x), tap in self._taps.items():
            here = padded[y : y + stride * high : stride, x : x + stride * wide : stride]
            here += self._summed(bits, tap)
        return self._thresholded(padded[around : rows + around, around : columns + around])

    @cached_property
    def _taps(self) -> dict[tuple[int, int], Tap]:
        """Every tap (y, x) that has any weight."""
        grouped = self.weights.reshape(self.groups, -1, *self.weights.shape[1:])
        found = {}
        for y, x in np.ndindex(self.kernel, self.kernel):
            tap = grouped[..., y, x]
            outputs, inputs = (np.flatnonzero(tap.any(axis=axes)) for axes in ((0, 2), (0, 1)))
            if len(inputs):
                weights = tap[:, outputs][:, :, inputs].transpose(0, 2, 1).astype(np.float32)
                found[y, x] = Tap(inputs, outputs, weights)
        return found

    def _summed(self, bits: UInt8Array, tap: Tap) -> Float32Array:
        """Sums of one tap (rows, columns, outputs), exact in float32."""
        pixels = bits.reshape(-1, self.groups, self.group_inputs)[:, :, tap.inputs]
        sums = np.zeros((len(pixels), self.groups, self.group_outputs), np.float32)
        products = pixels.transpose(1, 0, 2).astype(np.float32) @ tap.weights
        sums[:, :, tap.outputs] = products.transpose(1, 0, 2)
        return sums.reshape(*bits.shape[:2], self.outputs)

    def _thresholded(self, sums: Float32Array) -> UInt8Array:
        return (sums >= self.threshold).astype(np.uint8)

    def dense(self) -> NDArray[np.float32]:
        """(outputs, inputs, kernel, kernel): zeros between groups."""
        full = np.zeros((self.outputs, self.inputs, self.kernel, self.kernel), np.float32)
        for group in range(self.groups):
            outputs = slice(group * self.group_outputs, (group + 1) * self.group_outputs)
            inputs = slice(group * self.group_inputs, (group + 1) * self.group_inputs)
            full[outputs, inputs] = self.weights[outputs]
        return full

    def standard_operators(self, *, transposed: bool) -> Iterator[StandardOperator]:
        """The layer on bits in float32, whole maps; sums are integers, so clipping compares."""
        sizes = (STRIDE, 1) if self.kernel == 3 else (0, 0)
        if transposed:
            weights = np.ascontiguousarray(self.dense().transpose(1, 0, 2, 3))
            yield StandardOperator("ConvTranspose", (weights,), sizes)
        else:
            yield StandardOperator("Conv", (self.dense(),), sizes)
        yield StandardOperator("Add", (1 - self.threshold.astype(np.float32),))
        yield StandardOperator("Clip", (np.float32(0), np.float32(1)))

    @cached_property
    def slices(self) -> Slices:
        """The fewest masks that the weights need."""
        w = self.weights
        found = np.flatnonzero(np.bincount(w.ravel().view(np.uint8), minlength=256))
        low, high = int(found.astype(np.int8).min()), int(found.astype(np.int8).max())
        if low >= 0 and high <= 1:
            return Slices(0, (Slice(1, w == 1),))
        if low >= -1 and high <= 1:
            if 0 not in found:
                return Slices(-1, (Slice(2, w == 1),))
            return Slices(0, (Slice(-1, w == -1), Slice(1, w == 1)))
        width = 1 + max(max(high, 0).bit_length(), (~min(low, 0)).bit_length())
        signed = Slice(-(1 << width - 1), w < 0)
        bits = (Slice(1 << b, (w >> b & 1).astype(bool)) for b in range(width - 2, -1, -1))
        return Slices(0, (signed, *bits))

    def native_integers(self) -> Int32Array:
        """Group inputs, group outputs, kernel, factor of every bit, slices, their 8 factors, and
        the thresholds, each group's filled up to `LANES`."""
        every, slices = self.slices
        factors = [s.factor for s in slices]
        head = [self.group_inputs, self.group_outputs, self.kernel, every, len(slices)]
        head += factors + [0] * (8 - len(factors))
        padding = ((0, 0), (0, -self.group_outputs % LANES))
        never = np.iinfo(np.int32).max
        threshold = self.threshold.reshape(self.groups, -1)
        threshold = np.pad(threshold, padding, constant_values=never)
        return np.concatenate([np.array(head, np.int32), threshold.ravel()], dtype=np.int32)

    @cached_property
    def native_tables(self) -> UInt8Array:
        """Masks as (groups, tiles of `LANES` outputs, slices, taps, words, lanes) of 32 bits."""
        masks = np.stack([s.mask for s in self.slices.slices])
        taps = self.kernel * self.kernel
        masks = masks.reshape(len(masks), self.groups, self.group_outputs, self.group_inputs, taps)
        lanes, spare = -self.group_outputs % LANES, -self.group_inputs % WORD
        masks = np.pad(masks, ((0, 0), (0, 0), (0, lanes), (0, spare), (0, 0)))
        packed = np.packbits(np.moveaxis(masks, -1, 2), axis=-1, bitorder="little")
        words = np.ascontiguousarray(packed).view("<u4")  # (slices, groups, taps, outputs, words)
        shape = (*words.shape[:3], -1, LANES, words.shape[-1])
        tiles = words.reshape(shape).transpose(1, 3, 0, 2, 5, 4)
        return np.ascontiguousarray(tiles).view(np.uint8).ravel()


def identity(kept: NDArray[np.integer], inputs: int, kernel: int, *, restores: bool) -> BitLayer:
    """The layer whose output o is input `kept[o]`, or 0 where that is -1.

    A 3 x 3 kernel looks at its centre. One that restores puts a pixel where that centre was, and
    repeats it to the right and below, where no centre was.
    """
    weights = np.zeros((len(kept), inputs, kernel, kernel), np.int8)
    outputs = np.flatnonzero(kept >= 0)
    centre = kernel // 2
    taps = slice(centre, None if restores else centre + 1)
    for output in outputs:
        weights[output, kept[output], taps, taps] = 1
    return BitLayer(1, weights, np.ones(len(kept), np.int32))
