# SPDX-License-Identifier: Apache-2.0
"""The YOLO head's boxes, suppression and mAP@0.5, on cases small enough to work out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from thinmaps.errors import BadData, BadModel
from thinmaps.measure.detection import (
    Detection,
    YoloGrid,
    average_precision,
    decode_grids,
    detections_of_picture,
    keep_best,
    matched,
    mean_average_precision,
    objects_by_class,
    read_yolo_grids,
)
from thinmaps.measure.labels import AnnotatedObject, Box

CFG = """[net]
width=64
[convolutional]
filters=14
[yolo]
mask = 0
anchors = 4,8,  30,20
classes = 2
[yolo]
mask=1   # the coarse one
anchors = 4,8,30,20
classes=2
scale_x_y = 1.05
"""


def _object(box: tuple[float, ...], name: str = "cat", difficult: bool = False) -> AnnotatedObject:
    return AnnotatedObject(name, Box(*box), difficult)


def _detection(score: float, box: tuple[float, ...]) -> Detection:
    return Detection(score, np.array(box, float))


def _precision(found: list[list[Detection]], truths: list[list[AnnotatedObject]]) -> float:
    pictures = zip(found, truths, strict=True)
    return average_precision([matched({0: found}, {0: objects})[0] for found, objects in pictures])


def test_grids_come_coarsest_first_with_their_masked_anchors(tmp_path: Path) -> None:
    (tmp_path / "net.cfg").write_text(CFG)
    coarse, fine = read_yolo_grids(tmp_path / "net.cfg")
    assert coarse == YoloGrid(((30, 20),), 2, 1.05)
    assert fine == YoloGrid(((4, 8),), 2, 1.0)
    assert fine.channels == 7


@pytest.mark.parametrize("text", ["[net]\nwidth=3\n", "[yolo]\nclasses=2\n", "[yolo]\nanchors=1\n"])
def test_a_configuration_without_a_usable_head_is_refused_by_name(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "net.cfg").write_text(text)
    with pytest.raises(BadData, match=r"net\.cfg"):
        read_yolo_grids(tmp_path / "net.cfg")
    with pytest.raises(BadData, match=r"gone\.cfg"):
        read_yolo_grids(tmp_path / "gone.cfg")


def test_a_cell_predicts_the_box_of_its_place_and_anchor() -> None:
    values = np.zeros((7, 2, 4), np.float32)
    values[:, 1, 3] = [0, 0, np.log(2), 0, 100, 100, -100]
    boxes, scores = decode_grids([values], [YoloGrid(((8, 16),), 2, 1.0)], (64, 32))
    cell = 1 * 4 + 3
    # Centre of cell (1, 3) of a 2 x 4 grid; 16 of 32 pixels wide, 16 of 64 high.
    np.testing.assert_allclose(boxes[cell], [0.875 - 0.25, 0.75 - 0.125, 1.125, 0.875])
    np.testing.assert_allclose(scores[cell], [1, 0], atol=1e-6)
    np.testing.assert_allclose(scores[0], [0.25, 0.25])


def test_outputs_that_are_not_the_described_grids_are_refused() -> None:
    with pytest.raises(BadModel, match="describes 1 grids"):
        decode_grids([np.zeros((8, 2, 2), np.float32)], [YoloGrid(((8, 16),), 2, 1.0)], (64, 64))


def test_suppression_keeps_the_best_of_overlapping_boxes() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], float)
    assert keep_best(boxes, np.array([0.5, 0.9, 0.1])).tolist() == [1, 2]
    assert keep_best(np.zeros((0, 4)), np.zeros(0)).tolist() == []


def test_detections_are_in_pixels_of_their_picture() -> None:
    boxes = np.array([[0, 0.5, 0.5, 1.5]])
    found = detections_of_picture(boxes, np.array([[0.8, 0.0]]), (100, 200))
    assert found[0][0].box.tolist() == [0, 50, 100, 100]
    assert found[1] == []


def test_average_precision_by_hand() -> None:
    truths = [[_object((0, 0, 10, 10))], [_object((0, 0, 10, 10))]]
    found = [
        [_detection(0.9, (0, 0, 10, 10)), _detection(0.8, (50, 50, 60, 60))],
        [_detection(0.7, (0, 0, 10, 8))],
    ]
    # Recall 1/2 at precision 1, recall 1 at precision 2/3.
    assert _precision(found, truths) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_a_second_hit_on_one_object_is_wrong_and_a_difficult_one_is_void() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    twice = [[_detection(0.9, box), _detection(0.8, box), _detection(0.7, (20, 20, 30, 30))]]
    truths = [[_object(box), _object((20, 20, 30, 30))]]
    assert _precision(twice, truths) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    difficult = [[_object(box, difficult=True), _object((20, 20, 30, 30))]]
    assert _precision(twice, difficult) == pytest.approx(1.0)


def test_nothing_found_is_zero_and_a_box_where_nothing_is_is_wrong() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    assert _precision([[]], [[_object(box)]]) == 0.0
    elsewhere = [[_detection(0.9, box)], [_detection(0.8, box)]]
    assert _precision(elsewhere, [[], [_object(box)]]) == 0.5


def test_only_annotated_classes_are_averaged() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    found = {0: [_detection(0.9, box)], 1: [_detection(0.9, box)], 2: []}
    names = ("cat", "dog", "cow")
    objects = objects_by_class([_object(box, "cat"), _object(box, "dog", difficult=True)], names)
    assert mean_average_precision([matched(found, objects)]) == 100.0
    with pytest.raises(BadData, match="name bird"):
        objects_by_class([_object(box, "bird")], names)
    with pytest.raises(BadData, match="no object"):
        mean_average_precision([matched(found, {})])
