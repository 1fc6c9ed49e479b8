# SPDX-License-Identifier: Apache-2.0
"""`eval`: a thin network's answers against labels, annotations and the float network.

    classify   top-1 and top-5 in percent; agreement with the float network
    detect     mAP@0.5 in percent, of a YOLO head whose anchors a Darknet .cfg gives
    segment    percent of pixels whose strongest class is the float network's

The float network is the one whose path and SHA-256 the .thin file records, or another by request.
Where it is gone or has changed, what depends on it is left out, and a sentence says so. Pictures
that cannot be opened are skipped and counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps.calibrate.picture_set import PictureSet, network_values, open_pictures
from thinmaps.errors import BadArgument, BadData, BadPicture, MissingExtra
from thinmaps.file import Model
from thinmaps.measure.accuracy import (
    Answer,
    Classification,
    ClassVerdict,
    Detections,
    Segmentation,
    agreement,
    classification,
    equal_pixels,
    judge_all,
    judge_class,
)
from thinmaps.measure.answers import thin_answer
from thinmaps.measure.detection import (
    VOC_CLASSES,
    Detection,
    YoloGrid,
    decode_grids,
    detections_of_picture,
    mean_average_precision,
    read_yolo_grids,
)
from thinmaps.measure.labels import AnnotatedPicture, read_annotations, read_labels
from thinmaps.run.pictures import load_picture
from thinmaps.types import Preprocessing

if TYPE_CHECKING:
    import onnx

Task = Literal["classify", "detect", "segment"]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What was found, and a sentence about what could not be."""

    result: Classification | Detections | Segmentation
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The result's fields; `skipped` is a count, `skipped_pictures` says which and why."""
        fields = dataclasses.asdict(self.result)
        reasons = fields.pop("skipped")
        return {**fields, "skipped": len(reasons), "skipped_pictures": reasons, "note": self.note}


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
            instead); for detect the folder of VOC annotations.
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
    shape, preprocessing = _picture_input(model)
    float_answer, note = _reference_answer(model, reference, shape, preprocessing)
    subjects = Subjects(thin_answer(model, threads), float_answer, shape, preprocessing)
    if task == "detect":
        names = model.labels or VOC_CLASSES
        return Evaluation(_detect(subjects, images, labels, anchors, names, progress), note)
    if task == "segment":
        return Evaluation(_segment(subjects, images, note, progress))
    return Evaluation(_classify(subjects, images, labels, progress), note)


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
    classes: tuple[int, ...] | None = None,
    progress: Progress | None = None,
) -> tuple[float | None, tuple[str, ...]]:
    """What compressing cost, on the held-out fifth of the calibration pictures.

    With `classes` (one for every name of the set) points of top-1; else 100 less the agreement
    with the float network `reference`, see `accuracy.agreement`. None where not one of these
    pictures can be opened; the sentences say which could not.
    """
    from thinmaps.measure.float_model import FloatModel  # needs ONNX Runtime, this does not

    shape, preprocessing = _picture_input(model)
    subjects = Subjects(
        thin_answer(model), FloatModel(reference, preprocessing, shape[:2]), shape, preprocessing
    )
    held_out = pictures.held_out()

    def judge(index: int) -> float:
        thin, whole = subjects.both(pictures.names[index], pictures.load(index))
        assert whole is not None
        if classes is None:
            return 1 - agreement(thin, whole, shape[0])
        verdict = judge_class(thin, whole, classes[index])
        return float(verdict.float_place == 0) - float(verdict.place == 0)

    drops: list[float] = []
    skipped: list[str] = []
    for index in _counted(held_out.indices, progress, "checking"):
        try:
            drops.append(judge(index))
        except BadPicture as refusal:
            skipped.append(str(refusal))
    missed = (
        [f"checked on {len(drops)} pictures, {len(skipped)} skipped: {skipped[0]}"]
        if skipped
        else []
    )
    return 100 * float(np.mean(drops)) if drops else None, tuple(missed)


