# SPDX-License-Identifier: Apache-2.0
"""Native twins touch nothing outside of their buffers, whatever the payload says.

What is read ends where a page without access begins, so that one byte too many ends the process;
what is written lies between bytes whose values are checked.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np
import pytest
from codec_cases import Setting, maps, settings

from thinmaps import _core
from thinmaps.codecs.native import twins
from thinmaps.types import MapSpec

SPECS = (MapSpec(2, 3, 5), MapSpec(2, 9, 7, 1.0, 128), MapSpec(1, 5, 64), MapSpec(2, 1, 257))
CANARY = 0xA5
NO_ACCESS = 0  # PROT_NONE

EACH_TWIN = pytest.mark.parametrize(
    ("setting", "isa"),
    [
        pytest.param(setting, isa, id=f"{setting.name}-{isa}")
        for setting in settings()
        for isa in twins(setting.fit(MapSpec(1, 1, 1), 1))
    ],
)


@pytest.fixture(scope="module")
def before_the_fence():
    """Copies an array to where it ends at a page that must not be touched."""
    if sys.platform != "linux":
        pytest.skip("needs mprotect")
    room = mmap.mmap(-1, 3 * mmap.PAGESIZE)
    view = np.frombuffer(room, np.uint8)
    fence = ctypes.c_void_p(view.ctypes.data + 2 * mmap.PAGESIZE)
    assert ctypes.CDLL(None, use_errno=True).mprotect(fence, mmap.PAGESIZE, NO_ACCESS) == 0

    def place(values: np.ndarray) -> np.ndarray:
        end = 2 * mmap.PAGESIZE
        placed = view[end - values.size : end].reshape(values.shape)
        placed[:] = values
        return placed

    return place


def fenced(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An array to write to, and all of what it lies in."""
    size = int(np.prod(shape))
    around = np.full(size + 256, CANARY, np.uint8)
    return around[128 : 128 + size].reshape(shape), around


def assert_untouched(around: np.ndarray) -> None:
    assert np.all(around[:128] == CANARY)
    assert np.all(around[-128:] == CANARY)


@EACH_TWIN
def test_encoding_stays_inside_of_rows_and_payload(setting: Setting, isa, before_the_fence):
    for spec in SPECS:
        codec = setting.fit(spec, spec.height)
        configuration = (spec.zero_point, codec.native_integers(spec), codec.native_tables(spec))
        for values in maps(spec).values():
            payload, around = fenced((codec.unit_bytes(spec, spec.height),))
            rows = before_the_fence(values)
            status, written = _core.encode_unit(codec.id, isa, rows, *configuration, payload)
            assert status == 0
            assert payload[:written].tobytes() == codec.encode_unit(values, spec)
            assert_untouched(around)


@EACH_TWIN
def test_encoding_into_too_little_room_is_refused(setting: Setting, isa):
    for spec in SPECS:
        codec = setting.fit(spec, spec.height)
        configuration = (spec.zero_point, codec.native_integers(spec), codec.native_tables(spec))
        # Where there is a cap, it is the room: less of it is a lower cap, which coarser steps meet.
        for room in {0, 1, 1 if codec.has_cap else codec.unit_bytes(spec, spec.height) - 1}:
            payload, around = fenced((room,))
            # The far end of the bytes everywhere: no map is longer, at any rate.
            values = np.full(spec.shape, 255 if spec.zero_point < 128 else 0, np.uint8)
            status, _ = _core.encode_unit(codec.id, isa, values, *configuration, payload)
            assert status == 2
            assert_untouched(around)


@EACH_TWIN
def test_decoding_stays_inside_of_any_payload_and_of_the_rows(
    setting: Setting, isa, before_the_fence
):
    rng = np.random.default_rng(8)
    for spec in SPECS:
        codec = setting.fit(spec, spec.height)
        largest = codec.unit_bytes(spec, spec.height)
        good = codec.encode_unit(maps(spec)["sparse"], spec)
        damaged = [bytes(np.uint8(255).repeat(n)) for n in (0, 1, largest - 1, largest)]
        damaged += [good[:-1], *(rng.bytes(int(rng.integers(largest + 1))) for _ in range(20))]
        damaged += [rng.bytes(largest) for _ in range(20)]
        for payload in [good, *damaged]:
            rows, around = fenced(spec.shape)
            status = _core.decode_unit(
                codec.id,
                isa,
                before_the_fence(np.frombuffer(payload, np.uint8)),
                spec.width,
                0,
                spec.zero_point,
                codec.native_integers(spec),
                codec.native_tables(spec),
                rows,
            )
            assert status in (0, 1)
            assert status == 0 or payload != good
            assert_untouched(around)


@pytest.mark.parametrize("isa", list(twins(Setting("narrow", ()).fit(SPECS[0], 1))))
@pytest.mark.parametrize(
    "integers",
    [[], [4], [4, 1, 2, 3], [0, *range(30)], [8, *range(30)], [4, *range(36)]],
)
def test_narrow_refuses_tables_of_another_size(isa, integers):
    spec = SPECS[0]
    wrong, none = np.int32(integers), np.zeros(0, np.uint8)
    payload = np.zeros(100, np.uint8)
    rows = np.zeros((2, 3, 5), np.uint8)
    status, _ = _core.encode_unit("narrow", isa, rows, 0, wrong, none, payload)
    assert status == 3
    assert _core.decode_unit("narrow", isa, payload, spec.width, 0, 0, wrong, none, rows) == 3
