# SPDX-License-Identifier: Apache-2.0
"""What a network with codecs answers, beside the float network, on pictures that nothing learns.

Classes on both samples of ImageNet, boxes on the sample of VOC. On the pictures that settings are
chosen on, classes alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from figures import IMAGENET, Case, judged
from networks import Subject

from thinmaps.calibrate.picture_set import PictureSet, network_values
from thinmaps.file import Model
from thinmaps.graph.quantise import real_values
from thinmaps.measure.accuracy import Detections
from thinmaps.measure.answers import thin_answer
from thinmaps.measure.evaluate import evaluate
from thinmaps.measure.float_model import FloatModel
from thinmaps.measure.truths import labelled_pictures
from thinmaps.types import Preprocessing

SETS = ("eval_val", "eval_flickr")
CALIBRATION = IMAGENET
VOC = ("images/voc-sample/JPEGImages", "images/voc-sample/Annotations")

Judge = Callable[[Model], dict[str, float]]


def judge_of(assets: Path, subject: Subject, at_most: int | None = None) -> Judge:
    """What evaluation pictures say of a model; `at_most` counts those of ImageNet."""
    if subject.anchors:
        return lambda model: detections_of(model, assets, subject)
    cases = evaluation_cases(assets, subject, at_most)
    return lambda model: figures_of(model, cases, subject.preprocessing)


def evaluation_cases(assets: Path, subject: Subject, at_most: int | None = None) -> list[Case]:
    """Pictures of both sets, evenly spread, with their classes and what the float network says."""
    found = []
    for name in SETS:
        folder = assets / Path(CALIBRATION).parent
        pictures, classes = labelled_pictures(folder, folder / f"{name}.csv")
        assert classes is not None
        chosen = pictures if at_most is None else pictures.at_most(at_most // len(SETS))
        found += cases_of(assets, subject, chosen, classes)
    return found


def cases_of(
    assets: Path, subject: Subject, pictures: PictureSet, classes: Sequence[int] | None = None
) -> list[Case]:
    """Pictures with their classes, those of the float network where none are given."""
    size = (subject.side, subject.side)
    exact = FloatModel(assets / subject.model, subject.preprocessing, size)
    found = []
    for index, (title, picture) in zip(pictures.indices, pictures.read(), strict=True):
        fitted = network_values(title, picture, (*size, 3), subject.preprocessing)
        scores = exact(fitted)[0]
        label = int(scores.argmax()) if classes is None else classes[index]
        found.append(Case(fitted, label, scores))
    return found


def figures_of(
    model: Model, cases: Sequence[Case], preprocessing: Preprocessing
) -> dict[str, float]:
    """Points of top-1 that are lost, and agreement, in percent."""
    answer = thin_answer(model)
    takes_pictures = model.preprocessing is not None
    answers = [
        answer(case.picture if takes_pictures else _values(case.picture, preprocessing))[0]
        for case in cases
    ]
    ours = judged(cases, answers)
    exact = judged(cases, [case.scores for case in cases])
    return {"drop %": exact["top-1 %"] - ours["top-1 %"], "agreement %": ours["agreement %"]}


def _values(picture: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.generic]:
    """The picture as a network takes it that was made from a module."""
    return np.ascontiguousarray(real_values(picture, preprocessing).transpose(1, 2, 0))


def detections_of(model: Model, assets: Path, subject: Subject) -> dict[str, float]:
    """Points of mAP@0.5 that are lost, and those that are left, in percent."""
    images, annotations = (assets / folder for folder in VOC)
    found = evaluate(
        model,
        images,
        annotations,
        task="detect",
        reference=assets / subject.model,
        anchors=assets / subject.anchors,
    ).result
    assert isinstance(found, Detections)
    assert found.map50 is not None
    assert found.float_map50 is not None
    return {"drop %": found.float_map50 - found.map50, "mAP %": found.map50}
