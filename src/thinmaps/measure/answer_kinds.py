# SPDX-License-Identifier: Apache-2.0
"""Kinds of answers, and how many points one network loses against another on pictures.

    kind            points without labels                        with labels
    class scores    what the float network expects to lose       of top-1
    score maps      of agreement: pixels of its class            of mean IoU (masks)
    YOLO grids      of agreement: mAP@0.5 against its boxes      of mAP@0.5 (VOC annotations)
    other values    of variance of its values, not explained     none

Which of them it is, the shapes of the outputs say, and for grids the configuration with the
anchors. An agreement is counted from a base, the float network itself (which agrees in all) or the
uint8 network without codecs: rounding moves answers of which the float network is in doubt, too,
and where there are no labels nobody can say whether that is an error. YOLO-Fastest in uint8 has
93.8 mAP against the boxes of the float network, while on labelled pictures it loses nothing.

The float network's boxes are what it rather takes for an object: those of a score above one half.

Every kind makes a record of a picture, and points of records. A mean has the standard error of a
mean; mAP and mean IoU are no means over pictures, so theirs is the jackknife's, of the difference
of both networks on the same pictures:
    s^2 = (g - 1) / g * sum (d_i - mean d)^2,  d_i the points without every g-th picture from i on

Source
    Quenouille, "Notes on Bias in Estimation", 1956; Tukey, "Bias and Confidence in Not-Quite Large
    Samples", 1958. Ours: groups, so that a thousand pictures cost 50 curves per class.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadArgument, BadData
from thinmaps.measure.accuracy import (
    best,
    class_map,
    explained,
    is_score_map,
    judge_class,
    mean_iou,
    pixel_counts,
)
from thinmaps.measure.detection import (
    Detection,
    Matched,
    YoloGrid,
    decode_grids,
    detections_of_picture,
    matched,
    mean_average_precision,
    objects_by_class,
)
from thinmaps.measure.labels import AnnotatedObject, Box, Mask
from thinmaps.measure.truths import Truth

Array = NDArray[Any]
Outputs = Sequence[Array]
Record = TypeVar("Record")

MOST_GROUPS = 50
CONFIDENT_SCORE = 0.5
WHOLE_PICTURES = (
    "boxes and masks refer to the whole picture, but preprocessing crops it; compress with "
    "--fit stretch"
)


@dataclass(frozen=True)
class Known:
    """What is known beside a network: the truth of each picture, and how grids become boxes.

    `names` are the detector's classes, in which annotations are given.
    """

    truths: tuple[Truth, ...] | None = None
    grids: tuple[YoloGrid, ...] = ()
    names: tuple[str, ...] = ()


class Seen(NamedTuple):
    """One picture: answers of the float network and of the base, the truth, and its own size."""

    whole: Outputs
    base: Outputs
    truth: Truth | None
    picture_size: tuple[int, int]


class AnswerKind(ABC):
    """How answers are compared. `points_of` says in words what the points are."""

    points_of: str
    refusal: str | None = None  # why a goal in points cannot be given, where it cannot
    beside_uint8: bool = False  # whether rate control counts from the uint8 network

    @abstractmethod
    def case(self, seen: Seen) -> Any:
        """What is kept of a picture."""

    @abstractmethod
    def record(self, ours: Outputs, case: Any) -> Any:
        """What the answer `ours` to that picture is worth."""

    def points(self, records: Sequence[Any]) -> float:
        """Points lost on the pictures of the records; below 0 where something was gained."""
        return 100 * float(np.mean(records))

    def standard_error(self, records: Sequence[Any]) -> float:
        """Of the points, in points."""
        return 100 * float(np.std(records)) / math.sqrt(len(records))

    def error(self, ours: Outputs, case: Any) -> float | None:
        """Mean squared error that the drop grows with, in a unit of its own; None if unknown."""
        del ours, case
        return None


@dataclass(frozen=True)
class ClassScores(AnswerKind):
    """One score per class."""

    labelled: bool

    @property
    def points_of(self) -> str:  # type: ignore[override]
        """What is counted."""
        return "top-1" if self.labelled else "top-1, as the float network itself expects them"

    def case(self, seen: Seen) -> tuple[Array, int | None]:
        """The float network's scores, and the right class."""
        return np.asarray(seen.whole[0]), seen.truth if isinstance(seen.truth, int) else None

    def record(self, ours: Outputs, case: tuple[Array, int | None]) -> float:
        """Share of a right answer that is lost."""
        whole, label = case
        if label is None:
            return expected_drop(np.asarray(ours[0]), whole)
        verdict = judge_class(np.asarray(ours[0]), whole, label)
        return float(verdict.float_place == 0) - float(verdict.place == 0)

    def error(self, ours: Outputs, case: tuple[Array, int | None]) -> float:
        """That of the scores."""
        return score_error(np.asarray(ours[0]), case[0])


