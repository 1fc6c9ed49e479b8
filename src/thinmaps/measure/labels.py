# SPDX-License-Identifier: Apache-2.0
"""What people write beside their pictures: label files, class names, VOC annotations.

    labels        CSV with a header that has `filename` and `class_index`, in any order, more
                  columns allowed; file names are relative to the folder of pictures
    class names   one per line, in class order; a WordNet id in front (`n01440764 tench`) is dropped
    annotations   Pascal VOC: one XML file per picture, boxes as 1-based pixels that belong to
                  the object; here they become edges, so a box's area is (right - left) * (..)

Everything malformed is `BadData` with the file's name and line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from thinmaps.errors import BadData

_WORDNET_ID = re.compile(r"n\d{8}\s+")


class LabelledPicture(NamedTuple):
    """A picture's path and the index of its class."""

    path: Path
    class_index: int


class Box(NamedTuple):
    """Edges in pixels: left and top included, right and bottom excluded."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class AnnotatedObject:
    """One object of a picture; a difficult one is neither asked for nor counted against."""

    class_name: str
    box: Box
    difficult: bool


@dataclass(frozen=True)
class AnnotatedPicture:
    """A picture and the objects in it."""

    path: Path
    objects: tuple[AnnotatedObject, ...]


def read_labels(labels: str | Path, images: str | Path) -> tuple[LabelledPicture, ...]:
    """The pictures named in the CSV file `labels`, in its order, under the folder `images`.

    Raises:
        BadData: no such file or folder, no such column, a class that is no index, no rows.
    """
    root = Path(images)
    if not root.is_dir():
        raise BadData(f"a folder of pictures is needed, but {str(images)!r} is none")
    rows = csv.DictReader(_lines(labels, "label file"))
    missing = {"filename", "class_index"} - set(rows.fieldnames or ())
    if missing:
        raise BadData(
            f"the label file {str(labels)!r} needs a header with filename,class_index; it has no "
            f"{' and no '.join(sorted(missing))} (its first line: {rows.fieldnames})"
        )
    found = tuple(_labelled(row, root, f"{labels}, line {rows.line_num}") for row in rows)
    if not found:
        raise BadData(f"the label file {str(labels)!r} has a header but names no picture")
    return found


def _labelled(row: dict[str, str], root: Path, where: str) -> LabelledPicture:
    """One row of a label file."""
    name, index = row["filename"], row["class_index"]
    if not name or not (index or "").strip().isdecimal():
        raise BadData(f"{where}: needs a file name and a class index, got {name!r}, {index!r}")
    return LabelledPicture(root / name, int(index))


def read_names(path: str | Path) -> tuple[str, ...]:
    """Class names, one per line, in class order.

    Raises:
        BadData: no such file, or it is empty.
    """
    names = tuple(_WORDNET_ID.sub("", line.strip(), count=1) for line in _lines(path, "name file"))
    while names and not names[-1]:
        names = names[:-1]
    if not names:
        raise BadData(f"the name file {str(path)!r} holds no names")
    return names


def _lines(path: str | Path, what: str) -> list[str]:
    """The lines of a text file."""
    try:
        return Path(path).read_text("utf-8-sig").splitlines()
    except OSError as reason:
        raise BadData(f"the {what} {str(path)!r} cannot be read: {reason.strerror}") from None
    except UnicodeDecodeError:
        raise BadData(f"the {what} {str(path)!r} is not UTF-8 text") from None


def read_annotations(annotations: str | Path, images: str | Path) -> tuple[AnnotatedPicture, ...]:
    """Every VOC annotation in the folder `annotations`, sorted, with its picture under `images`.

    Raises:
        BadData: no such folder, no annotation in it, or one that is not VOC's XML.
    """
    files = sorted(Path(annotations).glob("*.xml"))
    if not files:
        raise BadData(f"no VOC annotation (*.xml) in the folder {str(annotations)!r}")
    return tuple(_read_annotation(file, Path(images)) for file in files)


def _read_annotation(file: Path, images: Path) -> AnnotatedPicture:
    """One XML file."""
    try:
        root = ElementTree.parse(file).getroot()
        objects = tuple(_objects(root.iter("object")))
    except (ElementTree.ParseError, ValueError) as reason:
        raise BadData(f"{str(file)!r} is no VOC annotation: {reason}") from None
    name = root.findtext("filename") or f"{file.stem}.jpg"
    return AnnotatedPicture(images / Path(name).name, objects)


def _objects(elements: Iterable[ElementTree.Element]) -> Iterator[AnnotatedObject]:
    """The objects of one picture."""
    for element in elements:
        edges = [element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        name = element.findtext("name")
        if not name or None in edges:
            raise ValueError("an object needs a name and a bndbox of xmin, ymin, xmax, ymax")
        left, top, right, bottom = (float(edge or "nan") for edge in edges)
        difficult = (element.findtext("difficult") or "0").strip() == "1"
        yield AnnotatedObject(name.strip(), Box(left - 1, top - 1, right, bottom), difficult)
