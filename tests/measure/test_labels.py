# SPDX-License-Identifier: Apache-2.0
"""Label files, class names and VOC annotations: what is read, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from thinmaps.errors import BadData
from thinmaps.measure.labels import Box, read_annotations, read_labels, read_names

OBJECT = (
    "<object><name>cat</name><difficult>{difficult}</difficult><bndbox><xmin>3</xmin>"
    "<ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>"
)


def test_columns_are_found_by_name_and_paths_are_relative_to_the_pictures(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("class_index,wnid,filename\n7,n1,a/b.png\n 0,n2,c.png\n")
    rows = read_labels(file, tmp_path)
    assert [(row.path, row.class_index) for row in rows] == [
        (tmp_path / "a" / "b.png", 7),
        (tmp_path / "c.png", 0),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a.png,3\n", "needs a header with filename,class_index"),
        ("filename,label\na.png,3\n", "has no class_index"),
        ("filename,class_index\na.png,cat\n", "line 2.*'cat'"),
        ("filename,class_index\na.png,-1\n", "line 2.*'-1'"),
        ("filename,class_index\na.png\n", "line 2"),
        ("filename,class_index\n", "names no picture"),
        ("", "needs a header"),
    ],
)
def test_a_label_file_that_cannot_be_used_is_refused_by_name(
    tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(BadData, match=rf"labels\.csv.*{complaint}|{complaint}"):
        read_labels(file, tmp_path)


def test_an_absent_label_file_or_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"gone\.csv.*No such file"):
        read_labels(tmp_path / "gone.csv", tmp_path)
    with pytest.raises(BadData, match="folder of pictures"):
        read_labels(tmp_path / "gone.csv", tmp_path / "gone")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(BadData, match="not UTF-8"):
        read_labels(tmp_path / "bytes.csv", tmp_path)


def test_names_lose_their_wordnet_id_and_trailing_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("n01440764 tench, Tinca tinca\nzebra\n\n")
    assert read_names(file) == ("tench, Tinca tinca", "zebra")
    file.write_text("\n")
    with pytest.raises(BadData, match="no names"):
        read_names(file)


def test_voc_boxes_become_edges(tmp_path: Path) -> None:
    (tmp_path / "7.xml").write_text(
        f"<annotation>{OBJECT.format(difficult=0)}{OBJECT.format(difficult=1)}</annotation>"
    )
    (picture,) = read_annotations(tmp_path, tmp_path / "JPEGImages")
    assert picture.path == tmp_path / "JPEGImages" / "7.jpg"
    assert [item.difficult for item in picture.objects] == [False, True]
    assert picture.objects[0].box == Box(2, 0, 10, 20)


@pytest.mark.parametrize(
    "text", ["<annotation>", "<annotation><object><name>cat</name></object></annotation>", ""]
)
def test_a_damaged_annotation_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.xml").write_text(text)
    with pytest.raises(BadData, match=r"bad\.xml"):
        read_annotations(tmp_path, tmp_path)


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no VOC annotation"):
        read_annotations(tmp_path, tmp_path)
