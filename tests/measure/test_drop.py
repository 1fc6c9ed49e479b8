# SPDX-License-Identifier: Apache-2.0
"""What a few held-out pictures say of the drop, beside what many others do."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps.measure.answer_kinds import expected_drop, score_error
from thinmaps.measure.drop import Drop, foreseen


def synthetic(rng: np.random.Generator, pictures: int, noise: float) -> Drop:
    """Scores of ten classes, and what they lose under independent noise of each score."""
    whole = 3 * rng.standard_normal((pictures, 10))
    ours = whole + noise * rng.standard_normal(whole.shape)
    lost = [100 * expected_drop(a[None], b[None]) for a, b in zip(ours, whole, strict=True)]
    errors = [score_error(a, b) for a, b in zip(ours, whole, strict=True)]
    return Drop(float(np.mean(lost)), 0.0, float(np.mean(errors)), pictures)


def test_what_is_foreseen_has_the_mean_of_counts_and_less_spread() -> None:
    rng = np.random.default_rng(4)
    counted, joined = [], []
    for _ in range(40):
        held_out = synthetic(rng, 100, 0.4)
        counted.append(held_out.points)
        joined.append(foreseen(synthetic(rng, 400, 0.4), held_out))
    assert np.mean(joined) == pytest.approx(np.mean(counted), abs=0.25)
    assert np.std(joined) < 0.6 * np.std(counted)


def test_larger_errors_on_held_out_pictures_foresee_a_larger_drop() -> None:
    rng = np.random.default_rng(5)
    seen = synthetic(rng, 800, 0.3)
    assert foreseen(seen, synthetic(rng, 200, 0.6)) > 1.5 * seen.points


def test_answers_that_are_no_class_scores_are_counted_as_they_are() -> None:
    assert foreseen(Drop(1.0, 0.1, None, 80), Drop(3.0, 0.1, None, 20)) == 3.0


def test_nothing_that_all_classes_share_is_an_error_of_scores() -> None:
    scores = np.array([[1.0, -2.0, 0.5]])
    assert score_error(scores + 7, scores) == 0.0
