# SPDX-License-Identifier: Apache-2.0
"""From the grids of a YOLO head to boxes, and from boxes to mAP@0.5.

Source
    Redmon and Farhadi, "YOLOv3", 2018, arXiv:1804.02767 (boxes from grids and anchors);
    Everingham et al., "The Pascal Visual Object Classes Challenge", 2010 (matching and average
    precision, here over all points of the curve, as since 2010).

Symbols: a grid cell (i, j) of an h x w grid predicts, for each anchor (pw, ph) in pixels of the
input, numbers tx ty tw th, an objectness and a score per class:

    bx = (j + s * sigmoid(tx) - (s - 1) / 2) / w          s is Darknet's scale_x_y, usually 1
    by = (i + s * sigmoid(ty) - (s - 1) / 2) / h
    bw = pw * exp(tw) / input width                        all relative to the picture
    bh = ph * exp(th) / input height
    score of class k = sigmoid(objectness) * sigmoid(score k)

Only classes that occur in the annotations are averaged; difficult objects count neither way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadData, BadModel
from thinmaps.measure.labels import AnnotatedObject

FloatArray = NDArray[np.float64]

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
MATCHING_OVERLAP = 0.5
SUPPRESSING_OVERLAP = 0.45
LOWEST_SCORE = 0.001  # the curve's tail below it changes no digit that is printed


@dataclass(frozen=True)
class YoloGrid:
    """One `[yolo]` section of a Darknet configuration."""

    anchors: tuple[tuple[float, float], ...]  # (width, height) in pixels of the input
    classes: int
    scale: float  # scale_x_y

    @property
    def channels(self) -> int:
        """Channels of the grid's map."""
        return len(self.anchors) * (5 + self.classes)


class Detection(NamedTuple):
    """One found object; the box is (left, top, right, bottom) in pixels of its picture."""

    score: float
    box: FloatArray


Found: TypeAlias = Mapping[int, Sequence[Detection]]  # of one picture, by class index, best first
Objects: TypeAlias = Mapping[int, Sequence[AnnotatedObject]]  # likewise


class Matched(NamedTuple):
    """What a precision-recall curve needs of one class in one picture.

    `scores` and `right` are of the detections that count, best first; `wanted` are the objects that
    are to be found.
    """

    scores: FloatArray
    right: NDArray[np.bool_]
    wanted: int


def read_yolo_grids(path: str | Path) -> tuple[YoloGrid, ...]:
    """The `[yolo]` sections of a Darknet .cfg, largest anchors (coarsest grid) first.

    Raises:
        BadData: no such file, no such section, or one without anchors, mask and classes.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise BadData(f"the configuration {str(path)!r} cannot be read: {reason}") from None
    sections = [options for name, options in _sections(text) if name == "yolo"]
    if not sections:
        raise BadData(f"the configuration {str(path)!r} has no [yolo] section")
    try:
        grids = [_grid(options) for options in sections]
    except (KeyError, ValueError, IndexError) as reason:
        raise BadData(
            f"a [yolo] section of {str(path)!r} needs anchors, mask and classes: {reason}"
        ) from None
    return tuple(sorted(grids, key=lambda grid: -float(np.prod(grid.anchors, axis=1).mean())))


def _sections(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """`[name]` and its `key = value` lines; names repeat, so configparser cannot read them."""
    name, options = "", dict[str, str]()
    for line in text.splitlines():
        stripped = line.split("#")[0].strip()
        if stripped.startswith("["):
            yield name, options
            name, options = stripped.strip("[]"), {}
        elif "=" in stripped:
            key, value = stripped.split("=", 1)
            options[key.strip()] = value.strip()
    yield name, options


def _grid(options: dict[str, str]) -> YoloGrid:
    """One section's numbers."""
    sides = [float(side) for side in options["anchors"].split(",")]
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    chosen = tuple(pairs[int(index)] for index in options["mask"].split(","))
    return YoloGrid(chosen, int(options["classes"]), float(options.get("scale_x_y", "1")))


