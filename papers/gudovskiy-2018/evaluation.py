# SPDX-License-Identifier: Apache-2.0
"""What a network with codecs answers, beside the float network, on both samples of ImageNet."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from figures import Case, judged

from thinmaps.calibrate.picture_set import network_values
from thinmaps.file import Model
from thinmaps.graph.quantise import real_values
from thinmaps.measure.answers import thin_answer
from thinmaps.measure.float_model import FloatModel
from thinmaps.measure.truths import labelled_pictures
from thinmaps.types import Preprocessing

SIDE = 227  # the authors' crop, for which the treated maps have 56 x 56 pixels
SETS = ("eval_val", "eval_flickr")
PREPROCESSING = Preprocessing()
MODEL = "models/squeezenet1_1.onnx"
PICTURES = "images/imagenet-sample"


def evaluation_cases(assets: Path, at_most: int | None = None) -> list[Case]:
    """Pictures of both sets, evenly spread, with their classes and what the float network says."""
    exact = FloatModel(assets / MODEL, PREPROCESSING, (SIDE, SIDE))
    found = []
    for name in SETS:
        folder = assets / PICTURES
        pictures, classes = labelled_pictures(folder, folder / f"{name}.csv")
        assert classes is not None
        chosen = pictures if at_most is None else pictures.at_most(at_most // len(SETS))
        for index, (title, picture) in zip(chosen.indices, chosen.read(), strict=True):
            fitted = network_values(title, picture, (SIDE, SIDE, 3), PREPROCESSING)
            found.append(Case(fitted, classes[index], exact(fitted)[0]))
    return found


def figures_of(model: Model, cases: Sequence[Case]) -> dict[str, float]:
    """Points of top-1 that are lost, and agreement, in percent."""
    answer = thin_answer(model)
    takes_pictures = model.preprocessing is not None
    answers = [answer(_input(case.picture, takes_pictures))[0] for case in cases]
    ours = judged(cases, answers)
    exact = judged(cases, [case.scores for case in cases])
    return {"drop %": exact["top-1 %"] - ours["top-1 %"], "agreement %": ours["agreement %"]}


def _input(picture: NDArray[np.uint8], takes_pictures: bool) -> NDArray[np.generic]:
    """The picture, or its values for a network that was made from a module."""
    if takes_pictures:
        return picture
    return np.ascontiguousarray(real_values(picture, PREPROCESSING).transpose(1, 2, 0))
