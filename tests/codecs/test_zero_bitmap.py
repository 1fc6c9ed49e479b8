# SPDX-License-Identifier: Apache-2.0
"""The payload of zero_bitmap, written out by hand, and what each kind of damage is called."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps.codecs.native import twins
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.errors import CorruptPayload
from thinmaps.types import MapSpec

SPEC = MapSpec(1, 3, 3, 1.0, 128)
ROWS = np.uint8([[[128, 5, 128], [0, 128, 128], [128, 255, 7]]])
PAYLOAD = bytes([0b1000_1010, 0b1, 5, 0, 255, 7])


def test_the_payload_is_presence_bits_and_then_the_elements_that_are_not_zero():
    codec = ZeroBitmap()
    assert codec.encode_unit(ROWS, SPEC) == PAYLOAD
    np.testing.assert_array_equal(codec.decode_unit(PAYLOAD, SPEC, 1), ROWS, strict=True)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (PAYLOAD[:1], "needs 2 bytes of presence bits for 9 elements, got 1"),
        (PAYLOAD[:-1], "announces 4 elements that are not zero, got 3"),
        (PAYLOAD + b"\1", "announces 4 elements that are not zero, got 5"),
        (b"\x8a\x03" + PAYLOAD[2:] + b"\1", "a spare presence bit set behind 9"),
        (b"\x8a\x01\x05\x80\xff\x07", "stored element 1 equals it"),
    ],
)
def test_damage_is_named(payload, message):
    with pytest.raises(CorruptPayload, match=message):
        ZeroBitmap().decode_unit(payload, SPEC, 1)


@pytest.mark.parametrize(
    ("share_of_zeros", "pays"), [(0.0, False), (0.12, False), (0.13, True), (0.6, True)]
)
def test_it_pays_where_more_than_an_eighth_of_the_elements_is_zero(share_of_zeros, pays):
    spec = MapSpec(1, 100, 8)
    rows = np.ones(spec.shape, np.uint8)
    rows.reshape(-1)[: int(share_of_zeros * rows.size)] = 0
    assert (ZeroBitmap().encode(rows, spec).bytes < spec.raw_bytes) == pays


@pytest.mark.parametrize("share_of_zeros", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("row", [(3, 64), (7, 40), (5, 67), (1, 200)])
@pytest.mark.parametrize("isa", list(twins(ZeroBitmap())))
def test_long_runs_at_any_bit_are_those_of_the_reference(isa, row, share_of_zeros):
    spec = MapSpec(3, *row, 1.0, 7)
    random = np.random.default_rng(3)
    rows = random.integers(0, 256, spec.shape, np.uint8)
    rows[random.random(spec.shape) < share_of_zeros] = spec.zero_point
    codec = ZeroBitmap(unit_rows=3)
    twin = twins(codec)[isa]
    payload = codec.encode_unit(rows, spec)
    assert twin.encode_unit(rows, spec) == payload
    np.testing.assert_array_equal(twin.decode_unit(payload, spec, 3), rows, strict=True)
    for damaged in (payload[:-1], payload + b"\1"):
        with pytest.raises(CorruptPayload):
            twin.decode_unit(damaged, spec, 3)
