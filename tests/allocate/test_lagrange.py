# SPDX-License-Identifier: Apache-2.0
"""The walk along all hulls against every allocation there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from thinmaps.allocate.choices import Choice
from thinmaps.allocate.lagrange import front, hull


def choices(random: np.random.Generator, count: int) -> list[Choice]:
    found = [Choice(None, "raw", 100, 100, 0.0)]
    for i in range(count):
        stored, error = float(random.integers(5, 120)), float(random.uniform(0, 9))
        found.append(Choice(None, f"choice{i}", stored, 100, error))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_every_multiplier_finds_its_best_allocation_on_the_front(seed: int) -> None:
    random = np.random.default_rng(seed)
    maps = {name: choices(random, 5) for name in "abc"}
    found = front(maps)
    every = [
        (sum(c.mean_bytes for c in each), sum(c.error for c in each))
        for each in itertools.product(*maps.values())
    ]
    for multiplier in 10.0 ** np.linspace(-4, 2, 25):
        best = min(error + multiplier * stored for stored, error in every)
        ours = min(each.error + multiplier * each.mean_bytes for each in found)
        assert ours == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_front_gains_error_and_loses_bytes(seed: int) -> None:
    random = np.random.default_rng(seed)
    found = front({name: choices(random, 6) for name in "abcd"})
    assert found[0].error == min(each.error for each in found)
    for before, after in itertools.pairwise(found):
        assert after.mean_bytes < before.mean_bytes
        assert after.error >= before.error


def test_a_lossless_choice_of_fewer_bytes_displaces_the_map_as_it_is() -> None:
    raw = Choice(None, "raw", 10, 10, 0.0)
    lossless, larger = Choice(None, "small", 6, 12, 0.0), Choice(None, "large", 11, 12, 0.0)
    assert [each.request for each in hull([raw, larger, lossless])] == ["small"]
    assert [each.request for each in hull([raw, larger])] == ["raw"]


def test_choices_above_the_hull_are_never_taken() -> None:
    raw = Choice(None, "raw", 10, 10, 0.0)
    above, below = Choice(None, "above", 6, 6, 5.0), Choice(None, "below", 4, 4, 3.0)
    assert [each.request for each in hull([raw, above, below])] == ["raw", "below"]


def test_a_hull_counts_the_bytes_that_it_is_told_to() -> None:
    raw = Choice(None, "raw", 100, 100, 0.0)
    short = Choice(None, "short but for its worst case", 40, 110, 1.0)
    bounded = Choice(None, "bounded", 60, 70, 2.0)
    assert hull([raw, short, bounded]) == [raw, short]
    assert hull([raw, short, bounded], lambda choice: choice.worst_bytes) == [raw, bounded]
