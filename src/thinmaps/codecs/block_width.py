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
channel, a patch the blocks of up to 16 consecutive channels at the same positions. With n
positions, w the bits of a block's largest symbol and k symbols that are not 0, the block is
    code 0          nothing: all symbols are 0
    code w          plain: n values of w bits, the symbols
    code w + 7      sparse, for w >= 2: n presence bits, and k values of w bits, the symbols that
                    are not 0
whichever is shorter, plain where both are equal. Presence bits and values of a block take whole
bytes each.

Payload: the patches, ordered by positions first, then by channels. A patch of c channels is
    ceil(c / 2)     bytes of codes, 4 bits each, packed as `bits.py` says
    ceil(n / 8)     bytes of presence bits for each of its sparse blocks
    ceil(n*w / 8)   or ceil(k*w / 8) bytes of values for each of its blocks
so that where each part lies is known from the part before it, for all blocks of the patch at once.
Spare bits are 0, and each block has the one form that the encoder gives it, so that every map has
exactly one payload.

Size: worst case half a byte per block more than raw, less where steps leave fewer symbols. On all
maps of three networks, lossless, it comes to 93 to 101 % of what their symbols' entropy allows.
Cost: some 45 vector operations per 64 elements each way, most of them to turn pixels into channels
and to close up what is packed.

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
from thinmaps.codecs.steps import IDENTITY, MENU, Steps, fit_steps
from thinmaps.errors import BadArgument, CorruptPayload
from thinmaps.types import MapSpec

BLOCK = 64
PATCH_CHANNELS = 16
SPARSE = 7  # what a sparse block's code has on top of its width
WIDEST_PLAIN = 8  # codes above it are sparse
CODE_BITS = 4


@dataclass(frozen=True, eq=False)
class BlockWidth(Codec):
    """Blocks of one width, of symbols that `steps` makes; lossless without."""

    id: ClassVar[str] = "block_width"
    rate: ClassVar[Literal["fixed", "variable"]] = "variable"
    settings: ClassVar[tuple[Mapping[str, int], ...]] = ({}, {"step": 40})
    menu: ClassVar[tuple[Mapping[str, int], ...]] = ({}, *({"step": s} for s in MENU))

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
        whole, rest = divmod(rows * spec.width, BLOCK)
        codes = (whole + (rest > 0)) * bits.packed_bytes(spec.channels, CODE_BITS)
        largest = np.broadcast_to(self._quantiser.largest(spec.zero_point), spec.channels)
        plain = sum(
            whole * bits.packed_bytes(BLOCK, width) + bits.packed_bytes(rest, width)
            for width in (int(symbol).bit_length() for symbol in largest)
        )
        return codes + plain

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """The patches, top to bottom."""
        self.check_rows(rows, spec)
        symbols = self._quantiser.symbols(rows, spec.zero_point).reshape(-1, spec.channels)
        return b"".join(_encode_patch(symbols[patch].T) for patch in _patches(*symbols.shape))

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
        symbols = np.empty((positions, channels), np.uint8)
        stream = np.frombuffer(payload, np.uint8)
        for patch in _patches(positions, channels):
            blocks = symbols[patch].T
            stream = stream[_decode_patch(stream, blocks) :]
        if stream.size:
            raise CorruptPayload(f"{self.id} found {stream.size} bytes behind the last block")
        return symbols


def _patches(positions: int, channels: int) -> list[tuple[slice, slice]]:
    """Positions and channels of every patch, in order."""
    return [
        (slice(position, position + BLOCK), slice(channel, channel + PATCH_CHANNELS))
        for position in range(0, positions, BLOCK)
        for channel in range(0, channels, PATCH_CHANNELS)
    ]


def _encode_patch(blocks: UInt8Array) -> bytes:
    """Codes, presence bits and values of `blocks` (channels, positions)."""
    encoded = [_encode_block(block) for block in blocks]
    codes = np.array([code for code, _, _ in encoded], np.uint8)
    presence = b"".join(presence for _, presence, _ in encoded)
    values = b"".join(values for _, _, values in encoded)
    return bits.pack(codes, CODE_BITS).tobytes() + presence + values


def _encode_block(symbols: UInt8Array) -> tuple[int, bytes, bytes]:
    """Code, presence bits and values of up to 64 symbols."""
    width = int(symbols.max()).bit_length()
    if width == 0:
        return 0, b"", b""
    present = symbols != 0
    stored = int(np.count_nonzero(present))
    sparse_bytes = bits.packed_bytes(symbols.size, 1) + bits.packed_bytes(stored, width)
    if sparse_bytes >= bits.packed_bytes(symbols.size, width):
        return width, b"", bits.pack(symbols, width).tobytes()
    presence = bits.pack(present.astype(np.uint8), 1)
    return width + SPARSE, presence.tobytes(), bits.pack(symbols[present], width).tobytes()


def _decode_patch(stream: UInt8Array, blocks: UInt8Array) -> int:
    """Fill `blocks` (channels, positions) from the patch that `stream` begins with.

    Returns the bytes that it takes.
    """
    channels, positions = blocks.shape
    start = bits.packed_bytes(channels, CODE_BITS)
    _need(start, stream)
    codes = bits.unpack(stream[:start], CODE_BITS, channels)
    presence = np.repeat((codes > 0)[:, None], positions, axis=1)
    for sparse in np.flatnonzero(codes > WIDEST_PLAIN):
        first, start = start, start + bits.packed_bytes(positions, 1)
        _need(start, stream)
        presence[sparse] = bits.unpack(stream[first:start], 1, positions)
    blocks[:] = 0
    widths = np.where(codes > WIDEST_PLAIN, codes - SPARSE, codes)
    for block, width, present in zip(blocks, widths.tolist(), presence, strict=True):
        if width > 0:
            stored = int(np.count_nonzero(present))
            first, start = start, start + bits.packed_bytes(stored, width)
            _need(start, stream)
            block[present] = bits.unpack(stream[first:start], width, stored)
    if _encode_patch(blocks) != stream[:start].tobytes():
        raise CorruptPayload(
            f"{BlockWidth.id} found blocks with codes {codes.tolist()} that no encoder writes: a "
            f"spare bit set, a stored zero, or a shorter form that says the same"
        )
    return start


def _need(stop: int, stream: UInt8Array) -> None:
    """Refuse a patch that goes on behind the payload's end."""
    if stop > len(stream):
        raise CorruptPayload(
            f"{BlockWidth.id} needs {stop} bytes for a patch or more, {len(stream)} are left"
        )
