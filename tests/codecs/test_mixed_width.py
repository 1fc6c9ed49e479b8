# SPDX-License-Identifier: Apache-2.0
"""The layout of mixed_width, its tables at their limits, and what fitting finds."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from thinmaps import _core
from thinmaps.codecs.levels import ONE
from thinmaps.codecs.mixed_width import MixedWidth, Tables, fit_together
from thinmaps.codecs.narrow import Narrow
from thinmaps.codecs.native import implementations, twins
from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec


def drawn(channels: int, seed: int, widths: tuple[int, ...] = tuple(range(9))) -> MixedWidth:
    """Widths, steps and zero codes at random; the first channel at the limits of all three."""
    rng = np.random.default_rng(seed)
    width = rng.choice(np.uint8(widths), channels)
    width[0] = max(widths)
    largest = (1 << width.astype(np.int64)) - 1
    step = rng.integers(ONE, 255 * ONE // np.maximum(largest, 1) + 1)
    step[0] = rng.choice([ONE, 255 * ONE])
    zero_code = rng.integers(0, largest + 1)
    zero_code[0] = rng.choice([0, largest[0]])
    return MixedWidth(1, width, step.astype(np.int32), zero_code.astype(np.uint8))


@pytest.mark.parametrize("zero_point", [0, 1, 128, 255])
@pytest.mark.parametrize("channels", [1, 2, 7, 8, 12, 64, 65, 513])
def test_every_implementation_agrees_at_the_limits_of_the_tables(channels, zero_point):
    spec = MapSpec(1, 97, channels, 1.0, zero_point)
    rows = np.random.default_rng(4).integers(0, 256, (1, 97, channels), np.uint8)
    rows[0, :2] = [[0], [255]]
    for seed, widths in itertools.product(range(2), (tuple(range(9)), (8,), (0, 1), (0, 8))):
        codec = drawn(channels, seed, widths)
        payload = codec.encode_unit(rows, spec)
        expected = codec.decode_unit(payload, spec, 1)
        for name, each in implementations(codec).items():
            assert each.encode_unit(rows, spec) == payload, name
            np.testing.assert_array_equal(each.decode_unit(payload, spec, 1), expected, name)
            part = each.decode_unit(payload, spec, 1, 90, 5)
            np.testing.assert_array_equal(part, expected[:, 90:95], name)


@pytest.mark.parametrize("channels", [8, 24, 64, 96, 192])
def test_long_rows_whose_bytes_have_bits_of_two_chunks_are_the_same_everywhere(channels):
    spec = MapSpec(5, 97, channels, 1.0, 128)
    rows = np.random.default_rng(5).integers(0, 256, spec.shape, np.uint8)
    for seed, widths in enumerate([tuple(range(9)), (0, 1), (1,), (2, 3), (7, 8), (8,)]):
        codec = replace(drawn(channels, seed, widths), unit_rows=5)
        payload = codec.encode_unit(rows, spec)
        expected = codec.decode_unit(payload, spec, 5)
        for name, each in implementations(codec).items():
            assert each.encode_unit(rows, spec) == payload, name
            np.testing.assert_array_equal(each.decode_unit(payload, spec, 5), expected, name)
            part = each.decode_unit(payload, spec, 5, 3, 93)
            np.testing.assert_array_equal(part, expected[:, 3:96], name)


@pytest.mark.parametrize("bits", range(1, 8))
def test_one_width_for_all_channels_gives_the_bytes_of_narrow(bits):
    spec = MapSpec(2, 9, 5, 1.0, 128)
    rows = np.random.default_rng(bits).integers(0, 256, spec.shape, np.uint8)
    narrow = Narrow.fit(spec, rows[None], bits=bits, unit_rows=2)
    codec = MixedWidth(2, np.full(5, bits, np.uint8), narrow.step, narrow.zero_code)
    payload = narrow.encode_unit(rows, spec)
    assert codec.encode_unit(rows, spec) == payload
    np.testing.assert_array_equal(
        codec.decode_unit(payload, spec, 2), narrow.decode_unit(payload, spec, 2)
    )


def test_codes_lie_side_by_side_least_significant_bit_first():
    width = np.uint8([3, 0, 5, 8])
    codec = MixedWidth(1, width, np.full(4, ONE, np.int32), np.zeros(4, np.uint8))
    rows = np.uint8([[[0b101, 0, 0b10011, 0xA7], [0b010, 0, 0b00001, 0x10]]])
    expected = bytes([0b10011_101, 0xA7, 0b00001_010, 0x10])
    assert codec.encode_unit(rows, MapSpec(1, 2, 4)) == expected


def test_a_channel_without_bits_is_its_zero_point_and_one_with_eight_is_exact():
    spec = MapSpec(1, 256, 2, 1.0, 100)
    rows = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 2, axis=2)
    codec = Tables.fit(spec, rows[None]).codec(np.uint8([0, 8]))
    restored = codec.decode(codec.encode(rows, spec))
    assert (restored[..., 0] == 100).all()
    np.testing.assert_array_equal(restored[..., 1], rows[..., 1])


def activations(spec: MapSpec, spread: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(8)
    drawn = rng.laplace(spec.zero_point, spread, (2, *spec.shape))
    return drawn.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("bits", [1, 2, 4, 6])
def test_the_size_is_that_of_narrow_and_the_weighted_loss_is_less(bits):
    spec = MapSpec(4, 32, 6, 1.0, 128)
    samples = activations(spec, np.array([1.0, 2, 5, 10, 30, 60]))
    weights = np.array([5.0, 1, 0.1, 1, 0.01, 3])
    mixed = MixedWidth.fit(spec, samples, weights=weights, bits=bits)
    narrow = Narrow.fit(spec, samples, bits=bits)
    assert mixed.max_bytes(spec) == narrow.max_bytes(spec)

    def lost(codec) -> float:
        restored = np.stack([codec.decode(codec.encode(rows, spec)) for rows in samples])
        squares = (restored.astype(float) - samples) ** 2
        return float(squares.mean(axis=(0, 1, 2)) @ weights)

    assert lost(mixed) < 0.8 * lost(narrow)


def test_bits_go_where_the_output_feels_them():
    spec = MapSpec(4, 32, 4)
    samples = activations(spec, np.full(4, 20.0))
    even = MixedWidth.fit(spec, samples, bits=4)
    felt = MixedWidth.fit(spec, samples, weights=np.array([1.0, 1, 1, 4096]), bits=4)
    assert np.ptp(even.width) <= 1
    assert felt.width[3] >= 7
    assert felt.width.sum() == even.width.sum() == 16


def test_a_channel_that_never_showed_anything_still_gets_bits_that_are_left():
    spec = MapSpec(2, 4, 3)
    codec = MixedWidth.fit(spec, np.zeros((1, *spec.shape), np.uint8), bits=4)
    assert codec.width.tolist() == [4, 4, 4]


def test_a_set_spare_bit_and_a_code_that_is_never_written_are_refused():
    width = np.uint8([1, 4])
    codec = MixedWidth(1, width, np.int32([ONE, 64 * ONE]), np.zeros(2, np.uint8))
    spec = MapSpec(1, 1, 2)
    for each in implementations(codec).values():
        with pytest.raises(CorruptPayload, match="spare bit"):
            each.decode_unit(bytes([0b100000]), spec, 1)
        with pytest.raises(CorruptPayload, match="codes 0 to 4 in channel 1, found 15"):
            each.decode_unit(bytes([0b11110]), spec, 1)


def test_tables_that_cannot_be_are_refused():
    step, zero_code = np.full(2, ONE, np.int32), np.zeros(2, np.uint8)
    for width, problem in (
        ([9, 1], "widths of 0 to 8 bits"),
        ([0, 0], "not all 0"),
        ([1, 2, 3], "one length"),
    ):
        with pytest.raises(BadArgument, match=problem):
            MixedWidth(1, np.uint8(width), step, zero_code)
    with pytest.raises(BadArgument, match="2 bits in channel 1 needs a zero_code up to 3, got 4"):
        MixedWidth(1, np.uint8([8, 2]), step, np.uint8([0, 4]))
    with pytest.raises(BadArgument, match=f"steps in {ONE}"):
        MixedWidth(1, np.uint8([8, 2]), step - 1, zero_code)
    spec = MapSpec(1, 2, 3)
    with pytest.raises(BadShape, match="tables for 2 channels, the map has 3"):
        MixedWidth(1, np.uint8([8, 2]), step, zero_code).encode(np.zeros((1, 2, 3), np.uint8), spec)
    samples = np.zeros((1, *spec.shape), np.uint8)
    for weights in (np.ones(2), np.array([1, -1, 1.0]), np.array([1, np.nan, 1])):
        with pytest.raises(BadArgument, match=r"weights \(3,\), finite and not negative"):
            MixedWidth.fit(spec, samples, weights=weights)
    for bits in (0, 9, 2.5):
        with pytest.raises(BadArgument, match=r"bits to be an integer in 1\.\.8"):
            MixedWidth.fit(spec, samples, bits=bits)


@pytest.mark.parametrize("isa", list(twins(MixedWidth())))
@pytest.mark.parametrize("count", [0, 1, 67, 68, 100])
def test_a_twin_refuses_tables_of_another_size(isa, count):
    none = np.zeros(0, np.uint8)
    wrong, payload = np.ones(count, np.int32), np.zeros(100, np.uint8)
    rows = np.zeros((2, 3, 5), np.uint8)
    status, _ = _core.encode_unit("mixed_width", isa, rows, 0, wrong, none, payload)
    assert status == 3
    assert _core.decode_unit("mixed_width", isa, payload, 3, 0, 0, wrong, none, rows) == 3


def test_maps_fitted_together_share_the_bits_by_what_the_output_feels():
    specs = {"felt": MapSpec(4, 8, 3, 0.5), "not": MapSpec(8, 8, 2, 2.0), "null": MapSpec(2, 2, 1)}
    tables = {
        name: Tables.fit(spec, activations(spec, np.full(spec.channels, 20.0)))
        for name, spec in specs.items()
    }
    weights = {"felt": np.full(3, 4.0), "not": np.full(2, 1e-4), "null": np.zeros(1)}
    found = fit_together(specs, tables, weights, 3.5, unit_rows=2)
    assert {codec.unit_rows for codec in found.values()} == {2}
    assert found["felt"].width.min() > found["not"].width.max()
    assert found["null"].width.any()
    stored = sum(found[name].pixel_bits * s.height * s.width for name, s in specs.items())
    elements = sum(spec.raw_bytes for spec in specs.values())
    assert 3.3 * elements <= stored <= 3.5 * elements + 4

    def loss(codecs) -> float:
        return sum(
            s.height * s.width * s.scale**2
            * (tables[n].errors[np.arange(s.channels), codecs[n].width] @ weights[n])
            for n, s in specs.items()
        )  # fmt: skip

    apart = {
        name: MixedWidth.fit(
            spec, activations(spec, np.full(spec.channels, 20.0)), weights=weights[name], bits=3
        )
        for name, spec in specs.items()
    }
    assert loss(found) < loss(apart) / 4
    with pytest.raises(BadArgument, match="mean_bits <= 8, got 9"):
        fit_together(specs, tables, weights, 9)
