# SPDX-License-Identifier: Apache-2.0
"""Zero bitmap codec: one presence bit per element, then the elements that are not zero.

Source
    Rhu et al., "Compressing DMA Engine: Leveraging Activation Sparsity for Training Deep Neural
    Networks", 2018, arXiv:1705.01626 (named zero-value compression there).
    Ours: uint8 elements; "zero" is the byte that equals the map's zero point; one bitmap per unit.

Size, per unit of n = rows*width*channels elements of which z are zero
    bytes = ceil(n / 8) + (n - z)       so it pays where z > n / 8
    worst case ceil(n / 8) + n          more than raw: it saves traffic, never the arena

Payload (elements in C order)
    offset         bytes          holds
    0              ceil(n / 8)    presence: bit i is set where element i is not zero
    ceil(n / 8)    n - z          the elements that are not zero, in order
Spare presence bits are 0 and no stored element equals the zero point; a payload that breaks either
rule is corrupt, so that every map has exactly one payload.

The native twin is zero_bitmap.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps import bits
from thinmaps.codecs.base import Codec, UInt8Array
from thinmaps.errors import CorruptPayload
from thinmaps.types import MapSpec


@dataclass(frozen=True, eq=False)
class ZeroBitmap(Codec):
    """Presence bits, then values."""

    id: ClassVar[str] = "zero_bitmap"
    rate: ClassVar[Literal["fixed", "variable"]] = "variable"

    @classmethod
    def fit(cls, spec: MapSpec, samples: UInt8Array, **options: Any) -> ZeroBitmap:
        """Nothing to learn; the only option is `unit_rows`."""
        del spec, samples
        return cls(**cls.checked_options(options, unit_rows=1))

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """The worst case, in which no element is zero."""
        elements = rows * spec.width * spec.channels
        return bits.packed_bytes(elements, 1) + elements

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """Presence bits, then the elements that are not zero."""
        self.check_rows(rows, spec)
        elements = rows.ravel()
        present = elements != spec.zero_point
        bitmap = bits.pack(present.astype(np.uint8), 1)
        return np.concatenate([bitmap, elements[present]]).tobytes()

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """The rows; variable rate, so always whole ones."""
        self.checked_columns(spec, rows, column, columns)
        shape = (rows, spec.width, spec.channels)
        elements = rows * spec.width * spec.channels
        present, values = self._split(payload, elements)
        if np.any(values == spec.zero_point):
            raise CorruptPayload(
                f"{self.id} stores elements that differ from the zero point {spec.zero_point}; "
                f"stored element {int(np.argmax(values == spec.zero_point))} equals it"
            )
        unit = np.full(elements, spec.zero_point, np.uint8)
        unit[present] = values
        return unit.reshape(shape)

    def _split(self, payload: bytes, elements: int) -> tuple[NDArray[np.bool_], UInt8Array]:
        """Presence as booleans, and the stored elements, after every check of the lengths."""
        stream = np.frombuffer(payload, np.uint8)
        bitmap_bytes = bits.packed_bytes(elements, 1)
        if len(stream) < bitmap_bytes:
            raise CorruptPayload(
                f"{self.id} needs {bitmap_bytes} bytes of presence bits for {elements} elements, "
                f"got {len(stream)}"
            )
        bitmap, values = stream[:bitmap_bytes], stream[bitmap_bytes:]
        if bits.has_spare_bits_set(bitmap, elements):
            raise CorruptPayload(f"{self.id} found a spare presence bit set behind {elements}")
        present = bits.unpack(bitmap, 1, elements).astype(bool)
        announced = int(np.count_nonzero(present))
        if len(values) != announced:
            raise CorruptPayload(
                f"{self.id} announces {announced} elements that are not zero, got {len(values)}"
            )
        return present, values
