# SPDX-License-Identifier: Apache-2.0
"""`eval`: a thin network's answers against labels, annotations and the float network.

    classify   top-1 and top-5 in percent; agreement with the float network
    detect     mAP@0.5 in percent, of a YOLO head whose anchors a Darknet .cfg gives
    segment    percent of pixels whose strongest class is the float network's; mean IoU with masks

The float network is the one whose path and SHA-256 the .thin file records, or another by request.
Where it is gone or has changed, what depends on it is left out, and a sentence says so. Pictures
that cannot be opened are skipped and counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps.calibrate.picture_set import PictureSet, network_values, open_pictures
from thinmaps.errors import BadArgument, BadData, MissingExtra
from thinmaps.file import Model
from thinmaps.measure.accuracy import (
    NORMAL_95,
    Answer,
    Classification,
    ClassVerdict,
    Detections,
    Interval,
    Segmentation,
    class_map,
    classification,
    equal_pixels,
    judge_all,
    judge_class,
    mean_iou,
    pixel_counts,
)
from thinmaps.measure.answer_kinds import (
    WHOLE_PICTURES,
    AnswerKind,
    Boxes,
    Known,
    MaskedPixels,
    Seen,
)
from thinmaps.measure.answers import picture_input, thin_answer
from thinmaps.measure.detection import (
    VOC_CLASSES,
    Matched,
    mean_average_precision,
    read_yolo_grids,
)
from thinmaps.measure.drop import DropMeter
from thinmaps.measure.labels import AnnotatedPicture, Mask, read_annotations
from thinmaps.measure.report import Overflow
from thinmaps.measure.truths import labelled_pictures, pictures_with_truths
from thinmaps.run.pictures import load_picture
from thinmaps.types import Preprocessing

if TYPE_CHECKING:
    import onnx

Task = Literal["classify", "detect", "segment"]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What was found, a sentence about what could not be, and units that passed a cap meanwhile."""

    result: Classification | Detections | Segmentation
    note: str | None = None
    overflows: tuple[Overflow, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The result's fields; `skipped` is a count, `skipped_pictures` says which and why."""
        fields = dataclasses.asdict(self.result)
        reasons = fields.pop("skipped")
        said = {"skipped": len(reasons), "skipped_pictures": reasons, "note": self.note}
        return {**fields, **said, "overflows": [dataclasses.asdict(o) for o in self.overflows]}


@dataclass(frozen=True)
class Subjects:
    """Networks and how pictures reach them."""

    thin: Answer
    reference: Answer | None
    shape: tuple[int, int, int]
    preprocessing: Preprocessing

    def fit(self, name: str, picture: NDArray[Any]) -> NDArray[np.uint8]:
        """A loaded picture at the networks' size."""
        return network_values(name, picture, self.shape, self.preprocessing)

    def both(self, name: str, picture: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """The first output of either network for a loaded picture."""
        fitted = self.fit(name, picture)
        return self.thin(fitted)[0], self.reference(fitted)[0] if self.reference else None


def evaluate(
    model: Model,
    images: str | Path,
    labels: str | Path | None = None,
    *,
    task: Task = "classify",
    reference: str | Path | None = None,
    anchors: str | Path | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure `model` on pictures.

    Args:
        model: takes one picture.
        images: a folder of pictures, or an .npy or .npz file of them.
        labels: for classify a CSV file with filename,class_index (an .npz may hold `label`
            instead); for detect the folder of VOC annotations; for segment one of masks.
        task: which answers the network gives.
        reference: the float network, if not the one that the model records.
        anchors: for detect, the Darknet configuration.
        threads: of the engine.
        progress: called with (what, done, of) after each picture.

    Raises:
        BadArgument: something that the task needs is not given.
        BadData: labels or pictures cannot be used; not one picture can be opened.
        BadModel: the float network cannot be run, or has other outputs.
    """
    shape, preprocessing = picture_input(model)
    float_answer, note = _reference_answer(model, reference, shape, preprocessing)
    thin = thin_answer(model, threads)
    subjects = Subjects(thin, float_answer, shape, preprocessing)
    found: Classification | Detections | Segmentation
    if task == "detect":
        names = model.labels or VOC_CLASSES
        found = _detect(subjects, images, labels, anchors, names, progress)
    elif task == "segment":
        found = _segment(subjects, images, labels, note, progress)
    else:
        found = _classify(subjects, images, labels, progress)
    return Evaluation(found, note, thin.overflows)


def _reference_answer(
    model: Model,
    given: str | Path | None,
    shape: tuple[int, int, int],
    preprocessing: Preprocessing,
) -> tuple[Answer | None, str | None]:
    """The float network as a function, or the sentence that says why there is none."""
    try:
        path, note = find_reference(model, given)
        if path is None:
            return None, note
        from thinmaps.measure.float_model import FloatModel  # needs ONNX Runtime, this does not

        return FloatModel(path, preprocessing, shape[:2]), None
    except MissingExtra as absent:
        if given is not None:
            raise
        return None, f"no agreement: {absent}"


def drop_of(
    model: Model,
    reference: onnx.ModelProto,
    pictures: PictureSet,
    known: Known = Known(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> tuple[float | None, tuple[str, ...]]:
    """What compressing cost, on the held-out fifth of the calibration pictures, and words on it.

    In the points of `measure/drop.py`, all counted from the float network `reference`. None where
    not one of these pictures can be opened; the sentences say which could not.
    """
    from thinmaps.measure.float_model import FloatModel  # needs ONNX Runtime, this does not

    shape, preprocessing = picture_input(model)
    whole = FloatModel(reference, preprocessing, shape[:2])
    meter = DropMeter(model, whole, pictures.held_out(), known, progress=progress)
    skipped = meter.skipped
    missed = (
        (f"checked on {len(meter.cases)} pictures, {len(skipped)} skipped: {skipped[0]}",)
        if skipped
        else ()
    )
    if not meter.cases:
        return None, missed
    return meter.drop(model).points, (meter.points_are, *missed)


def find_reference(model: Model, given: str | Path | None) -> tuple[Path | None, str | None]:
    """The float network to compare with, or None and the sentence that says why."""
    if given is not None:
        return Path(given), None
    recorded = model.provenance
    cure = "give it with --float"
    if not recorded.float_model:
        return None, f"no agreement: the file records no float network; {cure}"
    path = Path(recorded.float_model)
    if not path.is_file():
        return None, f"no agreement: the float network {recorded.float_model!r} is gone; {cure}"
    from thinmaps.measure.float_model import sha256_of  # beside ONNX Runtime

    if sha256_of(path) != recorded.float_sha256:
        return None, f"no agreement: {recorded.float_model!r} has changed since compress; {cure}"
    return path, None


def _classify(
    subjects: Subjects, images: str | Path, labels: str | Path | None, progress: Progress | None
) -> Classification:
    """Places of the right classes, and agreement."""
    pictures, classes = labelled_pictures(images, labels)

    def judge(index: int) -> ClassVerdict:
        thin, whole = subjects.both(pictures.names[index], pictures.load(index))
        return judge_class(thin, whole, classes[index] if classes else None)

    return classification(*judge_all(_counted(range(len(pictures)), progress), judge))


def _segment(
    subjects: Subjects,
    images: str | Path,
    labels: str | Path | None,
    note: str | None,
    progress: Progress | None,
) -> Segmentation:
    """Equal strongest classes, pixel by pixel; with masks mean IoU of both networks."""
    if subjects.reference is None:
        raise BadArgument(f"segmentation is compared with the float network; {note}")
    pictures, masks = _masked_pictures(images, labels, subjects.preprocessing)

    def judge(index: int) -> tuple[float, NDArray[np.int64] | None]:
        thin, whole = subjects.both(pictures.names[index], pictures.load(index))
        assert whole is not None
        share = equal_pixels(thin, whole)
        if masks is None:
            return share, None
        ours, theirs = class_map(thin), class_map(whole)
        mask = masks[index].classes(*ours.shape)
        return share, np.stack((pixel_counts(theirs, mask), pixel_counts(ours, mask)))

    judged, skipped = judge_all(_counted(range(len(pictures)), progress), judge)
    agreed = 100 * float(np.mean([share for share, _ in judged]))
    counts = [count for _, count in judged if count is not None]
    if not counts:
        return Segmentation(len(judged), skipped, agreed)
    kind = MaskedPixels()
    theirs, ours = (mean_iou(total) for total in np.sum(counts, axis=0))
    drop, interval = _with_interval(kind, counts)
    return Segmentation(len(judged), skipped, agreed, ours, theirs, drop, interval)


def _masked_pictures(
    images: str | Path, labels: str | Path | None, preprocessing: Preprocessing
) -> tuple[PictureSet, tuple[Mask, ...] | None]:
    """Pictures, and their masks where labels are given.

    Raises:
        BadData: the labels are others.
        BadArgument: pictures are cropped.
    """
    if labels is None:
        return open_pictures(images), None
    pictures, truths = pictures_with_truths(images, labels)
    masks = tuple(each for each in truths or () if isinstance(each, Mask))
    if len(masks) != len(pictures):
        raise BadData("segmentation is scored against a folder of masks (*.png), got other labels")
    if preprocessing.fit == "crop":
        raise BadArgument(WHOLE_PICTURES)
    return pictures, masks


def _with_interval(kind: AnswerKind, records: Sequence[Any]) -> tuple[float, Interval]:
    """Points lost, and their 95 % interval."""
    points, half = kind.points(records), NORMAL_95 * kind.standard_error(records)
    return points, Interval(points - half, points + half)


def _detect(
    subjects: Subjects,
    images: str | Path,
    annotations: str | Path | None,
    anchors: str | Path | None,
    names: Sequence[str],
    progress: Progress | None,
) -> Detections:
    """Boxes of both networks, matched with the annotated objects."""
    if annotations is None or anchors is None:
        raise BadArgument(
            "detection needs the folder of VOC annotations (--labels DIR) and the Darknet "
            "configuration with the anchors (--anchors FILE.cfg)"
        )
    if subjects.preprocessing.fit == "crop":
        raise BadArgument(WHOLE_PICTURES)
    kind = Boxes(Known((), read_yolo_grids(anchors), tuple(names)), subjects.shape[:2])
    pictures = read_annotations(annotations, images)

    def judge(picture: AnnotatedPicture) -> tuple[Mapping[int, Matched], Mapping[int, Matched]]:
        pixels = load_picture(picture.path)
        fitted = subjects.fit(picture.path.name, pixels)
        ours = subjects.thin(fitted)
        base = subjects.reference(fitted) if subjects.reference else ours
        case = kind.case(Seen(base, base, picture.objects, pixels.shape[:2]))
        return kind.record(ours, case)

    records, skipped = judge_all(_counted(pictures, progress), judge)
    thin = mean_average_precision([ours for _, ours in records])
    if subjects.reference is None:
        return Detections(len(records), skipped, thin)
    whole = mean_average_precision([base for base, _ in records])
    return Detections(len(records), skipped, thin, whole, *_with_interval(kind, records))


def _counted(
    items: Sequence[Any], progress: Progress | None, what: str = "evaluating"
) -> Iterator[Any]:
    """The items, with progress told after each."""
    for done, item in enumerate(items, 1):
        yield item
        if progress:
            progress(what, done, len(items))
