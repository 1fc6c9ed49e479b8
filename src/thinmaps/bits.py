# SPDX-License-Identifier: Apache-2.0
"""Bit order, byte order and sub-byte packing: decided once, for every codec and for the file.

* Bit `i` of a stream is bit `i % 8` of byte `i // 8`, bit 0 the least significant.
* An element of `b` bits at index `i` takes the stream's bits `i*b` to `i*b + b - 1`, its least
  significant bit first, so elements may straddle bytes.
* A stream ends on a whole byte; the bits that are left over are spare and zero. Whoever reads
  foreign bytes refuses a set one.
* Numbers of several bytes are little-endian.

This is the order of `numpy.packbits(bitorder="little")`, of Arrow's bitmaps and of Deflate. All of
it costs one pass over eight bytes per bit: it is the specification, the native twins are fast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]


def packed_bytes(elements: int, element_bits: int) -> int:
    """Bytes that `elements` elements take.

    >>> [packed_bytes(elements, 3) for elements in (0, 1, 2, 3, 8)]
    [0, 1, 1, 2, 3]
    """
    return (elements * element_bits + 7) // 8


def pack(codes: UInt8Array, element_bits: int) -> UInt8Array:
    """Elements below `2**element_bits` along the last axis -> bytes along the last axis.

    >>> pack(np.uint8([0b001, 0b010, 0b111]), 3).tolist() == [0b11_010_001, 0b1]
    True
    """
    assert codes.size == 0 or int(codes.max()) < 1 << element_bits
    bits = np.unpackbits(codes[..., None], axis=-1, count=element_bits, bitorder="little")
    return np.packbits(bits.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")


def unpack(packed: UInt8Array, element_bits: int, elements: int, first: int = 0) -> UInt8Array:
    """The `elements` elements from index `first` on, along the last axis. The reverse of `pack`.

    >>> unpack(np.uint8([0b11_010_001, 0b1]), 3, elements=2, first=1).tolist()
    [2, 7]
    """
    start, stop = first * element_bits, (first + elements) * element_bits
    touched = packed[..., start // 8 : (stop + 7) // 8]
    bits = np.unpackbits(touched, axis=-1, bitorder="little")
    bits = bits[..., start % 8 : start % 8 + stop - start]
    codes = bits.reshape(*packed.shape[:-1], elements, element_bits)
    return np.packbits(codes, axis=-1, bitorder="little")[..., 0]


def has_spare_bits_set(packed: UInt8Array, used_bits: int) -> bool:
    """Whether a stream of `used_bits` bits has a set bit behind its end, in any row.

    >>> has_spare_bits_set(np.uint8([0b0000_0111]), 3), has_spare_bits_set(np.uint8([0b1000]), 3)
    (False, True)
    """
    if used_bits % 8 == 0:
        return False
    return bool(np.any(packed[..., used_bits // 8] >> (used_bits % 8)))
