# SPDX-License-Identifier: Apache-2.0
"""The implementations of a codec: its NumPy reference and, where it has one, its native twin.

The engine calls the twins directly; this is the door for everybody else, and what the contract test
goes through. A payload that a twin refuses is handed to the reference, which raises the message
with the numbers. Costs one copy of the payload.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thinmaps import _core
from thinmaps.codecs.base import Codec, UInt8Array
from thinmaps.errors import UnknownCodec
from thinmaps.types import MapSpec

# From the least to the best of a family of processors; the last one is ARM's.
ISAS = ("portable", "avx2", "avx512", "amx", "neon")


class Implementation(Protocol):
    """What a codec and its native twin have in common; `Codec` says what each promises."""

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """Payload of one unit."""

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """Rows of one unit."""


@dataclass(frozen=True)
class Twin:
    """The native twin of `codec`, compiled for the instruction set `isa`."""

    codec: Codec
    isa: str
    # By map, because dearer than a row: what the kernels take beside rows, and room for so many.
    _constants: dict[MapSpec, tuple[NDArray[np.int32], UInt8Array]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _rooms: dict[tuple[MapSpec, int], int] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """Payload of one unit."""
        self.codec.check_rows(rows, spec)
        payload = np.empty(self._room_of(spec, len(rows)), np.uint8)
        status, written = _core.encode_unit(
            self.codec.id,
            self.isa,
            rows,
            spec.zero_point,
            *self._constants_of(spec),
            payload,
        )
        assert status == 0, f"{self.codec.id} has room for every map, yet ended with {status}"
        return payload[:written].tobytes()

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """Rows of one unit."""
        first, stop = self.codec.checked_columns(spec, rows, column, columns)
        unit = np.empty((rows, stop - first, spec.channels), np.uint8)
        status = _core.decode_unit(
            self.codec.id,
            self.isa,
            np.frombuffer(payload, np.uint8),
            spec.width,
            first,
            spec.zero_point,
            *self._constants_of(spec),
            unit,
        )
        if status != 0:
            self.codec.decode_unit(payload, spec, rows, column, columns)
            raise AssertionError(f"{self.codec.id}: the twin refuses what the reference accepts")
        return unit

    def _room_of(self, spec: MapSpec, rows: int) -> int:
        if (spec, rows) not in self._rooms:
            self._rooms[spec, rows] = self.codec.unit_bytes(spec, rows)
        return self._rooms[spec, rows]

    def _constants_of(self, spec: MapSpec) -> tuple[NDArray[np.int32], UInt8Array]:
        if spec not in self._constants:
            made = (self.codec.native_integers(spec), self.codec.native_tables(spec))
            self._constants[spec] = made
        return self._constants[spec]


def twins(codec: Codec) -> dict[str, Twin]:
    """Instruction set -> native twin, for every one that this machine can run."""
    kernels = _core.codec_kernels()
    return {isa: Twin(codec, isa) for codec_id, isa in kernels if codec_id == codec.id}


def implementations(codec: Codec) -> dict[str, Implementation]:
    """Every implementation by name: "reference", and "native-<instruction set>" for each twin."""
    native = {f"native-{isa}": twin for isa, twin in twins(codec).items()}
    return {"reference": codec, **native}


def fastest(codec: Codec) -> Implementation:
    """The twin for the best instruction set that this machine has, else the reference."""
    return max(twins(codec).items(), key=lambda item: ISAS.index(item[0]), default=("", codec))[1]


def check_native(codec: Codec) -> None:
    """Refuse a codec that the engine cannot run, naming what can."""
    if not twins(codec):
        able = sorted({codec_id for codec_id, _ in _core.codec_kernels()})
        raise UnknownCodec(
            f"codec {codec.id!r} has no native twin, so the engine cannot run it (it has "
            f"{', '.join(able)}); thinmaps.run.interpret runs every codec"
        )