def _picture_input(model: Model) -> tuple[tuple[int, int, int], Preprocessing]:
    """Shape and preprocessing of the one picture that the network takes."""
    source = model.plan.source
    if len(source.inputs) != 1 or model.preprocessing is None:
        raise BadArgument(
            f"eval shows one picture at a time, but this network takes {len(source.inputs)} "
            f"input(s) {', '.join(source.inputs)}{'' if model.preprocessing else ' as arrays'}"
        )
    return source.maps[source.inputs[0]].shape, model.preprocessing


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


def labelled_pictures(
    images: str | Path, labels: str | Path | None
) -> tuple[PictureSet, tuple[int, ...] | None]:
    """The pictures to judge and their classes, if any are known."""
    if labels is not None:
        rows = read_labels(labels, images)
        names = [row.path.name for row in rows]
        pictures = PictureSet.of_all(names, lambda index: load_picture(rows[index].path))
        return pictures, tuple(row.class_index for row in rows)
    pictures = open_pictures(images)
    if Path(images).suffix.lower() != ".npz":
        return pictures, None
    with np.load(images) as arrays:
        found = next((arrays[key] for key in ("label", "labels") if key in arrays.files), None)
    if found is not None and (found.shape != (len(pictures),) or found.dtype.kind not in "iu"):
        raise BadData(f"{images}: {len(pictures)} pictures, labels {found.dtype} {found.shape}")
    return pictures, None if found is None else tuple(int(index) for index in found)


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
    subjects: Subjects, images: str | Path, note: str | None, progress: Progress | None
) -> Segmentation:
    """Equal strongest classes, pixel by pixel."""
    if subjects.reference is None:
        raise BadArgument(f"segmentation is compared with the float network; {note}")
    pictures = open_pictures(images)

    def judge(index: int) -> float:
        thin, whole = subjects.both(pictures.names[index], pictures.load(index))
        assert whole is not None
        return equal_pixels(thin, whole)

    shares, skipped = judge_all(_counted(range(len(pictures)), progress), judge)
    return Segmentation(len(shares), skipped, 100 * float(np.mean(shares)))


Found = dict[int, list[Detection]]


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
        raise BadArgument(
            "boxes refer to the whole picture, but this file crops it; compress with --fit stretch"
        )
    grids = read_yolo_grids(anchors)
    pictures = read_annotations(annotations, images)
    judge = partial(_boxes_of, subjects, grids)
    found, skipped = judge_all(_counted(pictures, progress), judge)
    truths = [picture.objects for picture, _, _ in found]
    thin = mean_average_precision(_numbered([boxes for _, boxes, _ in found]), truths, names)
    whole = [boxes for _, _, boxes in found if boxes is not None]
    if not whole:
        return Detections(len(found), skipped, thin)
    reference = mean_average_precision(_numbered(whole), truths, names)
    return Detections(len(found), skipped, thin, reference, reference - thin)


def _boxes_of(
    subjects: Subjects, grids: Sequence[YoloGrid], picture: AnnotatedPicture
) -> tuple[AnnotatedPicture, Found, Found | None]:
    """Detections of one picture by the thin and the float network."""
    pixels = load_picture(picture.path)
    fitted = subjects.fit(picture.path.name, pixels)

    def boxes(answer: Answer) -> Found:
        maps = [np.asarray(output)[0] for output in answer(fitted)]
        found = decode_grids(maps, grids, subjects.shape[:2])
        return detections_of_picture(*found, 0, (pixels.shape[0], pixels.shape[1]))

    return picture, boxes(subjects.thin), boxes(subjects.reference) if subjects.reference else None


def _numbered(found: Sequence[Found]) -> list[Found]:
    """Each detection with its picture's place among those that could be opened."""
    return [
        {key: [item._replace(picture=place) for item in items] for key, items in boxes.items()}
        for place, boxes in enumerate(found)
    ]


def _counted(
    items: Sequence[Any], progress: Progress | None, what: str = "evaluating"
) -> Iterator[Any]:
    """The items, with progress told after each."""
    for done, item in enumerate(items, 1):
        yield item
        if progress:
            progress(what, done, len(items))
