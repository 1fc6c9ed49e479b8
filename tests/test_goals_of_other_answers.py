# SPDX-License-Identifier: Apache-2.0
"""A goal of drop for small detectors and segmenters, with labels and without."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import model, node, weights
from PIL import Image

from thinmaps import cli
from thinmaps.compression import compress
from thinmaps.errors import BadArgument, BadData, PlanImpossible
from thinmaps.file import Model, Provenance
from thinmaps.measure.accuracy import class_map
from thinmaps.measure.answer_kinds import confident
from thinmaps.measure.detection import decode_grids, detections_of_picture, read_yolo_grids
from thinmaps.measure.evaluate import evaluate
from thinmaps.measure.float_model import FloatModel, sha256_of
from thinmaps.types import Preprocessing

SIDE, COUNT = 24, 30
STRETCHED = Preprocessing((0.5,) * 3, (0.25,) * 3, fit="stretch")
CFG = "[yolo]\nmask=0\nanchors=10,10\nclasses=2\n"
OBJECT = (
    "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)
# From edges to the numbers of the pixels that belong to a box, counted from 1.
PIXELS_OF_ITS_OWN = np.array([1, 1, 0, 0])


def network(channels: int, stride: int) -> onnx.ModelProto:
    """Two 3 x 3 convolutions, of which the second has this stride, and a head of 1 x 1."""
    layers = [
        node("Conv", ["x", "w1"], ["a"], pads=[1] * 4, name="first"),
        node("Relu", ["a"], ["b"], name="relu_1"),
        node("Conv", ["b", "w2"], ["c"], pads=[1] * 4, strides=[stride] * 2, name="second"),
        node("Relu", ["c"], ["d"], name="relu_2"),
        node("Conv", ["d", "w3"], ["y"], name="head"),
    ]
    constants = {
        "w1": weights(8, 3, 3, 3, seed=1),
        "w2": weights(8, 8, 3, 3, seed=2) / 8,
        "w3": weights(channels, 8, 1, 1, seed=3),
    }
    return model(layers, constants, shape=(1, 3, SIDE, SIDE))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, both networks, and what the float networks find, written as labels."""
    root = tmp_path_factory.mktemp("goals")
    for name in ("pictures", "masks", "boxes"):
        (root / name).mkdir()
    onnx.save(network(7, 8), root / "detector.onnx")
    onnx.save(network(4, 1), root / "segmenter.onnx")
    (root / "net.cfg").write_text(CFG)
    random = np.random.default_rng(5)
    for index in range(COUNT):
        coarse = random.integers(0, 256, (6, 6, 3), np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE)))
        Image.fromarray(pixels).save(root / "pictures" / f"{index:02}.png")
        write_labels(root, f"{index:02}", pixels)
    return root


def write_labels(root: Path, stem: str, pixels: np.ndarray) -> None:
    """The answers of the float networks."""
    size = (SIDE, SIDE)
    segmented = FloatModel(root / "segmenter.onnx", STRETCHED, size)(pixels)[0]
    Image.fromarray(class_map(segmented).astype(np.uint8)).save(root / "masks" / f"{stem}.png")
    grids = read_yolo_grids(root / "net.cfg")
    maps = [each[0] for each in FloatModel(root / "detector.onnx", STRETCHED, size)(pixels)]
    found = confident(detections_of_picture(*decode_grids(maps, grids, size), size))
    objects = "".join(
        OBJECT.format(("cat", "dog")[index], *(np.asarray(each.box) + PIXELS_OF_ITS_OWN))
        for index, of_class in found.items()
        for each in of_class
    )
    text = f"<annotation><filename>{stem}.png</filename>{objects}</annotation>"
    (root / "boxes" / f"{stem}.xml").write_text(text)


def made(place: Path, kind: str, **goals: Any) -> Model:
    detector = {"anchors": place / "net.cfg", "names": ("cat", "dog")} if kind == "detector" else {}
    return compress(
        place / f"{kind}.onnx",
        place / "pictures",
        preprocessing=STRETCHED,
        schedule="layer",
        **{**detector, **goals},
    )


