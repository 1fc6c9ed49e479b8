# SPDX-License-Identifier: Apache-2.0
"""What people write beside their pictures: label files, class names, VOC annotations, masks.

    labels        CSV with a header that has `filename` and `class_index`, in any order, more
                  columns allowed; file names are relative to the folder of pictures
    class names   one per line, in class order; a WordNet id in front (`n01440764 tench`) is dropped
    annotations   Pascal VOC: one XML file per picture, boxes as 1-based pixels that belong to
                  the object; here they become edges, so a box's area is (right - left) * (..)
    masks         one PNG per picture, of the same name but for the suffix: grey or palette, the
                  value of a pixel is the index of its class, 255 where nobody says

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

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thinmaps.errors import BadData
from thinmaps.run.pictures import picture_paths

VOID = 255  # the class of pixels that count neither way
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


@dataclass(frozen=True)
class Mask:
    """A picture and the file that says the class of each of its pixels."""

    picture: Path
    path: Path

    def classes(self, height: int, width: int) -> NDArray[np.uint8]:
        """Class indices `(height, width)`: of the nearest pixel where the mask has another size.

        Raises:
            BadData: the file cannot be read, or its pixels are colours.
        """
        try:
            with Image.open(self.path) as mask:
                if mask.mode not in ("L", "P"):
                    raise BadData(
                        f"the mask {str(self.path)!r} needs class indices as grey or palette "
                        f"values of 8 bits, got {mask.mode}"
                    )
                return np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))
        except (OSError, SyntaxError) as reason:  # Pillow's for a damaged PNG is a SyntaxError
            raise BadData(f"the mask {str(self.path)!r} cannot be read: {reason}") from None


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


def read_masks(masks: str | Path, images: str | Path) -> tuple[Mask, ...]:
    """Every mask in the folder `masks`, sorted, with its picture under `images`.

    Raises:
        BadData: no such folders, no mask, or masks without a picture, all of them named.
    """
    files = sorted(Path(masks).glob("*.png"))
    if not files:
        raise BadData(
            f"the folder {str(masks)!r} holds no labels: neither VOC annotations (*.xml) nor masks "
            "(*.png)"
        )
    pictures = {path.stem: path for path in picture_paths(images)}
    lonely = [file.name for file in files if file.stem not in pictures]
    if lonely:
        raise BadData(f"no picture under {str(images)!r} belongs to {', '.join(lonely[:4])}")
    return tuple(Mask(pictures[file.stem], file) for file in files)
