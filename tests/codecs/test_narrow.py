# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of narrow, its tables at their limits, and what fitting finds."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from thinmaps.bits import pack
from thinmaps.codecs.levels import ONE
from thinmaps.codecs.narrow import Narrow
from thinmaps.codecs.native import implementations
from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec

EACH_BITS = pytest.mark.parametrize("bits", range(1, 8))
EVERY_BYTE = np.arange(256, dtype=np.uint8)


def every_table(bits: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Steps and zero codes: all pairs of limits, and 200 drawn at random."""
    largest = (1 << bits) - 1
    rng = np.random.default_rng(seed)
    limits = itertools.product((ONE, ONE + 1, 3 * ONE // 2, 254 * ONE, 255 * ONE), (0, largest))
    steps, zero_codes = zip(*limits, strict=True)
    steps = np.concatenate([steps, rng.integers(ONE, 255 * ONE // largest + 1, 200)])
    zero_codes = np.concatenate([zero_codes, rng.integers(0, largest + 1, 200)])
    return steps.astype(np.int32), zero_codes.astype(np.uint8)


def restored_bytes(codec: Narrow, zero_point: int) -> np.ndarray:
    """(256, channels): what each byte becomes in each channel."""
    spec = MapSpec(1, 256, codec.step.size, 1.0, zero_point)
    rows = np.repeat(EVERY_BYTE[None, :, None], spec.channels, axis=2)
    return codec.decode(codec.encode(rows, spec))[0]


@EACH_BITS
@pytest.mark.parametrize("zero_point", [0, 1, 128, 254, 255])
def test_every_implementation_agrees_at_the_limits_of_the_tables(bits, zero_point):
    steps, zero_codes = every_table(bits)
    codec = Narrow(bits=bits, step=steps, zero_code=zero_codes)
    spec = MapSpec(1, 256, steps.size, 1.0, zero_point)
    rows = np.repeat(EVERY_BYTE[None, :, None], spec.channels, axis=2)
    payload = codec.encode_unit(rows, spec)
    expected = codec.decode_unit(payload, spec, 1)
    for name, implementation in implementations(codec).items():
        assert implementation.encode_unit(rows, spec) == payload, name
        np.testing.assert_array_equal(implementation.decode_unit(payload, spec, 1), expected)


def test_levels_are_multiples_of_the_step_from_the_zero_point_rounded_half_up():
    step = Fraction(5, 2)
    codec = Narrow(bits=3, step=np.int32([step * ONE]), zero_code=np.uint8([2]))
    levels = [floor(128 + (code - 2) * step + Fraction(1, 2)) for code in range(8)]
    assert levels == [123, 126, 128, 131, 133, 136, 138, 141]
    assert sorted(set(restored_bytes(codec, 128)[:, 0].tolist())) == levels


@EACH_BITS
@pytest.mark.parametrize("zero_point", [0, 128, 200])
def test_codes_that_an_encoder_writes_decode_to_distinct_bytes(bits, zero_point):
    """So that no flipped bit goes unseen. Exhaustive over all ranges when it was first written."""
    largest = (1 << bits) - 1
    spans = np.unique(np.geomspace(largest, 255, 30).astype(np.int64))
    steps = (2 * spans * ONE + largest) // (2 * largest)
    pairs = itertools.product(steps, {0, largest // 3, largest // 2, largest})
    steps, zero_codes = (np.array(side) for side in zip(*pairs, strict=True))
    codec = Narrow(bits=bits, step=steps.astype(np.int32), zero_code=zero_codes.astype(np.uint8))
    spec = MapSpec(1, 1, steps.size, 1.0, zero_point)
    low, high = codec.native_integers(spec)[1:].reshape(6, -1)[4:, : spec.channels]
    for code in range(largest):
        both = (code >= low) & (code + 1 <= high)
        pair = [
            codec.levels(spec).restored(np.full((1, steps.size), value, np.uint8))[0]
            for value in (code, code + 1)
        ]
        assert np.all(pair[0][both] < pair[1][both])


@EACH_BITS
def test_the_error_is_half_a_step_inside_of_the_range(bits):
    largest = (1 << bits) - 1
    step = (2 * 255 * ONE + largest) // (2 * largest)
    codec = Narrow(bits=bits, step=np.int32([step]), zero_code=np.uint8([0]))
    error = np.abs(restored_bytes(codec, 0)[:, 0].astype(int) - EVERY_BYTE)
    assert error.max() <= step / ONE / 2 + 1


def test_the_order_of_a_byte_is_kept():
    steps, zero_codes = every_table(4)
    restored = restored_bytes(Narrow(bits=4, step=steps, zero_code=zero_codes), 128)
    assert np.all(np.diff(restored.astype(int), axis=0) >= 0)


@EACH_BITS
def test_a_channel_with_few_values_is_kept_exactly(bits):
    spec = MapSpec(4, 16, 2, 1.0, 100)
    rng = np.random.default_rng(bits)
    below = min(100, ((1 << bits) - 1) // 2)
    rows = rng.integers(100 - below, 100 - below + (1 << bits), spec.shape).astype(np.uint8)
    codec = Narrow.fit(spec, rows[None], bits=bits)
    np.testing.assert_array_equal(codec.decode(codec.encode(rows, spec)), rows)


def test_a_channel_that_was_hardly_excited_is_not_clipped_at_what_it_showed():
    spec = MapSpec(4, 64, 9)
    rng = np.random.default_rng(1)
    values = rng.exponential(40, (1, *spec.shape)).clip(0, 255)
    values[..., 0] = values[..., 0].clip(0, 20)
    codec = Narrow.fit(spec, values.astype(np.uint8), bits=4)
    assert codec.step[0] * 15 > 60 * ONE


def test_a_channel_that_shows_only_zero_is_covered_widely():
    spec = MapSpec(2, 2, 1)
    codec = Narrow.fit(spec, np.zeros((1, *spec.shape), np.uint8), bits=4)
    assert codec.step.tolist() == [17 * ONE]
    assert codec.zero_code.tolist() == [0]


@pytest.mark.parametrize("zero_point", [0, 128])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("spread", [3, 10, 25])
def test_fitting_beats_the_full_range_and_every_symmetric_one(bits, zero_point, spread):
    spec = MapSpec(8, 32, 1, 1.0, zero_point)
    rng = np.random.default_rng(5)
    values = rng.laplace(zero_point, spread, (4, *spec.shape)).clip(0, 255).astype(np.uint8)
    largest = (1 << bits) - 1

    def errors(codec: Narrow) -> np.ndarray:
        restored = np.stack([codec.decode(codec.encode(value, spec)) for value in values])
        return ((restored.astype(float) - values) ** 2).sum(axis=(0, 1, 2))

    fitted = errors(Narrow.fit(spec, values, bits=bits))
    for span in (32, 64, 128, 255):
        step = np.full(1, max(ONE, round(span * ONE / largest)), np.int32)
        zero_code = np.full(1, (1 << bits - 1) if zero_point else 0, np.uint8)
        other = errors(Narrow(bits=bits, step=step, zero_code=zero_code))
        assert np.all(fitted <= other)


EACH_IMPLEMENTATION = pytest.mark.parametrize("name", implementations(Narrow()))


@EACH_IMPLEMENTATION
def test_a_set_spare_bit_is_refused(name):
    codec = Narrow(bits=4, step=np.int32([ONE]), zero_code=np.uint8([8]))
    with pytest.raises(CorruptPayload, match="a spare bit set"):
        implementations(codec)[name].decode_unit(b"\x18", MapSpec(1, 1, 1, 1.0, 250), 1)


@EACH_IMPLEMENTATION
@pytest.mark.parametrize(("zero_point", "used"), [(3, range(5, 16)), (250, range(14))])
@pytest.mark.parametrize("channel", [0, 1, 20, 40])
def test_a_code_that_the_encoder_gives_to_no_byte_is_refused(name, zero_point, used, channel):
    spec = MapSpec(1, 1, 41, 1.0, zero_point)
    codec = Narrow(bits=4, step=np.full(41, ONE, np.int32), zero_code=np.full(41, 8, np.uint8))
    decoder = implementations(codec)[name]
    for code in range(16):
        codes = np.full((1, 41), 8, np.uint8)
        codes[0, channel] = code
        payload = pack(codes, 4).tobytes()
        if code in used:
            restored = decoder.decode_unit(payload, spec, 1)
            assert restored[0, 0, channel] == zero_point + code - 8
        else:
            with pytest.raises(CorruptPayload, match=f"in channel {channel}, found {code}"):
                decoder.decode_unit(payload, spec, 1)


@pytest.mark.parametrize("bits", [0, 8, -1, 2.0, "4", True])
def test_bits_outside_of_one_to_seven_are_refused(bits):
    spec = MapSpec(1, 1, 1)
    with pytest.raises(BadArgument, match=r"integer in 1\.\.7"):
        Narrow.fit(spec, np.zeros((1, 1, 1, 1), np.uint8), bits=bits)


@pytest.mark.parametrize(
    ("step", "zero_code", "message"),
    [
        (np.int64([ONE]), np.uint8([0]), r"step to be int32 \(channels,\), got int64"),
        (np.int32([[ONE]]), np.uint8([0]), r"got int32 \(1, 1\)"),
        (np.int32([]), np.uint8([]), r"got int32 \(0,\)"),
        (np.int32([ONE]), np.int32([0]), "zero_code to be uint8"),
        (np.int32([ONE, ONE]), np.uint8([0]), "'step': 2, 'zero_code': 1"),
        (np.int32([ONE - 1]), np.uint8([0]), r"steps in 32768\.\.8355840, got 32767"),
        (np.int32([255 * ONE + 1]), np.uint8([0]), r"\.\.8355841"),
        (np.int32([ONE]), np.uint8([16]), "zero codes up to 15, got 16"),
    ],
)
def test_tables_that_do_not_fit_are_refused(step, zero_code, message):
    with pytest.raises(BadArgument, match=message):
        Narrow(bits=4, step=step, zero_code=zero_code)


def test_maps_and_samples_of_another_channel_count_are_refused():
    codec = Narrow.fit(MapSpec(1, 1, 2), np.zeros((1, 1, 1, 2), np.uint8))
    with pytest.raises(BadShape, match="tables for 2 channels, the map has 3"):
        codec.encode(np.zeros((1, 1, 3), np.uint8), MapSpec(1, 1, 3))
    with pytest.raises(BadShape, match=r"fits on uint8 \(n, rows, w, 2\)"):
        Narrow.fit(MapSpec(1, 1, 2), np.zeros((1, 1, 1, 3), np.uint8))
