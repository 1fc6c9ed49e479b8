# SPDX-License-Identifier: Apache-2.0
"""What the planner needs to know of a codec, and nothing else: sizes of coding units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from thinmaps.types import MapSpec


@dataclass(frozen=True)
class Sizes:
    """Units of `unit_rows` rows in `percent` of their raw bytes."""

    percent: int = 50
    unit_rows: int = 1
    rate: Literal["fixed", "variable"] = "fixed"
    encode_halo_rows: int = 0
    decode_halo_units: int = 0

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        return -(-rows * spec.row_bytes * self.percent // 100)


HALF = Sizes(unit_rows=2)
WITH_HALO = Sizes(110, 3, "variable", 1, 1)
