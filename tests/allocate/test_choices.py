# SPDX-License-Identifier: Apache-2.0
"""Bytes and errors of choices, counted again by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from thinmaps.allocate.choices import Choice, Observed, choices_of, menu, rescaled
from thinmaps.calibrate.sensitivity import Felt
from thinmaps.codecs.narrow import Narrow
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.types import MapSpec

SPEC = MapSpec(6, 10, 3, 0.5, 0)
FELT = np.array([1.0, 4.0, 0.25], np.float32)


@pytest.fixture(scope="module")
def seen() -> Observed:
    random = np.random.default_rng(3)
    samples = random.integers(0, 256, (4, *SPEC.shape)).astype(np.uint8)
    samples[random.random(samples.shape) < 0.6] = 0
    return Observed(SPEC, samples, Felt(FELT, FELT / 2))


def test_lossless_choices_add_no_error_and_cost_what_they_store(seen: Observed) -> None:
    raw, bitmap = choices_of(seen, [(ZeroBitmap, {})], 6)
    assert (raw.codec, raw.mean_bytes, raw.error) == (None, SPEC.raw_bytes, 0.0)
    nonzero = np.count_nonzero(seen.samples[2:]) / 2
    assert bitmap.mean_bytes == np.ceil(180 / 8) + nonzero + 4  # and the length before it
    assert bitmap.error == 0.0
    assert bitmap.worst_bytes == ZeroBitmap(unit_rows=6).max_bytes(SPEC) + 4


def test_the_error_is_what_the_output_feels_of_what_is_lost(seen: Observed) -> None:
    (_, coarse) = choices_of(seen, [(Narrow, {"bits": 2})], 1)
    assert coarse.codec is not None
    assert coarse.request == "narrow:bits=2"
    expected = 0.0
    for values in seen.samples[2:]:
        lost = coarse.codec.decode(coarse.codec.encode(values, SPEC)).astype(float) - values
        shift = lost.mean(axis=(0, 1)) * SPEC.scale
        noise = np.square(lost * SPEC.scale).sum(axis=(0, 1)) - 60 * shift**2
        expected += (noise * FELT + (60 * shift) ** 2 * FELT / 2).sum() / 2
    assert coarse.error == pytest.approx(expected)
    assert coarse.mean_bytes == coarse.worst_bytes == 6 * np.ceil(30 * 2 / 8)


def test_a_shift_of_a_channel_is_felt_more_than_noise_of_its_size(seen: Observed) -> None:
    unshifted = dataclasses.replace(seen, felt=Felt(FELT, np.zeros(3, np.float32)))
    offered = [(Narrow, {"bits": 2})]
    coarse, without = (choices_of(each, offered, 1)[1] for each in (seen, unshifted))
    assert coarse.error > without.error


def test_finer_settings_lose_less_and_store_more(seen: Observed) -> None:
    offered = [(Narrow, {"bits": bits}) for bits in range(1, 8)]
    found = choices_of(seen, offered, 1)[1:]
    assert [each.mean_bytes for each in found] == sorted(each.mean_bytes for each in found)
    assert [each.error for each in found] == sorted((e.error for e in found), reverse=True)


def test_a_codec_that_refuses_the_map_is_no_choice(seen: Observed) -> None:
    assert len(choices_of(seen, [(Narrow, {"bits": 9}), (ZeroBitmap, {})], 1)) == 2


def test_the_menu_has_every_rate_that_is_asked_for() -> None:
    assert {kind.rate for kind, _ in menu(["fixed"])} == {"fixed"}
    assert {kind.id for kind, _ in menu(["capped"])} == {"capped"}
    assert "capped" not in {kind.id for kind, _ in menu(["fixed", "variable"])}
    assert {kind.id for kind, _ in menu()} >= {"mixed_width", "zero_bitmap"}
    assert {kind.id for kind, _ in menu(only=["narrow"])} == {"narrow"}
    assert "raw" not in {kind.id for kind, _ in menu()}


def test_moves_multiply_the_bytes_once() -> None:
    choice = Choice(None, "raw", 8.0, 8, 0.0)
    thrice = rescaled(rescaled(choice, 2), 3)
    assert (thrice.mean_bytes, thrice.codec_bytes) == (24.0, 8.0)
