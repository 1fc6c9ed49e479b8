# SPDX-License-Identifier: Apache-2.0
"""Bit plane codec: runs of zeros, and the differences of the other elements as bit planes.

Source
    Cavigelli, Rutishauser, Benini, "EBPC: Extended Bit-Plane Compression for Deep Neural Network
    Inference and Training Accelerators", JETCAS 2019, arXiv:1908.11645; the planes' codes are those
    of Kim et al., "Bit-Plane Compression", ISCA 2016, for blocks of 8. Codes and the order of the
    planes are as in the program that made the paper's figures. (The authors' circuit swaps the two
    codes of zero planes and sends the planes from the lowest up.) Planes of 9 bits, and zeros
    behind the last element of the last block, are as in that circuit.
    Ours: elements are the byte less the map's zero point, mod 256; both streams stand in one
    payload, one after the other; a unit is coded channel by channel, so that what stands together
    are neighbours in space.

Elements of a unit, in the order channel, row, column, make two streams of bits.
    1. Zeros: `1` for an element that is not zero, `0` and 4 bits, length - 1, for 1 to 16 zeros; a
       longer run is cut into 16s and what is left.
    2. The others, in blocks of 8, the last one filled up with zeros: the first element in 8 bits,
       then the 7 differences to the one before, of 9 bits in two's complement, as 9 planes of 7
       bits, from the differences' sign to their lowest bit, the first difference first. Let `delta`
       be a plane and `code` it XOR the next lower plane (the lowest one alone); each plane becomes
           001              code is all 0, neighbouring planes' are not
           01 and 3 bits    2 to 9 planes one below the other whose code is all 0, number - 2
           00000            code is all 1
           00001            delta is all 0
           00010 and 3 bits two ones side by side in code, and where the first is
           00011 and 3 bits a single one in code, and where
           1 and 7 bits     code
       the first line that holds.

Payload: both streams without a gap, and zero bits up to a whole byte. Bits are in the order of
`bits.py`; numbers in codes are written as printed above, highest bit first. Every map has exactly
one payload; any other is corrupt.

Size: at best 5 bits for 16 zeros; worst case 11 bits per element, so it saves traffic, never the
arena. Units of many rows are better, as runs and blocks are cut at a unit's end only. Cost: bit by
bit; a unit's elements are read twice.

The native twin is bitplane.cc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps import bits
from thinmaps.codecs.base import Codec, UInt8Array
from thinmaps.errors import CorruptPayload
from thinmaps.types import MapSpec

IntArray = NDArray[np.int64]

LONGEST_RUN = 16
RUN_BITS = 5
BLOCK = 8
PLANES = 9
ELEMENT_BITS = 8
ONES = (1 << BLOCK - 1) - 1
ALL_ONES_CODE, NO_DELTA_CODE, PAIR_CODE, SINGLE_CODE = range(4)  # of 5 bits
SHORT_BITS = 5
# A block of which all planes take 8 bits, and the most for one whose only element is followed by
# zeros: planes of a lone difference have at most a single one, and every second one no delta.
FULL_BLOCK_BITS = ELEMENT_BITS + 8 * PLANES
LONE_BLOCK_BITS = ELEMENT_BITS + 5 * 8 + 4 * SHORT_BITS
# More zeros than this in place of elements drop a block and gain less.
MOST_ZEROS = BLOCK - 1


@dataclass(frozen=True, eq=False)
class Bitplane(Codec):
    """Runs of zeros, then bit planes of blocks of 8."""

    id: ClassVar[str] = "bitplane"
    rate: ClassVar[Literal["fixed", "variable"]] = "variable"
    settings: ClassVar[tuple[Mapping[str, int], ...]] = ({},)

    @classmethod
    def fit(cls, spec: MapSpec, samples: UInt8Array, **options: Any) -> Bitplane:
        """Options: `unit_rows`. Samples are not needed."""
        del spec, samples
        return cls(**cls.checked_options(options, unit_rows=1))

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """The worst case: costly blocks, and single zeros for as much of the last as is free."""
        elements = rows * spec.width * spec.channels
        most = 0
        for zeros in range(min(MOST_ZEROS, (elements + 1) // 2) + 1):
            whole, rest = divmod(elements - zeros, BLOCK)
            last = (0, LONE_BLOCK_BITS, FULL_BLOCK_BITS)[min(rest, 2)]
            runs = elements + (RUN_BITS - 1) * zeros
            most = max(most, runs + whole * FULL_BLOCK_BITS + last)
        return bits.packed_bytes(most, 1)

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """Both streams."""
        self.check_rows(rows, spec)
        return _encode((rows - np.uint8(spec.zero_point)).transpose(2, 0, 1).ravel())

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """The rows; variable rate, so always whole ones."""
        self.checked_columns(spec, rows, column, columns)
        elements = _decode(payload, rows * spec.width * spec.channels)
        unit = elements.reshape(spec.channels, rows, spec.width).transpose(1, 2, 0)
        return np.ascontiguousarray(unit + np.uint8(spec.zero_point))


def _encode(elements: UInt8Array) -> bytes:
    """The payload of elements in their order."""
    streams = [_run_codes(elements != 0), _block_codes(elements[elements != 0])]
    stream = np.concatenate([_bits_of(codes, lengths) for codes, lengths in streams])
    return np.packbits(stream, bitorder="little").tobytes()


def _bits_of(codes: IntArray, lengths: IntArray) -> UInt8Array:
    """Codes one after the other, each with its highest bit first."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if ends.size else 0
    shift = np.repeat(ends, lengths) - 1 - np.arange(total)
    return (np.repeat(codes, lengths) >> shift & 1).astype(np.uint8)


