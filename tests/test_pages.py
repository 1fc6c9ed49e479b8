# SPDX-License-Identifier: Apache-2.0
"""Views of a mapped file give the file's bytes, whether touched or fetched."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from thinmaps.errors import BadFile
from thinmaps.pages import MappedFile, fetched

VALUES = np.random.default_rng(4).integers(0, 256, 9000, dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "bytes").write_bytes(VALUES.tobytes())
    return tmp_path / "bytes"


def test_a_fetched_view_is_a_copy_of_its_part_of_the_file(path: Path) -> None:
    view = np.frombuffer(MappedFile.open(path), "<u2", 2000, 998)[500:1000].reshape(5, 100)
    copy = fetched(view)
    np.testing.assert_array_equal(copy, view, strict=True)
    np.testing.assert_array_equal(copy.view(np.uint8).ravel(), VALUES[1998:2998])
    assert not np.shares_memory(copy, view)


def test_released_pages_come_from_the_file_again(path: Path) -> None:
    mapped = MappedFile.open(path)
    array = np.frombuffer(mapped, np.uint8)
    assert array[5000] == VALUES[5000]
    mapped.release()
    np.testing.assert_array_equal(array, VALUES)


def test_an_array_of_no_file_is_left_alone() -> None:
    array = np.arange(10)[2:]
    assert fetched(array) is array


def test_a_file_that_was_cut_short_is_refused(path: Path) -> None:
    view = np.frombuffer(MappedFile.open(path), np.uint8)
    os.truncate(path, 100)
    with pytest.raises(BadFile, match="cut short"):
        fetched(view)


def test_the_file_is_closed_with_its_last_array(path: Path) -> None:
    array = np.frombuffer(MappedFile.open(path), np.uint8)
    mapped = array.base.obj
    assert isinstance(mapped, MappedFile)
    descriptor = mapped.descriptor
    os.fstat(descriptor)
    del array, mapped
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
