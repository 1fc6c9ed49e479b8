# SPDX-License-Identifier: Apache-2.0
"""Evaluation and prediction end to end, on networks that are exported to be their own judge.

The float network is the export of the thin one, so the two must agree.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.errors import BadArgument, BadData, BadModel
from thinmaps.export.onnx_qdq import to_onnx
from thinmaps.file import Model, Provenance
from thinmaps.graph.float_network import Tail
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Conv, Picture, Window
from thinmaps.measure.evaluate import drop_of, evaluate, find_reference
from thinmaps.measure.float_model import FloatModel, sha256_of
from thinmaps.measure.prediction import Predictor, picture_of, write_outputs
from thinmaps.plan.build import build
from thinmaps.types import MapSpec, Preprocessing

UNIT = Preprocessing((0.0,) * 3, (1.0,) * 3, fit="stretch")
SIDE = 8


def _grid_model(channels: int) -> Model:
    """Picture -> one uint8 map of `channels` channels at the picture's size."""
    identity = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    weights = np.random.default_rng(channels).integers(-99, 99, (channels, 3, 1, 1), np.int8)
    bias = np.random.default_rng(1).integers(-9000, 9000, channels).astype(np.int32)
    conv = Conv(Window((1, 1)), 1, weights, bias, np.full(channels, 1 / 256, np.float32))
    scale = float(np.float32(1 / 255))
    network = Network(
        (
            Node("quantise", Picture(identity, (0, 1, 2)), ("image",), "x"),
            Node("conv", conv, ("x",), "grid"),
        ),
        {
            "image": MapSpec(SIDE, SIDE, 3),
            "x": MapSpec(SIDE, SIDE, 3, scale),
            "grid": MapSpec(SIDE, SIDE, channels, 1 / 16, 128),
        },
        ("image",),
        ("grid",),
    )
    return Model(build(network), Tail((), {}, ("grid",), {"grid": (1, channels, SIDE, SIDE)}), UNIT)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(3)
    for i in range(6):
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def segmenter() -> Model:
    return _grid_model(4)


