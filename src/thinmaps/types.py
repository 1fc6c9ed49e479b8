# SPDX-License-Identifier: Apache-2.0
"""The nouns that cross rooms: `MapSpec`, `Packed` and `Preprocessing`.

`Network` lives in `graph/network.py`, `Plan` in `plan/plan.py`, `Report` in `measure/report.py`.
All are frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from thinmaps.errors import BadArgument

# Real units of inputs stay below: what networks compute with them must fit in float32.
MOST_REAL = 1e12


class RowRange(NamedTuple):
    """Rows `first` (included) to `stop` (excluded) of a map; may reach outside of it (padding)."""

    first: int
    stop: int


@dataclass(frozen=True)
class MapSpec:
    """Shape and quantisation of one feature map, `h w c` in memory.

    `value = (byte - zero_point) * scale`. `dtype` is "uint8" for every map between nodes. It may
    be "float32" for a network's input in real units and for a head's output (`scale` is then 1
    and `zero_point` 0). `scale` holds a value that is exact in float32.
    """

    height: int
    width: int
    channels: int
    scale: float = 1.0
    zero_point: int = 0
    dtype: Literal["uint8", "float32"] = "uint8"

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.channels) < 1:
            raise BadArgument(f"a map needs sizes of at least 1, got h w c = {self.shape}")
        if not 0 <= self.zero_point <= 255:
            raise BadArgument(f"a zero point lies in 0..255, got {self.zero_point}")
        if not 0 < self.scale < float("inf"):
            raise BadArgument(f"a scale is positive and finite, got {self.scale}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)`."""
        return (self.height, self.width, self.channels)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, not encoded."""
        return self.width * self.channels * (4 if self.dtype == "float32" else 1)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the whole map, not encoded."""
        return self.height * self.row_bytes


@dataclass(frozen=True)
class Packed:
    """A map in encoded form: one payload per coding unit, top to bottom."""

    codec_id: str
    spec: MapSpec
    units: tuple[bytes, ...]

    @property
    def bytes(self) -> int:
        """Stored bytes: the sum over all units."""
        return sum(map(len, self.units))


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input: `(value / 255 - mean) / std` per channel.

    `order` is the channel order that the network was trained on. `fit` says how a picture of
    another size meets the input: "crop" (scale, then centre-crop), "stretch" (plain resize, the
    aspect ratio is not kept) or "none" (a picture of exactly the input's size is required).
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    order: Literal["rgb", "bgr"] = "rgb"
    fit: Literal["crop", "stretch", "none"] = "crop"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise BadArgument(
                f"preprocessing needs as many means as stds, got {len(self.mean)} and "
                f"{len(self.std)}"
            )
        if not all(s > 0 for s in self.std):
            raise BadArgument(f"every std must be positive, got {self.std}")
        if not all(
            max(abs(m), abs(1 - m)) < MOST_REAL * s
            for m, s in zip(self.mean, self.std, strict=True)
        ):
            raise BadArgument(
                f"(value / 255 - mean) / std must be finite and below {MOST_REAL:g}, got mean "
                f"{self.mean} and std {self.std}"
            )
        if self.order not in ("rgb", "bgr") or self.fit not in ("crop", "stretch", "none"):
            raise BadArgument(
                "preprocessing has order rgb or bgr and fit crop, stretch or none, got "
                f"{self.order!r} and {self.fit!r}"
            )
