# SPDX-License-Identifier: Apache-2.0
"""Maps to bit planes and back: the two ends of codecs that compute on bits.

Source
    Gudovskiy, Hodgkinson, Rigazio, "DNN Feature Map Compression using Learned Representation over
    GF(2)", 2018, arXiv:1808.05285: their order of the planes. Ours: zero points and groups.

A map of `channels` channels becomes a map of `planes * channels` bits per pixel, plane by plane,
the least significant first: plane b of channel c is bit `b*channels + c`. With groups, each group
of channels that lie side by side has its bits together, in that order within the group.

    bit = bit b of (min(x, 2**planes - 1) XOR z)
    x'  = min(255, sum_b (bit_b XOR z_b) * 2**b)

so that a zero point has no bit set, which is also what convolutions over bits pad with. Eight
planes are a byte, four are a 4-bit map. A ninth is the idle sign plane of the authors' 9-bit words:
0 on the way in; set by a reconstruction, it adds 256, which saturates.

`to_planes` and `from_planes` take and return other kinds of maps: float32 in real units is
quantised by its MapSpec, int8 lies 128 below its byte. Costs a pass per plane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import UInt8Array
from thinmaps.errors import BadArgument, BadShape
from thinmaps.quant import dequantise, quantise
from thinmaps.types import MapSpec

MOST_PLANES = 9
INT8_OFFSET = 128


def planes_of(values: UInt8Array, zero_point: int, planes: int, groups: int = 1) -> UInt8Array:
    """Bits 0 and 1 (..., planes * channels) of bytes (..., channels).

    >>> planes_of(np.uint8([[1, 2]]), 0, 2).tolist(), planes_of(np.uint8([[3, 2]]), 3, 2).tolist()
    ([[1, 0, 0, 1]], [[0, 1, 0, 0]])
    """
    below = np.minimum(values, min(255, (1 << planes) - 1)).astype(np.uint16)
    grouped = (below ^ np.uint16(zero_point)).reshape(*values.shape[:-1], groups, 1, -1)
    bits = grouped >> np.arange(planes, dtype=np.uint16)[:, None] & 1
    return np.asarray(bits, np.uint8).reshape(*values.shape[:-1], planes * values.shape[-1])


def bytes_of(bits: UInt8Array, zero_point: int, planes: int, groups: int = 1) -> UInt8Array:
    """The reverse, for any bits.

    >>> bytes_of(np.uint8([[1, 0, 0, 1]]), 0, 2).tolist()
    [[1, 2]]
    """
    grouped = bits.reshape(*bits.shape[:-1], groups, planes, -1).astype(np.int32)
    level = np.arange(planes)[:, None]
    values = ((grouped ^ (zero_point >> level & 1)) << level).sum(axis=-2)
    return np.asarray(np.minimum(values, 255), np.uint8).reshape(*bits.shape[:-1], -1)


def to_planes(values: NDArray[Any], spec: MapSpec, planes: int = 8) -> UInt8Array:
    """The bits of a uint8, int8, 4-bit (uint8 below 16, four planes) or float32 map.

    `spec` is that of the bytes: its scale and zero point quantise real values; an int8 value is
    its byte less 128.

    Raises:
        BadShape: another dtype, or another number of channels than `spec` has.
        BadArgument: a 4-bit map holds a value above 15, or the planes do not hold the zero point.
    """
    check_planes(planes, spec.zero_point, "to_planes")
    if values.ndim < 1 or values.shape[-1] != spec.channels:
        raise BadShape(f"to_planes needs (..., {spec.channels}), got {values.shape}")
    largest = (1 << planes) - 1
    if values.dtype == np.uint8:
        if values.size and values.max() > largest:
            raise BadArgument(f"{planes} planes hold 0 to {largest}, found {values.max()}")
        found = values
    elif values.dtype == np.int8:
        found = (values.astype(np.int16) + INT8_OFFSET).astype(np.uint8)
    elif values.dtype == np.float32:
        found = quantise(values, spec.scale, spec.zero_point)
    else:
        raise BadShape(f"to_planes needs float32, uint8 or int8, got {values.dtype}")
    return planes_of(found, spec.zero_point, planes)


def from_planes(
    bits: UInt8Array, spec: MapSpec, dtype: type[np.generic], planes: int = 8
) -> NDArray[Any]:
    """The map of that dtype; the reverse of `to_planes`, for float32 up to rounding to the grid.

    Raises:
        BadShape: another number of bits than `planes` planes have, or a dtype that `to_planes` does
            not take.
    """
    check_planes(planes, spec.zero_point, "from_planes")
    if bits.shape[-1:] != (planes * spec.channels,):
        raise BadShape(
            f"{planes} planes of {spec.channels} channels are {planes * spec.channels} bits, "
            f"got {bits.shape}"
        )
    found = bytes_of(bits, spec.zero_point, planes)
    if dtype is np.uint8:
        return found
    if dtype is np.int8:
        return (found.astype(np.int16) - INT8_OFFSET).astype(np.int8)
    if dtype is np.float32:
        return dequantise(found, spec.scale, spec.zero_point)
    raise BadShape(f"from_planes makes float32, uint8 or int8, not {np.dtype(dtype)}")


def check_planes(planes: int, zero_point: int, who: str) -> None:
    """Refuse a number of planes that no map has, or that does not hold the zero point."""
    if type(planes) is not int or not 1 <= planes <= MOST_PLANES:
        raise BadArgument(
            f"{who} needs planes to be an integer in 1..{MOST_PLANES}, got {planes!r}"
        )
    if zero_point >> planes:
        raise BadArgument(f"{who} has {planes} planes, which do not hold zero point {zero_point}")