@pytest.fixture(scope="module")
def exported(segmenter: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "segmenter.onnx"
    onnx.save(to_onnx(segmenter.plan.source), file)
    return file


def test_a_segmenter_agrees_with_its_own_export(
    segmenter: Model, exported: Path, pictures: Path
) -> None:
    found = evaluate(segmenter, pictures, task="segment", reference=exported)
    assert found.to_json()["pixel_agreement"] == 100.0
    assert found.result.pictures == 6


def test_classes_beside_arrays_are_no_labels_of_pixels(
    segmenter: Model, exported: Path, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    np.savez(tmp_path / "two.npz", image=pixels, label=np.array([1, 0]))
    found = evaluate(segmenter, tmp_path / "two.npz", task="segment", reference=exported)
    assert found.to_json()["pixel_agreement"] == 100.0
    assert found.to_json()["mean_iou"] is None


def test_segmentation_without_a_float_network_is_refused(segmenter: Model, pictures: Path) -> None:
    with pytest.raises(BadArgument, match="records no float network"):
        evaluate(segmenter, pictures, task="segment")


def test_progress_is_told_after_every_picture(
    segmenter: Model, exported: Path, pictures: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    evaluate(
        segmenter, pictures, task="segment", reference=exported,
        progress=lambda *what: told.append(what),
    )  # fmt: skip
    assert told == [("evaluating", i, 6) for i in range(1, 7)]


def test_the_drop_is_measured_on_the_held_out_fifth(
    segmenter: Model, exported: Path, pictures: Path
) -> None:
    counted: list[int] = []
    drop, missed = drop_of(
        segmenter,
        onnx.load(exported),
        open_pictures(pictures),
        progress=lambda what, done, of: counted.append(of),
    )
    assert drop == 0.0
    assert missed == ("points of drop are of agreement with the float network's classes of pixels",)
    assert counted == [1]  # of six pictures the fifth


def test_the_recorded_float_network_is_used_only_if_it_has_not_changed(
    segmenter: Model, exported: Path, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(exported.read_bytes())
    recorded = Provenance(str(path), sha256_of(path))
    model = dataclasses.replace(segmenter, provenance=recorded)
    assert find_reference(model, None) == (path, None)
    path.write_bytes(b"")
    found, note = find_reference(model, None)
    assert found is None
    assert note is not None
    assert "has changed" in note
    assert find_reference(model, exported) == (exported, None)


def test_labels_may_come_with_the_arrays_of_an_npz(
    model: Model, segmenter: Model, tmp_path: Path
) -> None:
    model = dataclasses.replace(model, provenance=Provenance())
    file = tmp_path / "set.npz"
    images = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    np.savez(file, image=images, label=np.array([0, 1, 2, 3]))
    found = evaluate(model, file).to_json()
    assert found["pictures"] == 4
    assert found["top1"] is not None
    assert "records no float network" in found["note"]
    np.savez(file, image=images, label=np.array([0.5, 1]))
    with pytest.raises(BadData, match="4 pictures, labels float64"):
        evaluate(model, file)
    np.savez(file, image=images, label=np.array([0, 1, 2, 3]))
    with pytest.raises(BadData, match="networks of class scores"):
        evaluate(segmenter, file)


def test_a_corrupt_picture_is_skipped_and_counted(segmenter: Model, pictures: Path) -> None:
    bad = pictures / "zz.png"
    bad.write_bytes(b"\x89PNG")
    try:
        found = evaluate(segmenter, pictures).to_json()
    finally:
        bad.unlink()
    assert (found["pictures"], found["skipped"]) == (6, 1)
    assert "zz.png" in found["skipped_pictures"][0]


CFG = "[yolo]\nmask=0\nanchors=4,4\nclasses=2\n"
ANNOTATION = (
    "<annotation><filename>{name}</filename><object><name>cat</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>8</xmax><ymax>8</ymax></bndbox></object></annotation>"
)


def test_a_detector_is_scored_beside_its_own_export(pictures: Path, tmp_path: Path) -> None:
    model = dataclasses.replace(_grid_model(7), labels=("cat", "dog"))
    reference = tmp_path / "detector.onnx"
    onnx.save(to_onnx(model.plan.source), reference)
    (tmp_path / "net.cfg").write_text(CFG)
    for i in range(3):
        (tmp_path / f"{i}.xml").write_text(ANNOTATION.format(name=f"{i}.png"))
    found = evaluate(
        model, pictures, tmp_path, task="detect", anchors=tmp_path / "net.cfg",
        reference=reference,
    ).to_json()  # fmt: skip
    assert found["pictures"] == 3
    assert found["map50"] == found["float_map50"]
    assert found["drop"] == 0.0
    cropping = dataclasses.replace(model, preprocessing=Preprocessing())
    with pytest.raises(BadArgument, match="--fit stretch"):
        evaluate(cropping, pictures, tmp_path, task="detect", anchors=tmp_path / "net.cfg")


def test_a_network_that_takes_no_picture_is_refused(segmenter: Model, pictures: Path) -> None:
    with pytest.raises(BadArgument, match="as arrays"):
        evaluate(dataclasses.replace(segmenter, preprocessing=None), pictures)


def test_a_static_float_network_is_brought_to_another_size(exported: Path) -> None:
    answer = FloatModel(exported, UNIT, (12, 20))
    assert answer(np.zeros((12, 20, 3), np.uint8))[0].shape == (1, 4, 12, 20)


def test_a_float_network_that_cannot_be_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"gone\.onnx"):
        FloatModel(tmp_path / "gone.onnx", UNIT, (8, 8))


def test_a_picture_network_gives_its_picture_back_in_the_units_of_its_input() -> None:
    halves = Preprocessing((0.5,) * 3, (0.25,) * 3, order="bgr")
    output = np.zeros((1, 3, 1, 2), np.float32)
    output[0, :, 0, 1] = [2, 0, -2]
    assert picture_of(output, halves).tolist() == [[[128, 128, 128], [0, 128, 255]]]
    assert picture_of(output[:, :1], Preprocessing((0.0,), (1.0,))).shape == (1, 2, 1)
    with pytest.raises(BadArgument, match="is no picture"):
        picture_of(np.zeros((1, 5, 2, 2)), halves)


def test_arrays_are_answered_too(segmenter: Model, tmp_path: Path) -> None:
    array = np.random.default_rng(2).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    np.save(tmp_path / "x.npy", array)
    prediction, outputs = Predictor(segmenter).predict(tmp_path / "x.npy")
    assert prediction.top == ()
    assert prediction.outputs == {"grid": (1, 4, SIDE, SIDE)}
    write_outputs(tmp_path / "y.npz", outputs, UNIT)
    with np.load(tmp_path / "y.npz") as written:
        np.testing.assert_array_equal(written["grid"], outputs["grid"])
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(BadData, match=r"bad\.npy"):
        Predictor(segmenter).predict(tmp_path / "bad.npy")