@dataclass(frozen=True)
class EqualPixels(AnswerKind):
    """The strongest class of every pixel, against the float network's."""

    points_of = "agreement with the float network's classes of pixels"
    beside_uint8 = True

    def case(self, seen: Seen) -> tuple[Array, float]:
        """The float network's classes, and the share of which the base agrees."""
        whole = class_map(seen.whole[0])
        agreed = float(np.mean(class_map(seen.base[0]) == whole))
        # A byte per pixel as a rule: hundreds of pictures are kept.
        return whole.astype(np.min_scalar_type(int(whole.max()))), agreed

    def record(self, ours: Outputs, case: tuple[Array, float]) -> float:
        """Share of the pixels that agree no more."""
        whole, base = case
        return base - float(np.mean(class_map(ours[0]) == whole))


@dataclass(frozen=True)
class MaskedPixels(AnswerKind):
    """The strongest class of every pixel, against masks."""

    points_of = "mean IoU"

    def case(self, seen: Seen) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The mask at the size of the answer, and the float network's counts."""
        assert isinstance(seen.truth, Mask)
        whole = class_map(seen.whole[0])
        mask = seen.truth.classes(*whole.shape)
        return mask, pixel_counts(whole, mask)

    def record(
        self, ours: Outputs, case: tuple[NDArray[np.uint8], NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        """Counts of the float network and ours."""
        mask, whole = case
        return np.stack((whole, pixel_counts(class_map(ours[0]), mask)))

    def points(self, records: Sequence[NDArray[np.int64]]) -> float:
        """Mean IoU of the float network less ours."""
        whole, ours = np.sum(records, axis=0)
        return mean_iou(whole) - mean_iou(ours)

    def standard_error(self, records: Sequence[NDArray[np.int64]]) -> float:
        """By jackknife."""
        return jackknife(records, self.points)


class _BoxCase(NamedTuple):
    truth: Mapping[int, Sequence[AnnotatedObject]]
    base: Mapping[int, Matched]
    base_outputs: Outputs
    picture_size: tuple[int, int]


@dataclass(frozen=True)
class Boxes(AnswerKind):
    """Boxes of YOLO grids, against annotations or against what the float network finds."""

    known: Known
    input_size: tuple[int, int]

    @property
    def points_of(self) -> str:  # type: ignore[override]
        """What is counted."""
        return "mAP@0.5" if self.labelled else "mAP@0.5 against the float network's own detections"

    @property
    def labelled(self) -> bool:
        """Whether there are annotations."""
        return self.known.truths is not None

    @property
    def beside_uint8(self) -> bool:  # type: ignore[override]
        """Without labels points are of agreement."""
        return not self.labelled

    def case(self, seen: Seen) -> _BoxCase:
        """The objects to find, and what the base finds of them."""
        truth = (
            objects_by_class(seen.truth, self.known.names)
            if isinstance(seen.truth, tuple)
            else confident(self._found(seen.whole, seen.picture_size))
        )
        base = matched(self._found(seen.base, seen.picture_size), truth)
        return _BoxCase(truth, base, seen.base, seen.picture_size)

    def record(
        self, ours: Outputs, case: _BoxCase
    ) -> tuple[Mapping[int, Matched], Mapping[int, Matched]]:
        """What the base and we find of the objects."""
        return case.base, matched(self._found(ours, case.picture_size), case.truth)

    def points(
        self, records: Sequence[tuple[Mapping[int, Matched], Mapping[int, Matched]]]
    ) -> float:
        """mAP of the base less ours."""
        if not any(each.wanted for base, _ in records for each in base.values()):
            return 0.0
        base, ours = zip(*records, strict=True)
        return mean_average_precision(base) - mean_average_precision(ours)

    def standard_error(
        self, records: Sequence[tuple[Mapping[int, Matched], Mapping[int, Matched]]]
    ) -> float:
        """By jackknife."""
        return jackknife(records, self.points)

    def error(self, ours: Outputs, case: _BoxCase) -> float:
        """Mean over the grids of how far they are from the base's."""
        pairs = zip(ours, case.base_outputs, strict=True)
        return float(np.mean([np.mean(np.square(a - b, dtype=np.float64)) for a, b in pairs]))

    def _found(self, outputs: Outputs, picture_size: tuple[int, int]) -> dict[int, list[Detection]]:
        maps = [np.asarray(output)[0] for output in outputs]
        decoded = decode_grids(maps, self.known.grids, self.input_size)
        return detections_of_picture(*decoded, picture_size)


@dataclass(frozen=True)
class Values(AnswerKind):
    """Pictures, and whatever has no better measure: its first output as numbers."""

    refusal: str | None
    points_of = "variance of the float network's values that is not explained"

    def case(self, seen: Seen) -> Array:
        """The float network's values."""
        return np.asarray(seen.whole[0])

    def record(self, ours: Outputs, case: Array) -> float:
        """Share of the variance."""
        return 1 - explained(np.asarray(ours[0]), case)


def kind_of(
    outputs: Outputs, input_size: tuple[int, int], known: Known, crops: bool = False
) -> AnswerKind:
    """The kind of answers of which `outputs` are one, of a network for pictures of `input_size`.

    Raises:
        BadArgument: anchors are given and the outputs are no grids; or labels refer to whole
            pictures and preprocessing `crops` them, or the answers are of no kind that has labels.
        BadModel: the outputs are not the grids that the configuration describes.
        BadData: the labels are of another kind, or annotations name no object or unknown classes.
    """
    labelled = known.truths is not None
    first = outputs[0]
    classes = not known.grids and first.size == max(first.shape, default=0)
    if labelled and crops and not classes:
        raise BadArgument(WHOLE_PICTURES)
    if known.grids:
        return _boxes(outputs, input_size, known)
    if classes:
        _check_form(known, int, "class scores", "a CSV file with filename,class_index")
        return ClassScores(labelled)
    if is_score_map(first, input_size[0]):
        _check_form(known, Mask, "score maps", "a folder of masks (*.png)")
        return MaskedPixels() if labelled else EqualPixels()
    if labelled:
        raise BadArgument(_unlike("labels", outputs))
    is_picture = len(outputs) == 1 and first.ndim == 4 and first.shape[1] in (1, 3)
    return Values(None if is_picture else _unlike("points of drop", outputs))


def _boxes(outputs: Outputs, input_size: tuple[int, int], known: Known) -> Boxes:
    """The kind of a network with anchors."""
    if any(output.ndim != 4 for output in outputs):
        shapes = ", ".join(str(output.shape) for output in outputs)
        raise BadArgument(f"anchors (--anchors) are for grids (1, c, h, w), got {shapes}")
    decode_grids([np.asarray(output)[0] for output in outputs], known.grids, input_size)
    _check_form(known, tuple, "boxes", "a folder of VOC annotations (*.xml)")
    every = [each for truth in known.truths or () if isinstance(truth, tuple) for each in truth]
    if not objects_by_class(every, known.names) and known.truths is not None:
        raise BadData("the annotations name no object, so there is nothing to find")
    return Boxes(known, input_size)


def _check_form(known: Known, form: type, answers: str, wanted: str) -> None:
    """Refuse labels of another form."""
    if any(not isinstance(truth, form) for truth in known.truths or ()):
        raise BadData(f"this network gives {answers}, so its labels are {wanted}")


def _unlike(what: str, outputs: Outputs) -> str:
    """Why answers cannot be judged."""
    shapes = ", ".join(str(output.shape) for output in outputs)
    return (
        f"{what} are for class scores, score maps of more than an eighth of the input's height, "
        f"and YOLO grids with their anchors (--anchors FILE.cfg); this network gives {shapes}"
    )


def confident(found: Mapping[int, Sequence[Detection]]) -> dict[int, list[AnnotatedObject]]:
    """Detections of a score above one half, as objects to find."""
    return {
        index: [
            AnnotatedObject(str(index), Box(*each.box), difficult=False)
            for each in of_class
            if each.score > CONFIDENT_SCORE
        ]
        for index, of_class in found.items()
    }


def jackknife(records: Sequence[Record], points: Callable[[Sequence[Record]], float]) -> float:
    """The standard error of `points` of the records, leaving out groups of them in turn.

    >>> values = [1.0, 2.0, 3.0, 6.0]
    >>> round(jackknife(values, np.mean), 6), round(float(np.std(values, ddof=1)) / 2, 6)
    (1.080123, 1.080123)
    """
    groups = min(MOST_GROUPS, len(records))
    if groups < 2:
        return 0.0
    without = [
        points([each for at, each in enumerate(records) if at % groups != group])
        for group in range(groups)
    ]
    return math.sqrt((groups - 1) * float(np.var(without)))


def score_error(ours: Array, whole: Array) -> float:
    """Mean squared difference of class scores, less what is common to all classes.

    >>> score_error(np.array([2.0, 4.0]), np.array([1.0, 1.0]))
    1.0
    """
    return float(np.var(ours.reshape(-1).astype(np.float64) - whole.reshape(-1)))


def expected_drop(ours: Array, whole: Array) -> float:
    """Share of a right answer (0..1) that the float network expects to lose on one picture.

    >>> round(expected_drop(np.array([0.0, 1.0, 9.0]), np.array([0.0, 1.0, 0.9])), 2)
    0.04
    """
    if judge_class(ours, whole, None).agrees:
        return 0.0
    scores = np.asarray(whole, np.float64).reshape(-1)
    odds = np.exp(scores - scores.max())
    chosen, right = odds[best(ours)[0]], odds[best(scores)[0]]
    return float((right - chosen) / odds.sum())
