# SPDX-License-Identifier: Apache-2.0
"""A student without its codes' dead bits answers as before, and the engine with it."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from learn.networks import pictures, small
from learn.test_onnx_file import PHOTOGRAPHS, as_batch
from learn.test_student import answers, assert_equal_to_the_interpreter
from torch import Tensor

import thinmaps
from thinmaps.codecs.gf2 import Gf2
from thinmaps.errors import BadArgument, BadData, BadShape
from thinmaps.learn import Student, distill, export, prepare, prune_dead_bits

REQUESTS = ("gf2:keep=5,unit_rows=16", "block_code:rate=48,group=8", "klt:rate=48,unit_rows=2")


MAPS = ("layer1.0.relu", "layer2.0.bn2")


@cache
def _prepared(request: str) -> Student:
    codecs = dict.fromkeys(MAPS, request)
    return prepare(small("resnet"), pictures(1), calibrate=PHOTOGRAPHS, codecs=codecs)


def student_with(request: str) -> tuple[Student, Tensor]:
    return copy.deepcopy(_prepared(request)), as_batch(PHOTOGRAPHS)


def stored_bytes(student: Student) -> int:
    maps = student.network().maps
    return sum(codec.max_bytes(maps[name]) for name, codec in student.codecs().items())


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_pruned_student_stores_less_and_answers_as_before(request_: str, tmp_path: Path) -> None:
    student, batch = student_with(request_)
    if not request_.startswith("klt"):  # which does not learn
        distill(student, small("resnet"), [batch], steps=1)
    dim = 0.05 * batch[:2]  # in which many bits are dead
    before, begun = answers(student.eval(), dim)[0], stored_bytes(student)
    found = prune_dead_bits(student, [(dim, torch.zeros(2))])
    assert found.keys() == set(MAPS)
    assert sum(found.values()) > 0
    assert stored_bytes(student) < begun
    np.testing.assert_array_equal(answers(student, dim)[0], before)
    assert_equal_to_the_interpreter(student, batch[:3])
    export(student, tmp_path / "student.onnx")
    engine = thinmaps.Engine(thinmaps.compress(tmp_path / "student.onnx", schedule="layer"))
    made = np.stack([engine(picture).ravel() for picture in PHOTOGRAPHS[:3]])
    np.testing.assert_array_equal(made, answers(student, batch[:3])[0])


def test_a_bit_is_dead_that_no_picture_changes() -> None:
    student, batch = student_with(REQUESTS[0])
    one, all_of_them = (student_with(REQUESTS[0])[0] for _ in range(2))
    assert sum(prune_dead_bits(one, [batch[:1]]).values()) > sum(
        prune_dead_bits(all_of_them, [batch[:5], batch[5:]]).values()
    )
    before = answers(student.eval(), batch)[0]
    np.testing.assert_array_equal(answers(all_of_them.eval(), batch)[0], before)


def test_without_dead_bits_nothing_changes_and_codes_go_on_learning() -> None:
    student, batch = student_with("block_code:rate=8,group=8")
    begun = student.codecs()
    kept = {name: student.surrogate(name) for name in begun}
    noise = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 6 - 3
    assert set(prune_dead_bits(student, [batch, noise]).values()) == {0}
    assert {name: student.surrogate(name) for name in begun} == kept
    assert student.training


def test_a_pruned_code_stays_while_the_network_learns() -> None:
    student, batch = student_with(REQUESTS[1])
    found = prune_dead_bits(student, [0.05 * batch])
    codecs = {name: codec for name, codec in student.codecs().items() if found[name]}
    weight = student.get_parameter("layer1.0.conv1.weight").detach().clone()
    distill(student, small("resnet"), [batch], steps=1)
    assert codecs == {name: student.codecs()[name] for name in codecs} != {}
    assert not torch.equal(student.get_parameter("layer1.0.conv1.weight"), weight)


def test_codes_of_other_kinds_have_no_dead_bits_and_pictures_are_needed() -> None:
    student, _ = student_with("narrow:4")
    assert prune_dead_bits(student, []) == {}
    with pytest.raises(BadData, match="hands out none"):
        prune_dead_bits(student_with(REQUESTS[0])[0], [])
    name = next(iter(student.codecs()))
    with pytest.raises(BadArgument, match="has no codec"):
        student.fix_codec("fc", student.codecs()[name])
    with pytest.raises(BadShape, match="the map has"):
        student.fix_codec(name, Gf2())
