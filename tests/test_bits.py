# SPDX-License-Identifier: Apache-2.0
"""Bit order and sub-byte packing."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps import bits

EACH_WIDTH = pytest.mark.parametrize("element_bits", range(1, 9))


@EACH_WIDTH
def test_elements_lie_as_one_little_endian_number(element_bits):
    rng = np.random.default_rng(element_bits)
    codes = rng.integers(0, 1 << element_bits, 37, np.uint8)
    number = sum(int(code) << i * element_bits for i, code in enumerate(codes))
    expected = number.to_bytes(bits.packed_bytes(37, element_bits), "little")
    assert bits.pack(codes, element_bits).tobytes() == expected


@EACH_WIDTH
@pytest.mark.parametrize("elements", [1, 7, 8, 9, 63, 64, 65])
def test_unpack_reverses_pack_for_every_range(element_bits, elements):
    rng = np.random.default_rng(elements)
    codes = rng.integers(0, 1 << element_bits, (2, elements), np.uint8)
    packed = bits.pack(codes, element_bits)
    assert packed.shape == (2, bits.packed_bytes(elements, element_bits))
    for first in range(elements):
        for stop in (first + 1, elements):
            part = bits.unpack(packed, element_bits, stop - first, first)
            np.testing.assert_array_equal(part, codes[:, first:stop], strict=True)


def test_spare_bits_are_zero_and_a_set_one_is_found_in_any_row():
    packed = bits.pack(np.full((3, 3), 3, np.uint8), 2)
    assert packed.tolist() == [[0b111111]] * 3
    assert not bits.has_spare_bits_set(packed, 6)
    packed[1, 0] |= 0x80
    assert bits.has_spare_bits_set(packed, 6)


def test_a_stream_of_whole_bytes_has_no_spare_bits():
    assert not bits.has_spare_bits_set(np.full((2, 3), 255, np.uint8), 24)
