# SPDX-License-Identifier: Apache-2.0
"""Bytes of a map to symbols that an entropy coder likes, and back: steps, rounding, fold.

No codec by itself: the variable-rate codecs hold a `Steps` where they are lossy. In integers only,
so that every implementation and the exported ONNX network give the same bytes.

Source
    A uniform quantiser with a dead zone is what image codecs put before their entropy coder (e.g.
    JPEG 2000, ISO/IEC 15444-1, annex E). A step per channel by how much the output feels it is the
    reverse water-filling of rate-distortion theory (Cover and Thomas, "Elements of Information
    Theory", section 10.3). Ours: integers on uint8 maps, the fold that wastes no symbol.

Arithmetic, for the byte x of a channel in a map of zero point z. `step` is in 1/128 of a byte,
128 (one byte, nothing is lost) to 32640; `rounding` is in 1/256 of a step, 0 to 128.
    multiplier = floor((2**19 + floor(step / 2)) / step)   its reciprocal, in 1/4096
    offset     = floor(rounding * step / 2**11)            in 1/16 of a byte
    distance   = floor((16*|x - z| + offset) * multiplier / 2**16)       in steps
    |x' - z|   = min(255, floor((distance*step + 64) / 2**7)), then x' is bounded to 0..255
Products of the first line lie below 2**24 and factors below 2**16, so 16-bit lanes and float32 both
compute it exactly. A distance is rounded up where it passes `1 - rounding/256` of a step: at 128 to
the nearest level, below that the interval of a level reaches further up than down.

Fold. Symbol 0 is the zero point, and only it. Distances 1, 2, 3.. above and below it alternate,
    above: 2*distance - 1, below: 2*distance,
until the nearer end of 0..255 is reached after `fold` steps; behind it, distance + fold. All
symbols 0..largest are used. `symbol_bits` bounds them to 2**bits - 1; what lies beyond is clipped.
Where the zero point is 0, the symbol is the distance.

Cost: one multiplication and a handful of byte operations per element each way; the native twin is
steps.h. Tables of one step per channel belong to the plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import StandardOperator, UInt8Array
from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec

Int32Array = NDArray[np.int32]

ONE = 128
MOST = 255 * ONE
OPTION_ONE = 16  # the option `step` of codecs counts sixteenths of a byte
# To the nearest level. A wider dead zone saves bytes and squared error, but shifts the mean of each
# channel, which the output feels far more: on ResNet-20 at 4.5x, rounding up from 0.65 of a step on
# moves the logits by four times the squared error that rounding to the nearest does, for 2.5 % less
# bytes.
DEFAULT_ROUNDING = 128
# Steps that rate control tries: a quarter apart, down to where networks break. Where the output
# feels a map little, as behind the last sums, that is far beyond 10 bytes.
MENU = (18, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320, 400, 512)
# A channel's step is at most so many times the smallest of its map.
WIDEST_STEP_RATIO = 64
# What follows a table's channels again, so that 64 elements may start at any channel.
TABLE_LOOKAHEAD = 64


@dataclass(frozen=True, eq=False)
class Steps:
    """A step per channel, (channels,), or one for all, (1,); with dead zone and symbol width."""

    step: NDArray[np.int32] = field(default_factory=lambda: np.full(1, ONE, np.int32))
    rounding: int = DEFAULT_ROUNDING
    symbol_bits: int = 8

    def __post_init__(self) -> None:
        step = self.step
        if step.dtype != np.int32 or step.ndim != 1 or not step.size:
            raise BadArgument(f"step must be int32 (channels,), got {step.dtype} {step.shape}")
        if step.min() < ONE or step.max() > MOST:
            raise BadArgument(f"step must be in {ONE}..{MOST}, got {step.min()}..{step.max()}")
        for name, least, most in (("rounding", 0, 128), ("symbol_bits", 1, 8)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise BadArgument(f"{name} must be an integer in {least}..{most}, got {value!r}")

    def check_spec(self, spec: MapSpec, codec_id: str) -> None:
        """Refuse maps of another number of channels than there are steps."""
        if self.step.size not in (1, spec.channels):
            raise BadShape(
                f"{codec_id} has steps for {self.step.size} channels, the map has {spec.channels}"
            )

    def symbols(self, rows: UInt8Array, zero_point: int) -> UInt8Array:
        """Symbols of `rows` (..., channels)."""
        fold, largest = self.fold(zero_point), self.largest(zero_point)
        distance = self._distance(np.abs(rows.astype(np.int32) - zero_point))
        above = rows > zero_point
        towards_nearer_end = above != (zero_point < 128)
        distance = np.where(towards_nearer_end, np.minimum(distance, fold), distance)
        alternating = 2 * distance - (above & (distance > 0))
        symbols = np.minimum(np.minimum(alternating, distance + fold), largest)
        return np.asarray(symbols, np.uint8)

    def values(self, symbols: UInt8Array, zero_point: int) -> UInt8Array:
        """Rows from their symbols (..., channels), none of which is above `largest`."""
        fold = self.fold(zero_point)
        symbol = symbols.astype(np.int32)
        distance = np.maximum((symbol + 1) >> 1, symbol - fold)
        above = np.where(symbol > 2 * fold, zero_point < 128, symbol & 1 == 1)
        magnitude = np.minimum((distance * self.step + ONE // 2) // ONE, 255)
        restored = zero_point + np.where(above, magnitude, -magnitude)
        return np.asarray(restored.clip(0, 255), np.uint8)

    def fold(self, zero_point: int) -> Int32Array:
        """Steps from the zero point to the nearer end of 0..255; of the shape of `step`."""
        reach = self._distance(np.int32(min(zero_point, 255 - zero_point)))
        return np.minimum(reach, self.symbol_limit // 2, dtype=np.int32)

    def largest(self, zero_point: int) -> Int32Array:
        """The largest symbol of a channel; of the shape of `step`."""
        fold = self.fold(zero_point)
        reach = self._distance(np.int32(max(zero_point, 255 - zero_point)))
        return np.minimum(reach, self.symbol_limit - fold, dtype=np.int32) + fold

    @property
    def symbol_limit(self) -> int:
        """`2**symbol_bits - 1`."""
        return (1 << self.symbol_bits) - 1

    def check_symbols(self, symbols: UInt8Array, zero_point: int, codec_id: str) -> None:
        """Refuse symbols (..., channels) that no byte has, naming the first."""
        largest = np.broadcast_to(self.largest(zero_point), symbols.shape)
        wrong = symbols > largest
        if wrong.any():
            channel = int(np.argwhere(wrong)[0, -1])
            raise CorruptPayload(
                f"{codec_id} has symbols up to {largest[wrong][0]} in channel {channel}, "
                f"found {symbols[wrong][0]}"
            )

    def standard_operators(self, zero_point: int) -> tuple[StandardOperator, ...]:
        """What becomes of each byte, as one table (256, channels): no branch for the two signs."""
        every_byte = np.arange(256, dtype=np.uint8)[:, None]
        rows = np.broadcast_to(every_byte, (256, self.step.size))
        restored = self.values(self.symbols(rows, zero_point), zero_point)
        return (StandardOperator("Gather", (restored.astype(np.float32),)),)

    def native_tables(self, spec: MapSpec) -> UInt8Array:
        """Tables of steps.h, one byte per channel each.

        They are the low and the high bytes of multiplier, offset and step, then fold and largest. A
        table begins again behind its channels and goes on for `TABLE_LOOKAHEAD` bytes.
        """
        wide = (self._multiplier(), self._offset(), self.step)
        rows = [row for table in wide for row in (table & 255, table >> 8)]
        rows += [self.fold(spec.zero_point), self.largest(spec.zero_point)]
        channel = np.arange(spec.channels + TABLE_LOOKAHEAD) % spec.channels % self.step.size
        return np.concatenate([row[channel] for row in rows]).astype(np.uint8)

    def _multiplier(self) -> Int32Array:
        return ((1 << 19) + self.step // 2) // self.step

    def _offset(self) -> Int32Array:
        return self.rounding * self.step >> 11

    def _distance(self, difference: NDArray[np.int32] | np.int32) -> Int32Array:
        return (difference * np.int32(16) + self._offset()) * self._multiplier() >> 16


IDENTITY = Steps()


def fit_steps(
    step: int, symbol_bits: int, channels: int, weights: NDArray[np.floating] | None
) -> Steps | None:
    """Steps for a codec's options; None where `step` is 0, which means lossless.

    `step` is in sixteenths of a byte. `weights` (channels,) say how much the output feels a squared
    error in each channel: a channel's step is proportional to 1/sqrt(weight), for which the noise
    that reaches the output at a given rate is least, and the geometric mean of all is `step`. It is
    the mean of the logarithms that the rate depends on, so that weights hardly change the rate.

    >>> fit_steps(32, 8, 2, np.array([4.0, 1.0])).step / ONE
    array([1.4140625, 2.828125 ])
    """
    if type(step) is not int or not (step == 0 or OPTION_ONE <= step <= 255 * OPTION_ONE):
        raise BadArgument(
            f"step counts sixteenths of a byte: 0 (lossless) or {OPTION_ONE} to "
            f"{255 * OPTION_ONE}, got {step!r}"
        )
    if step == 0:
        return None
    base = step * (ONE // OPTION_ONE)
    if weights is None:
        return Steps(np.full(1, base, np.int32), symbol_bits=symbol_bits)
    if weights.shape != (channels,) or not np.isfinite(weights).all() or weights.min() < 0:
        raise BadArgument(
            f"weights must be ({channels},), finite and not negative, got {weights.shape}"
        )
    # A channel that the output does not feel at all would have an endless step, and the mean of all
    # would leave the others next to none.
    felt = np.maximum(weights.astype(np.float64), weights.max() / WIDEST_STEP_RATIO**2)
    felt = felt if weights.max() > 0 else np.ones(channels)
    share = np.exp((np.log(felt).mean() - np.log(felt)) / 2)
    steps = np.rint(base * share).clip(ONE, MOST).astype(np.int32)
    return Steps(steps, symbol_bits=symbol_bits)