def _run_codes(present: NDArray[np.bool_]) -> tuple[IntArray, IntArray]:
    """Codes of stream 1 and their lengths."""
    place = np.arange(present.size)
    before = np.maximum.accumulate(np.where(present, place, -1))
    begins = np.flatnonzero(present | ((place - before - 1) % LONGEST_RUN == 0))
    run = np.diff(begins, append=present.size)
    stored = present[begins]
    return np.where(stored, 1, run - 1), np.where(stored, 1, RUN_BITS)


def _block_codes(stored: UInt8Array) -> tuple[IntArray, IntArray]:
    """Codes of stream 2 and their lengths; a plane that a run covers has length 0."""
    blocks = np.zeros((-(-stored.size // BLOCK), BLOCK), np.int64)
    blocks.ravel()[: stored.size] = stored
    differences = np.diff(blocks, axis=1)
    levels = np.arange(PLANES - 1, -1, -1)[None, :, None]
    planes = differences[:, None, :] >> levels & 1
    delta = planes @ (1 << np.arange(BLOCK - 2, -1, -1))
    code = delta ^ np.pad(delta[:, 1:], ((0, 0), (0, 1)))
    value, length = PLANE_VALUES[code], PLANE_LENGTHS[code]
    no_delta = (delta == 0) & (code != 0) & (code != ONES)
    value, length = np.where(no_delta, NO_DELTA_CODE, value), np.where(no_delta, SHORT_BITS, length)
    run = _runs_below(code == 0)
    begins = (run > 0) & (np.pad(run, ((0, 0), (1, 0)))[:, :-1] == 0)
    value = np.where(begins & (run > 1), 0b01 << 3 | (run - 2), value)
    length = np.where(run > 0, np.where(begins, np.where(run > 1, 5, 3), 0), length)
    first = blocks[:, :1]
    lengths = np.concatenate([np.full_like(first, ELEMENT_BITS), length], axis=1)
    return np.concatenate([first, value], axis=1).ravel(), lengths.ravel()


def _runs_below(zero: NDArray[np.bool_]) -> IntArray:
    """For each plane (blocks, planes), how many from it downwards are zero."""
    run = np.zeros(zero.shape, np.int64)
    for plane in range(PLANES - 1, -1, -1):
        below = run[:, plane + 1] if plane + 1 < PLANES else 0
        run[:, plane] = np.where(zero[:, plane], below + 1, 0)
    return run


def _plane_code(code: int) -> tuple[int, int]:
    """Bits and length for a plane on its own whose delta is not all 0."""
    if code == 0:
        return 0b001, 3
    if code == ONES:
        return ALL_ONES_CODE, SHORT_BITS
    place = BLOCK - 1 - code.bit_length()
    if code == 1 << BLOCK - 2 - place:
        return SINGLE_CODE << 3 | place, 8
    if code == 0b11 << BLOCK - 3 - place:
        return PAIR_CODE << 3 | place, 8
    return 1 << 7 | code, 8


PLANE_CODES = [_plane_code(code) for code in range(ONES + 1)]
PLANE_VALUES, PLANE_LENGTHS = np.array(PLANE_CODES, np.int64).T
NO_DELTA, NO_CODE = -1, -2


def _symbol(window: int) -> tuple[int, int, int]:
    """What 8 bits begin with: length, planes, and their code, NO_DELTA, or NO_CODE."""
    if window >> 6 == 0b01:
        return 5, 2 + (window >> 3 & 7), 0
    if window >> 3 == NO_DELTA_CODE:
        return SHORT_BITS, 1, NO_DELTA
    for code, (value, length) in enumerate(PLANE_CODES):
        if window >> 8 - length == value:
            return length, 1, code
    return 8, 1, NO_CODE


SYMBOLS = [_symbol(window) for window in range(256)]


def _decode(payload: bytes, elements: int) -> UInt8Array:
    """The elements in their order, after every check."""
    stream = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little")
    present, begin = _decode_runs(stream, elements)
    stored, end = _decode_blocks(stream, begin, int(np.count_nonzero(present)))
    if len(payload) != bits.packed_bytes(end, 1):
        raise CorruptPayload(
            f"{Bitplane.id} needs {bits.packed_bytes(end, 1)} bytes for {end} bits, "
            f"got {len(payload)}"
        )
    decoded = np.zeros(elements, np.uint8)
    decoded[present] = stored
    if _encode(decoded) != payload:
        raise CorruptPayload(
            f"{Bitplane.id} found a payload that no encoder writes: a spare bit set, or a plane's "
            f"code where another line of the table comes first"
        )
    return decoded


def _decode_runs(stream: UInt8Array, elements: int) -> tuple[NDArray[np.bool_], int]:
    """Which elements are stored, and the bit behind stream 1."""
    present = bytearray(elements)
    flags = stream.tobytes()
    position = element = 0
    may_continue = True  # a run of less than 16 is followed by an element that is not zero
    while element < elements:
        if position >= len(flags):
            raise CorruptPayload(f"{Bitplane.id} ends behind {element} of {elements} elements")
        if flags[position]:
            present[element] = 1
            run, length, may_continue = 1, 1, True
        elif not may_continue:
            raise CorruptPayload(f"{Bitplane.id} cuts a run of zeros at element {element}")
        else:
            length = RUN_BITS
            run = 1 + int("".join(map(str, flags[position + 1 : position + length])) or "0", 2)
            may_continue = run == LONGEST_RUN
        position += length
        element += run
    if element > elements:
        raise CorruptPayload(f"{Bitplane.id} has runs up to element {element} of {elements}")
    return np.frombuffer(present, np.bool_), position


def _decode_blocks(stream: UInt8Array, begin: int, stored: int) -> tuple[UInt8Array, int]:
    """The `stored` elements that are not zero, and the bit behind stream 2."""
    blocks = -(-stored // BLOCK)
    padded = np.append(stream, np.zeros(BLOCK, np.uint8))
    windows = sum(padded[i : i + stream.size].astype(np.int64) << 7 - i for i in range(8))
    windows = np.asarray(windows).tolist()
    first = [0] * blocks
    code = [0] * (blocks * PLANES)
    position = begin
    for block in range(blocks):
        if position >= len(windows):
            raise CorruptPayload(f"{Bitplane.id} ends behind block {block} of {blocks}")
        first[block] = windows[position]
        position = _decode_planes(windows, position + ELEMENT_BITS, code, block * PLANES)
    values = _values_of(np.array(first, np.int64), np.array(code, np.int64).reshape(-1, PLANES))
    filled, rest = values.ravel()[:stored], values.ravel()[stored:]
    wrong = np.append((filled < 1) | (filled > 255), rest != 0)
    if wrong.any():
        block, place = divmod(int(np.argmax(wrong)), BLOCK)
        raise CorruptPayload(
            f"{Bitplane.id} needs elements of 1 to 255, and 0 behind the last of {stored}; "
            f"element {place} of block {block} is {values[block, place]}"
        )
    return filled.astype(np.uint8), position


def _decode_planes(windows: list[int], position: int, code: list[int], plane: int) -> int:
    """Fill in a block's planes from `plane` on; returns the bit behind them."""
    end = plane + PLANES
    while plane < end:
        if position >= len(windows):
            raise CorruptPayload(f"{Bitplane.id} ends inside of block {plane // PLANES}")
        length, planes, found = SYMBOLS[windows[position]]
        if found == NO_CODE or plane + planes > end:
            raise CorruptPayload(
                f"{Bitplane.id} found the code {windows[position]:08b}, without a meaning for "
                f"plane {plane % PLANES} of block {plane // PLANES}"
            )
        if planes == 1:
            code[plane] = found
        position += length
        plane += planes
    return position


def _values_of(first: IntArray, code: IntArray) -> IntArray:
    """Elements (blocks, 8) from first elements and planes' codes (blocks, 9)."""
    delta = np.zeros(len(code), np.int64)
    differences = np.zeros((len(code), BLOCK - 1), np.int64)
    for plane in range(PLANES - 1, -1, -1):
        delta = np.where(code[:, plane] == NO_DELTA, 0, delta ^ code[:, plane])
        weight = -256 if plane == 0 else 1 << PLANES - 1 - plane
        differences += weight * (delta[:, None] >> np.arange(BLOCK - 2, -1, -1) & 1)
    return np.cumsum(np.concatenate([first[:, None], differences], axis=1), axis=1)
