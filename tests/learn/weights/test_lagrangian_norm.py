# SPDX-License-Identifier: Apache-2.0
"""Normalisation by constraints: its gradients, what it keeps, how it starts and trains."""

from __future__ import annotations

import pytest
import torch
from learn.networks import pictures, small
from learning_networks import CLASSES, options
from torch import Tensor, nn

from thinmaps.errors import BadArgument, BadModel
from thinmaps.learn.weights.lagrangian_norm import (
    LagrangianNorm,
    Moments,
    saved_bytes,
    start_from,
)
from thinmaps.learn.weights.maps import bake, harden

EXAMPLE = pictures(2)


def network(norm: str = "batch", seed: int = 2) -> nn.Sequential:
    torch.manual_seed(seed)
    norms = {"batch": nn.BatchNorm2d, "group": lambda channels: nn.GroupNorm(2, channels)}
    layers: list[nn.Module] = []
    for channels, made in ((3, 8), (8, 8), (8, 8)):
        layers += [nn.Conv2d(channels, made, 3, padding=1), norms[norm](made), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def labelled(count: int, batch: int) -> list[tuple[Tensor, Tensor]]:
    values, labels = pictures(count), torch.arange(count) % CLASSES
    return list(zip(values.split(batch), labels.split(batch), strict=True))


@pytest.mark.parametrize("form", ["signed", "published"])
@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_a_converted_network_answers_as_before_and_has_no_batch_norm(form: str, name: str) -> None:
    model = small(name)
    before = model(EXAMPLE).detach()
    LagrangianNorm(form).convert(model, EXAMPLE)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model(EXAMPLE), before, atol=1e-4, rtol=1e-4)
    harden(model)
    bake(model)
    assert {type(m) for m in model.modules() if isinstance(m, nn.Conv2d)} == {nn.Conv2d}
    torch.testing.assert_close(model(EXAMPLE).detach(), before, atol=1e-4, rtol=1e-4)


def test_the_published_gradient_is_that_of_its_formula() -> None:
    model = network().train()
    first = LagrangianNorm("published").convert(model, EXAMPLE)[0]
    seen: list[Tensor] = []

    def keep(layer: nn.Module, inputs: object, made: Tensor) -> None:
        made.retain_grad()
        seen.append(made)

    first.register_forward_hook(keep)
    model(EXAMPLE)
    c1, c2 = first.activation_map.missed(first.bias)
    l1, l2 = torch.linspace(0.5, 2, len(c1)), torch.linspace(1, 3, len(c2))
    (l1 * c1.square() + l2 * c2.square()).sum().backward()
    (x,) = seen
    shape, n = (1, -1, 1, 1), x.numel() // x.shape[1]
    mean = x.mean((0, 2, 3)).reshape(shape)
    wanted = 2 * (l1 * c1).reshape(shape) / n + 4 * (l2 * c2).reshape(shape) * (x - mean) / n
    torch.testing.assert_close(x.grad, wanted.detach().expand_as(x), atol=1e-7, rtol=1e-4)


def test_signed_gradients_are_those_of_gain_and_bias() -> None:
    model = network().double().train()
    (first, *_) = LagrangianNorm("signed").convert(model, EXAMPLE.double())
    first.double()
    gain = first.parametrizations.weight[0].gain
    batch = EXAMPLE.double()

    def true_violations() -> Tensor:
        made = first(batch)
        statistics = first.activation_map
        mean, variance = made.mean((0, 2, 3)), made.var((0, 2, 3), correction=0)
        spread = statistics.wanted_variance
        return torch.cat(
            [(mean - statistics.wanted_mean) / spread.sqrt(), (variance / spread).log()]
        )

    with torch.no_grad():
        made = first(batch)
        first.activation_map.mean.copy_(made.mean((0, 2, 3)))
        first.activation_map.variance.copy_(made.var((0, 2, 3), correction=0))
    found = torch.cat(first.activation_map.missed(first.bias))
    torch.testing.assert_close(found, true_violations())
    factors = torch.linspace(-1, 1, len(found), dtype=torch.float64)
    (factors * found).sum().backward()
    h = 1e-6
    for parameter in (gain, first.bias):
        for at in (0, 3, 7):
            with torch.no_grad():
                parameter[at] += h
                up = (factors * true_violations()).sum()
                parameter[at] -= 2 * h
                down = (factors * true_violations()).sum()
                parameter[at] += h
            slope = float(up - down) / (2 * h)
            assert float(parameter.grad[at]) == pytest.approx(slope, abs=1e-7)


def test_nothing_is_kept_of_what_it_would_normalise() -> None:
    batch = pictures(4)

    def bytes_of(model: nn.Module) -> int:
        model.train()
        kept = [batch, *model.parameters(), *model.buffers()]
        return saved_bytes(lambda: model(batch), kept)

    converted = {}
    for form in ("signed", "published"):
        converted[form] = network()
        LagrangianNorm(form).convert(converted[form], EXAMPLE)
    one_map = 4 * 8 * 16 * 16 * 4  # pictures, channels, positions, bytes
    batch_norm, signed = bytes_of(network()), bytes_of(converted["signed"])
    # Three layers: a batch norm keeps what goes in and, through the ReLU, what comes out.
    assert 6 * one_map <= batch_norm < 6.2 * one_map
    assert 6 * one_map <= bytes_of(network("group")) < 6.2 * one_map
    assert 3 * one_map <= signed < 3.2 * one_map
    assert bytes_of(converted["published"]) >= 6 * one_map  # its gradient needs the map too


def test_a_start_from_data_meets_every_wish() -> None:
    model = network().train()
    layers = LagrangianNorm("published").convert(model, EXAMPLE)
    batch = pictures(16)
    start_from(model, layers, batch)
    model(batch)
    assert Moments(layers)().soft.detach().abs().max() < 1e-4


def spread_after(step: float, batch: int) -> tuple[float, float]:
    """How far variances are from 1 after training, and the last loss."""
    model = network()
    norm = LagrangianNorm("signed", step=step)
    chosen = options(network_rate=3e-3, map_rate=3e-3, average_decay=0)
    recipe = norm.recipe(model, EXAMPLE, 100, chosen)
    start_from(model, [layer for layer in model if isinstance(layer, nn.Conv2d)], pictures(16))
    result = recipe.run(model, labelled(8, batch))
    values, missed = pictures(16), []
    for layer in model:
        values = layer(values)
        if isinstance(layer, nn.Conv2d):
            missed.append(values.detach().var((0, 2, 3), correction=0).log().abs())
    labels = [row.parts["labels"] for row in result.soft.rows]
    return float(torch.cat(missed).mean()), sum(labels[-8:]) / sum(labels[:8])


@pytest.mark.parametrize("batch", [1, 8])
def test_small_batches_train_and_constraints_hold_their_statistics(batch: int) -> None:
    held, loss = spread_after(1.0, batch)
    free, _ = spread_after(1e-9, batch)
    assert loss < 0.95
    assert held < 0.75 * free


def test_wrong_requests_are_refused_in_a_sentence() -> None:
    with pytest.raises(BadModel, match="has no batch norm behind a convolution of its own"):
        LagrangianNorm().convert(network("group"), EXAMPLE)
    with pytest.raises(BadArgument, match="statistics are held by one of"):
        LagrangianNorm("absolute")
