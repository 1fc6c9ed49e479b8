# SPDX-License-Identifier: Apache-2.0
"""Block width codec: 64 neighbours of one channel at the width of the largest, zeros as bits.

Source
    One width per group of values: Delmas Lascorz et al., "ShapeShifter: Enabling Fine-Grain Data
    Width Adaptation in Deep Learning", MICRO 2019. Presence bits: zero_bitmap.py.
    Ours: groups of one channel's neighbours (neighbours of one channel resemble each other, those
    of one pixel do not: on three networks the ratio is 7 to 14 % better than with groups along the
    channels), the choice between bits for zeros and none per group, symbols that count from the
    zero point in both directions (steps.py), and steps. Lossless without steps.

Positions of a unit are numbered row by row. A block is up to 64 consecutive positions in one
channel; blocks are ordered by positions first, then by channel. With n positions, w the bits of
the largest symbol and k symbols that are not 0, a block is, whichever has the fewest bytes,
    code 0          nothing: all symbols are 0
    code w          plain: n symbols of w bits, ceil(n*w / 8) bytes; also where both are equal
    code w + 7      sparse, for w >= 2: n presence bits, ceil(n / 8) bytes, then the symbols that
                    are not 0 with w bits each, ceil(k*w / 8) bytes

Payload, per unit of b blocks
    offset          bytes          holds
    0               ceil(b / 2)    codes, 4 bits each, packed as `bits.py` says
    ceil(b / 2)     the rest       the blocks
Spare bits are 0, and each block has the one form that the encoder gives it, so that every map has
exactly one payload.

Size: worst case ceil(b / 2) bytes more than raw, less where steps leave fewer symbols. On all maps
of three networks, lossless, it comes to 94 to 100 % of what the entropy of their symbols allows.
Cost: some 25 byte operations per 64 elements each way, half of them to turn pixels into channels.

The native twin is block_width.cc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps import bits
from thinmaps.codecs.base import Codec, StandardOperator, UInt8Array
from thinmaps.codecs.steps import IDENTITY, Steps, fit_steps
from thinmaps.errors import BadArgument, CorruptPayload
from thinmaps.types import MapSpec

BLOCK = 64
SPARSE = 7  # what a sparse block's code has on top of its width
CODE_BITS = 4


@dataclass(frozen=True, eq=False)
class BlockWidth(Codec):
    """Blocks of one width, of symbols that `steps` makes; lossless without."""

    id: ClassVar[str] = "block_width"
    rate: ClassVar[Literal["fixed", "variable"]] = "variable"
    settings: ClassVar[tuple[Mapping[str, int], ...]] = ({}, {"step": 40})

    steps: Steps | None = None

    @classmethod
    def fit(
        cls,
        spec: MapSpec,
        samples: UInt8Array,
        weights: NDArray[np.floating] | None = None,
        **options: Any,
    ) -> BlockWidth:
        """Options: `step` in sixteenths of a byte, 0 for lossless; `unit_rows`.

        `weights` (channels,) shape the steps as `steps.fit_steps` says. Samples are not needed.
        """
        del samples
        settings = cls.checked_options(options, step=0, unit_rows=1)
        steps = fit_steps(settings["step"], 8, spec.channels, weights)
        return cls(unit_rows=settings["unit_rows"], steps=steps)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.steps.symbol_bits != 8:
            raise BadArgument(f"{self.id} needs symbols of 8 bits, got {self.steps.symbol_bits}")

    @property
    def lossless(self) -> bool:
        """Without steps."""
        return self.steps is None

    def check_spec(self, spec: MapSpec) -> None:
        """Refuse maps of another number of channels than there are steps."""
        super().check_spec(spec)
        self._quantiser.check_spec(spec, self.id)

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """The worst case: every block plain and as wide as its channel's largest symbol."""
        positions = rows * spec.width
        blocks = -(-positions // BLOCK) * spec.channels
        largest = np.broadcast_to(self._quantiser.largest(spec.zero_point), spec.channels)
        whole, rest = divmod(positions, BLOCK)
        plain = sum(
            whole * bits.packed_bytes(BLOCK, width) + bits.packed_bytes(rest, width)
            for width in (int(symbol).bit_length() for symbol in largest)
        )
        return bits.packed_bytes(blocks, CODE_BITS) + plain

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """Codes, then blocks."""
        self.check_rows(rows, spec)
        symbols = self._quantiser.symbols(rows, spec.zero_point).reshape(-1, spec.channels)
        blocks = [
            _encode_block(symbols[first : first + BLOCK, channel])
            for first in range(0, len(symbols), BLOCK)
            for channel in range(spec.channels)
        ]
        codes = np.array([code for code, _ in blocks], np.uint8)
        return b"".join([bits.pack(codes, CODE_BITS).tobytes(), *(body for _, body in blocks)])

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """The rows; variable rate, so always whole ones."""
        self.checked_columns(spec, rows, column, columns)
        symbols = self._symbols(payload, rows * spec.width, spec.channels)
        self._quantiser.check_symbols(symbols, spec.zero_point, self.id)
        values = self._quantiser.values(symbols, spec.zero_point)
        return values.reshape(rows, spec.width, spec.channels)

    def standard_operators(self, spec: MapSpec) -> tuple[StandardOperator, ...]:
        """A table per channel where there are steps."""
        self.check_spec(spec)
        return () if self.steps is None else self.steps.standard_operators(spec.zero_point)

    def native_tables(self, spec: MapSpec) -> UInt8Array:
        """Those of steps.h; none where a symbol is its byte."""
        if self.steps is None and spec.zero_point == 0:
            return np.zeros(0, np.uint8)
        return self._quantiser.native_tables(spec)

    @property
    def _quantiser(self) -> Steps:
        return self.steps or IDENTITY

    def _symbols(self, payload: bytes, positions: int, channels: int) -> UInt8Array:
        """(positions, channels), after every check but that of the largest symbol."""
        stream = np.frombuffer(payload, np.uint8)
        blocks = -(-positions // BLOCK) * channels
        start = bits.packed_bytes(blocks, CODE_BITS)
        if len(stream) < start:
            raise CorruptPayload(
                f"{self.id} needs {start} bytes of codes for {blocks} blocks, got {len(stream)}"
            )
        if bits.has_spare_bits_set(stream[:start], blocks * CODE_BITS):
            raise CorruptPayload(f"{self.id} found a spare bit set behind {blocks} codes")
        symbols = np.empty((positions, channels), np.uint8)
        for block, code in enumerate(bits.unpack(stream[:start], CODE_BITS, blocks)):
            first, channel = block // channels * BLOCK, block % channels
            part = symbols[first : first + BLOCK, channel]
            part[:], taken = _decode_block(int(code), stream[start:], len(part))
            start += taken
        if start != len(stream):
            raise CorruptPayload(f"{self.id} ends after {start} bytes, got {len(stream)}")
        return symbols


def _encode_block(symbols: UInt8Array) -> tuple[int, bytes]:
    """The code and the bytes of up to 64 symbols."""
    width = int(symbols.max()).bit_length()
    if width == 0:
        return 0, b""
    present = symbols != 0
    plain = bits.pack(symbols, width).tobytes()
    sparse = b"".join(
        packed.tobytes()
        for packed in (bits.pack(present.astype(np.uint8), 1), bits.pack(symbols[present], width))
    )
    return (width + SPARSE, sparse) if len(sparse) < len(plain) else (width, plain)


def _decode_block(code: int, stream: UInt8Array, elements: int) -> tuple[UInt8Array, int]:
    """The symbols of the block that `stream` begins with, and how many bytes it takes."""
    symbols = np.zeros(elements, np.uint8)
    if code == 0:
        return symbols, 0
    width = code - SPARSE if code > 8 else code
    first = bits.packed_bytes(elements, 1) if code > 8 else 0
    _need(first, stream)
    present = bits.unpack(stream[:first], 1, elements).astype(bool) if first else symbols == 0
    stored = int(np.count_nonzero(present))
    stop = first + bits.packed_bytes(stored, width)
    _need(stop, stream)
    symbols[present] = bits.unpack(stream[first:stop], width, stored)
    if _encode_block(symbols) != (code, stream[:stop].tobytes()):
        raise CorruptPayload(
            f"{BlockWidth.id} found a block with code {code} that no encoder writes: a spare bit "
            f"set, a stored zero, or a shorter form that says the same"
        )
    return symbols, stop


def _need(stop: int, stream: UInt8Array) -> None:
    """Refuse a block that goes on behind the payload's end."""
    if stop > len(stream):
        raise CorruptPayload(
            f"{BlockWidth.id} announces a block of {stop} bytes, {len(stream)} are left"
        )
