# SPDX-License-Identifier: Apache-2.0
"""The payload of zero_bitmap, written out by hand, and what each kind of damage is called."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps.codecs.native import implementations, twins
from thinmaps.codecs.steps import Steps
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.errors import BadArgument, CorruptPayload
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
        (PAYLOAD[:-1], "announces 4 elements that are not zero, got 3 bytes"),
        (PAYLOAD + b"\1", "announces 4 elements that are not zero, got 5 bytes"),
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


STEPS = ZeroBitmap(steps=Steps(np.full(1, 10 * 128, np.int32), symbol_bits=4))
NIBBLES = bytes([0b1000_1010, 0b1, 0xFF, 0xFD])


def test_with_steps_symbols_are_stored_and_with_4_bits_two_to_a_byte():
    assert STEPS.element_bits == 4
    assert not STEPS.lossless
    assert STEPS.encode_unit(ROWS, SPEC) == NIBBLES
    restored = STEPS.decode_unit(NIBBLES, SPEC, 1)
    expected = [[[128, 48, 128], [48, 128, 128], [128, 198, 48]]]
    np.testing.assert_array_equal(restored, np.uint8(expected), strict=True)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (NIBBLES[:-1], "announces 4 elements that are not zero, got 1 bytes"),
        (NIBBLES + b"\0", "announces 4 elements that are not zero, got 3 bytes"),
        (NIBBLES[:-1] + b"\xf0", "stored element 2 equals it"),
        (bytes([0b0000_1010, 0b1, 0xFF, 0xFD]), "a spare bit set behind 3 elements"),
    ],
)
def test_damage_of_symbols_is_named(payload, message):
    for implementation in implementations(STEPS).values():
        with pytest.raises(CorruptPayload, match=message):
            implementation.decode_unit(payload, SPEC, 1)


@pytest.mark.parametrize("element_bits", [4, 8])
@pytest.mark.parametrize("shape", [(2, 30, 17), (3, 9, 64), (1, 7, 300), (2, 130, 1)])
def test_steps_per_channel_give_every_implementation_the_same_bytes(shape, element_bits):
    spec = MapSpec(*shape, 1.0, 100)
    rng = np.random.default_rng(sum(shape))
    values = rng.laplace(100, 30, shape).clip(0, 255).astype(np.uint8)
    weights = np.geomspace(1, 1e6, spec.channels)
    codec = ZeroBitmap.fit(
        spec, values[None], weights, step=300, element_bits=element_bits, unit_rows=spec.height
    )
    payload = codec.encode_unit(values, spec)
    assert len(payload) <= codec.unit_bytes(spec, spec.height)
    restored = codec.decode_unit(payload, spec, spec.height)
    for implementation in implementations(codec).values():
        assert implementation.encode_unit(values, spec) == payload
        again = implementation.decode_unit(payload, spec, spec.height)
        np.testing.assert_array_equal(again, restored, strict=True)


@pytest.mark.parametrize(
    "options", [{"element_bits": 4}, {"element_bits": 6, "step": 40}, {"element_bits": 0}]
)
def test_element_bits_without_a_meaning_are_refused(options):
    with pytest.raises(BadArgument, match="element_bits to be 8, or 4 where there is a step"):
        ZeroBitmap.fit(SPEC, ROWS[None], **options)


@pytest.mark.parametrize("zero_point", [0, 128])
@pytest.mark.parametrize("channels", [16, 24, 67])
def test_with_steps_every_implementation_agrees_wherever_chunks_begin(channels, zero_point):
    """Chunks of 64 begin at 1, 3 and 67 different channels."""
    rng = np.random.default_rng(channels)
    spec = MapSpec(2, 71, channels, 1.0, zero_point)
    rows = rng.integers(0, 256, spec.shape).astype(np.uint8)
    rows[rng.random(spec.shape) < 0.5] = zero_point
    weights = rng.uniform(0.1, 9, channels)
    for element_bits in (4, 8):
        options = {"step": 40, "element_bits": element_bits, "unit_rows": 2}
        codec = ZeroBitmap.fit(spec, rows[None], weights=weights, **options)
        payload = codec.encode_unit(rows, spec)
        expected = codec.decode_unit(payload, spec, 2)
        for name, implementation in implementations(codec).items():
            assert implementation.encode_unit(rows, spec) == payload, name
            np.testing.assert_array_equal(implementation.decode_unit(payload, spec, 2), expected)
