# SPDX-License-Identifier: Apache-2.0
"""How good the answers are: top-1, top-5, agreement, mAP, equal pixels, with their intervals.

Everything is in percent. `Answer` is a network as a function: a fitted picture (uint8 `(h, w, c)`)
in, the outputs of the model file in its order out, as float32 arrays of batch 1.

Source
    Wilson, "Probable Inference", 1927 (interval of a share); the interval of a drop is the normal
    one of paired differences, which is much narrower than two independent intervals because both
    networks see the same pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadData, BadPicture
from thinmaps.measure.labels import VOID

Answer = Callable[[NDArray[np.uint8]], Sequence[NDArray[Any]]]
Item = TypeVar("Item")
Verdict = TypeVar("Verdict")

NORMAL_95 = 1.959964  # two-sided 95 % of the normal distribution


class Interval(NamedTuple):
    """The 95 % interval of a figure, in the figure's unit."""

    low: float
    high: float


@dataclass(frozen=True)
class Classification:
    """What a classifier's answers are worth. Fields of the float network are None without it.

    `top1` and `top5` are None without labels. `drop` is `float_top1 - top1`, in points.
    """

    pictures: int
    skipped: tuple[str, ...]
    top1: float | None
    top5: float | None
    top1_interval: Interval | None
    agreement: float | None = None
    float_top1: float | None = None
    float_top5: float | None = None
    drop: float | None = None
    drop_interval: Interval | None = None


@dataclass(frozen=True)
class Detections:
    """mAP@0.5 of a detector; what needs the float network is None without it."""

    pictures: int
    skipped: tuple[str, ...]
    map50: float
    float_map50: float | None = None
    drop: float | None = None
    drop_interval: Interval | None = None


@dataclass(frozen=True)
class Segmentation:
    """Share of pixels whose strongest class is the float network's; with masks, mean IoU."""

    pictures: int
    skipped: tuple[str, ...]
    pixel_agreement: float
    mean_iou: float | None = None
    float_mean_iou: float | None = None
    drop: float | None = None
    drop_interval: Interval | None = None


def judge_all(
    items: Iterable[Item], judge: Callable[[Item], Verdict]
) -> tuple[list[Verdict], tuple[str, ...]]:
    """`judge` of every item; those whose picture cannot be opened are named and left out.

    Raises:
        BadData: no picture could be opened.
    """
    verdicts: list[Verdict] = []
    skipped: list[str] = []
    for item in items:
        try:
            verdicts.append(judge(item))
        except BadPicture as reason:
            skipped.append(str(reason))
    if not verdicts:
        reason_given = f"; the first: {skipped[0]}" if skipped else ""
        raise BadData(f"none of {len(skipped)} pictures could be used{reason_given}")
    return verdicts, tuple(skipped)


def rank(scores: NDArray[Any], index: int) -> int:
    """Place of class `index`, 0 for the best; of equal scores the lower index is better.

    >>> rank(np.array([1.0, 3.0, 3.0]), 2)
    1
    """
    flat = np.asarray(scores).reshape(-1)
    if not 0 <= index < flat.size:
        raise BadData(f"a label names class {index}, the network has {flat.size} classes")
    return int((flat > flat[index]).sum() + (flat[:index] == flat[index]).sum())


def best(scores: NDArray[Any], count: int = 1) -> NDArray[np.intp]:
    """Indices of the `count` largest scores, best first; ties go to the lowest index."""
    return np.argsort(-np.asarray(scores).reshape(-1), kind="stable")[:count]


class ClassVerdict(NamedTuple):
    """One picture: places of the right class (None without a label), and whether both agree."""

    place: int | None
    float_place: int | None
    agrees: bool | None


def judge_class(
    scores: NDArray[Any], float_scores: NDArray[Any] | None, label: int | None
) -> ClassVerdict:
    """The verdict on one picture's class scores."""
    if float_scores is not None and float_scores.size != np.size(scores):
        raise BadData(
            f"the float network has {float_scores.size} classes, this one {np.size(scores)}"
        )
    if label is not None and np.size(scores) != max(np.shape(scores)):
        raise BadData(f"labels are for networks of class scores, this one gives {np.shape(scores)}")
    return ClassVerdict(
        None if label is None else rank(scores, label),
        None if label is None or float_scores is None else rank(float_scores, label),
        None if float_scores is None else bool(best(scores)[0] == best(float_scores)[0]),
    )


def classification(
    verdicts: Sequence[ClassVerdict], skipped: tuple[str, ...] = ()
) -> Classification:
    """Percentages from verdicts; all of them have a label or none has, likewise float answers."""
    places = [v.place for v in verdicts if v.place is not None]
    float_places = [v.float_place for v in verdicts if v.float_place is not None]
    agreeing = [v.agrees for v in verdicts if v.agrees is not None]
    right = np.array(places) < 1
    float_right = np.array(float_places) < 1
    compared = bool(places) and bool(float_places)
    return Classification(
        pictures=len(verdicts),
        skipped=skipped,
        top1=_share_below(places, 1),
        top5=_share_below(places, 5),
        top1_interval=wilson(int(right.sum()), right.size) if places else None,
        agreement=100 * sum(agreeing) / len(agreeing) if agreeing else None,
        float_top1=_share_below(float_places, 1),
        float_top5=_share_below(float_places, 5),
        drop=100 * float(float_right.mean() - right.mean()) if compared else None,
        drop_interval=paired_interval(float_right, right) if compared else None,
    )


