# SPDX-License-Identifier: Apache-2.0
"""What is known to be right of each picture, in whatever form people have it.

    a CSV file, or `label` in an .npz     the class of every picture
    a folder of VOC annotations (*.xml)   the objects in every picture
    a folder of masks (*.png)             the class of every pixel

The form says what is meant; whether a network answers in that form is for the caller to see.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np

from thinmaps.calibrate.picture_set import PictureSet, open_pictures
from thinmaps.errors import BadData
from thinmaps.measure.labels import (
    AnnotatedObject,
    Mask,
    read_annotations,
    read_labels,
    read_masks,
)
from thinmaps.run.pictures import load_picture

# The index of a class, the objects of a picture, or the file with the classes of its pixels.
Truth: TypeAlias = int | tuple[AnnotatedObject, ...] | Mask


def pictures_with_truths(
    images: str | Path, labels: str | Path | None
) -> tuple[PictureSet, tuple[Truth, ...] | None]:
    """The pictures under `images` and what `labels` say of each, if anything is known.

    Where labels are given, the pictures are those that they name.

    Raises:
        BadData: labels or pictures cannot be used.
    """
    if labels is None or not Path(labels).is_dir():
        return labelled_pictures(images, labels)
    if any(Path(labels).glob("*.xml")):
        annotated = read_annotations(labels, images)
        return _of_files([each.path for each in annotated]), tuple(o.objects for o in annotated)
    masks = read_masks(labels, images)
    return _of_files([each.picture for each in masks]), masks


def labelled_pictures(
    images: str | Path, labels: str | Path | None
) -> tuple[PictureSet, tuple[int, ...] | None]:
    """The pictures to judge and their classes, if any are known."""
    if labels is not None:
        rows = read_labels(labels, images)
        return _of_files([row.path for row in rows]), tuple(row.class_index for row in rows)
    pictures = open_pictures(images)
    if Path(images).suffix.lower() != ".npz":
        return pictures, None
    with np.load(images) as arrays:
        found = next((arrays[key] for key in ("label", "labels") if key in arrays.files), None)
    if found is not None and (found.shape != (len(pictures),) or found.dtype.kind not in "iu"):
        raise BadData(f"{images}: {len(pictures)} pictures, labels {found.dtype} {found.shape}")
    return pictures, None if found is None else tuple(int(index) for index in found)


def _of_files(paths: list[Path]) -> PictureSet:
    return PictureSet.of_all([path.name for path in paths], lambda i: load_picture(paths[i]))
