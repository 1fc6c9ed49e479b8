# SPDX-License-Identifier: Apache-2.0
"""The payload of bitplane, written out by hand, what damage is called, and what it saves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from thinmaps.codecs.bitplane import Bitplane
from thinmaps.codecs.native import implementations
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.errors import CorruptPayload
from thinmaps.types import MapSpec

# Two channels of 14 elements in two rows: zeros; and two blocks, the second of one element.
SPEC = MapSpec(2, 7, 2, 1.0, 128)
ELEMENTS = [[0] * 14, [0, 0, 0, 10, 12, 11, 11, 0, 0, 11, 11, 11, 11, 5]]
ROWS = (np.uint8(ELEMENTS).T + np.uint8(128)).reshape(2, 7, 2)
RUNS = "0 1111  0 0000  1111  0 0001  1111 1"
# Differences 2, -1, 0, ..: the codes of levels 8 to 3 are all 0, then come three single ones.
FIRST = "00001010  01 100  00011 000  00011 000  00011 001"
# Difference -5, which is 111111011: levels 8 to 4; level 3 differs from 2; level 2 has no delta.
SECOND = "00000101  01 011  00011 000  00001  001  00011 000"
WHOLE = Bitplane(unit_rows=2)


def packed(text: str) -> bytes:
    """Bits as printed to bytes, the first bit lowest."""
    bits = np.array([bit == "1" for bit in text if bit in "01"])
    return np.packbits(bits, bitorder="little").tobytes()


PAYLOAD = packed(RUNS + FIRST + SECOND)


def test_a_payload_is_runs_of_zeros_and_then_bit_planes_of_blocks_of_eight():
    assert WHOLE.encode_unit(ROWS, SPEC) == PAYLOAD
    np.testing.assert_array_equal(WHOLE.decode_unit(PAYLOAD, SPEC, 2), ROWS, strict=True)


@pytest.mark.parametrize(
    ("elements", "planes"),
    [
        # Differences 101010101 and 010101010: each code has the first two bits, the lowest one.
        ([200, 29, 199, 199, 199, 199, 199, 199], "00010 000" * 8 + "00011 000"),
        # They alternate: each code is all 1, the lowest delta is 1010101.
        ([200, 29, 199, 28, 198, 27, 197, 26], "00000" * 8 + "1 1010101"),
        ([7] * 8, "01 111"),
        # Differences 1 and 3: codes of level 1 and 0, as they are.
        ([1, 2, 3, 6, 7, 8, 11, 12], "01 100  00001  1 1101101  00000"),
    ],
)
def test_planes_have_the_codes_of_the_table(elements, planes):
    spec = MapSpec(1, 8, 1)
    rows = np.uint8(elements).reshape(spec.shape)
    text = "1" * 8 + f"{elements[0]:08b}" + planes
    assert Bitplane().encode_unit(rows, spec) == packed(text)


def described(elements: list[int]) -> str:
    """The bits that the description asks for, one element and one plane after the other."""
    text = ""
    for is_zero, group in itertools.groupby(elements, lambda element: element == 0):
        count = len(list(group))
        if not is_zero:
            text += "1" * count
        while is_zero and count > 0:
            text += f"0{min(count, 16) - 1:04b}"
            count -= 16
    stored = [element for element in elements if element]
    stored += [0] * (-len(stored) % 8)
    for first in range(0, len(stored), 8):
        text += described_block(stored[first : first + 8])
    return text


def described_block(block: list[int]) -> str:
    differences = [f"{(b - a) % 512:09b}" for a, b in itertools.pairwise(block)]
    deltas = ["".join(plane) for plane in zip(*differences, strict=True)]
    codes = [
        "".join("01"[a != b] for a, b in zip(delta, below, strict=True))
        for delta, below in zip(deltas, [*deltas[1:], "0" * 7], strict=True)
    ]
    text = f"{block[0]:08b}"
    for is_zero, group in itertools.groupby(
        zip(codes, deltas, strict=True), lambda p: "1" not in p[0]
    ):
        planes = list(group)
        if is_zero:
            text += "001" if len(planes) == 1 else f"01{len(planes) - 2:03b}"
            continue
        for code, delta in planes:
            first = code.index("1")
            if "0" not in code:
                text += "00000"
            elif "1" not in delta:
                text += "00001"
            elif code.strip("0") == "11":
                text += f"00010{first:03b}"
            elif code.strip("0") == "1":
                text += f"00011{first:03b}"
            else:
                text += "1" + code
    return text


@pytest.mark.parametrize("zero_point", [0, 100, 128])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 33, 3), (4, 64, 5), (3, 1, 130)])
def test_every_implementation_writes_what_the_description_asks_for(shape, zero_point):
    spec = MapSpec(*shape, 1.0, zero_point)
    rng = np.random.default_rng(sum(shape))
    codec = Bitplane(unit_rows=spec.height)
    for density, spread in itertools.product((0.02, 0.3, 0.9, 1), (1, 4, 100)):
        rows = rng.normal(0, spread, spec.shape) * (rng.random(spec.shape) < density)
        rows = (np.rint(rows) + zero_point).clip(0, 255).astype(np.uint8)
        elements = (rows.transpose(2, 0, 1).astype(int) - zero_point) % 256
        payload = packed(described(elements.ravel().tolist()))
        assert len(payload) <= codec.unit_bytes(spec, spec.height)
        for implementation in implementations(codec).values():
            assert implementation.encode_unit(rows, spec) == payload
            restored = implementation.decode_unit(payload, spec, spec.height)
            np.testing.assert_array_equal(restored, rows, strict=True)


LATER = r"no encoder writes: a spare bit set, or a plane's code where another line"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUNS[:20], "ends behind 22 of 28 elements"),
        (RUNS + FIRST[:20], "ends inside of block 0"),
        (RUNS + FIRST, "ends inside of block 1"),
        (RUNS, "ends behind block 0 of 2"),
        (RUNS + FIRST + SECOND + "0" * 8, "needs 13 bytes for 98 bits, got 14"),
        (RUNS + FIRST + SECOND + "1", LATER),
        ("0 0000  0 1111" + RUNS[16:] + FIRST + SECOND, "cuts a run of zeros at element 1"),
        ("0 1111" * 2, "runs up to element 32 of 28"),
        (RUNS + "00001010  01 110  01 000", "code 01000[01]+, without a meaning for plane 8"),
        (RUNS + "00001010  00010 110  00000", "code 00010110, without a meaning for plane 0"),
        (RUNS + "00001010  00011 111  00000", "code 00011111, without a meaning for plane 0"),
        (RUNS + "00001010  1 1100000  00000", "code 11100000, without a meaning for plane 0"),
        (RUNS + FIRST.replace("01 100", "01 000" * 3) + SECOND, LATER),
        (RUNS + FIRST.replace("01 100", "01 011  001") + SECOND, LATER),
        (RUNS + FIRST + SECOND.replace("  00001", "  00011 000"), LATER),
        (RUNS + FIRST.replace("00001010", "00000000") + SECOND, "element 0 of block 0 is 0"),
        (RUNS + FIRST.replace("00001010", "11111110") + SECOND, "element 1 of block 0 is 256"),
        (RUNS + FIRST + SECOND.replace("00000101", "00000110"), "element 1 of block 1 is 1"),
    ],
)
def test_damage_is_named(text, message):
    for implementation in implementations(WHOLE).values():
        with pytest.raises(CorruptPayload, match=message):
            implementation.decode_unit(packed(text), SPEC, 2)


def test_a_plane_of_no_delta_that_differs_from_nothing_is_refused():
    spec = MapSpec(1, 8, 1)
    constant = "1" * 8 + "00000111"
    for planes in ("01 110  00001", "00001" * 9, "01 100  00001  00000  001"):
        for implementation in implementations(Bitplane()).values():
            with pytest.raises(CorruptPayload, match=LATER):
                implementation.decode_unit(packed(constant + planes), spec, 1)


def test_smooth_neighbours_take_less_than_presence_bits_and_bytes():
    spec = MapSpec(16, 16, 32)
    rng = np.random.default_rng(1)
    slopes = np.cumsum(rng.integers(-2, 3, spec.shape), axis=1) + 20
    values = np.where(np.roll(slopes, 5, axis=0) > 20, slopes, 0).clip(0, 255).astype(np.uint8)
    bitmap = ZeroBitmap(unit_rows=16).encode(values, spec).bytes
    assert Bitplane(unit_rows=16).encode(values, spec).bytes < 0.8 * bitmap
