# SPDX-License-Identifier: Apache-2.0
"""Calibration pictures from a folder, a file of arrays or an iterable."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from thinmaps.calibrate.picture_set import network_values, open_pictures
from thinmaps.errors import BadData
from thinmaps.types import Preprocessing

SHAPE = (4, 6, 3)


def picture(value, height=4, width=6):
    return np.full((height, width, 3), value, np.uint8)


def folder_of(tmp_path, values):
    for name, value in values.items():
        Image.fromarray(picture(value)).save(tmp_path / name)
    return tmp_path


def contents(pictures, skipped=None):
    return {name: int(values.flat[0]) for name, values in pictures.read(skipped)}


def test_a_folder_is_read_in_sorted_order_with_relative_names(tmp_path):
    (tmp_path / "inner").mkdir()
    folder_of(tmp_path, {"b.png": 2, "a.png": 1, "inner/c.png": 3})
    found = contents(open_pictures(tmp_path))
    assert list(found.items()) == [("a.png", 1), ("b.png", 2), ("inner/c.png", 3)]


def test_a_corrupt_picture_is_skipped_and_reported(tmp_path):
    folder_of(tmp_path, {"a.png": 1, "c.png": 3})
    (tmp_path / "b.png").write_bytes(b"no picture")
    skipped = []
    assert contents(open_pictures(tmp_path), skipped) == {"a.png": 1, "c.png": 3}
    assert len(skipped) == 1
    assert "b.png" in skipped[0]


def test_a_folder_of_corrupt_pictures_is_refused(tmp_path):
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(BadData, match=r"none of 1 pictures.*b\.png"):
        contents(open_pictures(tmp_path))


@pytest.mark.parametrize("kind", ["empty folder", "absent", "text file", "empty iterable"])
def test_nothing_to_calibrate_on_is_refused(tmp_path, kind):
    (tmp_path / "notes.txt").write_text("no pictures here")
    source = {
        "empty folder": tmp_path,
        "absent": tmp_path / "absent",
        "text file": tmp_path / "notes.txt",
        "empty iterable": iter([]),
    }[kind]
    with pytest.raises(BadData, match="picture"):
        open_pictures(source)


def test_a_generator_may_be_read_twice():
    pictures = open_pictures(picture(value) for value in (7, 8))
    assert contents(pictures) == contents(pictures) == {"0": 7, "1": 8}


def test_something_else_than_arrays_is_refused_with_its_position():
    with pytest.raises(BadData, match=r"picture 1 .* a tuple"):
        open_pictures([picture(0), (picture(0), 3)])


@pytest.mark.parametrize("file_name", ["set.npy", "set.npz"])
def test_files_of_arrays_hold_pictures(tmp_path, file_name):
    stack = np.stack([picture(5), picture(6)])
    if file_name.endswith("npy"):
        np.save(tmp_path / file_name, stack)
    else:
        np.savez(tmp_path / file_name, pictures=stack, label=np.array([1, 2]))
    assert contents(open_pictures(tmp_path / file_name)) == {"0": 5, "1": 6}


def test_encoded_pictures_end_to_end_in_a_file_are_decoded(tmp_path):
    encoded = []
    for value in (50, 200):
        buffer = io.BytesIO()
        Image.fromarray(picture(value)).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    ends = np.cumsum([0, *map(len, encoded)])
    stored = np.frombuffer(b"".join(encoded), np.uint8)
    np.savez(tmp_path / "set.npz", jpeg=stored, offset=ends, label=np.array([0, 1]))
    assert contents(open_pictures(tmp_path / "set.npz")) == {"0": 50, "1": 200}


@pytest.mark.parametrize(
    "arrays", [{"a": np.zeros(3)}, {"a": np.zeros((1, 2, 2, 3)), "b": np.zeros((1, 2, 2, 3))}]
)
def test_a_file_without_one_array_of_pictures_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(BadData, match="needs one array of pictures"):
        open_pictures(tmp_path / "set.npz")


@pytest.mark.parametrize("file_name", ["set.npz", "set.npy"])
def test_a_damaged_array_file_is_refused(tmp_path, file_name):
    (tmp_path / file_name).write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(BadData, match=rf"{file_name}.*NumPy"):
        open_pictures(tmp_path / file_name)


def test_every_fifth_picture_is_held_out():
    pictures = open_pictures([picture(value) for value in range(12)])
    assert sorted(contents(pictures.held_out()).values()) == [4, 9]
    assert sorted(contents(pictures.fitting()).values()) == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]


def test_a_set_too_small_to_split_serves_both_ends():
    pictures = open_pictures([picture(value) for value in range(4)])
    assert contents(pictures.held_out()) == contents(pictures.fitting()) == contents(pictures)


def test_a_part_of_a_set_is_spread_evenly():
    pictures = open_pictures([picture(value) for value in range(10)])
    assert list(contents(pictures.at_most(3)).values()) == [0, 3, 6]
    assert pictures.at_most(10) is pictures


def test_pictures_are_fitted_and_arrays_pass():
    assert network_values("a", picture(9, 20, 30), SHAPE, Preprocessing()).shape == SHAPE
    real = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
    np.testing.assert_array_equal(network_values("a", real, SHAPE, None), real, strict=True)
    turned = real.transpose(2, 0, 1)[None]
    np.testing.assert_array_equal(network_values("a", turned, SHAPE, None), real, strict=True)


def test_a_grey_array_feeds_a_network_of_one_channel():
    settings = Preprocessing((0.5,), (0.5,))
    fitted = network_values("a", np.full((4, 6), 77, np.uint8), (4, 6, 1), settings)
    assert fitted.shape == (4, 6, 1)
    assert (fitted == 77).all()


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        (np.zeros((4, 6, 4), np.uint8), Preprocessing()),
        (np.zeros((4, 6), np.uint8), Preprocessing()),
        (np.zeros((5, 6, 3), np.float32), None),
    ],
)
def test_a_wrong_number_of_channels_is_refused_with_the_picture_s_name(values, settings):
    with pytest.raises(BadData, match="'odd one'"):
        network_values("odd one", values, SHAPE, settings)
