# SPDX-License-Identifier: Apache-2.0
"""Narrow codec: b bits per element, 1 to 7, with a step and a zero code per channel. Lossy.

Source
    Uniform quantisation with a scale per channel; `levels.py` has the source, the arithmetic and
    the fit of least squared error.

Size, per unit of `rows` rows
    bytes = rows * ceil(width * channels * b / 8)

Payload, per row
    ceil(width * channels * b / 8) bytes: the codes in C order, packed as `bits.py` says, the spare
    bits zero
The tables (5 bytes per channel) belong to the plan, not to the payload.

The native twin is narrow.cc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps import bits
from thinmaps.codecs.base import Codec, StandardOperator, UInt8Array
from thinmaps.codecs.levels import (
    ONE,
    Levels,
    candidates,
    check_tables,
    histograms_of,
    smoothed,
    squared_errors,
)
from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec


@dataclass(frozen=True, eq=False)
class Narrow(Codec):
    """`bits` bits per element; `step` and `zero_code` per channel, both (channels,)."""

    id: ClassVar[str] = "narrow"
    rate: ClassVar[Literal["fixed", "variable"]] = "fixed"
    settings: ClassVar[tuple[Mapping[str, int], ...]] = tuple({"bits": b} for b in range(1, 8))
    # mixed_width with the same widths is never worse, so that rate control leaves this one out.
    menu: ClassVar[tuple[Mapping[str, int], ...]] = ()

    bits: int = 4
    step: NDArray[np.int32] = field(default_factory=lambda: np.full(1, ONE, np.int32))
    zero_code: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(1, np.uint8))

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.bits) is not int or not 1 <= self.bits <= 7:
            raise BadArgument(f"{self.id} needs bits to be an integer in 1..7, got {self.bits!r}")
        check_tables(self.id, step=self.step, zero_code=self.zero_code)
        if self.zero_code.max() > self.largest_code:
            raise BadArgument(
                f"{self.id} with {self.bits} bits needs zero codes up to {self.largest_code}, "
                f"got {self.zero_code.max()}"
            )

    @classmethod
    def fit(cls, spec: MapSpec, samples: UInt8Array, **options: Any) -> Narrow:
        """The steps and zero codes of least squared error on `samples`, per channel.

        Options: `bits` (1 to 7), `unit_rows`. Samples are (n, rows, width, channels). A little
        of a channel's weight lies on what the whole map showed (see `smoothed`).
        """
        settings = cls.checked_options(options, bits=4, unit_rows=1)
        cls.check_samples(spec, samples)
        cls(**settings)
        largest = (1 << settings["bits"]) - 1
        steps, zero_codes = candidates(spec.zero_point, largest)
        errors = squared_errors(steps, zero_codes, largest, spec.zero_point)
        best = np.argmin(smoothed(histograms_of(samples)) @ errors, axis=1)
        return cls(**settings, step=steps[best], zero_code=zero_codes[best])

    @property
    def lossless(self) -> bool:
        """Never: a level stands for several bytes."""
        return False

    @property
    def largest_code(self) -> int:
        """`2**bits - 1`."""
        return (1 << self.bits) - 1

    def check_spec(self, spec: MapSpec) -> None:
        """Refuse maps of another number of channels than the tables have."""
        super().check_spec(spec)
        if spec.channels != self.step.size:
            raise BadShape(
                f"{self.id} has tables for {self.step.size} channels, the map has {spec.channels}"
            )

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """`rows * ceil(width * channels * bits / 8)`."""
        return rows * bits.packed_bytes(spec.width * spec.channels, self.bits)

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """The codes of every row, packed."""
        self.check_rows(rows, spec)
        codes = self.levels(spec).codes(rows)
        return bits.pack(codes.reshape(len(rows), -1), self.bits).tobytes()

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """The levels of the codes, or of the asked column range of them."""
        first, stop = self.checked_columns(spec, rows, column, columns)
        self.check_length(payload, spec, rows)
        packed = np.frombuffer(payload, np.uint8).reshape(rows, -1)
        if bits.has_spare_bits_set(packed, spec.width * spec.channels * self.bits):
            raise CorruptPayload(f"{self.id} found a spare bit set behind a row")
        elements = (stop - first) * spec.channels
        codes = bits.unpack(packed, self.bits, elements, first * spec.channels)
        codes = codes.reshape(rows, stop - first, spec.channels)
        levels = self.levels(spec)
        levels.check_codes(codes, self.id)
        return levels.restored(codes)

    def standard_operators(self, spec: MapSpec) -> tuple[StandardOperator, ...]:
        """The arithmetic of `levels.py` on float32, exact: nothing reaches 2**24."""
        self.check_spec(spec)
        levels = self.levels(spec)
        chain: list[tuple[Literal["Mul", "Add", "Floor", "Clip"], tuple[Any, ...]]] = [
            ("Mul", (levels.scale,)),
            ("Add", (levels.encode_offset,)),
            ("Mul", (1 / ONE,)),
            ("Floor", ()),
            ("Clip", (0, self.largest_code)),
            ("Mul", (self.step,)),
            ("Add", (levels.decode_offset,)),
            ("Mul", (1 / ONE,)),
            ("Floor", ()),
            ("Clip", (0, 255)),
        ]
        return tuple(
            StandardOperator(name, tuple(np.asarray(value, np.float32) for value in operands))
            for name, operands in chain
        )

    def native_integers(self, spec: MapSpec) -> NDArray[np.int32]:
        """`bits`, then `Levels.native_rows`.

        A row repeats the channels until it is 512 values long, so that a kernel may run through
        many pixels of few channels without starting over.
        """
        repeats = max(1, 512 // spec.channels)
        rows = np.tile(self.levels(spec).native_rows(), repeats)
        return np.concatenate([[self.bits], rows.ravel()], dtype=np.int32)

    def native_tables(self, spec: MapSpec) -> UInt8Array:
        """`Levels.byte_tables`."""
        return self.levels(spec).byte_tables()

    def levels(self, spec: MapSpec) -> Levels:
        """The arithmetic on maps of this zero point."""
        largest = np.full(self.step.shape, self.largest_code, np.int32)
        return Levels(self.step, self.zero_code, largest, spec.zero_point)
