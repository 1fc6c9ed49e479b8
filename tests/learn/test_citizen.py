# SPDX-License-Identifier: Apache-2.0
"""A student goes wherever a module goes: copies, files, compilers, wrappers, other sizes."""

from __future__ import annotations

import copy
import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from learn.networks import pictures, small
from learn.test_student import answers, assert_equal_to_the_interpreter, student_of
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from thinmaps.errors import BadModel, BadShape
from thinmaps.learn.preparation import prepare
from thinmaps.learn.student import Student

BATCH = pictures(2, seed=7)


def trained(codec: str = "narrow:4") -> Student:
    """A student whose weights have moved, with a codec."""
    student = prepare(
        small("resnet"), pictures(1), calibrate=pictures(8), codecs={"layer1.0.relu": codec}
    )
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.01).add_(0.003)
    return student


def same_answers(one: Student, other: Student) -> None:
    np.testing.assert_array_equal(answers(one.eval(), BATCH)[0], answers(other.eval(), BATCH)[0])


def test_a_deep_copy_answers_alike_and_learns_apart() -> None:
    student = trained()
    other = copy.deepcopy(student)
    same_answers(student, other)
    with torch.no_grad():
        next(other.parameters()).mul_(-1)
    assert not np.array_equal(answers(student, BATCH)[0], answers(other, BATCH)[0])


def test_a_pickled_student_answers_alike() -> None:
    student = trained()
    same_answers(student, pickle.loads(pickle.dumps(student)))


def test_a_state_dict_loads_with_weights_only() -> None:
    student, stream = trained(), io.BytesIO()
    torch.save(student.state_dict(), stream)
    stream.seek(0)
    other = prepare(
        # Other pictures, so other scales: the state brings those it was trained with.
        small("resnet"),
        pictures(1),
        calibrate=2 * pictures(8, seed=9),
        codecs={"layer1.0.relu": student.codecs()["layer1.0.relu"]},
    )
    other.load_state_dict(torch.load(stream, weights_only=True))
    same_answers(student, other)


def test_a_float_state_of_the_users_module_loads_with_batch_norms_folded_again() -> None:
    other = small("resnet", seed=5)
    student = student_of("resnet")
    student.load_state_dict(other.state_dict())
    assert_equal_to_the_interpreter(student, BATCH)
    with torch.no_grad():
        wanted = other(pictures(4)).numpy()
    made = answers(student, pictures(4))[0]
    # The ranges are those of other weights, so that values clip: alike, not near.
    assert np.corrcoef(made.ravel(), wanted.ravel())[0, 1] > 0.9
    again = student_of("resnet")
    again.load_state_dict(small("resnet").state_dict())
    with torch.no_grad():
        wanted = small("resnet")(pictures(4)).numpy()
    assert (
        np.abs(answers(again.eval(), pictures(4))[0] - wanted).max() < 0.05 * np.abs(wanted).max()
    )


def test_a_float_state_of_another_module_is_refused_by_name() -> None:
    student = student_of("resnet")
    with pytest.raises(BadModel, match=r"the state has no 'conv1\.weight'"):
        student.load_state_dict(small("mobilenet").state_dict())
    state = small("resnet").state_dict()
    with pytest.raises(BadModel, match="the state has 'head', which the network has not"):
        student.load_state_dict({**state, "head": torch.zeros(1)})
    state["fc.weight"] = torch.zeros(5, 16)
    with pytest.raises(BadModel, match=r"'fc\.weight' has shape \(5, 16\), the network needs"):
        student.load_state_dict(state)


@pytest.mark.parametrize("codec", ["narrow:4", "block_code:rate=32"])
def test_a_compiled_student_answers_alike_while_it_learns_and_afterwards(codec: str) -> None:
    student = trained(codec).train()
    compiled = torch.compile(student, backend="aot_eager", fullgraph=True)
    made = compiled(BATCH)
    assert torch.equal(made, student(BATCH))
    made.sum().backward()
    moved = (student.conv1, student.surrogate("layer1.0.relu"))
    assert all(each.grad.abs().sum() > 0 for part in moved for each in part.parameters())
    student.eval()
    assert torch.equal(compiled(BATCH), student(BATCH))


@pytest.mark.parametrize("codecs", [None, "klt", "narrow:3"])
def test_an_exported_program_answers_alike(codecs: str | None) -> None:
    student = student_of("mobilenet").eval()
    if codecs:
        student = prepare(
            small("mobilenet"), pictures(1), calibrate=pictures(8), codecs=codecs
        ).eval()
    program = torch.export.export(student, (BATCH,))
    assert torch.equal(program.module()(BATCH), student(BATCH))


@pytest.mark.parametrize("size", [(12, 12), (20, 28)])
@pytest.mark.parametrize("name", ["resnet", "squeezenet", "curved"])
def test_other_picture_sizes_pass_and_are_exact(name: str, size: tuple[int, int]) -> None:
    student, (height, width) = student_of(name), size
    batch = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))
    assert_equal_to_the_interpreter(student, batch)
    assert student(BATCH) is not None


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(BadShape, match=r"float n c h w, got torch\.float32 \(3, 16, 16\)"):
        student_of("resnet")(BATCH[0])


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_a_student_is_wrapped_for_several_processes() -> None:
    student = trained().train()
    wrapped = DistributedDataParallel(student)
    made = wrapped(BATCH)
    assert torch.equal(made, student(BATCH))
    made.sum().backward()
    assert all(p.grad is not None for p in student.parameters())
