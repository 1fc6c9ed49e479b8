# SPDX-License-Identifier: Apache-2.0
"""Maps of every kind as bit planes, and back."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps.codecs.bit_planes import bytes_of, from_planes, planes_of, to_planes
from thinmaps.errors import BadArgument, BadShape
from thinmaps.types import MapSpec

EVERY_BYTE = np.arange(256, dtype=np.uint8).reshape(64, 4)


def test_planes_follow_each_other_lowest_first_within_each_group():
    values = np.uint8([[0b01, 0b11, 0b10, 0b00]])
    assert planes_of(values, 0, 2).tolist() == [[1, 1, 0, 0, 0, 1, 1, 0]]
    assert planes_of(values, 0, 2, groups=2).tolist() == [[1, 1, 0, 1, 0, 0, 1, 0]]


@pytest.mark.parametrize("planes", [8, 9])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("zero_point", [0, 1, 128, 255])
def test_every_byte_comes_back_and_the_zero_point_has_no_bit(zero_point, groups, planes):
    bits = planes_of(EVERY_BYTE, zero_point, planes, groups)
    assert bits.dtype == np.uint8
    assert bits.max() == 1
    np.testing.assert_array_equal(bytes_of(bits, zero_point, planes, groups), EVERY_BYTE)
    assert not planes_of(np.full((1, 4), zero_point, np.uint8), zero_point, planes, groups).any()


def test_the_ninth_plane_is_idle_and_saturates_when_it_is_set():
    bits = planes_of(EVERY_BYTE, 128, 9)
    assert not bits[:, -4:].any()
    bits[:, -4:] = 1
    assert (bytes_of(bits, 128, 9) == 255).all()


def test_an_int8_map_comes_back():
    spec = MapSpec(8, 8, 4, 0.5, 128)
    values = np.arange(-128, 128, dtype=np.int8).reshape(64, 4)
    bits = to_planes(values, spec)
    np.testing.assert_array_equal(bits, planes_of(EVERY_BYTE, 128, 8))
    np.testing.assert_array_equal(from_planes(bits, spec, np.int8), values, strict=True)


def test_a_4_bit_map_comes_back_from_four_planes():
    spec = MapSpec(1, 4, 4, 1.0, 8)
    values = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    bits = to_planes(values, spec, planes=4)
    assert bits.shape == (1, 4, 16)
    np.testing.assert_array_equal(from_planes(bits, spec, np.uint8, 4), values, strict=True)
    with pytest.raises(BadArgument, match="4 planes hold 0 to 15, found 16"):
        to_planes(values + np.uint8(1), spec, planes=4)


def test_a_float_map_comes_back_to_within_half_a_step():
    spec = MapSpec(1, 50, 3, 0.04, 128)
    values = np.random.default_rng(3).uniform(-5, 5, spec.shape).astype(np.float32)
    restored = from_planes(to_planes(values, spec), spec, np.float32)
    assert restored.dtype == np.float32
    assert np.abs(restored - values).max() <= 0.5001 * spec.scale
    again = from_planes(to_planes(restored, spec), spec, np.float32)
    np.testing.assert_array_equal(again, restored)


def test_what_does_not_fit_is_refused():
    spec = MapSpec(1, 1, 4, 1.0, 128)
    with pytest.raises(BadShape, match=r"needs \(\.\.\., 4\), got \(2,\)"):
        to_planes(np.zeros(2, np.uint8), spec)
    with pytest.raises(BadShape, match="needs float32, uint8 or int8, got float64"):
        to_planes(np.zeros(4), spec)
    with pytest.raises(BadShape, match="makes float32, uint8 or int8, not int32"):
        from_planes(np.zeros(32, np.uint8), spec, np.int32)
    with pytest.raises(BadShape, match="8 planes of 4 channels are 32 bits"):
        from_planes(np.zeros(36, np.uint8), spec, np.uint8)
    with pytest.raises(BadArgument, match="4 planes, which do not hold zero point 128"):
        to_planes(np.zeros(4, np.uint8), spec, planes=4)
    for planes in (0, 10, 8.0):
        with pytest.raises(BadArgument, match=r"planes to be an integer in 1\.\.9"):
            to_planes(np.zeros(4, np.uint8), spec, planes=planes)
