# SPDX-License-Identifier: Apache-2.0
"""Shares, intervals and agreement, on cases small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps.errors import BadArgument, BadData, BadPicture
from thinmaps.measure.accuracy import (
    agreement,
    best,
    classification,
    equal_pixels,
    judge_all,
    judge_class,
    paired_interval,
    rank,
    wilson,
)

SCORES = np.array([[0.1, 0.7, 0.7, 0.2]], np.float32)


def test_ties_go_to_the_lowest_index() -> None:
    assert [rank(SCORES, index) for index in range(4)] == [3, 0, 1, 2]
    assert best(SCORES, 4).tolist() == [1, 2, 3, 0]


def test_a_label_beyond_the_classes_is_refused() -> None:
    with pytest.raises(BadData, match="class 4, the network has 4"):
        rank(SCORES, 4)


def test_classification_counts_places_and_agreement() -> None:
    other = np.array([[0.9, 0.7, 0.7, 0.2]], np.float32)
    verdicts = [
        judge_class(SCORES, SCORES, 1),
        judge_class(SCORES, other, 0),
        judge_class(SCORES, SCORES, 3),
        judge_class(SCORES, SCORES, 1),
    ]
    found = classification(verdicts, ("one is gone",))
    assert (found.pictures, found.skipped) == (4, ("one is gone",))
    assert (found.top1, found.top5, found.agreement) == (50.0, 100.0, 75.0)
    assert (found.float_top1, found.drop) == (75.0, 25.0)
    assert found.drop_interval is not None
    assert found.drop_interval.low < 25 < found.drop_interval.high


def test_without_labels_or_float_network_their_figures_are_absent() -> None:
    found = classification([judge_class(SCORES, None, None)])
    assert found.top1 is None
    assert found.agreement is None
    assert found.drop is None
    assert classification([judge_class(SCORES, SCORES, None)]).agreement == 100.0


def test_a_float_network_of_other_classes_is_refused() -> None:
    with pytest.raises(BadData, match="3 classes, this one 4"):
        judge_class(SCORES, SCORES[:, :3], None)


def test_the_paired_interval_shrinks_with_what_both_share() -> None:
    before = np.array([True] * 90 + [False] * 10)
    after = before.copy()
    after[0] = False
    low, high = paired_interval(before, after)
    assert low < 1 < high
    assert high - low < 4  # two independent intervals of 100 pictures would be 16 wide
    independent = wilson(90, 100)
    assert independent.high - independent.low > 10


def test_pictures_that_cannot_be_opened_are_named_and_skipped() -> None:
    def judge(item: int) -> int:
        if item == 1:
            raise BadPicture("number one is damaged")
        return item

    assert judge_all([0, 1, 2], judge) == ([0, 2], ("number one is damaged",))
    with pytest.raises(BadData, match=r"none of 1 pictures.*number one"):
        judge_all([1], judge)


def test_other_refusals_are_not_skipped() -> None:
    def judge(item: int) -> int:
        raise BadArgument(f"{item} is wrong for every picture")

    with pytest.raises(BadArgument):
        judge_all([0], judge)


def test_equal_pixels_compare_the_strongest_class() -> None:
    scores = np.zeros((1, 2, 2, 2), np.float32)
    other = scores.copy()
    other[0, 1, 0, 0] = 1
    assert equal_pixels(scores, other) == 0.75
    with pytest.raises(BadData, match="score maps"):
        equal_pixels(scores, other[0])


def test_agreement_suits_the_kind_of_answer() -> None:
    assert agreement(SCORES, SCORES, 8) == 1.0
    assert agreement(SCORES, -SCORES, 8) == 0.0
    picture = np.float32([-1, 1, -1, 1]).reshape(1, 1, 2, 2)
    assert agreement(picture, picture, 2) == 1.0
    assert agreement(0.5 * picture, picture, 2) == 0.75
    assert agreement(-picture, picture, 2) == 0.0
    flat = np.zeros((1, 1, 2, 2), np.float32)
    assert (agreement(flat, flat, 2), agreement(picture, flat, 2)) == (1.0, 0.0)
    with pytest.raises(BadData, match="answers with"):
        agreement(picture[:, :, :1], picture, 4)


def test_score_maps_agree_by_pixel_and_coarse_grids_by_variance() -> None:
    maps = np.zeros((1, 2, 2, 2), np.float32)
    maps[0, 0] = 1
    other = maps.copy()
    other[0, 1, 0, 0] = 1.5
    assert agreement(maps, other, 2) == 3 / 4
    # Elements 1 1 1 1 1.5 0 0 0: their squared distances to the mean sum to 2.46875.
    assert agreement(maps, other, 16) == pytest.approx(1 - 1.5**2 / 2.46875)
