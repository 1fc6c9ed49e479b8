# SPDX-License-Identifier: Apache-2.0
"""Zero bitmap codec: one presence bit per element, then the elements that are not zero.

Source
    Rhu et al., "Compressing DMA Engine: Leveraging Activation Sparsity for Training Deep Neural
    Networks", 2018, arXiv:1705.01626 (named zero-value compression there).
    Ours: uint8 elements; "zero" is the byte that equals the map's zero point; one bitmap per unit;
    with steps (steps.py), elements are symbols, "zero" is symbol 0, and b bits hold one, 8 or 4.

Size, per unit of n = rows*width*channels elements of which z are zero
    bytes = ceil(n / 8) + ceil((n - z)*b / 8)       so at 8 bits it pays where z > n / 8
    worst case ceil(n / 8) + ceil(n*b / 8)          at 8 bits more than raw: it saves traffic, never
                                                    the arena; less where a channel is always zero

Payload (elements in C order)
    offset         bytes          holds
    0              ceil(n / 8)    presence: bit i is set where element i is not zero
    ceil(n / 8)    the rest       the elements that are not zero, in order, packed as `bits.py` says
Spare bits are 0, no stored element is zero, and no symbol lies above its channel's largest; a
payload that breaks a rule is corrupt, so that every map has exactly one payload.

The native twin is zero_bitmap.cc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps import bits
from thinmaps.codecs.base import Codec, StandardOperator, UInt8Array
from thinmaps.codecs.steps import MENU, Steps, fit_steps
from thinmaps.errors import BadArgument, CorruptPayload
from thinmaps.types import MapSpec

# Below it most of a map would be clipped.
LEAST_STEP_OF_4_BITS = 64


@dataclass(frozen=True, eq=False)
class ZeroBitmap(Codec):
    """Presence bits, then values."""

    id: ClassVar[str] = "zero_bitmap"
    rate: ClassVar[Literal["fixed", "variable"]] = "variable"
    settings: ClassVar[tuple[Mapping[str, int], ...]] = (
        {},
        {"step": 40},
        {"step": 200, "element_bits": 4},
    )
    menu: ClassVar[tuple[Mapping[str, int], ...]] = (
        {},
        *({"step": step} for step in MENU),
        *({"step": step, "element_bits": 4} for step in MENU if step >= LEAST_STEP_OF_4_BITS),
    )

    steps: Steps | None = None

    @classmethod
    def fit(
        cls,
        spec: MapSpec,
        samples: UInt8Array,
        weights: NDArray[np.floating] | None = None,
        **options: Any,
    ) -> ZeroBitmap:
        """Options: `step` in sixteenths of a byte, 0 for lossless; `element_bits`; `unit_rows`.

        `weights` (channels,) shape the steps as `steps.fit_steps` says. Samples are not needed.
        With `element_bits` 4, what needs a symbol above 15 is clipped.
        """
        del samples
        settings = cls.checked_options(options, step=0, element_bits=8, unit_rows=1)
        element_bits = settings["element_bits"]
        if element_bits not in (4, 8) or (element_bits == 4 and settings["step"] == 0):
            raise BadArgument(
                f"{cls.id} needs element_bits to be 8, or 4 where there is a step, "
                f"got {element_bits!r} and step {settings['step']!r}"
            )
        steps = fit_steps(settings["step"], element_bits, spec.channels, weights)
        return cls(unit_rows=settings["unit_rows"], steps=steps)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.element_bits not in (4, 8):
            raise BadArgument(f"{self.id} needs symbols of 4 or 8 bits, got {self.element_bits}")

    @property
    def element_bits(self) -> int:
        """Bits of a stored element."""
        return 8 if self.steps is None else self.steps.symbol_bits

    @property
    def lossless(self) -> bool:
        """Without steps."""
        return self.steps is None

    def check_spec(self, spec: MapSpec) -> None:
        """Refuse maps of another number of channels than there are steps."""
        super().check_spec(spec)
        if self.steps is not None:
            self.steps.check_spec(spec, self.id)

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """The worst case, in which nothing is zero that need not be."""
        pixels = rows * spec.width
        stored = spec.channels
        if self.steps is not None:
            largest = np.broadcast_to(self.steps.largest(spec.zero_point), spec.channels)
            stored = int(np.count_nonzero(largest))
        values = bits.packed_bytes(pixels * stored, self.element_bits)
        return bits.packed_bytes(pixels * spec.channels, 1) + values

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """Presence bits, then the elements that are not zero."""
        self.check_rows(rows, spec)
        zero = spec.zero_point
        if self.steps is not None:
            rows, zero = self.steps.symbols(rows, spec.zero_point), 0
        elements = rows.ravel()
        present = elements != zero
        bitmap = bits.pack(present.astype(np.uint8), 1)
        values = bits.pack(elements[present], self.element_bits)
        return np.concatenate([bitmap, values]).tobytes()

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """The rows; variable rate, so always whole ones."""
        self.checked_columns(spec, rows, column, columns)
        shape = (rows, spec.width, spec.channels)
        elements = rows * spec.width * spec.channels
        present, values = self._split(payload, elements)
        zero = spec.zero_point if self.steps is None else 0
        if np.any(values == zero):
            raise CorruptPayload(
                f"{self.id} stores elements that differ from {zero}, which is zero here; "
                f"stored element {int(np.argmax(values == zero))} equals it"
            )
        unit = np.full(elements, zero, np.uint8)
        unit[present] = values
        unit = unit.reshape(shape)
        if self.steps is None:
            return unit
        self.steps.check_symbols(unit, spec.zero_point, self.id)
        return self.steps.values(unit, spec.zero_point)

    def standard_operators(self, spec: MapSpec) -> tuple[StandardOperator, ...]:
        """A table per channel where there are steps."""
        self.check_spec(spec)
        return () if self.steps is None else self.steps.standard_operators(spec.zero_point)

    def native_integers(self, spec: MapSpec) -> NDArray[np.int32]:
        """`element_bits`, where there are steps."""
        del spec
        return np.array([] if self.steps is None else [self.element_bits], np.int32)

    def native_tables(self, spec: MapSpec) -> UInt8Array:
        """Those of steps.h, where there are steps."""
        return np.zeros(0, np.uint8) if self.steps is None else self.steps.native_tables(spec)

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
        if len(values) != bits.packed_bytes(announced, self.element_bits):
            raise CorruptPayload(
                f"{self.id} announces {announced} elements that are not zero, "
                f"got {len(values)} bytes"
            )
        if bits.has_spare_bits_set(values, announced * self.element_bits):
            raise CorruptPayload(f"{self.id} found a spare bit set behind {announced} elements")
        return present, bits.unpack(values, self.element_bits, announced)
