# SPDX-License-Identifier: Apache-2.0
"""The contract of a codec: rows of one map to bytes and back, one coding unit at a time.

A codec is one Python file: a frozen dataclass that derives from `Codec`, carries an `id` equal to
its file's stem, and has in its fields everything that decoding needs (its configuration, JSON
values; its tables, NumPy arrays). `codecs/__init__.py` finds it there. The NumPy reference in it is
the specification. A native twin `<id>.cc` beside it makes it fast, and must give the same bytes;
`tests/contracts/test_codecs.py` asks everything this page promises of every codec that exists.

    unit              `unit_rows` rows, the last one of a map may be shorter; context, state and
                      padding stop at its border
    unit_bytes(...)   the largest payload of a unit; for fixed rate every payload has that length
    encode_unit       uint8 (rows, width, channels) -> bytes
    decode_unit       bytes -> uint8 (rows, columns, channels); every length that is not exactly
                      what an encoder writes, and every spare bit that is set, is `CorruptPayload`

Fixed-rate codecs also decode a column range of a unit without the rest.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadShape
from thinmaps.types import MapSpec, Packed

UInt8Array = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, eq=False)
class Codec(ABC):
    """Encoder and decoder of a map's rows. Abstract; every codec is final."""

    id: ClassVar[str]
    rate: ClassVar[Literal["fixed", "variable"]]
    lossless: ClassVar[bool]
    encode_halo_rows: ClassVar[int] = 0
    decode_halo_units: ClassVar[int] = 0

    unit_rows: int = 1

    @abstractmethod
    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """Largest payload of a unit of `rows` rows; exact for fixed rate."""

    @abstractmethod
    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """Payload of one unit."""

    @abstractmethod
    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """Rows of one unit; with `column` and `columns` only that range (fixed rate)."""

    @classmethod
    @abstractmethod
    def fit(cls, spec: MapSpec, samples: UInt8Array, **options: Any) -> Codec:
        """A codec for maps like `samples` (n, rows, width, channels), drawn from calibration."""

    def native_integers(self, spec: MapSpec) -> NDArray[np.int32]:
        """Configuration that the native twin needs beyond the spec, as int32 values."""
        del spec
        return np.zeros(0, np.int32)

    def native_tables(self, spec: MapSpec) -> UInt8Array:
        """Tables that the native twin needs, as bytes."""
        del spec
        return np.zeros(0, np.uint8)

    def unit_count(self, spec: MapSpec) -> int:
        """Coding units of a map."""
        return -(-spec.height // self.unit_rows)

    def rows_of_unit(self, spec: MapSpec, unit: int) -> int:
        """Rows of unit `unit`; only the last may have fewer than `unit_rows`."""
        return min(self.unit_rows, spec.height - unit * self.unit_rows)

    def max_bytes(self, spec: MapSpec) -> int:
        """Largest size of an encoded map; exact for fixed rate."""
        units = range(self.unit_count(spec))
        return sum(self.unit_bytes(spec, self.rows_of_unit(spec, u)) for u in units)

    def encode(self, values: UInt8Array, spec: MapSpec) -> Packed:
        """Encode a whole map, by the reference."""
        if values.dtype != np.uint8 or values.shape != spec.shape:
            raise BadShape(
                f"{self.id} needs uint8 (h, w, c) = {spec.shape}, got {values.dtype} {values.shape}"
            )
        units = [
            self.encode_unit(values[first : first + self.unit_rows], spec)
            for first in range(0, spec.height, self.unit_rows)
        ]
        return Packed(self.id, spec, tuple(units))

    def decode(self, packed: Packed) -> UInt8Array:
        """Decode a whole map, by the reference."""
        spec = packed.spec
        rows = [
            self.decode_unit(payload, spec, self.rows_of_unit(spec, unit))
            for unit, payload in enumerate(packed.units)
        ]
        return np.concatenate(rows)
