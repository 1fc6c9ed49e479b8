# SPDX-License-Identifier: Apache-2.0
"""The layers of gf2 by hand, the identity it starts from, its presets, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from bit_layer_cases import drawn, layer, stack

from thinmaps.codecs.bit_layers import BitLayer, identity
from thinmaps.codecs.gf2 import PRESETS, Gf2
from thinmaps.codecs.native import implementations
from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec

# Two channels of one plane to three stored bits: and, or, differs; from them both bits again.
BY_HAND = Gf2(
    1,
    1,
    1,
    (layer([[1, 1], [1, 1], [1, -1]], [2, 1, 1]),),
    (layer([[2, 0, 5], [3, 1, -127]], [2, 1]),),
)


def test_a_payload_by_hand():
    spec = MapSpec(1, 4, 2)
    rows = np.uint8([[[0, 0], [1, 0], [0, 1], [1, 1]]])
    payload = int("011_010_110_000".replace("_", ""), 2).to_bytes(2, "little")
    for name, each in implementations(BY_HAND).items():
        assert each.encode_unit(rows, spec) == payload, name
        np.testing.assert_array_equal(each.decode_unit(payload, spec, 1), rows, name)
        with pytest.raises(CorruptPayload, match="gf2 found a spare bit set behind a row"):
            each.decode_unit(payload[:1] + bytes([payload[1] | 1 << 4]), spec, 1)


def test_a_window_of_3_by_3_by_hand():
    # Powers of two, so that sums tell which bits a window sees.
    weights = np.zeros((2, 1, 3, 3), np.int8)
    weights[0, 0] = [[1, 2, 4], [8, 16, 32], [64, 0, 0]]
    weights[1, 0, 2, 1:] = [1, 2]
    project = BitLayer(1, weights, np.int32([20, 2]))
    bits = np.uint8([[0, 0, 1], [0, 1, 1], [1, 0, 0]])[..., None]
    # Sums: 0 and 2 at the first corner, 16 + 64 and 1 right of it, 4 + 16 below, 1 + 2 at the last.
    assert project.project(bits).tolist() == [[[0, 1], [1, 0]], [[1, 0], [0, 0]]]
    restored = BitLayer(1, weights[:1], np.int32([16])).restore(np.uint8([[[1]]]), 2, 2)
    assert restored[..., 0].tolist() == [[1, 1], [0, 0]]
    both = BitLayer(1, weights[:1], np.int32([8 + 32])).restore(np.uint8([[[1], [1]]]), 1, 3)
    assert both[..., 0].tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("name", ["some", "binary", "ternary", "four bits", "int8"])
def test_every_implementation_agrees_on_random_layers(name, groups, kernel):
    rng = np.random.default_rng(kernel)
    for spec in (MapSpec(5, 7, 6, 1.0, 128), MapSpec(2, 18, 33), MapSpec(1, 1, 3)):
        codec = stack(rng, name, spec.channels, groups, kernel)
        values = rng.integers(0, 256, spec.shape, np.uint8)
        payload = codec.encode_unit(values, spec)
        assert len(payload) == codec.unit_bytes(spec, spec.height)
        expected = codec.decode_unit(payload, spec, spec.height)
        if spec.width > 1:
            for made in (np.frombuffer(payload, np.uint8), expected):
                assert 0.003 < np.unpackbits(made).mean() < 0.997
        part = (spec.width // 3, spec.width - spec.width // 3)
        for implementation, each in implementations(codec).items():
            assert each.encode_unit(values, spec) == payload, implementation
            restored = each.decode_unit(payload, spec, spec.height)
            np.testing.assert_array_equal(restored, expected, implementation)
            restored = each.decode_unit(payload, spec, spec.height, *part)
            np.testing.assert_array_equal(restored, expected[:, part[0] :], implementation)


def test_groups_of_channels_are_projected_on_their_own():
    rng = np.random.default_rng(4)
    spec, half = MapSpec(3, 4, 6), MapSpec(3, 4, 3)
    values = rng.integers(0, 256, spec.shape, np.uint8)
    project, restore = drawn(rng, "int8", (20, 24, 1, 1), 2), drawn(rng, "int8", (48, 10, 1, 1), 2)
    whole = Gf2(3, 8, 2, (project,), (restore,))
    restored = whole.decode_unit(whole.encode_unit(values, spec), spec, 3)
    for group in range(2):
        of = [
            BitLayer(1, *(np.split(table, 2)[group] for table in (each.weights, each.threshold)))
            for each in (project, restore)
        ]
        alone = Gf2(3, 8, 1, (of[0],), (of[1],))
        channels = slice(3 * group, 3 * group + 3)
        here = alone.decode_unit(alone.encode_unit(values[..., channels], half), half, 3)
        np.testing.assert_array_equal(restored[..., channels], here)


def test_two_layers_of_stride_2_restore_the_size():
    rng = np.random.default_rng(8)
    for height, width in ((1, 1), (2, 3), (5, 6), (8, 9)):
        spec = MapSpec(height, width, 2)
        shapes = [(12, 16, 3, 3), (10, 12, 3, 3), (12, 10, 3, 3), (16, 12, 3, 3)]
        layers = [drawn(rng, "ternary", shape, 1) for shape in shapes]
        codec = Gf2(height, 8, 1, tuple(layers[:2]), tuple(layers[2:]))
        assert codec.stored_shape(height, width) == (-(-height // 4), -(-width // 4))
        values = rng.integers(0, 256, spec.shape, np.uint8)
        payload = codec.encode_unit(values, spec)
        expected = codec.decode_unit(payload, spec, height)
        assert expected.shape == spec.shape
        for name, each in implementations(codec).items():
            assert each.encode_unit(values, spec) == payload, name
            restored = each.decode_unit(payload, spec, height)
            np.testing.assert_array_equal(restored, expected, name)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.kernel == 1])
def test_presets_restore_what_has_only_kept_planes(name):
    preset = PRESETS[name]
    for zero_point in (0, 128):
        spec = MapSpec(4, 5, 16, 1.0, zero_point)
        codec = Gf2.fit(spec, np.zeros((0, *spec.shape), np.uint8), preset=name)
        values = np.random.default_rng(1).integers(0, 256, spec.shape, np.uint8)
        dropped = 8 - min(preset.keep, 8)
        restored = codec.decode(codec.encode(values, spec))
        np.testing.assert_array_equal(restored, values >> dropped << dropped)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.kernel == 3])
def test_presets_of_stride_2_restore_every_second_pixel_and_repeat_it(name):
    preset = PRESETS[name]
    dropped = 8 - min(preset.keep, 8)
    for height, width in ((4, 6), (5, 7), (1, 1)):
        spec = MapSpec(height, width, 3)
        codec = Gf2.fit(spec, np.zeros((0, *spec.shape), np.uint8), preset=name, unit_rows=height)
        values = np.random.default_rng(2).integers(0, 256, spec.shape, np.uint8)
        restored = codec.decode(codec.encode(values, spec))
        corners = values[::2, ::2] >> dropped << dropped
        repeated = corners.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
        np.testing.assert_array_equal(restored, repeated)


def test_presets_store_the_bytes_that_are_honestly_theirs():
    spec = MapSpec(56, 56, 16)
    stored = {
        name: Gf2.fit(spec, np.zeros((0, *spec.shape), np.uint8), preset=name, unit_rows=56)
        for name in PRESETS
    }
    kibibytes = {name: codec.max_bytes(spec) / 1024 for name, codec in stored.items()}
    expected = {"BIT8": 55.125, "BIT6": 42.875, "BIT4": 30.625}
    for name, kept in kibibytes.items():
        assert kept == expected[name[:4]] / (4 if name.endswith("s2") else 1), name
    assert len(PRESETS) == 10


def test_the_identity_drops_the_idle_plane_before_the_lowest():
    spec = MapSpec(1, 1, 2)
    for planes in (8, 9):
        codec = Gf2.fit(spec, np.zeros((0, *spec.shape), np.uint8), keep=8, planes=planes)
        values = np.uint8([[[255, 1]]])
        np.testing.assert_array_equal(codec.decode(codec.encode(values, spec)), values)


def test_a_4_bit_map_is_stored_in_its_planes_and_larger_bytes_saturate():
    spec = MapSpec(1, 3, 2)
    codec = Gf2.fit(spec, np.zeros((0, *spec.shape), np.uint8), planes=4, keep=4)
    assert codec.max_bytes(spec) == 3
    values = np.uint8([[[0, 15], [7, 8], [16, 255]]])
    for name, each in implementations(codec).items():
        payload = each.encode_unit(values, spec)
        restored = each.decode_unit(payload, spec, 1)
        np.testing.assert_array_equal(restored, np.minimum(values, 15), name)


@pytest.mark.parametrize(
    "options", [{"keep": 0}, {"keep": 9}, {"kernel": 4}, {"kernel": 2}, {"keep": 2.0}]
)
def test_an_option_outside_of_its_range_is_refused(options):
    spec = MapSpec(2, 2, 3)
    name = next(iter(options))
    with pytest.raises(BadArgument, match=f"gf2 needs {name} to be|kernels of 1 x 1 or 3 x 3"):
        Gf2.fit(spec, np.zeros((1, *spec.shape), np.uint8), **options)


def test_an_unknown_preset_is_refused_and_the_known_ones_are_named():
    spec = MapSpec(2, 2, 3)
    with pytest.raises(BadArgument, match=r"no preset 'BIT2CH'; its presets: BIT8CH, .*_3x3s2"):
        Gf2.fit(spec, np.zeros((1, *spec.shape), np.uint8), preset="BIT2CH")


def bits_to(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> BitLayer:
    """A layer of that shape."""
    shape = (outputs, inputs // groups, kernel, kernel)
    return BitLayer(groups, np.ones(shape, np.int8), np.ones(outputs, np.int32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"project": ()}, "1 to 3 layers in project, got 0"),
        ({"project": (bits_to(8, 8),) * 5}, "1 to 3 layers in project, got 5"),
        ({"restore": (bits_to(8, 8),) * 5}, "0 to 3 layers in restore, got 5"),
        ({"planes": 0}, r"planes to be an integer in 1\.\.9"),
        ({"planes": 3}, "8 bits are not 3 planes of any number of channels"),
        ({"groups": 2}, r"has 2 groups of channels and a layer of \[1\] groups"),
        (
            {"groups": 2, "project": (bits_to(8, 8, 1, 2),)},
            "1 channels are not divisible into 2 groups",
        ),
        ({"restore": (bits_to(6, 8),)}, "8 outputs in weights before one of 6 inputs"),
        ({"project": (bits_to(8, 6),)}, "projects weights of 8 bits and restores 6"),
        (
            {"project": (bits_to(8, 6, 3),), "restore": (bits_to(6, 8),)},
            "as many weights of 3 x 3 that restore as project, 1",
        ),
    ],
)
def test_layers_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(BadArgument, match=message):
        Gf2(**fields)


@pytest.mark.parametrize(
    ("weights", "threshold", "groups", "message"),
    [
        (np.ones((2, 2, 2, 2), np.int8), [1, 1], 1, "kernels of 1 x 1 or 3 x 3, got 2 x 2"),
        (np.ones((2, 2, 1, 1), np.int16), [1, 1], 1, "weights must be int8"),
        (np.ones((2, 2), np.int8), [1, 1], 1, "weights must be int8"),
        (np.ones((2, 2, 1, 1), np.int8), [1], 1, r"threshold must be int32 \(2,\)"),
        (np.ones((3, 2, 1, 1), np.int8), [1] * 3, 2, "divides the 3 outputs, got 2"),
        (np.ones((1, 2, 1, 1), np.int8), [1 << 24], 1, r"stay below 2\*\*24"),
        (np.ones((8193, 1, 1, 1), np.int8), [1] * 8193, 1, "257 words of 32 bits"),
        (np.ones((257, 1, 1, 1), np.int8), [1] * 257, 257, "257 words of 32 bits"),
    ],
)
def test_tables_that_do_not_fit_are_refused(weights, threshold, groups, message):
    with pytest.raises(BadArgument, match=message):
        BitLayer(groups, weights, np.int32(threshold))


def test_maps_that_do_not_fit_are_refused():
    codec = Gf2.fit(MapSpec(2, 2, 3), np.zeros((1, 2, 2, 3), np.uint8), keep=4, planes=4)
    with pytest.raises(BadShape, match="layers for 3 channels of 4 planes, the map has 5 channels"):
        codec.check_spec(MapSpec(2, 2, 5))
    with pytest.raises(BadArgument, match="4 planes, which do not hold zero point 16"):
        codec.check_spec(MapSpec(2, 2, 3, 1.0, 16))
    whole = Gf2.fit(MapSpec(4, 4, 3), np.zeros((1, 4, 4, 3), np.uint8), kernel=3)
    with pytest.raises(BadArgument, match="in whole maps only: make unit_rows the height, 4,"):
        whole.standard_operators(MapSpec(4, 4, 3))


def test_the_largest_sum_of_int8_weights_is_exact():
    weights = np.full((1, 8192 - 32, 3, 3), -128, np.int8)
    most = 128 * 9 * (8192 - 32)
    codec = BitLayer(1, weights, np.int32([-most + 1]))
    every = np.ones((3, 3, 8192 - 32), np.uint8)
    assert codec.project(every)[..., 0].tolist() == [[1, 1], [1, 1]]
    assert identity(np.array([0]), 1, 1, restores=False).slices.every == 0
