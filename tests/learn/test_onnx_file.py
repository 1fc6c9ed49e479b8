# SPDX-License-Identifier: Apache-2.0
"""An exported student is standard ONNX; `compress` takes it as it is and answers alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from learn.networks import ResNet20, pictures, small
from learn.test_student import answers
from safetensors.torch import load_file

import thinmaps
from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.errors import BadModel
from thinmaps.graph.quantise import real_values
from thinmaps.learn.onnx_file import export
from thinmaps.learn.preparation import prepare
from thinmaps.learn.student import Student

RNG = np.random.default_rng(6)
PHOTOGRAPHS = list(RNG.integers(0, 256, (8, 16, 16, 3), np.uint8))


def student_with(name: str, codecs: str | None) -> Student:
    """A student whose weights have moved."""
    student = prepare(small(name), pictures(1), calibrate=PHOTOGRAPHS, codecs=codecs)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.01).add_(0.002)
    return student.eval()


def as_batch(photographs: list[np.ndarray]) -> torch.Tensor:
    planes = [real_values(p, thinmaps.Preprocessing()) for p in photographs]
    return torch.from_numpy(np.stack(planes))


@pytest.mark.parametrize(
    ("name", "codecs", "schedule"),
    [
        ("resnet", None, "mixed"),
        ("resnet", "klt", "layer"),
        ("squeezenet", "narrow:3", "mixed"),
        ("mobilenet", "rans", "layer"),  # lossless: no function, but a configuration
        ("bent", "narrow:4", "mixed"),  # a table per channel: written as the larger of two lines
    ],
)
def test_compress_takes_an_exported_student_and_answers_alike(
    name: str, codecs: str | None, schedule: str, tmp_path: Path
) -> None:
    student = student_with(name, codecs)
    export(student, tmp_path / "student.onnx")
    model = thinmaps.compress(tmp_path / "student.onnx", schedule=schedule)
    assert sorted(c.id for c in model.plan.codecs.values()) == sorted(
        c.id for c in student.codecs().values()
    )
    assert codecs is None or any("the codecs that the file brings" in note for note in model.notes)
    engine = thinmaps.Engine(model)
    made = np.concatenate([engine(picture).reshape(1, -1) for picture in PHOTOGRAPHS[:3]])
    np.testing.assert_array_equal(made, answers(student, as_batch(PHOTOGRAPHS[:3]))[0])


def test_the_real_resnet_20_is_exact_with_codecs_on_all_maps(assets: Path, tmp_path: Path) -> None:
    model = ResNet20().eval()
    weights = load_file(assets / "weights" / "cifar10_resnet20_jpeg.safetensors")
    model.load_state_dict(weights, strict=False)  # it has no counters of batches
    source = open_pictures(assets / "images" / "cifar10" / "cifar10_jpeg_train.npz")
    photographs = [picture for _, picture in source.at_most(40).read()]
    batch = as_batch(photographs[:20])
    example = torch.zeros(1, 3, 32, 32)
    student = prepare(model, example, calibrate=photographs, codecs="narrow:5").eval()
    made = answers(student, batch)[0]
    with torch.no_grad():
        wanted = model(batch).argmax(1).numpy()
    # Five bits are close to none lost, on pictures that the network knows well.
    assert (made.argmax(1) == wanted).sum() >= 19
    export(student, tmp_path / "student.onnx")
    compressed = thinmaps.compress(tmp_path / "student.onnx", schedule="layer")
    assert len(compressed.plan.codecs) == len(student.codecs()) > 20
    engine = thinmaps.Engine(compressed)
    inferred = np.stack([engine(picture).ravel() for picture in photographs[:20]])
    np.testing.assert_array_equal(inferred, made)


def test_any_runtime_gives_nearly_the_students_answers(tmp_path: Path) -> None:
    student = student_with("resnet", "narrow:3")
    export(student, tmp_path / "student.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx")
    batch = as_batch(PHOTOGRAPHS[:3])
    made = np.concatenate([session.run(None, {"x": p[None].numpy()})[0] for p in batch])
    expected = answers(student, batch)[0]
    # Sums of maps may lie a step apart there.
    assert np.abs(made - expected).max() < 0.05 * np.abs(expected).max()


def test_another_size_can_be_exported(tmp_path: Path) -> None:
    student = student_with("squeezenet", "narrow:3")
    export(student, tmp_path / "student.onnx", size=(20, 24))
    model = thinmaps.compress(tmp_path / "student.onnx")
    picture = RNG.integers(0, 256, (20, 24, 3), np.uint8)
    made = thinmaps.Engine(model)(picture).reshape(1, -1)
    np.testing.assert_array_equal(made, answers(student, as_batch([picture]))[0])


def test_a_codec_without_its_configuration_is_refused(tmp_path: Path) -> None:
    export(student_with("resnet", "narrow:3"), tmp_path / "student.onnx")
    model = onnx.load(tmp_path / "student.onnx")
    held = list(model.metadata_props)
    del model.metadata_props[:]
    with pytest.raises(BadModel, match="whose configuration the file's metadata lack"):
        thinmaps.compress(model)
    held[0].key += "?"
    model.metadata_props.extend(held)
    with pytest.raises(BadModel, match=r"lack|no map of it"):
        thinmaps.compress(model)
