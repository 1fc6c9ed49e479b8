# SPDX-License-Identifier: Apache-2.0
"""Saving and loading: what goes in comes out, the same every time, whole or not at all."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from small_models import edited, small_model, wide_model

from thinmaps.errors import BadArgument, BadFile
from thinmaps.file import Model, encode, load, save, write_atomically

MODELS = {"small": small_model, "wide": wide_model}
EACH_MODEL = pytest.mark.parametrize("name", MODELS)


def assert_same(a: Any, b: Any) -> None:
    """Equal nouns, arrays with dtype and shape included; a list stands for any sequence."""
    if isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b, strict=True)
    elif dataclasses.is_dataclass(a):
        assert type(a) is type(b)
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


@EACH_MODEL
def test_a_loaded_model_is_the_saved_one(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    save(model, tmp_path / "a.thin")
    loaded = load(tmp_path / "a.thin")
    assert isinstance(loaded, Model)
    assert_same(model, loaded)


@EACH_MODEL
def test_the_same_model_gives_the_same_bytes_and_a_loaded_one_too(
    name: str, tmp_path: Path
) -> None:
    save(MODELS[name](), tmp_path / "a.thin")
    save(MODELS[name](), str(tmp_path / "b.thin"))
    save(load(tmp_path / "a.thin"), tmp_path / "c.thin")
    first, second, third = ((tmp_path / f"{x}.thin").read_bytes() for x in "abc")
    assert first == second == third


def test_any_safetensors_reader_opens_the_file(tmp_path: Path) -> None:
    model = small_model()
    save(model, tmp_path / "a.thin")
    with safetensors.safe_open(tmp_path / "a.thin", framework="numpy") as file:
        assert set(file.metadata()) == {"sha256", "thinmaps"}
        weights = file.get_tensor("source/nodes/1/operator/weights")
    np.testing.assert_array_equal(weights, model.plan.source.nodes[1].operator.weights, strict=True)


def test_tensors_start_where_their_elements_align(tmp_path: Path) -> None:
    data = encode(small_model())
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0


def test_saving_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    save(small_model(), tmp_path / "a.thin")
    assert [path.name for path in tmp_path.iterdir()] == ["a.thin"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left")])
def test_an_interrupted_save_keeps_the_old_file_and_leaves_no_part_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: Any
) -> None:
    (tmp_path / "a.thin").write_bytes(b"old")

    def interrupt(descriptor: int) -> None:
        raise interruption

    monkeypatch.setattr(os, "fsync", interrupt)
    expected = KeyboardInterrupt if interruption is KeyboardInterrupt else BadArgument
    with pytest.raises(expected):
        save(small_model(), tmp_path / "a.thin")
    assert [path.name for path in tmp_path.iterdir()] == ["a.thin"]
    assert (tmp_path / "a.thin").read_bytes() == b"old"


def test_a_model_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    model = small_model()
    broken = dataclasses.replace(model, plan=dataclasses.replace(model.plan, arena_bytes=64))
    with pytest.raises(BadFile, match=r"a\.thin was not written"):
        save(broken, tmp_path / "a.thin")
    assert not list(tmp_path.iterdir())


def test_paths_that_cannot_be_written_are_named(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(BadArgument, match="it is a folder"):
        write_atomically(tmp_path, b"")
    with pytest.raises(BadArgument, match="there is no folder"):
        write_atomically(tmp_path / "absent" / "a.thin", b"")
    (tmp_path / "a.thin").write_bytes(b"old")
    # A superuser may write anywhere, so the answer of the system is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "a.thin")
    with pytest.raises(BadArgument, match="the file is read-only"):
        write_atomically(tmp_path / "a.thin", b"new")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(BadArgument, match="is read-only"):
        write_atomically(tmp_path / "b.thin", b"new")
    assert (tmp_path / "a.thin").read_bytes() == b"old"


def test_paths_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="there is no file"):
        load(tmp_path / "absent.thin")
    with pytest.raises(BadFile, match="is no file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadFile, match="is no file"):
        load(tmp_path / "pipe")
    (tmp_path / "empty.thin").write_bytes(b"")
    with pytest.raises(BadFile, match=r"empty\.thin: the file is empty"):
        load(tmp_path / "empty.thin")
    (tmp_path / "picture.thin").write_bytes(b"\x89PNG\r\n\x1a\n" * 20)
    with pytest.raises(BadFile, match=r"this is no \.thin file"):
        load(tmp_path / "picture.thin")


def test_a_sparse_file_of_absurd_size_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "huge.thin", "wb") as file:
        file.truncate((1 << 32) + 1)
    with pytest.raises(BadFile, match="more than the"):
        load(tmp_path / "huge.thin")


@pytest.mark.parametrize(("version", "cure"), [(2, "update thinmaps"), (0, "compress the network")])
def test_another_format_version_is_named_with_the_cure(
    tmp_path: Path, version: int, cure: str
) -> None:
    data = edited(small_model(), lambda document, arrays: document.update(format=version))
    (tmp_path / "a.thin").write_bytes(data)
    with pytest.raises(
        BadFile, match=f"format version {version}, this thinmaps reads version 1; {cure}"
    ):
        load(tmp_path / "a.thin")
