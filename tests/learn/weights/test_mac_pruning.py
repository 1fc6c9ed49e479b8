# SPDX-License-Identifier: Apache-2.0
"""Pruning driven by multiply-adds: the loop, its exact end, the Gaussian form, the budget."""

from __future__ import annotations

import math

import pytest
import torch
from learn.networks import ResNet20
from torch import nn

from thinmaps.errors import BadArgument, BadModel
from thinmaps.learn.weights.mac_pruning import (
    LOOP_FACTOR,
    choose_thresholds,
    error_per_weight,
    gaussian_error,
    largest_threshold,
    loop_threshold,
    prune_by_macs,
)
from thinmaps.learn.weights.maps import bake

PICTURE = torch.zeros(1, 3, 32, 32)


def gaussian(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return ResNet20().eval()


@pytest.mark.parametrize("allowance", [0.1, 0.28, 0.54, 0.88])
def test_the_exact_threshold_is_what_the_loop_comes_down_to(allowance: float) -> None:
    weights = gaussian(5000)
    exact, looped = largest_threshold(weights, allowance), loop_threshold(weights, allowance)
    assert LOOP_FACTOR * exact <= looped <= exact
    assert error_per_weight(weights, exact) <= allowance
    assert error_per_weight(weights, exact * 1.01) > allowance


def test_the_error_of_a_gaussian_layer_needs_no_weights() -> None:
    weights = gaussian(1_000_000)
    for threshold in (0.25, 0.5, 1.0, 1.5, 2.0):
        removed, error = gaussian_error(threshold)
        assert float((weights.abs() < threshold).double().mean()) == pytest.approx(
            removed, rel=1e-2
        )
        assert error_per_weight(weights, threshold) == pytest.approx(error, rel=1e-2)
    assert gaussian_error(0) == (0.0, 0.0)


def test_the_published_error_shrinks_as_a_layer_grows_and_ours_does_not() -> None:
    small, large = gaussian(1000), gaussian(100_000)
    ratio = error_per_weight(large, 1.0, published=True) / error_per_weight(
        small, 1.0, published=True
    )
    assert ratio == pytest.approx(0.1, rel=0.05)  # 1 / sqrt(100)
    assert error_per_weight(large, 1.0) == pytest.approx(error_per_weight(small, 1.0), rel=0.05)
    assert loop_threshold(large, 0.01, published=True) > loop_threshold(small, 0.01, published=True)


def test_nothing_goes_where_nothing_may() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])
    assert error_per_weight(weights, loop_threshold(weights, 0.5)) == 0.0
    assert largest_threshold(weights, 0.5) == 1.0
    assert error_per_weight(weights, 1.0) == 0.0


@pytest.mark.parametrize("budget", [0.02, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_a_budget_of_macs_is_met_within_a_percent(budget: float, exponent: float) -> None:
    model = resnet()
    found = prune_by_macs(model, PICTURE, budget, exponent=exponent)
    assert found.mac_share == pytest.approx(budget, rel=0.01)
    bake(model)
    left = sum(
        each.macs
        * float(model.get_submodule(name).weight.count_nonzero())
        / model.get_submodule(name).weight.numel()
        for name, each in found.layers.items()
    )
    assert left / sum(each.macs for each in found.layers.values()) == pytest.approx(
        found.mac_share, abs=1e-12
    )


def test_layers_that_work_more_may_lose_more() -> None:
    found = choose_thresholds(resnet(), PICTURE, 0.3, exponent=1.0).layers
    even = choose_thresholds(resnet(), PICTURE, 0.3, exponent=0.0).layers
    heavy, light = "layer1.0.conv1", "conv1"
    assert found[heavy].macs > found[light].macs
    assert found[heavy].density < 0.5 * found[light].density
    assert even[heavy].allowance == even[light].allowance
    ratio = found[light].allowance / found[heavy].allowance
    assert math.isclose(ratio, found[light].macs / found[heavy].macs)


def test_what_cannot_be_pruned_is_refused_in_a_sentence() -> None:
    with pytest.raises(BadArgument, match="a budget of multiply-adds is a share above 0"):
        choose_thresholds(resnet(), PICTURE, 0.0)
    with pytest.raises(BadArgument, match="exponent of the load is 0 to 1, got 2"):
        choose_thresholds(resnet(), PICTURE, 0.5, exponent=2)
    with pytest.raises(BadArgument, match=r"near it: .*layer1\.0\.conv1"):
        choose_thresholds(resnet(), PICTURE, 0.5, layers=["layer1.0.conv11"])
    with pytest.raises(BadModel, match="has no convolution"):
        choose_thresholds(nn.Sequential(nn.Linear(3, 4)), PICTURE, 0.5)