@pytest.mark.parametrize(
    ("kind", "labels", "allowed", "counted"),
    [
        ("detector", None, 8.0, "mAP@0.5 against the float network's own detections, beyond what"),
        ("detector", "boxes", 8.0, "mAP@0.5"),
        ("segmenter", None, 8.0, "agreement with the float network's classes of pixels, beyond"),
        ("segmenter", "masks", 15.0, "mean IoU"),
    ],
)
def test_a_drop_of_boxes_and_of_pixels_buys_traffic(
    place: Path, kind: str, labels: str | None, allowed: float, counted: str
) -> None:
    given = None if labels is None else place / labels
    found = made(place, kind, max_drop=allowed, labels=given, codec="mixed_width")
    assert found.drop is not None
    assert found.drop <= allowed
    assert found.plan.codecs
    assert any(note.startswith(f"points of drop are of {counted}") for note in found.notes)
    assert max(trade.drop for trade in found.front) > allowed  # what loses more was not taken
    if labels is not None:
        again = answers(place, kind, found, given)
        assert again["drop"] <= 1.5 * allowed
        low, high = again["drop_interval"]
        assert low < again["drop"] < high


def answers(place: Path, kind: str, found: Model, labels: Path | None) -> dict[str, Any]:
    path = place / f"{kind}.onnx"
    recorded = dataclasses.replace(found, provenance=Provenance(str(path), sha256_of(path)))
    task = "detect" if kind == "detector" else "segment"
    anchors = place / "net.cfg" if task == "detect" else None
    pictures = place / "pictures"
    return evaluate(recorded, pictures, labels, task=task, anchors=anchors).to_json()


def test_masks_are_scored_by_both_networks(place: Path) -> None:
    plain = made(place, "segmenter", labels=place / "masks")
    found = answers(place, "segmenter", plain, place / "masks")
    assert found["float_mean_iou"] == 100
    assert found["drop"] == pytest.approx(100 - found["mean_iou"])
    assert plain.drop is not None
    assert any(note == "points of drop are of mean IoU" for note in plain.notes)
    with pytest.raises(BadData, match="scored against a folder of masks"):
        answers(place, "segmenter", plain, place / "boxes")


def test_a_goal_within_a_goal_is_met_or_refused(place: Path) -> None:
    with pytest.raises(PlanImpossible, match="the gentlest allocation within the budget drops"):
        made(place, "segmenter", max_drop=0.0, traffic_bytes=12000, codec="mixed_width")


@pytest.mark.parametrize(
    ("kind", "change", "error", "says"),
    [
        ("detector", {"anchors": None, "max_drop": 1.0}, BadArgument, "--anchors FILE.cfg"),
        ("segmenter", {"labels": "boxes", "max_drop": 1.0}, BadData, "labels are a folder of mask"),
        ("detector", {"labels": "masks", "max_drop": 1.0}, BadData, "labels are a folder of VOC"),
        ("segmenter", {"labels": ".", "max_drop": 1.0}, BadData, "holds no labels"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_a_sentence(
    place: Path, kind: str, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    given = {**change, "labels": place / change["labels"]} if "labels" in change else change
    with pytest.raises(error, match=says) as caught:
        made(place, kind, **given)
    assert "\n" not in str(caught.value)


def test_the_command_line_takes_anchors(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    command = ["compress", str(place / "detector.onnx"), "--calibrate", str(place / "pictures")]
    command += ["--mean", "0.5", "--std", "0.25", "--fit", "stretch", "--schedule", "layer"]
    command += ["-o", str(tmp_path / "a.thin"), "--max-drop", "8", "--codec", "mixed_width"]
    assert cli.run(command) == 2
    assert "--anchors FILE.cfg" in capsys.readouterr().err
    command += ["--anchors", str(place / "net.cfg"), "--labels", str(place / "boxes")]
    assert cli.run([*command, "--names", str(tmp_path / "names.txt")]) == 0
    out, err = capsys.readouterr()
    assert "points of drop are of mAP@0.5" in out
    assert "drop on held-out pictures" in err
