# SPDX-License-Identifier: Apache-2.0
"""A captured module computes what the module computes, under the user's names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from learn.networks import NETWORKS, pictures, small
from run_float import run
from torch import Tensor, nn

from thinmaps.errors import BadArgument, BadModel, UnsupportedOperator
from thinmaps.graph.float_network import FloatConv
from thinmaps.graph.onnx_reader import read
from thinmaps.learn.captured import capture


def outputs(model: nn.Module, picture: Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        made = model(picture)
    return [t.numpy() for t in (made if isinstance(made, tuple) else (made,))]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_captured_network_gives_the_answers_of_the_module(name: str) -> None:
    model, picture = small(name), pictures(1)
    network = read(capture(model, picture).model)
    (given,) = network.inputs
    made = list(run(network, {given: picture.numpy()}).values())
    expected = outputs(model, picture)
    assert [m.shape for m in made] == [e.shape for e in expected]
    for one, other in zip(made, expected, strict=True):
        # Folding batch norms and the order of sums: a few units in the last place of float32.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_layers_and_parameters_keep_the_users_names() -> None:
    model = small("resnet")
    captured = capture(model, pictures(1))
    layers = {n.name for n in read(captured.model).nodes if isinstance(n.operator, FloatConv)}
    assert layers == {
        "conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2", "fc",
    }  # fmt: skip
    assert captured.weights["fc"] == ("fc.weight", "fc.bias")
    assert captured.weights["layer1.0.conv1"] == ("layer1.0.conv1.weight", None)
    held = {t.name for t in captured.model.graph.initializer if not t.name.startswith("/")}
    assert held | captured.ignored == set(model.state_dict())
    assert all(name.endswith("num_batches_tracked") for name in captured.ignored)


def test_the_module_itself_stays_as_it_was() -> None:
    model = small("mobilenet").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    capture(model, pictures(1))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:  # the line that the message names
            x = -x
        return self.conv(x)


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(at for at, line in enumerate(lines, 1) if text in line)


def test_a_branch_on_values_is_refused_by_file_and_line_with_a_way_out() -> None:
    with pytest.raises(BadModel, match=r"torch\.where") as refusal:
        capture(Branching(), pictures(1))
    line = line_of("the line that the message names")
    assert f"{__file__}:{line} depends on values" in str(refusal.value)
    assert "\n" not in str(refusal.value)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cumsum(self.conv(x), 2)  # the first odd line
        return torch.roll(y, 1, 3)  # the second odd line


def test_all_operators_that_we_lack_are_named_with_their_lines() -> None:
    with pytest.raises(UnsupportedOperator) as refusal:
        capture(Odd(), pictures(1))
    first, second = line_of("the first odd line"), line_of("the second odd line")
    assert f"{__file__}:{first} uses operator cumsum" in str(refusal.value)
    assert f"{__file__}:{second} uses operator roll" in str(refusal.value)


class Pair(nn.Module):
    def forward(self, left: Tensor, right: Tensor, *, scale: float = 1.0) -> Tensor:
        return left + right * scale


def test_several_inputs_are_refused_in_one_sentence() -> None:
    with pytest.raises(BadModel, match=r"^Pair takes 2 inputs \(left, right\), .*; wrap it"):
        capture(Pair(), pictures(1))


def test_an_example_that_is_no_picture_is_refused() -> None:
    with pytest.raises(BadArgument, match=r"float n c h w, got torch\.int64"):
        capture(small("resnet"), torch.zeros(1, 3, 8, 8, dtype=torch.int64))


def test_other_float_parameters_take_the_places_of_the_first() -> None:
    captured, other = capture(small("resnet"), pictures(1)), small("resnet", seed=5)
    changed = read(captured.with_state(other.state_dict()).model)
    (given,) = changed.inputs
    (made,) = run(changed, {given: pictures(1).numpy()}).values()
    np.testing.assert_allclose(made, outputs(other, pictures(1))[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(BadModel, match=r"the state has no 'conv1\.weight'"):
        captured.with_state({})
