# SPDX-License-Identifier: Apache-2.0
"""Which kind an answer is, and what each loses, on answers small enough to work out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thinmaps.errors import BadArgument, BadData, BadModel
from thinmaps.measure.accuracy import class_map, mean_iou, pixel_counts
from thinmaps.measure.answer_kinds import (
    Boxes,
    ClassScores,
    EqualPixels,
    Known,
    MaskedPixels,
    Seen,
    Values,
    jackknife,
    kind_of,
)
from thinmaps.measure.detection import VOC_CLASSES, YoloGrid
from thinmaps.measure.labels import AnnotatedObject, Box, Mask

INPUT = (32, 32)
GRID = YoloGrid(((16.0, 16.0),), 2, 1.0)
DETECTOR = Known(None, (GRID,), ("cat", "dog"))
CAT = AnnotatedObject("cat", Box(0, 0, 16, 16), difficult=False)
FAR = -9.0  # a sigmoid of about nothing


def grid(*cells: tuple[int, int, int, float]) -> np.ndarray:
    """(1, 7, 2, 2): in the cells (row, column) a box of 16 x 16 of a class, with a logit."""
    values = np.full((1, 7, 2, 2), FAR, np.float32)
    values[0, :4] = 0
    for row, column, index, logit in cells:
        values[0, 4, row, column] = values[0, 5 + index, row, column] = logit
    return values


def scores(*shape: int) -> list[np.ndarray]:
    return [np.zeros(shape, np.float32)]


@pytest.mark.parametrize(
    ("outputs", "known", "kind"),
    [
        (scores(1, 10), Known(), ClassScores(False)),
        (scores(1, 10), Known((3,)), ClassScores(True)),
        (scores(1, 4, 32, 32), Known(), EqualPixels()),
        ([np.zeros((1, 32, 32), np.int64)], Known(), EqualPixels()),
        (scores(1, 4, 32, 32), Known((Mask(Path("a"), Path("b")),)), MaskedPixels()),
        (scores(1, 7, 2, 2), DETECTOR, Boxes(DETECTOR, INPUT)),
        (scores(1, 3, 64, 64), Known(), Values(None)),
    ],
)
def test_shapes_and_what_is_known_say_the_kind(
    outputs: list[np.ndarray], known: Known, kind: object
) -> None:
    assert kind_of(outputs, INPUT, known) == kind


@pytest.mark.parametrize("shapes", [[(1, 75, 2, 2), (1, 75, 4, 4)], [(1, 90, 2), (1, 90, 4)]])
def test_answers_of_no_kind_say_why_they_have_no_points(shapes: list[tuple[int, ...]]) -> None:
    outputs = [np.zeros(shape, np.float32) for shape in shapes]
    refusal = kind_of(outputs, INPUT, Known()).refusal
    assert refusal is not None
    assert "points of drop are for class scores" in refusal
    assert str(shapes[1]) in refusal


@pytest.mark.parametrize(
    ("outputs", "known", "error", "says"),
    [
        (scores(1, 10), Known(((CAT,),)), BadData, "labels are a CSV file"),
        (scores(1, 4, 32, 32), Known((3,)), BadData, "labels are a folder of masks"),
        (scores(1, 7, 2, 2), Known((3,), (GRID,)), BadData, "labels are a folder of VOC"),
        (scores(1, 7, 2, 2), Known(((CAT,),), (GRID,), VOC_CLASSES[:2]), BadData, "name cat"),
        (scores(1, 7, 2, 2), Known(((),), (GRID,), ("cat",)), BadData, "name no object"),
        (scores(1, 10), DETECTOR, BadArgument, r"grids \(1, c, h, w\), got \(1, 10\)"),
        (scores(1, 9, 2, 2), DETECTOR, BadModel, "describes 1 grids of"),
        (scores(1, 3, 64, 64), Known((3,)), BadArgument, "labels are for class scores"),
    ],
)
def test_what_does_not_go_together_is_refused(
    outputs: list[np.ndarray], known: Known, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        kind_of(outputs, INPUT, known)


def test_labels_of_whole_pictures_do_not_go_with_a_crop() -> None:
    with pytest.raises(BadArgument, match="--fit stretch"):
        kind_of(scores(1, 7, 2, 2), INPUT, Known(((CAT,),), (GRID,), ("cat", "dog")), crops=True)
    assert kind_of(scores(1, 7, 2, 2), INPUT, DETECTOR, crops=True) == Boxes(DETECTOR, INPUT)
    assert kind_of(scores(1, 10), INPUT, Known((3,)), crops=True) == ClassScores(True)


def test_boxes_without_labels_lose_what_the_base_finds_of_the_float_networks_boxes() -> None:
    kind = Boxes(DETECTOR, INPUT)
    whole = [grid((0, 0, 0, 9.0), (1, 1, 0, 9.0), (0, 1, 1, 0.0))]  # two cats; one doubtful dog
    base, ours = [grid((0, 0, 0, 9.0), (1, 1, 0, 8.0))], [grid((0, 0, 0, 9.0))]
    case = kind.case(Seen(whole, base, None, INPUT))
    assert kind.points([kind.record(base, case)]) == 0
    assert kind.points([kind.record(ours, case)]) == pytest.approx(50)  # one of two, none wrong
    assert kind.points([kind.record(whole, case)]) == pytest.approx(0, abs=1e-9)
    assert kind.error(base, case) == 0
    assert kind.error(ours, case) > 0
    assert "the float network's own detections" in kind.points_of


def test_boxes_with_labels_lose_precision_against_the_float_network() -> None:
    kind = Boxes(Known(((CAT,),), (GRID,), ("cat", "dog")), INPUT)
    whole = [grid((0, 0, 0, 9.0))]
    case = kind.case(Seen(whole, whole, (CAT,), INPUT))
    assert kind.points([kind.record(whole, case)]) == 0
    assert kind.points([kind.record([grid((1, 1, 0, 9.0))], case)]) == pytest.approx(100, abs=1)
    nothing = kind.case(Seen(whole, whole, (), INPUT))
    assert kind.points([kind.record(whole, nothing)]) == 0  # nothing to find, nothing to lose


def test_pixels_lose_agreement_counted_from_the_base() -> None:
    kind = EqualPixels()
    whole = [np.zeros((1, 2, 2, 2), np.float32)]
    base, ours = [each.copy() for _ in range(2) for each in whole]
    base[0, 1, 0, 0] = ours[0, 1, 0, :] = 1
    case = kind.case(Seen(whole, [base], None, INPUT))
    assert kind.points([kind.record([base], case), kind.record([ours], case)]) == 12.5
    assert kind.error([ours], case) is None
    assert case[0].dtype == np.uint8


def test_masks_are_met_at_the_size_of_the_answer_and_void_counts_nowhere(tmp_path: Path) -> None:
    values = np.repeat(np.repeat(np.array([[0, 1], [255, 1]], np.uint8), 3, 0), 3, 1)
    Image.fromarray(values).save(tmp_path / "a.png")
    kind = MaskedPixels()
    whole, ours = (np.zeros((1, 2, 2, 2), np.float32) for _ in range(2))
    whole[0, 1, :, 1] = 1  # right everywhere
    ours[0, 1, 0, 1] = 1  # the lower 1 is missed
    mask = Mask(tmp_path / "a.jpg", tmp_path / "a.png")
    case = kind.case(Seen([whole], [whole], mask, (6, 6)))
    assert kind.points([kind.record([whole], case)]) == 0
    # Class 0: one of the two that it takes; class 1: one of two.
    assert kind.points([kind.record([ours], case)]) == 50
    damaged = tmp_path / "b.png"
    damaged.write_bytes(b"\x89PNG")
    with pytest.raises(BadData, match=r"b\.png"):
        Mask(damaged, damaged).classes(2, 2)
    Image.new("RGB", (4, 4)).save(damaged)
    with pytest.raises(BadData, match="got RGB"):
        Mask(damaged, damaged).classes(2, 2)


def test_class_indices_are_class_maps_too() -> None:
    indices = np.array([[[[3, 0], [1, 2]]]])
    np.testing.assert_array_equal(class_map(indices), indices[0, 0])
    with pytest.raises(BadData, match="class indices"):
        class_map(np.zeros((2, 2), np.float32))


def test_classes_that_no_mask_names_are_not_averaged() -> None:
    counts = pixel_counts(np.array([[0, 7]]), np.array([[0, 0]], np.uint8))
    assert mean_iou(counts) == 50
    assert mean_iou(np.zeros_like(counts)) == 0


def test_the_jackknife_knows_the_error_of_a_precision() -> None:
    """Beside the spread over fresh sets of pictures: one object each, found in seven of ten."""
    kind = Boxes(DETECTOR, INPUT)
    whole, missed = [grid((0, 0, 0, 9.0))], [grid()]
    case = kind.case(Seen(whole, whole, None, INPUT))
    found, lost = kind.record(whole, case), kind.record(missed, case)
    random = np.random.default_rng(3)
    drawn = [[found if hit else lost for hit in random.random(60) < 0.7] for _ in range(150)]
    spread = np.std([kind.points(each) for each in drawn])
    foretold = np.mean([kind.standard_error(each) for each in drawn[:40]])
    assert foretold == pytest.approx(spread, rel=0.2)


def test_many_pictures_are_left_out_in_groups() -> None:
    values = list(np.random.default_rng(4).normal(size=400))
    calls: list[int] = []

    def mean(kept: list[float]) -> float:
        calls.append(len(kept))
        return float(np.mean(kept))

    assert jackknife(values, mean) == pytest.approx(np.std(values) / 20, rel=0.3)
    assert calls == [392] * 50
    assert jackknife(values[:1], mean) == 0
