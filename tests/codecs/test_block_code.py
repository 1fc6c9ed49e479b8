# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of block_code by hand, its tables at their limits, and where training starts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from transform_cases import Shape, drawn_transform

from thinmaps.codecs.block_code import MOST_OFFSET, PRESETS, BlockCode, FreeTransform
from thinmaps.codecs.klt import Klt
from thinmaps.codecs.native import implementations
from thinmaps.codecs.transform_fit import BlockShape, bases_of, block_bytes_together
from thinmaps.errors import BadArgument
from thinmaps.types import MapSpec

# One bit says which of two patterns a pixel of two channels has; the second component has 3 bits.
BY_HAND = BlockCode(
    1,
    FreeTransform(
        group=2,
        counts=np.array([2], np.int32),
        width=np.array([1, 3], np.uint8),
        analysis=np.array([1, 1, 1, -1], np.int8),
        analysis_shift=np.array([5, 3], np.uint8),
        synthesis=np.array([80, 4, 60, -4], np.int8),
        synthesis_shift=np.array([0, 1], np.uint8),
        analysis_offset=np.array([-90, 25], np.int32),
        synthesis_centre=np.array([1, 14], np.int32),
    ),
)


def test_a_payload_by_hand():
    spec = MapSpec(1, 2, 2)
    rows = np.array([[[100, 88], [7, 90]]], np.uint8)
    # (188 - 90) / 32 is 3, and a bit holds 1; (12 + 25) / 8 is 4. (97 - 90) / 32 is 0; (-83 + 25)
    # / 8 is below 0.
    payload = bytes([1 | 4 << 1, 0 | 0 << 1])
    # Centres of 1/4 and 3 1/2: 60 + 2 and (45 - 2 + 1) / 2; -20 - 14, and (-15 + 14 + 1) / 2.
    restored = [[[62, 22], [0, 0]]]
    for name, each in implementations(BY_HAND).items():
        assert each.encode_unit(rows, spec) == payload, name
        np.testing.assert_array_equal(each.decode_unit(payload, spec, 1), restored, name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"analysis_offset": np.array([0, MOST_OFFSET + 1], np.int32)}, "analysis_offset must be"),
        ({"analysis_offset": np.array([0, 1, 2], np.int32)}, r"analysis_offset must be int32 \(2,"),
        ({"synthesis_centre": np.array([-1, 0], np.int32)}, r"must be in 0\.\.1020"),
        ({"synthesis_centre": np.array([5, 0], np.int32)}, "must lie among the codes"),
        ({"synthesis_centre": np.array([1, 2], np.int64)}, "synthesis_centre must be int32"),
    ],
)
def test_tables_out_of_their_limits_are_refused_by_name(changes, said):
    with pytest.raises(BadArgument, match=said):
        dataclasses.replace(BY_HAND.transform, **changes)


def drawn(rng: np.random.Generator, shape: Shape, most: int) -> BlockCode:
    """Tables at random, with the limits of each among them."""
    transform = FreeTransform.starting_from(drawn_transform(rng, shape, most))
    count, last = transform.components, 4 * transform.largest
    edge = rng.choice(np.int32([-MOST_OFFSET, MOST_OFFSET]), count)
    offset = np.where(rng.random(count) < 0.2, edge, rng.integers(-(1 << 16), 1 << 16, count))
    centre = np.where(rng.random(count) < 0.3, last, rng.integers(0, last + 1))
    free = {"analysis_offset": offset, "synthesis_centre": centre}
    return BlockCode(
        shape[0],
        dataclasses.replace(transform, **{k: v.astype(np.int32) for k, v in free.items()}),
    )


@pytest.mark.parametrize("zero_point", [0, 128, 255])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 2, 16, 16), (2, 2, 32, 33), (1, 2, 5, 17), (2, 2, 8, 24)]
)
def test_every_implementation_agrees_at_the_limits_of_the_tables(shape, zero_point):
    rng = np.random.default_rng(zero_point)
    rows, channels = shape[0], shape[3]
    for most, width in ((128, 19), (23, 34)):
        spec = MapSpec(rows, width, channels, 1.0, zero_point)
        codec = drawn(rng, shape, most)
        for values in (
            rng.integers(0, 256, spec.shape, np.uint8),
            rng.choice(np.uint8([0, 255]), spec.shape),
        ):
            payload = codec.encode_unit(values, spec)
            expected = codec.decode_unit(payload, spec, rows)
            for name, each in implementations(codec).items():
                assert each.encode_unit(values, spec) == payload, name
                made = each.decode_unit(payload, spec, rows)
                np.testing.assert_array_equal(made, expected, name)
                part = each.decode_unit(payload, spec, rows, 3, 8)
                np.testing.assert_array_equal(part, expected[:, 3:11], name)


def drawn_maps(spec: MapSpec, loudness: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    values = rng.normal(0, loudness, (24, *spec.shape)) + spec.zero_point
    return values.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("zero_point", [0, 128])
def test_it_starts_as_the_code_that_klt_fits(zero_point):
    spec = MapSpec(8, 12, 20, 1.0, zero_point)
    samples = drawn_maps(spec, 30)
    code = BlockCode.fit(spec, samples, rate=36)
    klt = Klt.fit(spec, samples, rate=36, unit_rows=2)
    assert code.unit_rows == 2
    packed = code.encode(samples[0], spec)
    assert packed.units == klt.encode(samples[0], spec).units
    np.testing.assert_array_equal(code.decode(packed), klt.decode(klt.encode(samples[0], spec)))


def test_bytes_go_to_the_maps_where_they_save_most_and_none_has_less_than_one():
    spec = MapSpec(4, 6, 16, 1.0, 128)
    shape = BlockShape(2, 2, 16)
    bases = {
        name: bases_of(spec, drawn_maps(spec, loudness), shape, None)
        for name, loudness in (("silent", 1e-9), ("quiet", 4.0), ("loud", 40.0))
    }
    found = block_bytes_together(bases, {"silent": 6, "quiet": 60, "loud": 6}, 16.0)
    assert found["silent"] >= 1
    assert found["loud"] > found["quiet"] > found["silent"]
    spent = 6 * found["silent"] + 60 * found["quiet"] + 6 * found["loud"]
    assert 16.0 * 72 - 60 < spent <= 16.0 * 72
    with pytest.raises(BadArgument, match=r"a byte at least, got a mean of 0\.5"):
        block_bytes_together(bases, {"silent": 6, "quiet": 6, "loud": 6}, 0.5)


def test_blocks_of_many_channels_may_have_more_than_255_bytes():
    spec = MapSpec(2, 4, 96, 1.0, 128)
    shape = BlockShape(2, 2, 8)
    loud, silent = (bases_of(spec, drawn_maps(spec, s), shape, None) for s in (40.0, 1e-9))
    found = block_bytes_together({"loud": loud, "silent": silent}, {"loud": 2, "silent": 2}, 150.0)
    assert 290 < found["loud"] < 300


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_maps_as_many_times_smaller_as_they_are_called(name):
    spec = MapSpec(8, 8, 32, 1.0, 0)
    code = BlockCode.fit(spec, drawn_maps(spec, 30), preset=name)
    assert spec.raw_bytes / code.max_bytes(spec) == pytest.approx(int(name[0]), rel=0.03)
    with pytest.raises(BadArgument, match="block_code has no preset '2x'; its presets: 3x, 4x, 5x"):
        BlockCode.fit(spec, drawn_maps(spec, 30), preset="2x")
