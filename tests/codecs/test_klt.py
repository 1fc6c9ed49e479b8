# SPDX-License-Identifier: Apache-2.0
"""The arithmetic and payload of klt by hand, its tables at their limits, and what fitting finds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from transform_cases import drawn_transform

from thinmaps.codecs import klt, transform_fit
from thinmaps.codecs.klt import Klt
from thinmaps.codecs.mixed_width import MixedWidth
from thinmaps.codecs.native import implementations
from thinmaps.codecs.transform import Transform
from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec

# Sum and difference of two channels: 5 bits in steps of 16, 3 bits in steps of 8.
BY_HAND = Klt(
    1,
    Transform(
        group=2,
        counts=np.array([2], np.int32),
        width=np.array([5, 3], np.uint8),
        zero_code=np.array([0, 3], np.uint8),
        analysis=np.array([1, 1, 1, -1], np.int8),
        analysis_shift=np.array([4, 3], np.uint8),
        synthesis=np.array([8, 4, 8, -4], np.int8),
        synthesis_shift=np.array([0, 0], np.uint8),
    ),
)


def test_a_payload_by_hand():
    spec = MapSpec(1, 2, 2)
    rows = np.array([[[100, 88], [7, 90]]], np.uint8)
    # 188 is 12 steps of 16, 12 is 2 of 8, rounded up; 97 is 6 of 16, -83 is less than 3 below 0.
    payload = bytes([12 | (2 + 3) << 5, 6 | 0 << 5])
    restored = [[[12 * 8 + 2 * 4, 12 * 8 - 2 * 4], [6 * 8 - 3 * 4, 6 * 8 + 3 * 4]]]
    for name, each in implementations(BY_HAND).items():
        assert each.encode_unit(rows, spec) == payload, name
        np.testing.assert_array_equal(each.decode_unit(payload, spec, 1), restored, name)


def test_a_code_that_no_block_has_and_a_spare_bit_are_named():
    spec = MapSpec(1, 1, 2)
    # Two bytes of 255 are 510, 32 steps: five bits hold 31 and all of them are codes.
    coarse = dataclasses.replace(BY_HAND.transform, analysis_shift=np.array([5, 3], np.uint8))
    for each in implementations(Klt(1, coarse)).values():
        with pytest.raises(CorruptPayload, match="klt has codes 0 to 16 in component 0, found 17"):
            each.decode_unit(bytes([17 | 3 << 5]), spec, 1)
    narrow = dataclasses.replace(BY_HAND.transform, width=np.array([5, 2], np.uint8))
    for each in implementations(Klt(1, narrow)).values():
        with pytest.raises(CorruptPayload, match="klt found a spare bit set behind a block"):
            each.decode_unit(bytes([1 << 7]), spec, 1)


def test_all_rates_share_the_components_of_a_map(monkeypatch):
    found = []

    def counted(*arguments, **options):
        found.append(arguments)
        return transform_fit.bases_of(*arguments, **options)

    monkeypatch.setattr(klt, "bases_of", counted)
    samples = np.random.default_rng(3).integers(0, 256, (2, 4, 4, 8), np.uint8)
    fit = Klt.fitter(MapSpec(4, 4, 8), samples)
    rates = [fit(rate=rate, unit_rows=4).block_bits for rate in (16, 32, 48)]
    assert rates == [32, 64, 96]
    assert len(found) == 1


@pytest.mark.parametrize("zero_point", [0, 128, 255])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 2, 32, 33), (1, 2, 5, 17), (4, 4, 8, 8)])
def test_every_implementation_agrees_at_the_limits_of_the_tables(shape, zero_point):
    rng = np.random.default_rng(zero_point)
    rows, channels = shape[0], shape[3]
    spec = MapSpec(rows, 19, channels, 1.0, zero_point)
    for values in (
        rng.integers(0, 256, spec.shape, np.uint8),
        rng.choice(np.uint8([0, 255]), spec.shape),
    ):
        codec = Klt(rows, drawn_transform(rng, shape))
        payload = codec.encode_unit(values, spec)
        expected = codec.decode_unit(payload, spec, rows)
        for name, each in implementations(codec).items():
            assert each.encode_unit(values, spec) == payload, name
            np.testing.assert_array_equal(each.decode_unit(payload, spec, rows), expected, name)
            part = each.decode_unit(payload, spec, rows, 3, 8)
            np.testing.assert_array_equal(part, expected[:, 3:11], name)


def smooth(spec: MapSpec, count: int) -> np.ndarray:
    """Maps whose neighbours and channels resemble each other: four sources, mixed."""
    rng = np.random.default_rng(6)
    sources = rng.normal(0, 40, (count, spec.height, spec.width, 4)).cumsum(axis=2) / 3
    mixed = sources @ rng.normal(0, 1, (4, spec.channels)) + rng.normal(0, 3, spec.channels)
    return (mixed + spec.zero_point).clip(0, 255).astype(np.uint8)


def squares(codec: Klt | MixedWidth, values: np.ndarray, spec: MapSpec) -> np.ndarray:
    """Mean squared error per channel."""
    restored = codec.decode(codec.encode(values, spec)).astype(float)
    return np.square(restored - values).mean(axis=(0, 1))


@pytest.mark.parametrize("zero_point", [0, 128])
def test_where_channels_resemble_each_other_it_loses_less_than_widths_alone(zero_point):
    spec = MapSpec(8, 12, 16, 1.0, zero_point)
    samples = smooth(spec, 41)
    for bits in (2, 4):
        widths = MixedWidth.fit(spec, samples[:40], bits=bits, unit_rows=8)
        one, two = (
            Klt.fit(spec, samples[:40], rate=16 * bits, block=block, unit_rows=8)
            for block in (1, 2)
        )
        assert one.max_bytes(spec) == two.max_bytes(spec) == widths.max_bytes(spec)
        lost = [squares(codec, samples[40], spec).mean() for codec in (widths, one, two)]
        assert lost[2] < lost[1] < lost[0] / 2


def test_what_the_output_feels_is_kept_better():
    spec = MapSpec(8, 12, 16, 1.0, 128)
    samples = np.random.default_rng(1).normal(128, 30, (9, *spec.shape)).clip(0, 255)
    samples = samples.astype(np.uint8)
    weights = np.geomspace(1, 1e4, 16)
    plain = Klt.fit(spec, samples[:8], rate=40, unit_rows=8)
    felt = Klt.fit(spec, samples[:8], weights, rate=40, unit_rows=8)
    assert felt.max_bytes(spec) == plain.max_bytes(spec)
    lost = [weights @ squares(codec, samples[8], spec) for codec in (plain, felt)]
    assert lost[1] < lost[0] / 4
    matrices = [np.diag(np.tile(weights[first : first + 10], 4)) for first in (0, 10)]
    by_matrix = Klt.fit(spec, samples[:8], matrices, rate=40, unit_rows=8, group=10)
    by_channel = Klt.fit(spec, samples[:8], weights, rate=40, unit_rows=8, group=10)
    np.testing.assert_array_equal(by_matrix.transform.analysis, by_channel.transform.analysis)


def test_blocks_have_two_rows_where_units_allow_it_and_padding_counts():
    samples = smooth(MapSpec(7, 9, 4), 2)
    for height, unit_rows, rows in ((7, 1, 1), (7, 2, 2), (7, 3, 1), (7, 7, 2), (7, 9, 2)):
        spec = MapSpec(height, 9, 4)
        codec = Klt.fit(spec, samples, rate=32, unit_rows=unit_rows)
        assert codec.transform.rows == rows
        assert codec.max_bytes(spec) == -(-height // rows) * 5 * rows * 2
        values = np.repeat(np.repeat(samples[0][::2, ::2], 2, axis=0), 2, axis=1)[:7, :9]
        assert squares(codec, values, spec).max() < 400


def test_without_samples_all_components_get_the_same_bits():
    spec = MapSpec(2, 4, 3)
    codec = Klt.fit(spec, np.zeros((0, *spec.shape), np.uint8), rate=32, unit_rows=2)
    assert codec.transform.width.tolist() == [2] * 12


@pytest.mark.parametrize(
    "options", [{"rate": 0}, {"rate": 129}, {"block": 3}, {"group": 33}, {"rate": 2.0}]
)
def test_an_option_outside_of_its_range_is_refused(options):
    spec = MapSpec(2, 2, 3)
    with pytest.raises(BadArgument, match=f"klt needs {next(iter(options))} to be an integer"):
        Klt.fit(spec, np.zeros((1, *spec.shape), np.uint8), **options)


@pytest.mark.parametrize(
    "weights",
    [np.ones(2), np.array([1, -1, 1.0]), np.array([1, np.nan, 1]), [np.eye(12), np.eye(1)]],
)
def test_weights_that_do_not_fit_are_refused(weights):
    spec = MapSpec(2, 2, 3)
    with pytest.raises(BadArgument, match="weights must be"):
        Klt.fit(spec, np.zeros((1, *spec.shape), np.uint8), weights, unit_rows=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": 0}, "group must be an integer in 1..128"),
        ({"group": 65, "rows": 2}, "at most 128 elements"),
        ({"counts": np.array([3], np.int32)}, r"width must be uint8 \(3,\)"),
        ({"counts": np.array([0], np.int32)}, "not all be 0"),
        ({"counts": np.array([1, 1], np.int32)}, r"counts must be int32 \(1,\)"),
        ({"width": np.array([9, 1], np.uint8)}, r"width must be in 1\.\.8"),
        ({"zero_code": np.array([32, 0], np.uint8)}, "zero_code must be a code"),
        ({"analysis_shift": np.array([16, 0], np.uint8)}, r"analysis_shift must be in 0\.\.15"),
        ({"synthesis": np.zeros(3, np.int8)}, r"synthesis must be int8 \(4,\)"),
    ],
)
def test_tables_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(BadArgument, match=message):
        dataclasses.replace(BY_HAND.transform, **changes)


def test_maps_and_units_that_do_not_fit_are_refused():
    with pytest.raises(BadShape, match="klt has matrices for 2 channels, the map has 3"):
        BY_HAND.check_spec(MapSpec(2, 2, 3))
    spec = MapSpec(4, 4, 2)
    codec = Klt.fit(spec, np.zeros((1, *spec.shape), np.uint8), unit_rows=4)
    with pytest.raises(BadShape, match="blocks of 2 rows, so that unit_rows must be a multiple"):
        dataclasses.replace(codec, unit_rows=3).check_spec(spec)
