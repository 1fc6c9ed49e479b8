# SPDX-License-Identifier: Apache-2.0
"""Newcomer codec: every byte is stored inverted. The one file that a new codec needs.

Size, per unit of `rows` rows
    bytes = rows * width * channels

Payload (elements in C order): 255 minus each element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from thinmaps.codecs.base import Codec, UInt8Array
from thinmaps.types import MapSpec


@dataclass(frozen=True, eq=False)
class Newcomer(Codec):
    """Inversion."""

    id: ClassVar[str] = "newcomer"
    rate: ClassVar[Literal["fixed", "variable"]] = "fixed"

    @classmethod
    def fit(cls, spec: MapSpec, samples: UInt8Array, **options: Any) -> Newcomer:
        """Nothing to learn; the only option is `unit_rows`."""
        return cls(**cls.checked_options(options, unit_rows=1))

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """`rows * width * channels`."""
        return rows * spec.width * spec.channels

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """The rows, inverted."""
        self.check_rows(rows, spec)
        return (255 - rows).tobytes()

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """The rows, inverted back."""
        first, stop = self.checked_columns(spec, rows, column, columns)
        self.check_length(payload, spec, rows)
        unit = np.frombuffer(payload, np.uint8).reshape(rows, spec.width, spec.channels)
        return 255 - unit[:, first:stop]
