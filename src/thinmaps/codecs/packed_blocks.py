# SPDX-License-Identifier: Apache-2.0
"""Blocks of a map, transformed and packed: what `klt` and `block_code` have in common.

No codec by itself. Codes of a `BlockTransform` (transform.py) are stored in the bits of their
widths, block by block, so that every block has the same bytes and decodes alone.

Size, per unit of `rows` rows, for blocks whose widths add up to b bits
    bytes = ceil(rows / block rows) * ceil(width / block columns) * ceil(b / 8)

Payload: the blocks row by row, each
    ceil(b / 8) bytes: the codes of its components, group by group, of their widths, the first bits
    the lowest, the spare bits zero

The native twin is packed_blocks.h.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps import bits
from thinmaps.codecs.base import Codec, StandardOperator, UInt8Array
from thinmaps.codecs.transform import WIDEST, BlockTransform, Transform
from thinmaps.codecs.transform_fit import Basis, BlockShape, transform_of
from thinmaps.errors import BadArgument, CorruptPayload
from thinmaps.types import MapSpec

RATE_ONE = 16  # the option `rate` counts sixteenths of a bit


@dataclass(frozen=True, eq=False)
class PackedBlocks(Codec, abstract=True):
    """Components of `blocks`, each in the bits of its width."""

    rate: ClassVar[Literal["fixed", "variable"]] = "fixed"
    unique: ClassVar[bool] = False

    @property
    @abstractmethod
    def blocks(self) -> BlockTransform:
        """The transform."""

    @classmethod
    def fitted(
        cls,
        spec: MapSpec,
        bases: Callable[[BlockShape], Sequence[Basis]],
        options: Mapping[str, Any],
    ) -> tuple[int, Transform]:
        """`unit_rows`, and the transform that loses least of what the output feels.

        `bases` finds those of a shape of blocks; the options are those of `fit`: `rate`, `block`,
        `group`, `unit_rows`.
        """
        chosen = cls.checked_options(options, rate=4 * RATE_ONE, block=2, group=16, unit_rows=1)
        for name, most in (("rate", WIDEST * RATE_ONE), ("block", 2), ("group", 32)):
            value = chosen[name]
            if type(value) is not int or not 1 <= value <= most:
                raise BadArgument(
                    f"{cls.id} needs {name} to be an integer in 1..{most}, got {value!r}"
                )
        unit_rows, block = cls(chosen["unit_rows"]).unit_rows, chosen["block"]
        whole = unit_rows % block == 0 or 1 < spec.height <= unit_rows
        shape = BlockShape(block if whole else 1, block, chosen["group"])
        elements = shape.rows * shape.columns * spec.channels
        # Whole bytes, because a block takes them anyway.
        budget = 8 * max(1, round(elements * chosen["rate"] / (8 * RATE_ONE)))
        return unit_rows, transform_of(shape, bases(shape), budget)

    @property
    def lossless(self) -> bool:
        """Never: components are rounded."""
        return False

    @property
    def block_bits(self) -> int:
        """Bits of one block."""
        return int(self.blocks.width.sum())

    def check_spec(self, spec: MapSpec) -> None:
        """Refuse maps of another number of channels, and units that end inside of a block."""
        super().check_spec(spec)
        self.blocks.check_spec(spec, self.unit_rows, self.id)

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """Whole bytes for every block."""
        down, across = self.blocks.counts_of(spec, rows)
        return down * across * bits.packed_bytes(self.block_bits, 1)

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """The codes of every block, packed."""
        self.check_rows(rows, spec)
        codes = self.blocks.codes(rows, spec.zero_point)
        planes = np.unpackbits(codes[..., None], axis=-1, bitorder="little")
        return np.packbits(planes[..., self._used_bits()], axis=-1, bitorder="little").tobytes()

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """What the codes restore, or the asked column range of it."""
        first, stop = self.checked_columns(spec, rows, column, columns)
        self.check_length(payload, spec, rows)
        down, across = self.blocks.counts_of(spec, rows)
        packed = np.frombuffer(payload, np.uint8).reshape(down, across, -1)
        wide = self.blocks.columns
        begin = first // wide
        packed = packed[:, begin : -(-stop // wide)]
        if bits.has_spare_bits_set(packed, self.block_bits):
            raise CorruptPayload(f"{self.id} found a spare bit set behind a block")
        codes = self._codes(packed)
        self.blocks.check_codes(codes, spec.zero_point, self.id)
        restored = self.blocks.values(codes, spec.zero_point)
        return restored[:rows, first - begin * wide : stop - begin * wide]

    def stored_numbers(self, payload: bytes, spec: MapSpec, rows: int) -> UInt8Array:
        """The codes of every block (down, across, components) in a unit's payload."""
        down, across = self.blocks.counts_of(spec, rows)
        return self._codes(np.frombuffer(payload, np.uint8).reshape(down, across, -1))

    def standard_operators(self, spec: MapSpec) -> tuple[StandardOperator, ...]:
        """Those of the transform; codes lose nothing more."""
        self.check_spec(spec)
        return self.blocks.standard_operators(spec)

    def native_integers(self, spec: MapSpec) -> NDArray[np.int32]:
        """Those of the transform."""
        return self.blocks.native_integers(spec.zero_point)

    def native_tables(self, spec: MapSpec) -> UInt8Array:
        """Those of the transform."""
        del spec
        return self.blocks.native_tables()

    def _used_bits(self) -> NDArray[np.bool_]:
        """(components, 8): the bits of a code that are stored."""
        return np.arange(WIDEST) < self.blocks.width[:, None]

    def _codes(self, packed: UInt8Array) -> UInt8Array:
        """Codes (.., components) of packed blocks (.., bytes)."""
        stream = np.unpackbits(packed, axis=-1, bitorder="little")[..., : self.block_bits]
        planes = np.zeros((*packed.shape[:-1], self.blocks.components, WIDEST), np.uint8)
        planes[..., self._used_bits()] = stream
        return np.packbits(planes, axis=-1, bitorder="little")[..., 0]