def _share_below(places: Sequence[int], limit: int) -> float | None:
    """Percentage of places better than `limit`."""
    return 100 * sum(place < limit for place in places) / len(places) if places else None


def wilson(hits: int, trials: int) -> Interval:
    """95 % interval of a share, in percent.

    >>> [round(x, 1) for x in wilson(50, 100)]
    [40.4, 59.6]
    """
    share, z2 = hits / trials, NORMAL_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = share * (1 - share) / trials + z2 / (4 * trials**2)
    half = NORMAL_95 * math.sqrt(spread) / (1 + z2 / trials)
    return Interval(100 * (centre - half), 100 * (centre + half))


def paired_interval(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Interval:
    """95 % interval of `mean(before) - mean(after)` in points, both over the same pictures.

    >>> paired_interval(np.array([True, False]), np.array([True, False]))
    Interval(low=0.0, high=0.0)
    """
    differences = before.astype(float) - after.astype(float)
    half = NORMAL_95 * float(differences.std()) / math.sqrt(differences.size)
    middle = float(differences.mean())
    return Interval(100 * (middle - half), 100 * (middle + half))


def class_map(scores: NDArray[Any]) -> NDArray[np.intp]:
    """The strongest class of every pixel `(h, w)` of scores `(1, c, h, w)`, or of indices.

    Raises:
        BadData: they are neither.
    """
    if scores.dtype.kind in "iu" and scores.size == math.prod(scores.shape[-2:]):
        return scores.reshape(scores.shape[-2:]).astype(np.intp)
    if scores.ndim != 4 or scores.shape[0] != 1:
        raise BadData(
            f"segmentation compares score maps (1, c, h, w) or maps of class indices, got "
            f"{scores.dtype} {scores.shape}"
        )
    return np.asarray(scores[0].argmax(axis=0))


def equal_pixels(scores: NDArray[Any], float_scores: NDArray[Any]) -> float:
    """Share (0..1) of pixels of `(1, c, h, w)` scores with the same strongest class.

    Raises:
        BadData: the two are not score maps of the same shape.
    """
    if scores.shape != float_scores.shape:
        raise BadData(
            f"segmentation compares score maps of one shape, got {scores.shape} and, from the "
            f"float network, {float_scores.shape}"
        )
    return float(np.mean(class_map(scores) == class_map(float_scores)))


def pixel_counts(classes: NDArray[Any], mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Of each class 0..255: pixels in answer and mask, in either, and in the mask, `(3, 256)`.

    Pixels that the mask leaves void count nowhere; the answer's classes end at 254.

    >>> pixel_counts(np.array([[0, 0, 1]]), np.array([[0, 1, 255]], np.uint8))[:, :2].tolist()
    [[1, 0], [2, 1], [1, 1]]
    """
    asked = mask != VOID
    of_answer = np.bincount(classes[asked], minlength=VOID + 1)[: VOID + 1]
    of_mask = np.bincount(mask[asked], minlength=VOID + 1)
    both = np.bincount(mask[asked & (classes == mask)], minlength=VOID + 1)
    return np.stack((both, of_answer + of_mask - both, of_mask))


def mean_iou(counts: NDArray[np.int64]) -> float:
    """Mean over the classes of the masks, in percent; `counts` as above, summed over pictures."""
    both, either, of_mask = counts
    named = of_mask > 0
    return 100 * float(np.mean(both[named] / either[named])) if named.any() else 0.0


def is_score_map(scores: NDArray[Any], input_height: int) -> bool:
    """Whether an output says something of every pixel: scores, or class indices.

    Score maps have more than an eighth of the input's height; coarser ones are a detector's grids.
    """
    if scores.dtype.kind in "iu":
        return scores.ndim > 2 and scores.size == math.prod(scores.shape[-2:])
    tall = scores.ndim == 4 and 8 * scores.shape[2] > input_height
    return tall and scores.shape[1] not in (1, 3)


def explained(values: NDArray[Any], reference: NDArray[Any]) -> float:
    """Share (0..1) of the reference's variance that `values` explain.

    That is `1 - sum (a - b)^2 / sum (b - mean b)^2`, and never less than 0.
    """
    error = float(np.square(values - reference, dtype=np.float64).sum())
    variance = float(np.square(reference - reference.mean(), dtype=np.float64).sum())
    return max(0.0, 1 - error / variance) if variance else float(error == 0)


def agreement(scores: NDArray[Any], reference: NDArray[Any], input_height: int) -> float:
    """Share (0..1) in which two answers say the same, whatever kind of answer they are.

    Class scores: 1 where the best class is the same, else 0. Score maps: pixels of the same
    strongest class. Pictures (1 or 3 channels), the coarse grids of detectors and all else: the
    share of the reference's variance that is explained.

    Raises:
        BadData: the two have different shapes.
    """
    if scores.shape != reference.shape:
        raise BadData(
            f"the float network answers with {reference.shape}, this one with {scores.shape}"
        )
    if scores.size == max(scores.shape):
        return float(best(scores)[0] == best(reference)[0])
    if is_score_map(scores, input_height):
        return equal_pixels(scores, reference)
    return explained(scores, reference)
