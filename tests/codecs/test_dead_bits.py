# SPDX-License-Identifier: Apache-2.0
"""Bits that never change leave a code, which restores the maps that were watched as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bit_layer_cases import drawn, layer, stack
from transform_cases import drawn_transform

from thinmaps.codecs.bit_layers import BitLayer
from thinmaps.codecs.block_code import BlockCode, FreeTransform
from thinmaps.codecs.dead_bits import DeadBits, Prunable
from thinmaps.codecs.gf2 import Gf2
from thinmaps.codecs.klt import Klt
from thinmaps.codecs.native import implementations
from thinmaps.codecs.transform import QUARTERS
from thinmaps.types import MapSpec

NOTHING = np.zeros((0, 1, 1, 1), np.uint8)
FAR = (1 << 24) - 1  # a threshold that no sum meets


def pruned(codec: Prunable, spec: MapSpec, *maps: np.ndarray) -> tuple[Prunable, int]:
    dead = DeadBits(codec)
    for values in maps:
        dead.watch(values, spec)
    return dead.pruned(spec)


def assert_equal_from_less(
    codec: Prunable, spec: MapSpec, maps: list[np.ndarray]
) -> tuple[Prunable, int]:
    """Every implementation restores the maps as before, from fewer bytes."""
    less, bits = pruned(codec, spec, *maps)
    assert bits > 0
    assert less.max_bytes(spec) < codec.max_bytes(spec)
    for values in maps:
        for first in range(0, spec.height, codec.unit_rows):
            rows = values[first : first + codec.unit_rows]
            expected = codec.decode_unit(codec.encode_unit(rows, spec), spec, len(rows))
            for name, each in implementations(less).items():
                payload = each.encode_unit(rows, spec)
                assert len(payload) == less.unit_bytes(spec, len(rows))
                made = each.decode_unit(payload, spec, len(rows))
                np.testing.assert_array_equal(made, expected, name)
    return less, bits


def test_a_bit_that_is_always_set_becomes_part_of_thresholds_by_hand() -> None:
    # Two channels of a plane; stored are the first, whether any sum reaches 0, and the second.
    project = layer([[1, 0], [1, 1], [0, 1]], [1, 0, 1])
    restore = layer([[4, -1, 0], [0, 3, 4]], [2, 5])
    codec, spec = Gf2(1, 1, 1, (project,), (restore,)), MapSpec(1, 4, 2)
    rows = np.uint8([[[0, 0], [1, 0], [0, 1], [1, 1]]])
    less, bits = assert_equal_from_less(codec, spec, [rows])
    assert isinstance(less, Gf2)
    assert (bits, less.stored) == (1, 2)
    assert less.project[0].weights[..., 0, 0].tolist() == [[1, 0], [0, 1]]
    assert less.restore[0].weights[..., 0, 0].tolist() == [[4, 0], [0, 4]]
    assert less.restore[0].threshold.tolist() == [2 + 1, 5 - 3]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 3])
def test_constant_bits_of_random_layers_are_taken_out(kernel: int, groups: int) -> None:
    rng = np.random.default_rng(kernel)
    spec = MapSpec(11, 8, 6, 1.0, 128)  # units of 9 rows and of 2
    codec = stack(rng, "int8", spec.channels, groups, kernel)
    last = codec.project[-1]
    threshold = last.threshold.reshape(groups, -1).copy()
    threshold[:, 2:5], threshold[:, 7] = FAR, -FAR
    dead = BitLayer(groups, last.weights, threshold.ravel())
    codec = replace(codec, project=(*codec.project[:-1], dead))
    maps = [rng.integers(0, 256, spec.shape, np.uint8) for _ in range(4)]
    less, bits = assert_equal_from_less(codec, spec, maps)
    assert isinstance(less, Gf2)
    # What a 1 adds to 3 x 3 windows differs from pixel to pixel, so that it stays.
    assert bits >= groups * (4 if kernel == 1 else 3)
    assert less.groups == groups
    if kernel == 3:
        assert (codec.restore[0].weights[:, 7] != 0).any()
        values = less.stored_numbers(less.encode_unit(maps[0][:9], spec), spec, 9)
        assert values.all(axis=(0, 1)).sum() >= groups


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (2, 9), (1, 9)])
def test_planes_that_are_always_set_leave_windows_of_3_by_3(size: tuple[int, int]) -> None:
    spec = MapSpec(*size, 16, 1.0, 0)
    codec = Gf2.fit(spec, NOTHING, keep=4, kernel=3, unit_rows=size[0])
    maps = list(np.random.default_rng(3).integers(160, 192, (3, *spec.shape), np.uint8))
    less, bits = assert_equal_from_less(codec, spec, maps)
    assert bits == 3 * 16  # planes 5 to 7 are 101; the fourth, of 16, changes
    assert isinstance(less, Gf2)
    assert less.stored == 16


def test_without_layers_that_restore_one_takes_the_constants() -> None:
    spec = MapSpec(2, 8, 2, 1.0, 64)
    passing = BitLayer(1, np.eye(16, dtype=np.int8)[..., None, None], np.ones(16, np.int32))
    codec = Gf2(2, 8, 1, (passing,))
    rng = np.random.default_rng(4)
    maps = list(rng.integers(64, 68, (2, *spec.shape), np.uint8))
    less, bits = assert_equal_from_less(codec, spec, maps)
    assert isinstance(less, Gf2)
    assert (bits, len(less.restore)) == (16 - 2 * 2, 1)


def test_groups_store_equally_many_bits() -> None:
    rng = np.random.default_rng(5)
    spec = MapSpec(2, 16, 4)
    project = drawn(rng, "int8", (20, 16, 1, 1), 2)
    restore = drawn(rng, "int8", (32, 10, 1, 1), 2)
    threshold = project.threshold.copy()
    threshold[[1, 2, 3, 14]] = FAR  # three of the first group, one of the second
    codec = Gf2(2, 8, 2, (BitLayer(2, project.weights, threshold),), (restore,))
    maps = [rng.integers(0, 256, spec.shape, np.uint8) for _ in range(8)]
    assert assert_equal_from_less(codec, spec, maps)[1] == 2


@pytest.mark.parametrize("kind", [Klt, BlockCode])
@pytest.mark.parametrize("zero_point", [0, 130])
def test_components_that_span_few_codes_get_their_width(kind: type, zero_point: int) -> None:
    rng = np.random.default_rng(6)
    spec = MapSpec(5, 7, 21, 1.0, zero_point)
    drawn_one = drawn_transform(rng, (2, 2, 8, 21), 30)
    transform = FreeTransform.starting_from(drawn_one) if kind is BlockCode else drawn_one
    if kind is BlockCode:  # centres between codes, too
        centre = np.minimum(transform.centre + rng.integers(0, 4, 1), QUARTERS * transform.largest)
        transform = replace(transform, synthesis_centre=centre.astype(np.int32))
    maps = [(rng.integers(0, 3, spec.shape) + zero_point).astype(np.uint8) for _ in range(3)]
    less, bits = assert_equal_from_less(kind(2, transform), spec, maps)
    assert bits == transform.width.sum() - less.blocks.width.sum()
    assert less.blocks.components < transform.components  # some restored nothing, and are gone


def test_codes_are_counted_from_their_lowest_or_their_centre_by_hand() -> None:
    # The first component is the first channel; the second is always 4, its centre 3 and a half.
    transform = FreeTransform(
        1,
        1,
        2,
        counts=np.int32([2]),
        width=np.uint8([8, 8]),
        analysis=np.int8([1, 0, 0, 0]),
        analysis_shift=np.uint8([0, 0]),
        synthesis=np.int8([1, 2, 1, 0]),
        synthesis_shift=np.uint8([0, 0]),
        analysis_offset=np.int32([0, 4]),
        synthesis_centre=np.int32([4 * 96, 14]),
    )
    codec, spec = BlockCode(1, transform), MapSpec(1, 32, 2)
    rows = np.repeat(np.arange(100, 132, dtype=np.uint8), 2).reshape(spec.shape)
    less, bits = assert_equal_from_less(codec, spec, [rows])
    # 96 to 131 and 3 to 4: the constant of the second has no other place.
    assert (bits, less.blocks.width.tolist()) == (16 - 6 - 1, [6, 1])
    assert less.blocks.centre.tolist() == [0, 14 - 4 * 3]
    assert less.blocks.offset.tolist() == [-96, 4 - 3]


@pytest.mark.parametrize("zero_point", [0, 6])
def test_a_map_of_one_value_leaves_a_bit_at_least(zero_point: int) -> None:
    spec = MapSpec(2, 16, 4, 1.0, zero_point)
    values = np.full(spec.shape, zero_point, np.uint8)
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 256, (4, *spec.shape), np.uint8)
    for codec in (
        Gf2.fit(spec, NOTHING, keep=3),
        Klt.fit(spec, noise, rate=64, unit_rows=2),
        BlockCode.fit(spec, noise, rate=64),
    ):
        less, _ = assert_equal_from_less(codec, spec, [values])
        assert (less.stored if isinstance(less, Gf2) else less.block_bits) == 1


def test_a_code_without_dead_bits_stays_as_it_is() -> None:
    spec = MapSpec(4, 8, 8)
    rng = np.random.default_rng(8)
    maps = [rng.integers(0, 256, spec.shape, np.uint8) for _ in range(20)]
    for codec in (
        Gf2.fit(spec, NOTHING, keep=6),
        Klt.fit(spec, np.stack(maps), rate=8, unit_rows=2),
    ):
        assert pruned(codec, spec, *maps) == (codec, 0)
        assert pruned(codec, spec) == (codec, 0)
