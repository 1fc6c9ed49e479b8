# SPDX-License-Identifier: Apache-2.0
"""The payload of block_width, written out by hand, what damage is called, and what it saves."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps.codecs.block_width import BlockWidth
from thinmaps.codecs.native import implementations
from thinmaps.codecs.steps import Steps
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec

# Three channels of eight positions in two rows: zeros, a dense one of 3 bits, a sparse one of 7.
SPEC = MapSpec(2, 4, 3)
CHANNELS = np.uint8([[0] * 8, [1, 2, 3, 4, 5, 6, 7, 0], [0, 0, 100, 0, 0, 0, 1, 0]])
ROWS = CHANNELS.T.reshape(2, 4, 3)
DENSE = [0b11_010_001, 0b0_101_100_0, 0b000_111_11]
SPARSE = [0b0100_0100, 0b1_1100100, 0b00_000000]
PAYLOAD = bytes([3 << 4 | 0, 7 + 7, SPARSE[0], *DENSE, *SPARSE[1:]])
WHOLE = BlockWidth(unit_rows=2)
SPARE = r"codes \[0, 3, 14\] that no encoder writes: a spare bit set"


def test_a_block_is_a_channels_neighbours_at_one_width_and_zeros_as_bits_where_that_is_shorter():
    assert WHOLE.encode_unit(ROWS, SPEC) == PAYLOAD
    np.testing.assert_array_equal(WHOLE.decode_unit(PAYLOAD, SPEC, 2), ROWS, strict=True)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (PAYLOAD[:1], "needs 2 bytes for a patch or more, 1 are left"),
        (PAYLOAD[:2], "needs 3 bytes for a patch or more, 2 are left"),
        (PAYLOAD[:-1], "needs 8 bytes for a patch or more, 7 are left"),
        (PAYLOAD + b"\0", "1 bytes behind the last block"),
        (bytes([0x30, 0x1E]) + PAYLOAD[2:], SPARE),
        (PAYLOAD[:-1] + b"\x40", SPARE),
        (PAYLOAD[:-2] + b"\x64\0", SPARE),
        (bytes([0x30, 4, *DENSE, 1, 0, 0, 0]), r"codes \[0, 3, 4\] that no encoder writes"),
        (bytes([0x30, 9, 1, *DENSE, 1]), r"codes \[0, 3, 9\] that no encoder writes"),
    ],
)
def test_damage_is_named(payload, message):
    for implementation in implementations(WHOLE).values():
        with pytest.raises(CorruptPayload, match=message):
            implementation.decode_unit(payload, SPEC, 2)


def test_a_damaged_patch_is_refused_whatever_follows():
    spec = MapSpec(1, 200 * 64, 16)
    # One value of two bits with a spare bit set behind it, then patches of nothing but zeros:
    # a decoder that noticed, but went on elsewhere, would find every one of them good.
    sparse = bytes([9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    for zeros in range(1180, 1240):
        payload = sparse + b"\x07" + bytes(zeros + 8 * 199)
        for each in implementations(BlockWidth()).values():
            with pytest.raises(CorruptPayload):
                each.decode_unit(payload, spec, 1)


def test_a_symbol_that_steps_do_not_reach_is_refused():
    codec = BlockWidth(steps=Steps(np.array([2 * 128], np.int32)))
    spec = MapSpec(1, 1, 1)
    assert codec.encode_unit(np.uint8([[[255]]]), spec) == bytes([8, 128])
    with pytest.raises(CorruptPayload, match="symbols up to 128 in channel 0, found 129"):
        codec.decode_unit(bytes([8, 129]), spec, 1)


def natural(spec: MapSpec, seed: int) -> np.ndarray:
    """Blobs of values around the zero point whose spread differs by channel, half of them cut."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=spec.shape)
    smooth = sum(np.roll(noise, shift, axis) for shift in range(3) for axis in (0, 1))
    values = smooth * np.geomspace(1, 40, spec.channels) + spec.zero_point
    return np.rint(values).clip(0, 255).astype(np.uint8)


# Positions and channels around the sizes that kernels take at once.
@pytest.mark.parametrize("shape", [(4, 16, 16), (3, 43, 17), (5, 26, 47), (2, 64, 33), (1, 65, 96)])
@pytest.mark.parametrize("zero_point", [0, 100, 128])
def test_steps_per_channel_give_every_implementation_the_same_bytes(shape, zero_point):
    spec = MapSpec(*shape, 1.0, zero_point)
    values = natural(spec, seed=sum(shape))
    weights = np.geomspace(1, 1000, spec.channels)
    for step in (0, 40, 640):
        codec = BlockWidth.fit(
            spec, values[None], weights if step else None, step=step, unit_rows=spec.height
        )
        payload = codec.encode_unit(values, spec)
        restored = codec.decode_unit(payload, spec, spec.height)
        assert len(payload) <= codec.unit_bytes(spec, spec.height)
        assert codec.lossless == (step == 0) == np.array_equal(restored, values)
        for implementation in implementations(codec).values():
            assert implementation.encode_unit(values, spec) == payload
            again = implementation.decode_unit(payload, spec, spec.height)
            np.testing.assert_array_equal(again, restored, strict=True)


def test_it_is_shorter_than_presence_bits_and_bytes():
    spec = MapSpec(16, 16, 32)
    values = natural(spec, seed=1)
    bitmap = ZeroBitmap(unit_rows=4).encode(values, spec).bytes
    assert BlockWidth(unit_rows=4).encode(values, spec).bytes < 0.85 * bitmap


def test_steps_for_other_channels_or_narrower_symbols_are_refused():
    codec = BlockWidth(steps=Steps(np.full(5, 256, np.int32)))
    with pytest.raises(BadShape, match="steps for 5 channels, the map has 3"):
        codec.encode_unit(ROWS[:1], SPEC)
    with pytest.raises(BadArgument, match="needs symbols of 8 bits, got 4"):
        BlockWidth(steps=Steps(symbol_bits=4))
