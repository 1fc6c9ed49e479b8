# SPDX-License-Identifier: Apache-2.0
"""A student in evaluation is the interpreter, bit for bit; in training it has gradients."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from learn.networks import NETWORKS, pictures, small
from torch import nn

from thinmaps.compression import compress
from thinmaps.errors import BadArgument
from thinmaps.graph import tail
from thinmaps.graph.quantise import real_values
from thinmaps.learn.captured import capture
from thinmaps.learn.named_maps import NamedMaps
from thinmaps.learn.preparation import prepare
from thinmaps.learn.student import Student
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import run_network


@cache
def _prepared(name: str) -> Student:
    return prepare(small(name), pictures(1), calibrate=pictures(8))


def student_of(name: str) -> Student:
    """A fresh copy of a student that has no codecs."""
    return copy.deepcopy(_prepared(name))


def interpreted(student: Student, batch: torch.Tensor) -> list[np.ndarray]:
    """What `run/interpret` and the tail make of each picture, stacked."""
    network = student.network(tuple(batch.shape[2:]))
    made = []
    for picture in batch.permute(0, 2, 3, 1).numpy():
        values = run_network(network, {network.inputs[0]: picture}, student.codecs())
        real = {name: _real(values[name], network.maps[name]) for name in network.outputs}
        made.append(list(tail.evaluate(student.tail(tuple(batch.shape[2:])), real).values()))
    return [np.concatenate(each) for each in zip(*made, strict=True)]


def _real(values: np.ndarray, spec) -> np.ndarray:
    if spec.dtype == "float32":
        return values
    return (values.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)


def answers(student: Student, batch: torch.Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        made = student(batch)
    return [t.numpy() for t in (made if isinstance(made, tuple) else (made,))]


def assert_equal_to_the_interpreter(student: Student, batch: torch.Tensor) -> None:
    expected, made = interpreted(student.eval(), batch), answers(student, batch)
    for one, other in zip(made, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_student_in_evaluation_is_the_interpreter_bit_for_bit(name: str) -> None:
    assert_equal_to_the_interpreter(student_of(name), pictures(3, seed=7))


def test_a_student_begins_as_what_compress_makes_of_the_same_pictures() -> None:
    model, rng = small("resnet"), np.random.default_rng(4)
    photographs = list(rng.integers(0, 256, (10, 16, 16, 3), np.uint8))
    given = compress(capture(model, pictures(1)).model, photographs, schedule="layer")
    engine = Engine(given.plan)
    expected = np.concatenate([engine.maps(p)["fc"][0] for p in photographs])
    planes = [real_values(p, given.preprocessing) for p in photographs]
    batch = torch.from_numpy(np.stack(planes))
    for student in (
        prepare(model, pictures(1), calibrate=photographs),
        prepare(model, pictures(1), given),
    ):
        np.testing.assert_array_equal(answers(student.eval(), batch)[0], expected)


def test_codecs_stand_on_their_maps_in_training_and_are_exact_in_evaluation() -> None:
    model = small("squeezenet")
    student = prepare(model, pictures(1), calibrate=pictures(8), codecs="narrow:3")
    assert {codec.id for codec in student.codecs().values()} == {"narrow"}
    assert_equal_to_the_interpreter(student, pictures(2, seed=7))
    name = next(iter(student.codecs()))
    spec = student.network().maps[name]
    with student.train().maps(name) as held:
        student(pictures(2))
    assert len(torch.unique(held[name] / spec.scale)) <= 2**3 * spec.channels
    bare = student_of("squeezenet")
    assert not torch.equal(bare.train()(pictures(2)), student(pictures(2)))


def test_training_stands_on_the_grid_and_every_parameter_has_a_gradient() -> None:
    student = student_of("curved").train()
    with student.maps() as held:
        first, second = student(pictures(2, seed=7))
    network = student.network()
    for name, values in held.items():
        spec = network.maps[name]
        if spec.dtype == "uint8":
            unit = values.detach() / spec.scale
            if student.factors and name in student.factors:
                unit = unit / torch.from_numpy(student.factors[name])[:, None, None]
            # One rounding of float32 in each of two products and two quotients of up to 255 steps.
            assert (unit - unit.round()).abs().max() < 255 * 2**-21
    (first.square().mean() + second.square().mean()).backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_what_is_clipped_passes_no_gradient() -> None:
    student = student_of("resnet").train()
    bright = torch.full((1, 3, 16, 16), 1e4, requires_grad=True)
    student(bright).sum().backward()
    assert torch.count_nonzero(bright.grad) == 0


def test_a_step_of_training_lowers_the_loss_and_evaluation_stays_exact() -> None:
    student, teacher = student_of("mobilenet").train(), small("mobilenet", seed=3)
    batch = pictures(8, seed=4)
    with torch.no_grad():
        wanted = teacher(batch)
    optimiser = torch.optim.Adam(student.parameters(), 1e-2)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        loss = (student(batch) - wanted).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert_equal_to_the_interpreter(student, pictures(2, seed=7))


def test_training_answers_lie_near_the_exact_ones() -> None:
    student, batch = student_of("resnet"), pictures(4, seed=7)
    exact = answers(student.eval(), batch)[0]
    near = answers(student.train(), batch)[0]
    # Only ties that float32 sums break otherwise differ: a step here and there.
    assert np.abs(near - exact).max() < 0.02 * np.abs(exact).max()


def test_maps_are_in_the_units_of_the_users_module() -> None:
    model, batch = small("mobilenet"), pictures(4)
    student = student_of("mobilenet").eval()
    seen: dict[str, torch.Tensor] = {}
    model[3].conv[2].register_forward_hook(lambda m, i, out: seen.update(out=out.clone()))
    with torch.no_grad(), student.maps("3.conv.2") as held:
        student(batch)
        model(batch)
    error = (held["3.conv.2"] - seen["out"]).abs().mean()
    assert error < 0.05 * seen["out"].abs().mean()


def test_training_can_be_exact_with_the_same_gradients() -> None:
    student = prepare(small("resnet"), pictures(1), calibrate=pictures(8), codecs="narrow:3")
    batch = pictures(3, seed=7)
    expected = answers(student.eval(), batch)[0]
    student.train().exact(True)
    made = student(batch)
    # The head's sum and difference round once each.
    np.testing.assert_allclose(made.detach().numpy(), expected, rtol=1e-6, atol=1e-6)
    made.sum().backward()
    assert student.conv1.weight.grad.abs().sum() > 0
    with student.maps() as held:
        student(batch)
    with torch.no_grad(), student.eval().maps() as exact:
        student(batch)
    for name in set(held) - {"fc"}:
        assert torch.equal(held[name], exact[name]), name


def test_a_hook_sees_a_map_and_may_replace_it() -> None:
    student, model, batch = student_of("mobilenet").eval(), small("mobilenet"), pictures(4)
    seen: dict[str, torch.Tensor] = {}
    for who, module in (("ours", student), ("theirs", model)):
        point = module.get_submodule("3.conv.2")
        point.register_forward_hook(lambda m, i, out, who=who: seen.update({who: out.clone()}))
    with torch.no_grad():
        before = student(batch)
        model(batch)
    assert (seen["ours"] - seen["theirs"]).abs().mean() < 0.05 * seen["theirs"].abs().mean()
    student.get_submodule("3.conv.2").register_forward_hook(lambda m, i, out: 2 * seen["theirs"])
    with torch.no_grad():
        assert not torch.equal(student(batch), before)


def test_a_layer_that_is_part_of_another_map_is_named_where_it_is_asked_for() -> None:
    student = student_of("resnet")
    with NamedMaps(student, ["layer1.0.conv2", "layer1.0.bn2"]) as named:
        student(pictures(1))
        assert named.maps["layer1.0.bn2"].shape == (1, 8, 16, 16)
        with pytest.raises(BadArgument, match=r"'layer1\.0\.conv2' puts out no map"):
            named.maps["layer1.0.conv2"]


def test_a_map_that_is_not_there_is_answered_with_those_near_it() -> None:
    student = student_of("resnet")
    near = r"no map 'layer1\.0\.rel'; near it: layer1\.0\.relu"
    with pytest.raises(BadArgument, match=near), student.maps("layer1.0.rel"):
        pass
    with pytest.raises(BadArgument, match="give a plan, or calibrate=pictures"):
        prepare(small("resnet"), pictures(1))


def test_a_module_called_twice_shares_what_is_the_same() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(torch.relu(self.conv(x)))

    torch.manual_seed(1)
    student = prepare(Twice().eval(), pictures(1), calibrate=pictures(8))
    assert_equal_to_the_interpreter(student, pictures(2, seed=7))
