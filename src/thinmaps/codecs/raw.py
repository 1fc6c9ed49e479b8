# SPDX-License-Identifier: Apache-2.0
"""Raw codec: the bytes as they are. The base that every ratio is measured against.

Size, per unit of `rows` rows
    bytes = rows * width * channels

Payload (elements in C order)
    offset   bytes                       holds
    0        rows * width * channels     the elements

The native twin is raw.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from thinmaps.codecs.base import Codec, UInt8Array
from thinmaps.types import MapSpec


@dataclass(frozen=True, eq=False)
class Raw(Codec):
    """Identity."""

    id: ClassVar[str] = "raw"
    rate: ClassVar[Literal["fixed", "variable"]] = "fixed"

    @classmethod
    def fit(cls, spec: MapSpec, samples: UInt8Array, **options: Any) -> Raw:
        """Nothing to learn; the only option is `unit_rows`."""
        del spec, samples
        return cls(**cls.checked_options(options, unit_rows=1))

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """`rows * width * channels`."""
        return rows * spec.width * spec.channels

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """The rows' bytes in C order."""
        self.check_rows(rows, spec)
        return rows.tobytes()

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """The rows, or the asked column range of them."""
        first, stop = self.checked_columns(spec, rows, column, columns)
        self.check_length(payload, spec, rows)
        unit = np.frombuffer(payload, np.uint8).reshape(rows, spec.width, spec.channels)
        return unit[:, first:stop].copy()
