# SPDX-License-Identifier: Apache-2.0
"""Filters of codes from a trained module to the engine: the student computes what it makes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from learn.networks import pictures, small
from learning_networks import options
from torch import Tensor, nn

import thinmaps
from thinmaps.compression import compress
from thinmaps.graph import operators as op
from thinmaps.graph.filter_codes import Reduction, quantised
from thinmaps.graph.network import Network
from thinmaps.graph.quantise import real_values
from thinmaps.learn.captured import Captured, capture
from thinmaps.learn.fake_quantisation import Codes, integer_layer
from thinmaps.learn.onnx_file import export
from thinmaps.learn.preparation import prepare
from thinmaps.learn.student import Student
from thinmaps.learn.weights.maps import bake
from thinmaps.learn.weights.ovsf import CodedFilters
from thinmaps.learn.weights.settings import CodedFiltersSettings, Phases
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine
from thinmaps.types import Preprocessing

CODED_LAYERS = 4  # the 3x3 layers of the network but the first, of three channels


@cache
def coded_module(reduction: Reduction = "crop") -> Captured:
    """A small ResNet with batch norms whose 3x3 filters four codes make, as plain filters."""
    model = small("resnet")
    CodedFilters(0.25, reduction=reduction).convert(model)
    bake(model)
    assert not any("parametrizations" in name for name in model.state_dict())
    return capture(model, pictures(1))


def coded_layers(network: Network) -> list[op.CodedConv]:
    return [node.operator for node in network.nodes if isinstance(node.operator, op.CodedConv)]


def photographs(count: int, seed: int = 4) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), np.uint8))


def values_of(given: list[np.ndarray]) -> Tensor:
    """What the module is fed for photographs."""
    return torch.from_numpy(np.stack([real_values(each, Preprocessing()) for each in given]))


def engine_answers(network: Network, given: list[np.ndarray]) -> np.ndarray:
    """The engine's, from photographs or from what the module is fed for them."""
    engine = Engine(build(network, schedule="layer"))
    if network.maps[network.inputs[0]].dtype == "float32":
        given = list(values_of(given).permute(0, 2, 3, 1).contiguous().numpy())
    return np.concatenate([next(iter(engine.maps(each).values()))[0] for each in given])


def student_answers(student: Student, batch: Tensor) -> np.ndarray:
    with torch.no_grad():
        return student.eval()(batch).numpy()


@pytest.mark.parametrize("reduction", ["crop", "average"])
def test_compress_finds_codes_and_a_student_begins_as_what_it_makes(reduction: Reduction) -> None:
    module = coded_module(reduction)
    given = compress(module.model, photographs(10), schedule="layer")
    layers = coded_layers(given.plan.source)
    assert len(layers) == CODED_LAYERS
    assert {len(layer.filters.codes) for layer in layers} == {4}
    assert {layer.filters.reduction for layer in layers} == {reduction}
    seen = photographs(3, seed=5)
    expected = engine_answers(given.plan.source, seen)
    assert np.ptp(expected) > 0
    for student in (
        prepare(module, pictures(1), calibrate=photographs(10)),
        prepare(module, pictures(1), given),
    ):
        assert len(coded_layers(student.network())) == CODED_LAYERS
        np.testing.assert_array_equal(student_answers(student, values_of(seen)), expected)


def test_a_trained_student_is_what_the_engine_makes_of_its_exported_coefficients(
    tmp_path: Path,
) -> None:
    student = prepare(coded_module(), pictures(1), calibrate=pictures(8))
    before = [layer.filters.coefficients for layer in coded_layers(student.network())]
    descent = torch.optim.SGD(student.train().parameters(), lr=0.05)
    seen = photographs(8, seed=3)
    batch = values_of(seen)
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(student(batch), torch.arange(8) % 10)
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = [layer.filters.coefficients for layer in coded_layers(student.network())]
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
    expected = student_answers(student, batch)
    np.testing.assert_array_equal(engine_answers(student.network(), seen), expected)
    export(student, tmp_path / "student.onnx")
    made = thinmaps.compress(tmp_path / "student.onnx", schedule="layer")
    for mine, theirs in zip(coded_layers(made.plan.source), after, strict=True):
        np.testing.assert_array_equal(mine.filters.coefficients, theirs)
    np.testing.assert_array_equal(engine_answers(made.plan.source, seen), expected)


def test_a_student_that_is_given_codes_learns_and_stores_coefficients() -> None:
    """Converted as `thinmaps learn` does, trained and baked, it is still of codes."""
    student = prepare(small("resnet"), pictures(1), calibrate=pictures(8))
    assert not coded_layers(student.network())
    phases = Phases(2, 2, options())
    recipe = CodedFiltersSettings(0.25).recipe(student, pictures(1), None, phases)
    assert len(coded_layers(student.network())) == CODED_LAYERS
    labelled = [(pictures(8), torch.arange(8) % 10)]
    recipe.run(student, labelled)
    assert len(coded_layers(student.network())) == CODED_LAYERS
    seen = photographs(3)
    expected = student_answers(student, values_of(seen))
    np.testing.assert_array_equal(engine_answers(student.network(), seen), expected)


@pytest.mark.parametrize("reduction", ["crop", "average"])
def test_torch_rounds_coefficients_as_the_definition_does(reduction: Reduction) -> None:
    chosen: tuple[Reduction, tuple[int, ...]] = (reduction, (0, 5, 10, 15, 1))
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(6, 8, 3, 3, generator=generator)
    weight[2] = 0
    bias = torch.tensor([0.0, 1.0, 2.0, -3e9, 5.0, 0.5])
    layer = integer_layer(weight, bias, 0.5, Codes.of(*chosen))
    least = np.abs(bias.double().numpy()) / (0.5 * 2**30) * (1 + 2.0**-20)
    filters, scale = quantised(weight.numpy(), *chosen, np.maximum(least, 2.0**-80))
    assert layer.coefficients is not None
    assert layer.shift is not None
    np.testing.assert_array_equal(layer.coefficients.numpy(), filters.coefficients)
    np.testing.assert_array_equal(layer.shift.numpy(), filters.shift)
    np.testing.assert_array_equal(layer.scale.numpy(), scale)
    np.testing.assert_array_equal(layer.weights.numpy(), filters.made())
