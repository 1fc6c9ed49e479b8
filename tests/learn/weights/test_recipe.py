# SPDX-License-Identifier: Apache-2.0
"""Maps on layers, and the recipe that fits, hardens and fine-tunes them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from learning_networks import CLASSES, batches, network, options, pictures, weights
from torch import Tensor, nn

import thinmaps
import thinmaps.learn as tl
from thinmaps.errors import BadArgument, BadModel
from thinmaps.learn import fit
from thinmaps.learn.weights.constraint import Constraint, ConstraintOptions
from thinmaps.learn.weights.maps import (
    ActivationMap,
    FixedMask,
    MaskedMap,
    activation_maps,
    attach,
    attach_behind,
    attached,
    bake,
    harden,
)
from thinmaps.learn.weights.measures import Density
from thinmaps.learn.weights.recipe import Recipe
from thinmaps.learn.weights.schedule import Schedule
from thinmaps.learn.weights.selection import layer_costs, selected


class Soft(MaskedMap):
    """Keeps weights above a learnt threshold; a logistic edge while it is soft."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.05))
        self.sharpness = 50.0

    def soft_kept(self, stored: Tensor) -> Tensor:
        return torch.sigmoid(self.sharpness * (stored.abs() - self.threshold))

    def soft(self, stored: Tensor) -> Tensor:
        return stored * self.soft_kept(stored)

    def kept(self, stored: Tensor) -> Tensor:
        return stored.abs() > self.threshold


