# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile .thin files: each is refused with one sentence before anything uses it.

A hostile file has a right checksum, as an attacker would give it one; a damaged file has not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import Document, edited, refusal, small_model, with_header

from thinmaps.file import encode, load
from thinmaps.file.container import MAX_HEADER_BYTES, pack, seal, unpack


@pytest.fixture(scope="module")
def data() -> bytes:
    return encode(small_model())


def test_every_truncation_is_refused(data: bytes, tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    lengths = {*range(64), *random.integers(64, len(data), 200).tolist(), len(data) - 1}
    for length in sorted(lengths):
        refusal(tmp_path / "a.thin", data[:length])


def test_every_flipped_bit_is_refused(data: bytes, tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    places = {*range(200), *random.integers(0, len(data), 300).tolist(), len(data) - 1}
    for place in sorted(places):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(random.integers(8))
        refusal(tmp_path / "a.thin", bytes(flipped))


def test_bytes_after_the_end_are_refused(data: bytes, tmp_path: Path) -> None:
    assert "checksum" in refusal(tmp_path / "a.thin", data + b"\0")


def first_tensor(header: Document) -> Document:
    return header[next(name for name in header if name[0] != "_")]


def second_tensor(header: Document) -> Document:
    return header[[k for k in header if k[0] != "_"][1]]


def overlap(header: Document) -> None:
    entry = second_tensor(header)
    entry["data_offsets"] = [n - 4 for n in entry["data_offsets"]]


def hole(header: Document) -> None:
    names = [name for name in header if name[0] != "_"]
    for name in names[1:]:
        header[name]["data_offsets"] = [n + 4 for n in header[name]["data_offsets"]]


HEADERS: dict[str, tuple[Callable[[Document], Any], str]] = {
    "overlapping tensors": (overlap, "overlaps the one before it"),
    "a hole": (hole, "leaves a hole"),
    "a huge shape": (
        lambda h: first_tensor(h).update(shape=[1 << 32, 1 << 32, 1 << 32]),
        "that fits",
    ),
    "an empty huge shape": (
        lambda h: first_tensor(h).update(shape=[0, 1 << 32, 1 << 32]),
        "that fits",
    ),
    "a negative length": (lambda h: first_tensor(h).update(shape=[-1, 4]), "needs a shape"),
    "a true length": (lambda h: first_tensor(h).update(shape=[True]), "needs a shape"),
    "too many lengths": (lambda h: first_tensor(h).update(shape=[1] * 9), "needs a shape"),
    "descending offsets": (
        lambda h: first_tensor(h).update(data_offsets=[8, 0]),
        "two ascending data_offsets",
    ),
    "negative offsets": (
        lambda h: first_tensor(h).update(data_offsets=[-8, 0]),
        "two ascending data_offsets",
    ),
    "one offset": (lambda h: first_tensor(h).update(data_offsets=[0]), "two ascending"),
    "an unknown dtype": (lambda h: first_tensor(h).update(dtype="F64"), "got 'F64'"),
    "a dtype that is a list": (lambda h: first_tensor(h).update(dtype=[]), "got"),
    "another length": (lambda h: first_tensor(h).update(shape=[1]), "its offsets give"),
    "more keys": (lambda h: first_tensor(h).update(more=1), "needs exactly dtype"),
    "no entry": (lambda h: h.update({"source": 3}), "needs exactly dtype"),
    "more metadata": (lambda h: h["__metadata__"].update(more="x"), "its metadata needs"),
    "metadata that is a number": (lambda h: h["__metadata__"].update(thinmaps=3), "metadata"),
    "a file that ends early": (
        lambda h: h.update(
            {"zzz": {"dtype": "U8", "shape": [64], "data_offsets": list(end_of(h, 64))}}
        ),
        "is cut off",
    ),
}


def end_of(header: Document, more: int) -> tuple[int, int]:
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name[0] != "_")
    return end, end + more


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_refused(name: str, data: bytes, tmp_path: Path) -> None:
    change, sentence = HEADERS[name]
    assert sentence in refusal(tmp_path / "a.thin", with_header(data, change))


def test_bytes_that_belong_to_no_tensor_are_refused(data: bytes, tmp_path: Path) -> None:
    hostile = with_header(data, lambda header: None, extra=b"\0" * 5)
    assert "5 bytes after the last tensor" in refusal(tmp_path / "a.thin", hostile)


@pytest.mark.parametrize("length", [0, 1, 30, MAX_HEADER_BYTES + 1, (1 << 63), (1 << 64) - 1])
def test_a_wrong_header_length_is_refused(length: int, data: bytes, tmp_path: Path) -> None:
    refusal(tmp_path / "a.thin", seal(length.to_bytes(8, "little") + data[8:]))


def test_a_repeated_key_is_refused(data: bytes, tmp_path: Path) -> None:
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()
    entry = b',"steps":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    twice = header[:-1] + entry
    hostile = seal(len(twice).to_bytes(8, "little") + twice + data[8 + length :])
    assert "stands twice" in refusal(tmp_path / "a.thin", hostile)


def test_documents_that_are_bombs_are_refused(data: bytes, tmp_path: Path) -> None:
    _, arrays = unpack(data)
    for text in ("[" * 1_000_000, '{"format":' * 100_000, "1" * 1_000_000, "{}", "[]", "null", ""):
        refusal(tmp_path / "a.thin", pack(text, arrays))


def test_a_document_beyond_the_header_s_limit_is_refused(data: bytes, tmp_path: Path) -> None:
    _, arrays = unpack(data)
    hostile = pack(json.dumps({"format": 1, "notes": ["x" * MAX_HEADER_BYTES]}), arrays)
    assert "its header may take" in refusal(tmp_path / "a.thin", hostile)


def test_the_edits_themselves_change_nothing_but_what_they_say(data: bytes, tmp_path: Path) -> None:
    for same in (edited(small_model(), lambda d, a: None), with_header(data, lambda header: None)):
        (tmp_path / "a.thin").write_bytes(same)
        load(tmp_path / "a.thin")
