# SPDX-License-Identifier: Apache-2.0
"""Mixed-width codec: 0 to 8 bits per element, a width for every channel. Lossy.

Source
    `levels.py`, with its arithmetic and its fit. Ours: every channel has its own width, chosen so
    that the outputs lose least for the bytes (`bit_allocation.py`); the layout, which needs no
    permutation: eight elements become one word by a bit gather (`pext`), and back (`pdep`).

Arithmetic: that of `levels.py`, with codes of the channel's width. A channel of width 0 is the zero
point everywhere; one of width 8 with a step of one byte is exact.

Size, per unit of `rows` rows, with P the sum of all widths (bits per pixel)
    bytes = rows * ceil(width * P / 8)

Payload, per row
    ceil(width * P / 8) bytes: the codes in C order, each in as many bits as its channel has, least
    significant bit first, in the bit order of `bits.py`; the spare bits zero
Pixel i begins at bit i * P, so any columns decode alone. With one width for all channels these are
the bytes of `narrow`. The tables (6 bytes per channel) belong to the plan, not to the payload.

The native twin is mixed_width.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps import bits
from thinmaps.codecs.base import Codec, StandardOperator, UInt8Array
from thinmaps.codecs.bit_allocation import allocate
from thinmaps.codecs.levels import (
    ONE,
    Int32Array,
    Levels,
    candidates,
    check_tables,
    histograms_of,
    smoothed,
    squared_errors,
)
from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec

WIDEST = 8
# The native twin takes eight elements at a time and starts its tables over after so many.
GROUP = 8
LEAST_PERIOD = 512


@dataclass(frozen=True, eq=False)
class MixedWidth(Codec):
    """`width`, `step` and `zero_code` per channel, all (channels,)."""

    id: ClassVar[str] = "mixed_width"
    rate: ClassVar[Literal["fixed", "variable"]] = "fixed"
    settings: ClassVar[tuple[Mapping[str, int], ...]] = tuple({"bits": b} for b in (1, 3, 4, 7))
    menu: ClassVar[tuple[Mapping[str, int], ...]] = tuple({"bits": b} for b in range(1, 8))

    width: NDArray[np.uint8] = field(default_factory=lambda: np.full(1, 4, np.uint8))
    step: NDArray[np.int32] = field(default_factory=lambda: np.full(1, ONE, np.int32))
    zero_code: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(1, np.uint8))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tables(self.id, width=self.width, step=self.step, zero_code=self.zero_code)
        if self.width.max() > WIDEST or not self.width.any():
            raise BadArgument(
                f"{self.id} needs widths of 0 to {WIDEST} bits that are not all 0, "
                f"got {self.width.min()}..{self.width.max()}"
            )
        if (self.zero_code > self.largest_code).any():
            channel = int((self.zero_code > self.largest_code).argmax())
            raise BadArgument(
                f"{self.id} with {self.width[channel]} bits in channel {channel} needs a zero_code "
                f"up to {self.largest_code[channel]}, got {self.zero_code[channel]}"
            )

    @classmethod
    def fit(
        cls,
        spec: MapSpec,
        samples: UInt8Array,
        weights: NDArray[np.floating] | None = None,
        **options: Any,
    ) -> MixedWidth:
        """Widths of `bits` in the mean, and for each the steps of least squared error.

        Options: `bits` (1 to 8, the mean over channels), `unit_rows`. Samples are (n, rows, width,
        channels). `weights` (channels,) say how much the output feels a squared error in each
        channel; without them all channels count the same.
        """
        return cls.fitter(spec, samples, weights)(**options)

    @classmethod
    def fitter(
        cls, spec: MapSpec, samples: UInt8Array, weights: NDArray[np.floating] | None = None
    ) -> Callable[..., MixedWidth]:
        """As `fit`; the steps of every width, which take the time, serve all mean widths."""
        tables = cache(partial(Tables.fit, spec, samples))
        one_each = np.ones(spec.channels, np.int64)

        def fit(**options: Any) -> MixedWidth:
            settings = cls.checked_options(options, bits=4, unit_rows=1)
            mean_bits = settings.pop("bits")
            if type(mean_bits) is not int or not 1 <= mean_bits <= WIDEST:
                raise BadArgument(
                    f"{cls.id} needs bits to be an integer in 1..8, got {mean_bits!r}"
                )
            cls(**settings)
            losses = tables().errors * _checked_weights(spec, weights)
            width = allocate(losses, one_each, mean_bits * spec.channels)
            return tables().codec(width, **settings)

        return fit

    @property
    def lossless(self) -> bool:
        """Never: a level stands for several bytes."""
        return False

    @property
    def largest_code(self) -> Int32Array:
        """`2**width - 1` per channel."""
        return (1 << self.width.astype(np.int32)) - 1

    @property
    def pixel_bits(self) -> int:
        """Bits of one pixel."""
        return int(self.width.sum())

    def check_spec(self, spec: MapSpec) -> None:
        """Refuse maps of another number of channels than the tables have."""
        super().check_spec(spec)
        if spec.channels != self.step.size:
            raise BadShape(
                f"{self.id} has tables for {self.step.size} channels, the map has {spec.channels}"
            )

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """`rows * ceil(width * bits of a pixel / 8)`."""
        return rows * bits.packed_bytes(spec.width, self.pixel_bits)

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """The codes of every row, packed."""
        self.check_rows(rows, spec)
        codes = self.levels(spec).codes(rows)
        planes = np.unpackbits(codes[..., None], axis=-1, bitorder="little")
        stream = planes[..., self._used_bits()].reshape(len(rows), -1)
        return np.packbits(stream, axis=-1, bitorder="little").tobytes()

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """The levels of the codes, or of the asked column range of them."""
        first, stop = self.checked_columns(spec, rows, column, columns)
        self.check_length(payload, spec, rows)
        packed = np.frombuffer(payload, np.uint8).reshape(rows, -1)
        if bits.has_spare_bits_set(packed, spec.width * self.pixel_bits):
            raise CorruptPayload(f"{self.id} found a spare bit set behind a row")
        stream = np.unpackbits(packed, axis=-1, bitorder="little")
        stream = stream[:, first * self.pixel_bits : stop * self.pixel_bits]
        planes = np.zeros((rows, stop - first, spec.channels, WIDEST), np.uint8)
        planes[..., self._used_bits()] = stream.reshape(rows, stop - first, -1)
        codes = np.packbits(planes, axis=-1, bitorder="little")[..., 0]
        levels = self.levels(spec)
        levels.check_codes(codes, self.id)
        return levels.restored(codes)

    def standard_operators(self, spec: MapSpec) -> tuple[StandardOperator, ...]:
        """What becomes of each byte in each channel, as a table (256, channels)."""
        self.check_spec(spec)
        every_byte = np.repeat(np.arange(256, dtype=np.uint8)[:, None], spec.channels, axis=1)
        levels = self.levels(spec)
        restored = levels.restored(levels.codes(every_byte))
        return (StandardOperator("Gather", (restored.astype(np.float32),)),)

    def native_integers(self, spec: MapSpec) -> NDArray[np.int32]:
        """Bits of a period, eight rows of as many values as it has elements, three per group.

        A period is the channels repeated to a multiple of eight, 512 elements or more. Rows: scale,
        a, step, d, code(0), code(255), largest code, width. Groups of eight: the used bits of eight
        bytes as two halves, and the bit of the period at which they begin.
        """
        rows = np.stack([*self.levels(spec).native_rows(), self.largest_code, self.width])
        smallest = GROUP // np.gcd(spec.channels, GROUP)
        repeats = -(-LEAST_PERIOD // (spec.channels * smallest)) * smallest
        period = np.tile(rows, int(repeats))
        halves = period[6].astype(np.uint8).view("<u4").astype(np.uint32).view(np.int32)
        begins = np.concatenate([[0], period[7].reshape(-1, GROUP).sum(axis=1).cumsum()])
        groups = (halves[0::2], halves[1::2], begins[:-1])
        return np.concatenate([begins[-1:], period.ravel(), *groups], dtype=np.int32)

    def native_tables(self, spec: MapSpec) -> UInt8Array:
        """The levels once more, as `Levels.byte_tables`."""
        return self.levels(spec).byte_tables()

    def levels(self, spec: MapSpec) -> Levels:
        """The arithmetic on maps of this zero point."""
        return Levels(self.step, self.zero_code, self.largest_code, spec.zero_point)

    def _used_bits(self) -> NDArray[np.bool_]:
        """(channels, 8): the bits of a code that are stored."""
        return np.arange(WIDEST) < self.width[:, None]


def _checked_weights(spec: MapSpec, weights: NDArray[np.floating] | None) -> NDArray[np.float64]:
    """What a squared error costs in each channel, (channels, 1)."""
    felt = np.ones(spec.channels) if weights is None else weights.astype(np.float64)
    if felt.shape != (spec.channels,) or not np.isfinite(felt).all() or felt.min() < 0:
        raise BadArgument(
            f"{MixedWidth.id} needs weights ({spec.channels},), finite and not negative, "
            f"got {felt.shape}"
        )
    return felt[:, None]


@dataclass(frozen=True, eq=False)
class Tables:
    """The best tables of every channel at every width, and what they lose on calibration pictures.

    `errors` are mean squared errors in bytes; all arrays are (channels, 9), by width.
    """

    errors: NDArray[np.float64]
    step: NDArray[np.int32]
    zero_code: UInt8Array

    @classmethod
    def fit(cls, spec: MapSpec, samples: UInt8Array) -> Tables:
        """Steps and zero codes of least squared error on `samples` (n, rows, width, channels)."""
        MixedWidth.check_samples(spec, samples)
        histograms = smoothed(histograms_of(samples))
        shares = histograms / np.maximum(histograms.sum(axis=1, keepdims=True), 1)
        errors = np.zeros((spec.channels, WIDEST + 1))
        step = np.full(errors.shape, ONE, np.int32)
        zero_code = np.zeros(errors.shape, np.uint8)
        errors[:, 0] = shares @ (np.arange(256.0) - spec.zero_point) ** 2
        zero_code[:, WIDEST] = spec.zero_point
        for width in range(1, WIDEST):
            largest = (1 << width) - 1
            steps, zero_codes = candidates(spec.zero_point, largest)
            lost = shares @ squared_errors(steps, zero_codes, largest, spec.zero_point)
            best = np.argmin(lost, axis=1)
            errors[:, width] = lost[np.arange(spec.channels), best]
            step[:, width], zero_code[:, width] = steps[best], zero_codes[best]
        return cls(errors, step, zero_code)

    def codec(self, width: UInt8Array, unit_rows: int = 1) -> MixedWidth:
        """The codec of those widths."""
        channel = np.arange(len(width))
        chosen = self.step[channel, width], self.zero_code[channel, width]
        return MixedWidth(unit_rows, width, *chosen)


def fit_together(
    specs: Mapping[str, MapSpec],
    tables: Mapping[str, Tables],
    weights: Mapping[str, NDArray[np.floating]],
    mean_bits: float,
    unit_rows: int = 1,
) -> dict[str, MixedWidth]:
    """Codecs of several maps, of `mean_bits` per element in the mean over all of them.

    Bits go to whichever channel of whichever map saves most per bit, so that maps which the output
    hardly feels pay for the others. `weights` are sensitivities (`calibrate/sensitivity.py`): mean
    squared output per squared real unit, (channels,) by map name.

    A map keeps one bit in one channel at least, which may exceed the mean by that much.

    Raises:
        BadArgument: the mean is outside of 0 to 8, or weights do not fit or are not finite.
    """
    if not 0 < mean_bits <= WIDEST:
        raise BadArgument(f"{MixedWidth.id} needs 0 < mean_bits <= {WIDEST}, got {mean_bits}")
    positions = {name: spec.height * spec.width for name, spec in specs.items()}
    losses = {
        name: tables[name].errors * spec.scale**2 * positions[name] * weights[name][:, None]
        for name, spec in specs.items()
    }
    elements = np.concatenate(
        [np.full(spec.channels, positions[name], np.int64) for name, spec in specs.items()]
    )
    widths = allocate(
        np.concatenate([losses[name] for name in specs]), elements, int(mean_bits * elements.sum())
    )
    last = np.cumsum([spec.channels for spec in specs.values()])
    found = {}
    for name, width in zip(specs, np.split(widths, last[:-1]), strict=True):
        if not width.any():
            width[np.argmax(losses[name][:, 0] - losses[name][:, 1])] = 1
        found[name] = tables[name].codec(width, unit_rows)
    return found