class Clipped(ActivationMap):
    """Clips at a learnt value, then at what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.highest = nn.Parameter(torch.tensor(0.5))

    def soft(self, made: Tensor) -> Tensor:
        return torch.minimum(made, self.highest)

    def decide(self) -> None:
        self.highest.copy_(self.highest.clamp(min=0))

    frozen = soft


def mapped(seed: int = 2) -> tuple[nn.Sequential, Recipe]:
    """A network with maps on its convolutions, and a recipe for half of the weights."""
    model = network(seed)
    for layer in selected(model).values():
        attach(layer, Soft())
    maps = attached(model)
    budget = Density(maps, 0.5)
    density = Constraint("density", budget, ConstraintOptions(step=0.5, restart=True))
    closing = Schedule([budget], "budget", 0.95, 0.5, until=0.5, shape="cubic")
    sharper = Schedule([each.map for each in maps], "sharpness", 50, 200, shape="geometric")
    return model, Recipe(60, 5, [density, closing, sharper], options(map_rate=2e-3))


def labelled(count: int = 16) -> list[tuple[Tensor, Tensor]]:
    return [(pictures(count), torch.arange(count) % CLASSES)]


def test_a_recipe_ends_in_a_plain_module_within_its_budget() -> None:
    model, recipe = mapped()
    result = recipe.run(model, labelled(), score=lambda m: float(m(pictures(2)).sum()))
    assert type(model[0]) is nn.Conv2d
    kept = [int(model[i].weight.count_nonzero()) for i in (0, 2)]
    assert sum(kept) / (model[0].weight.numel() + model[2].weight.numel()) == result.density
    assert result.density == pytest.approx(0.5, abs=0.05)
    last = result.soft.rows[-1]
    assert last.map_rate > 0
    assert last.watched["density violation"] == pytest.approx(result.density / 0.5 - 1, abs=0.05)
    assert {"density"} < last.parts.keys()
    assert None not in (result.soft_score, result.hard_score, result.score)


def test_what_is_pruned_stays_pruned_while_the_rest_learns() -> None:
    model, _ = mapped()
    harden(model)
    before = [layer.weight.detach().clone() for layer in selected(model).values()]
    fit(model, labelled(), steps=3, options=options())
    for layer, old in zip(selected(model).values(), before, strict=True):
        assert torch.equal(layer.weight == 0, old == 0)
        assert not torch.equal(layer.weight, old)
    assert all(not p.requires_grad for each in attached(model) for p in each.map.parameters())


class Interrupted(Exception):
    """Someone pulled the plug."""


@pytest.mark.parametrize("stop", [4, 63])  # in the soft training and in the fine one
def test_a_recipe_that_stops_goes_on_as_if_it_had_not(stop: int, tmp_path: Path) -> None:
    def run(count: int | None, **more: Any) -> nn.Module:
        model, recipe = mapped()
        done = 0

        def progress(what: str, step: int, of: int) -> None:
            nonlocal done
            done += 1
            if done == count:
                raise Interrupted

        chosen = options(map_rate=2e-3, progress=progress, checkpoint_every=1, **more)
        recipe = Recipe(recipe.soft_steps, recipe.fine_steps, recipe.companions, chosen)
        recipe.run(model, labelled())
        return model

    whole = run(None)
    path = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(stop, checkpoint=path)
    resumed = run(None, checkpoint=path, resume=True)
    assert torch.equal(weights(whole), weights(resumed))


def test_two_companions_of_one_name_are_refused() -> None:
    model, recipe = mapped()
    twice = Recipe(1, 0, [recipe.companions[0], recipe.companions[0]], options())
    with pytest.raises(BadArgument, match="two parts of the loss are named 'density'"):
        twice.run(model, labelled())


def test_a_run_goes_on_with_as_many_companions_as_it_began_with(tmp_path: Path) -> None:
    model, recipe = mapped()
    path = tmp_path / "run"
    fit(model, labelled(), steps=1, options=options(checkpoint=path, companions=recipe.companions))
    with pytest.raises(BadArgument, match="the state of 3 companions, this run has 0"):
        fit(mapped()[0], labelled(), steps=1, options=options(checkpoint=path, resume=True))


def test_activation_maps_learn_and_leave_no_trace() -> None:
    model = network(2)
    attach_behind(model[1], Clipped())
    with pytest.raises(BadArgument, match="this ReLU has an activation map already"):
        attach_behind(model[1], Clipped())
    fit(model, labelled(), steps=3, options=options(average_decay=0))
    ((name, clipped),) = activation_maps(model)
    assert name == "1"
    assert float(clipped.highest.detach()) != 0.5
    assert float(model[:2](pictures(2)).detach().max()) <= float(clipped.highest.detach())
    with pytest.raises(BadArgument, match="'1' still has a soft one"):
        bake(model)
    harden(model)
    assert bake(model) is model
    assert not model[1]._forward_hooks
    assert model.state_dict().keys() == network(2).state_dict().keys()


def test_maps_of_a_layer_follow_each_other_and_copies_are_apart() -> None:
    model = network(2)
    attach(model[0], FixedMask(torch.ones_like(model[0].weight)))
    attach(model[0], Soft())
    first, second = attached(model)
    assert torch.equal(second.stored, first.map(first.stored))
    assert second.stats().weights == model[0].weight.numel()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].parametrizations.weight.original.zero_()
    assert model[0].weight.abs().sum() > 0


def test_layers_are_found_by_name_and_refused_with_those_near() -> None:
    model = network()
    assert [*selected(model)] == ["0", "2"]
    assert [*selected(model, ["6"])] == ["6"]
    named = nn.ModuleDict({"conv1": nn.Conv2d(3, 4, 1), "head": nn.Linear(4, 2)})
    with pytest.raises(
        BadArgument, match="no convolution or linear layer is named 'conv9'; near it: conv1"
    ):
        selected(named, ["conv9"])
    assert [*selected(named, ["c*", "head"])] == ["conv1", "head"]
    assert [*selected(nn.ModuleDict({"a[0]": nn.Conv2d(1, 1, 1)}), ["a[0]"])] == ["a[0]"]
    with pytest.raises(BadArgument, match=r"fits 'h\*'; near it: .*; no .* is named 'tail'"):
        selected(named, ["h*", "tail"])
    with pytest.raises(BadModel, match="Linear has no convolution that this method can work on"):
        selected(nn.Linear(3, 4))
    with pytest.raises(BadArgument, match="has no layer 'a', nor any other"):
        selected(nn.ReLU(), ["a"])
    with pytest.raises(BadArgument, match="needs a layer with a weight, got ReLU"):
        attach(nn.ReLU(), Soft())
    with pytest.raises(BadArgument, match="has no weight map"):
        Recipe(1).run(model, labelled())
    for budget in (0, 1.5, float("nan")):
        with pytest.raises(BadArgument, match="a share above 0, at most 1"):
            Density([], budget)


def test_costs_of_layers_are_counted_on_a_picture() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, 2, groups=2), nn.Flatten(), nn.Linear(54, 5)).train()
    costs = layer_costs(model, torch.zeros(2, 4, 7, 7), ["0", "2"])
    assert (costs["0"].macs, costs["0"].outputs) == (2 * 6 * 9 * 9, 54)
    assert (costs["2"].macs, costs["2"].outputs) == (54 * 5, 5)
    assert model.training
    idle = nn.ModuleList([nn.Conv2d(1, 1, 1)])
    idle.forward = lambda x: x
    with pytest.raises(BadModel, match="layer '0' does not run"):
        layer_costs(idle, torch.zeros(1, 1, 2, 2), ["0"])


def test_what_comes_out_is_prepared_exported_and_compressed_as_it_is(tmp_path: Path) -> None:
    model, recipe = mapped()
    recipe.run(model, batches(2), teacher=network(1))
    student = tl.prepare(model, pictures(1), calibrate=pictures(4))
    tl.export(student, tmp_path / "student.onnx")
    made = thinmaps.compress(tmp_path / "student.onnx")
    zeros = sum(int((w == 0).sum()) for w in (model[0].weight, model[2].weight))
    convolutions = [
        n.operator.weights for n in made.plan.source.nodes if hasattr(n.operator, "weights")
    ]
    assert sum(int((w == 0).sum()) for w in convolutions) >= zeros
    assert zeros > 100