def decode_grids(
    maps: Sequence[NDArray[np.float32]], grids: Sequence[YoloGrid], input_size: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """Boxes `(n, 4)` relative to the picture and scores `(n, classes)` from maps `(c, h, w)`.

    Raises:
        BadModel: the network's outputs are not the grids that the configuration describes.
    """
    coarse_first = sorted(maps, key=lambda grid: grid.shape[-1])
    have = [grid.shape[0] for grid in coarse_first]
    want = [grid.channels for grid in grids]
    if have != want:
        raise BadModel(
            f"the configuration describes {len(want)} grids of {want} channels, but the network "
            f"makes {len(have)} of {have}"
        )
    decoded = [
        _decode_grid(np.asarray(values, np.float64), grid, input_size)
        for values, grid in zip(coarse_first, grids, strict=True)
    ]
    boxes, scores = zip(*decoded, strict=True)
    return np.concatenate(boxes), np.concatenate(scores)


def _decode_grid(
    values: FloatArray, grid: YoloGrid, input_size: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """One grid; see the formulas on top."""
    height, width = values.shape[1:]
    t = values.reshape(len(grid.anchors), 5 + grid.classes, height, width).transpose(0, 2, 3, 1)
    cells = np.stack(np.broadcast_arrays(np.arange(width), np.arange(height)[:, None]), axis=-1)
    anchors = np.asarray(grid.anchors)[:, None, None, :]
    centre = cells + grid.scale * _sigmoid(t[..., :2]) - (grid.scale - 1) / 2
    centre = centre / (width, height)
    half = anchors * np.exp(t[..., 2:4]) / (input_size[1], input_size[0]) / 2
    boxes = np.concatenate((centre - half, centre + half), axis=-1)
    scores = _sigmoid(t[..., 4:5]) * _sigmoid(t[..., 5:])
    return boxes.reshape(-1, 4), scores.reshape(-1, grid.classes)


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


def keep_best(boxes: FloatArray, scores: FloatArray) -> NDArray[np.intp]:
    """Greedy non-maximum suppression of one class: kept indices, best first."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while order.size:
        kept.append(int(order[0]))
        rest = order[1:]
        order = rest[overlap(boxes[order[0]], boxes[rest]) <= SUPPRESSING_OVERLAP]
    return np.array(kept, np.intp)


def overlap(box: FloatArray, boxes: FloatArray) -> FloatArray:
    """Intersection over union of `box` `(4,)` with each of `boxes` `(n, 4)`.

    >>> overlap(np.array([0.0, 0, 2, 2]), np.array([[0.0, 0, 2, 1], [2, 2, 3, 3]])).tolist()
    [0.5, 0.0]
    """
    corner = np.maximum(box[:2], boxes[:, :2])
    opposite = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(opposite - corner, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    union = np.prod(box[2:] - box[:2]) + areas - shared
    return np.asarray(shared / np.maximum(union, 1e-12))


def detections_of_picture(
    boxes: FloatArray, scores: FloatArray, picture_size: tuple[int, int]
) -> dict[int, list[Detection]]:
    """By class index: what stays of relative boxes after thresholding and suppression."""
    height, width = picture_size
    pixels = np.clip(boxes, 0, 1) * (width, height, width, height)
    found: dict[int, list[Detection]] = {}
    for index in range(scores.shape[1]):
        likely = np.flatnonzero(scores[:, index] > LOWEST_SCORE)
        kept = likely[keep_best(pixels[likely], scores[likely, index])]
        found[index] = [Detection(float(scores[i, index]), pixels[i]) for i in kept]
    return found


def objects_by_class(
    objects: Sequence[AnnotatedObject], class_names: Sequence[str]
) -> dict[int, list[AnnotatedObject]]:
    """The objects of one picture by class index.

    Raises:
        BadData: an object that is asked for is of a class that the network does not have.
    """
    unknown = sorted({o.class_name for o in objects if not o.difficult} - set(class_names))
    if unknown:
        raise BadData(
            f"the annotations name {', '.join(unknown)}, the network finds {', '.join(class_names)}"
        )
    found: dict[int, list[AnnotatedObject]] = {}
    for each in objects:
        if each.class_name in class_names:
            found.setdefault(class_names.index(each.class_name), []).append(each)
    return found


def matched(found: Found, objects: Objects) -> dict[int, Matched]:
    """Detections of one picture against its objects, by index of the classes that have any.

    The best overlapping object decides: the first hit is right, further hits are wrong, a difficult
    object makes the detection void.
    """
    named = sorted(found.keys() | objects.keys())
    seen = [index for index in named if found.get(index) or objects.get(index)]
    return {index: _matched(found.get(index, ()), objects.get(index, ())) for index in seen}


def _matched(found: Sequence[Detection], objects: Sequence[AnnotatedObject]) -> Matched:
    """One class."""
    boxes = np.array([item.box for item in objects], float).reshape(-1, 4)
    taken: set[int] = set()
    scores, right = [], []
    for detection in sorted(found, key=lambda d: -d.score):
        overlaps = overlap(detection.box, boxes)
        best = int(np.argmax(overlaps)) if objects else 0
        hit = bool(objects) and overlaps[best] >= MATCHING_OVERLAP
        if hit and objects[best].difficult:
            continue
        scores.append(detection.score)
        right.append(hit and best not in taken)
        if hit:
            taken.add(best)
    wanted = sum(not item.difficult for item in objects)
    return Matched(np.array(scores, float), np.array(right, bool), wanted)


def average_precision(pictures: Sequence[Matched]) -> float:
    """Area under the precision-recall curve of one class over all pictures, 0..1."""
    wanted = sum(picture.wanted for picture in pictures)
    scores = np.concatenate([picture.scores for picture in pictures] or [np.zeros(0)])
    if wanted == 0 or scores.size == 0:
        return 0.0
    best_first = np.argsort(-scores, kind="stable")
    right = np.cumsum(np.concatenate([picture.right for picture in pictures])[best_first])
    recall = np.concatenate(([0.0], right / wanted))
    precision = right / np.arange(1, right.size + 1)
    # The envelope: the best precision at this recall or any larger one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope))


def mean_average_precision(pictures: Sequence[Mapping[int, Matched]]) -> float:
    """mAP@0.5 in percent, over the classes with an object to find.

    Raises:
        BadData: there is no object to find.
    """
    wanted = sorted({i for picture in pictures for i, each in picture.items() if each.wanted})
    if not wanted:
        raise BadData("the annotations name no object, so there is nothing to find")
    return 100 * float(
        np.mean([average_precision([p[i] for p in pictures if i in p]) for i in wanted])
    )
