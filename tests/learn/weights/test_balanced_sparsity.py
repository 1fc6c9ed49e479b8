# SPDX-License-Identifier: Apache-2.0
"""Balanced groups: counts, gradients, both forms of the constraint, the exact end, SR-STE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learning_networks import CLASSES, options, pictures
from torch import Tensor, nn

import thinmaps.learn as tl
from thinmaps.errors import BadArgument, BadModel
from thinmaps.graph.operators import Conv
from thinmaps.graph.zero_blocks import largest_blocks, used_blocks
from thinmaps.learn.weights.balanced_sparsity import (
    DECAY,
    BalancedSparsity,
    BalancedThreshold,
    Imbalance,
    TopKPerGroup,
    unbalanced,
)
from thinmaps.learn.weights.constraint import Constraint, ConstraintOptions, Violation
from thinmaps.learn.weights.maps import attach, attached, harden
from thinmaps.learn.weights.patterns import Blocks, Groups
from thinmaps.plan.build import build

TWO_OF_FOUR = Groups(2, 4)


def network(seed: int = 2) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def labelled(count: int = 16) -> list[tuple[Tensor, Tensor]]:
    return [(pictures(count), torch.arange(count) % CLASSES)]


def balance(seed: int = 0) -> tuple[nn.Conv2d, BalancedThreshold]:
    """A layer in float64 with a threshold in the middle of its weights."""
    torch.manual_seed(seed)
    layer = nn.Conv2d(16, 8, 3).double()
    threshold = BalancedThreshold(layer.weight, TWO_OF_FOUR).double()
    with torch.no_grad():
        threshold.width.fill_(0.8)
    attach(layer, threshold)
    return layer, threshold


def test_groups_are_runs_of_input_channels_at_one_place() -> None:
    weight = torch.arange(2 * 8 * 3 * 3.0).reshape(2, 8, 3, 3)
    groups = TWO_OF_FOUR.split(weight)
    assert groups.shape == (2 * 9 * 2, 4)
    assert torch.equal(groups[0], weight[0, :4, 0, 0])
    assert torch.equal(groups[1], weight[0, 4:, 0, 0])
    assert torch.equal(groups[-1], weight[1, 4:, 2, 2])
    assert torch.equal(TWO_OF_FOUR.spread(groups, weight), weight)


def test_the_largest_of_each_group_stay_and_earlier_channels_win_ties() -> None:
    weight = torch.tensor([[3.0, -4.0, 1.0, 2.0, 5.0, 5.0, 5.0, 5.0]])
    wanted = [[True, True, False, False, True, True, False, False]]
    assert TWO_OF_FOUR.largest(weight).tolist() == wanted


@pytest.mark.parametrize("form", ["signed", "variance"])
def test_gradients_of_counts_and_of_their_variance_are_those_of_differences(form: str) -> None:
    layer, threshold = balance()
    stored = attached(layer)[0].stored
    measure = Imbalance(attached(layer), form)
    factors = torch.linspace(-1, 1, measure().soft.numel(), dtype=torch.float64)

    def value() -> Tensor:
        return (factors * measure().soft).sum() if form == "signed" else measure().soft.sum()

    value().backward()
    h = 1e-6
    for tensor, at in ((stored, (3, 5, 1, 2)), (threshold.width, ())):
        with torch.no_grad():
            tensor[at] += h
            up = value()
            tensor[at] -= 2 * h
            down = value()
            tensor[at] += h
        # Central differences of step 1e-6 in float64: about 1e-9 by rounding, 1e-9 by curvature.
        assert tensor.grad is not None
        assert float(tensor.grad[at]) == pytest.approx(float((up - down) / (2 * h)), abs=1e-7)


def test_the_variance_is_the_published_one() -> None:
    layer, threshold = balance()
    counts = threshold.members(layer.parametrizations.weight.original).sum(1)
    published = ((counts - counts.mean()) ** 2).mean()
    found = Imbalance(attached(layer), "variance")()
    assert float(found.soft.detach()) * 16 == pytest.approx(float(published.detach()), rel=1e-12)


def balanced_by(form: str, steps: int) -> tuple[float, float]:
    """Mean square of what groups miss, softly, halfway and in the end.

    Descent on weights that are drawn back to where they began; their threshold stands still.
    """
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3).double()
    nn.init.normal_(layer.weight)
    threshold = BalancedThreshold(layer.weight, TWO_OF_FOUR).double()
    threshold.floor = 3.0
    with torch.no_grad():
        threshold.width.fill_(0.67)  # half of Gaussian weights
    attach(layer, threshold)
    stored = layer.parametrizations.weight.original
    start, maps = stored.detach().clone(), attached(layer)
    measure, groups = Imbalance(maps, form), stored.numel() // 4
    kind, step, scale = ("augmented", 0.3, 1) if form == "signed" else ("lagrangian", 0.003, groups)
    constraint = Constraint(
        "groups", lambda: Violation(scale * measure().soft), ConstraintOptions("eq", kind, step)
    )
    missed = []
    for _ in range(steps):
        loss = 0.05 * (stored - start).square().sum() + constraint.parts()["groups"]
        (slope,) = torch.autograd.grad(loss, stored)
        with torch.no_grad():
            stored.sub_(0.05 * slope)
        constraint.after(lambda values: values)
        missed.append(float(Imbalance(maps)().counted().square().mean()))
    return missed[steps // 2], missed[-1]


def test_signed_balance_goes_on_where_the_published_variance_stalls() -> None:
    signed, variance = balanced_by("signed", 1000), balanced_by("variance", 1000)
    assert signed[1] < 0.5 * signed[0]
    assert variance[1] > 0.8 * variance[0]
    assert signed[1] < 0.4 * variance[1]


@pytest.mark.parametrize("form", ["signed", "variance", "sr-ste"])
def test_every_group_ends_with_exactly_its_count(form: str) -> None:
    model = network()
    recipe = BalancedSparsity(TWO_OF_FOUR, form=form).recipe(
        model, 60, 5, options(map_rate=6e-2, average_decay=0.9)
    )
    result = recipe.run(model, labelled())
    for layer in (model[2], model[4]):
        counts = TWO_OF_FOUR.split((layer.weight != 0).double()).sum(1)
        assert float(counts.var(correction=0)) == 0.0
        assert float(counts[0]) == 2
    assert bool((model[0].weight != 0).all())  # groups of 4 do not divide its 3 channels
    assert result.density == 0.5
    assert result.soft.rows[-1].parts["labels"] < result.soft.rows[0].parts["labels"]


def test_training_balances_groups_before_the_projection() -> None:
    model = network()
    recipe = BalancedSparsity(TWO_OF_FOUR).recipe(
        model, 150, 0, options(network_rate=1e-3, average_decay=0)
    )
    maps = attached(model)
    seen: list[float] = []

    def score(trained: nn.Module) -> float:
        if not seen:  # before hardening
            seen.append(unbalanced(maps))
        return 0.0

    # It begins with half of each layer's weights, of which 1 - C(4, 2) / 16 = 62.5 % of the groups
    # have another number than two, if they lie at random.
    begun = unbalanced(maps)
    assert begun == pytest.approx(0.625, abs=0.1)
    recipe.run(model, labelled(), score=score)
    assert seen[0] < 0.85 * begun


def test_the_peer_keeps_the_largest_and_decays_the_others() -> None:
    layer = nn.Conv2d(8, 4, 1)
    attach(layer, TopKPerGroup(layer.weight, TWO_OF_FOUR))
    stored = layer.parametrizations.weight.original
    wanted = torch.randn_like(stored)
    (layer.weight * wanted).sum().backward()
    masked = ~TWO_OF_FOUR.largest(stored)
    assert stored.grad is not None
    torch.testing.assert_close(stored.grad, wanted + DECAY * stored * masked)
    harden(layer)
    stored.grad = None
    (layer.weight * wanted).sum().backward()
    assert bool((stored.grad[masked] == 0).all())


def test_groups_that_do_not_fit_are_refused_in_a_sentence() -> None:
    with pytest.raises(BadArgument, match="1 to all of their weights, got 5 of 4"):
        Groups(5, 4)
    with pytest.raises(BadArgument, match="groups of 4 do not divide the 3 input channels of '0'"):
        BalancedSparsity(TWO_OF_FOUR, layers=["0"]).attach(network())
    with pytest.raises(BadModel, match="has no convolution that this method can work on"):
        BalancedSparsity(Groups(2, 5)).attach(network())
    with pytest.raises(BadArgument, match="balance is kept by one of"):
        BalancedSparsity(TWO_OF_FOUR, form="square")
    with pytest.raises(BadArgument, match="blocks is a share above 0, at most 1, got 0"):
        Blocks(0)
    with pytest.raises(BadArgument, match="blocks of 4 x 4 channels do not divide 8 x 3 channels"):
        BalancedSparsity(Blocks(0.5), layers=["0"]).attach(network())
    grouped = nn.Sequential(nn.Conv2d(16, 8, 1, groups=4))
    with pytest.raises(BadArgument, match="do not divide 2 x 4 channels"):
        BalancedSparsity(Blocks(0.5), layers=["0"]).attach(grouped)


def test_blocks_are_those_that_the_engine_skips() -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 8, 3, 3)
    mask = Blocks(0.25).largest(weight)
    assert np.array_equal(mask.numpy(), largest_blocks(weight.numpy(), 0.75))
    flat = torch.randn(8, 12)
    found = Blocks(0.5).largest(flat)
    assert np.array_equal(
        found.numpy()[..., None, None], largest_blocks(flat.numpy()[..., None, None], 0.5)
    )


@pytest.mark.parametrize("form", ["signed", "sr-ste"])
def test_a_network_that_learnt_to_do_without_blocks_skips_them(form: str) -> None:
    torch.manual_seed(1)
    wide = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )
    example = torch.randn(2, 3, 24, 96)
    student = tl.prepare(wide, example[:1], calibrate=example)
    assert build(student.network()).skipping == ()
    recipe = BalancedSparsity(Blocks(0.25), form=form).recipe(student, 2, 1, options(map_rate=2e-2))
    result = recipe.run(student, [example], teacher=wide)
    assert result.density == 0.25
    network = student.network()
    weights = [node.operator.weights for node in network.nodes if isinstance(node.operator, Conv)]
    assert [used_blocks(w).sum((1, 2, 3)).tolist() for w in weights[1:3]] == [[36] * 16] * 2
    assert len(build(network).skipping) == 2
