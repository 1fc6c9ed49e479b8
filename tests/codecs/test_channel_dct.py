# SPDX-License-Identifier: Apache-2.0
"""The payload of channel_dct by hand, what damage is called, its mask, its steps and its order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from thinmaps.codecs.channel_dct import ChannelDct
from thinmaps.codecs.channel_dct_fit import dct_matrix, order_by_likeness
from thinmaps.codecs.native import implementations
from thinmaps.codecs.transform import Transform
from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec

# Sum and difference of channels 2 and 0, and the sum of channel 1 alone, in steps of 4 bytes.
BY_HAND = ChannelDct(
    2,
    np.array([2, 0, 1], np.int32),
    Transform(
        group=2,
        counts=np.array([2, 1], np.int32),
        width=np.array([8, 8, 8], np.uint8),
        zero_code=np.array([0, 128, 0], np.uint8),
        analysis=np.array([1, 1, 1, -1, 1], np.int8),
        analysis_shift=np.array([2, 2, 2], np.uint8),
        synthesis=np.array([2, 2, 2, -2, 4], np.int8),
        synthesis_shift=np.array([0, 0, 0], np.uint8),
    ),
)
SPEC = MapSpec(2, 2, 3)
ROWS = np.array([[[0, 0, 40], [8, 0, 8]], [[0, 0, 0], [0, 100, 4]]], np.uint8)
# Of channels 2 and 0, the four positions have sums 40, 16, 0, 4 and differences 40, 0, 0, 4.
BITS = [0b11_00_01_11, 0b1000]
VALUES = [10, 10, 4, 1, 1, 25]
PAYLOAD = bytes([0, *BITS, *VALUES])


def test_a_payload_by_hand():
    for name, each in implementations(BY_HAND).items():
        assert each.encode_unit(ROWS, SPEC) == PAYLOAD, name
        np.testing.assert_array_equal(each.decode_unit(PAYLOAD, SPEC, 2), ROWS, name)


def test_where_presence_bits_do_not_pay_there_are_none():
    rows = np.full(SPEC.shape, 4, np.uint8)
    rows[..., 0] = 20
    # Sums of 24, differences of -16, a third of 4: nothing is zero.
    payload = bytes([1, *[6, 256 - 4] * 4, *[1] * 4])
    for name, each in implementations(BY_HAND).items():
        assert each.encode_unit(rows, SPEC) == payload, name
        np.testing.assert_array_equal(each.decode_unit(payload, SPEC, 2), rows, name)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "got form none and 0 bytes"),
        (bytes([2]) + PAYLOAD[1:], "got form 02 and 8 bytes"),
        (PAYLOAD[:2], "2 bytes of presence bits"),
        (PAYLOAD[:-1], "announces 6 bytes that are not zero, got 5"),
        (PAYLOAD + b"\1", "announces 6 bytes that are not zero, got 7"),
        (bytes([0, BITS[0], BITS[1] | 16, *VALUES, 1]), "has a spare bit set"),
        (PAYLOAD[:-1] + b"\0", "found a zero"),
        (bytes([0, 255, 3, *[1] * 10]), "bits that make nothing shorter"),
        (bytes([1, *[1] * 11]), "needs 12 bytes without bits, got 11"),
        (bytes([1, *[1] * 9, 0, 0, 0]), "zeros that presence bits had made shorter"),
        (bytes([1, 129, *[1] * 11]), "codes 0 to 128 in component 0, found 129"),
    ],
)
def test_damage_is_named(payload, message):
    for each in implementations(BY_HAND).values():
        with pytest.raises(CorruptPayload, match=message):
            each.decode_unit(payload, SPEC, 2)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 16])
def test_the_dct_is_orthonormal_and_a_constant_has_one_frequency(length):
    matrix = dct_matrix(length)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(length), atol=1e-12)
    constant = matrix @ np.ones(length)
    np.testing.assert_allclose(constant, [np.sqrt(length), *[0] * (length - 1)], atol=1e-12)


def waves(spec: MapSpec, count: int) -> np.ndarray:
    """Maps in which a channel resembles those beside it."""
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 12, (count, *spec.shape)).cumsum(axis=-1)
    return (noise + 90).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("group", [4, 8, 16])
@pytest.mark.parametrize("zero_point", [0, 128])
def test_the_error_of_all_frequencies_is_that_of_their_steps(group, zero_point):
    spec = MapSpec(8, 8, 24, 1.0, zero_point)
    values = waves(spec, 1)[0]
    codec = ChannelDct.fit(spec, values[None], group=group, step=16 * 12, unit_rows=8)
    lost = codec.decode(codec.encode(values, spec)).astype(float) - values
    # Steps of 12 round by 12/sqrt(12), int8 matrices and bytes add a little, and nothing clips.
    assert 2.4 < lost.std() < 3.9
    assert np.abs(lost).max() < 12 * np.sqrt(group) / 2 + 2


def test_the_mask_keeps_what_is_felt_most():
    spec = MapSpec(8, 8, 8)
    values = waves(spec, 1)
    lowest = ChannelDct.fit(spec, values, keep=50, group=4, unit_rows=8)
    # The sum of each group carries most, the first difference comes next.
    np.testing.assert_array_equal(lowest.transform.counts, [2, 2])
    weights = np.repeat([1, 1e9], 4)
    felt = ChannelDct.fit(spec, values, weights, keep=50, group=4, unit_rows=8)
    np.testing.assert_array_equal(felt.transform.counts, [0, 4])
    assert felt.max_bytes(spec) == 1 + 8 * 8 * 4


def test_channels_that_resemble_each_other_come_together_and_are_shorter():
    spec = MapSpec(8, 8, 16)
    shuffled = np.random.default_rng(5).permutation(16)
    values = waves(spec, 2)[..., shuffled]
    order = order_by_likeness(spec, values)
    assert sorted(order) == list(range(16))
    steps = np.abs(np.diff(shuffled[order]))
    assert np.median(steps) == 1
    plain, ordered = (
        ChannelDct.fit(spec, values[:1], reorder=reorder, step=200, unit_rows=8)
        for reorder in (0, 1)
    )
    longer, shorter = (codec.encode(values[1], spec).bytes for codec in (plain, ordered))
    assert shorter < 0.9 * longer


@pytest.mark.parametrize("group", [4, 8, 16])
@pytest.mark.parametrize("options", [{}, {"keep": 60}, {"reorder": 1}, {"step": 400}])
@pytest.mark.parametrize("zero_point", [0, 128])
def test_every_implementation_agrees_on_wide_rows(group, options, zero_point):
    spec = MapSpec(3, 37, 40, 1.0, zero_point)
    samples = waves(spec, 3)
    codec = ChannelDct.fit(spec, samples[:2], group=group, unit_rows=3, **options)
    dense = np.random.default_rng(7).integers(0, 256, spec.shape, np.uint8)
    for values in (samples[2], dense, np.full(spec.shape, zero_point, np.uint8)):
        payload = codec.encode_unit(values, spec)
        expected = codec.decode_unit(payload, spec, 3)
        damaged = bytearray(payload)
        damaged[-1] = 0
        for name, each in implementations(codec).items():
            assert each.encode_unit(values, spec) == payload, name
            np.testing.assert_array_equal(each.decode_unit(payload, spec, 3), expected, name)
            if payload[0] == 0 and damaged != payload:
                with pytest.raises(CorruptPayload):
                    each.decode_unit(bytes(damaged), spec, 3)


@pytest.mark.parametrize(
    "options", [{"step": 15}, {"keep": 0}, {"keep": 101}, {"group": 5}, {"reorder": 2}]
)
def test_an_option_outside_of_its_range_is_refused(options):
    spec = MapSpec(2, 2, 3)
    with pytest.raises(BadArgument, match=f"channel_dct needs {next(iter(options))} in"):
        ChannelDct.fit(spec, np.zeros((1, *spec.shape), np.uint8), **options)


def test_tables_and_maps_that_do_not_fit_are_refused():
    with pytest.raises(BadArgument, match="order to be int32 with each of 3 channels once"):
        dataclasses.replace(BY_HAND, order=np.array([0, 1, 1], np.int32))
    narrow = dataclasses.replace(BY_HAND.transform, width=np.array([8, 8, 7], np.uint8))
    with pytest.raises(BadArgument, match="codes of 8 bits"):
        dataclasses.replace(BY_HAND, transform=narrow)
    with pytest.raises(BadShape, match="matrices for 3 channels, the map has 4"):
        BY_HAND.check_spec(MapSpec(2, 2, 4))
