# SPDX-License-Identifier: Apache-2.0
"""Pruning and quantising in one cost: the quantiser, mixtures, budgets, the hard end, the peer."""

from __future__ import annotations

import math

import pytest
import torch
from learning_networks import CLASSES, network, options, pictures
from torch import Tensor

from thinmaps.errors import BadArgument
from thinmaps.learn import fit
from thinmaps.learn.weights.dead_zone import DeadZone
from thinmaps.learn.weights.decay import Decay
from thinmaps.learn.weights.joint_prune_quantise import (
    JointPruneQuantise,
    MapBits,
    MixedMapQuantiser,
    MixedQuantiser,
    Prices,
    SoftPoints,
    WeightBits,
)
from thinmaps.learn.weights.maps import activation_maps, attach, attached, bake, harden
from thinmaps.learn.weights.quantiser import Grid, best_step, dequantised


def gaussian(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def labelled(count: int = 16) -> list[tuple[Tensor, Tensor]]:
    return [(pictures(count), torch.arange(count) % CLASSES)]


@pytest.mark.parametrize("grid", [Grid(2, True), Grid(4, True), Grid(3, False), Grid(8, False)])
def test_a_quantiser_has_the_published_values_and_gradients(grid: Grid) -> None:
    u = (3 * gaussian(200)).double().requires_grad_()
    step = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    made = dequantised(u, step, grid)
    integers = (u.detach() / 0.7).round().clamp(grid.lowest, grid.highest)
    torch.testing.assert_close(made, 0.7 * integers)
    made.sum().backward()
    ratio = u.detach() / 0.7
    within = (ratio > grid.lowest) & (ratio < grid.highest)
    assert u.grad is not None
    assert step.grad is not None
    torch.testing.assert_close(u.grad, within.double())
    slope = torch.where(within, integers - ratio, integers).sum()
    assert float(step.grad) == pytest.approx(float(slope) / math.sqrt(200 * grid.highest))


def test_the_first_step_has_the_least_error() -> None:
    values, grid = gaussian(5000), Grid(3, True)

    def error(step: float) -> float:
        return float((dequantised(values, torch.tensor(step), grid) - values).square().sum())

    step = best_step(values, grid)
    assert error(step) < min(error(0.9 * step), error(1.1 * step))
    assert best_step(torch.zeros(3), grid) == 1.0
    assert best_step(-values.abs(), Grid(3, False)) == 1.0


def test_a_mixture_is_the_weighted_average_and_ends_in_one_width() -> None:
    weight = gaussian(300)
    quantiser = MixedQuantiser(weight, (2, 4))
    with torch.no_grad():
        quantiser.mixture.theta.copy_(torch.tensor([0.0, math.log(3)]))
    steps = quantiser.mixture.log_steps.exp()
    parts = [
        dequantised(weight, step, Grid(bits, True))
        for step, bits in zip(steps, (2, 4), strict=True)
    ]
    torch.testing.assert_close(quantiser(weight), 0.25 * parts[0] + 0.75 * parts[1])
    assert float(quantiser.mixture.bits().detach()) == pytest.approx(0.25 * 2 + 0.75 * 4)
    zeroed = weight.clone()
    zeroed[::3] = 0
    assert bool((quantiser(zeroed)[::3] == 0).all())
    quantiser.mixture.tau = 0.05
    torch.testing.assert_close(quantiser(weight), parts[1])
    quantiser.harden(weight)
    assert torch.equal(quantiser(weight), parts[1])
    assert quantiser.stats(weight).bits == 4 * int(weight.count_nonzero())
    assert len(quantiser(weight).unique()) <= 15


def test_the_other_reading_goes_to_the_nearest_code_point() -> None:
    weight = gaussian(300)
    points = SoftPoints(weight, bits=3)
    smooth = points(weight)
    assert len(smooth.unique()) > 100
    points.tau = 0.01
    points_now = points(weight)
    points.harden(weight)
    # Equal but for the few weights within tau of the middle between two points.
    assert float(((points(weight) - points_now).abs() < 1e-4).float().mean()) > 0.97
    assert len(points(weight).unique()) <= 7
    assert points.stats(weight).weights == 300


def test_budgets_of_bits_are_kept_for_weights_and_maps() -> None:
    model = network(2, width=12)
    joint = JointPruneQuantise(2.0, 4.0, map_layers=["1", "3"])
    chosen = options(network_rate=3e-3, map_rate=6e-2, average_decay=0)
    recipe = joint.recipe(model, pictures(1), 200, 10, chosen)
    bits: dict[str, float] = {}

    def score(trained: torch.nn.Module) -> float:
        bits.update({name: float(each.bits()) for name, each in activation_maps(trained)})
        return float(trained(pictures(2)).sum())

    result = recipe.run(model, labelled(), score=score)
    assert 0.5 < result.weight_bits < 2.3
    assert 0 < result.density < 1
    assert set(bits) == {"1", "3"}
    assert all(each in (2, 3, 4, 6, 8) for each in bits.values())
    assert sum(bits.values()) / 2 <= 4.5
    assert result.fine is not None
    assert result.fine.rows[-1].parts["labels"] < result.soft.rows[0].parts["labels"]
    for layer in (model[0], model[2]):
        assert len(layer.weight.unique()) <= 255
        assert not hasattr(layer, "parametrizations")
    assert not hasattr(model[1], "activation_map")


def test_prices_take_bits_away_without_a_budget() -> None:
    model = network(2)
    joint = JointPruneQuantise(8.0, 8.0, map_layers=["1"])
    joint.recipe(model, pictures(1), 1)
    own = attached(model)
    weights = WeightBits(list(zip(own[::2], own[1::2], strict=True)), 8.0)
    ((_, found),) = activation_maps(model)
    assert isinstance(found, MixedMapQuantiser)
    maps = MapBits([(found, 64)], 8.0)
    before = float(weights.bits().detach()), float(maps.bits().detach())
    prices = Prices(weights, maps, weight_price=0.5, map_price=0.5)
    fit(model, labelled(), steps=40, options=options(map_rate=5e-2, companions=[prices]))
    assert float(weights.bits().detach()) < 0.9 * before[0]
    assert float(maps.bits().detach()) < 0.9 * before[1]


def reference_dead_zone(w: Tensor, zone: float, width: float) -> Tensor:
    """The published formulas, in plain order."""
    end = torch.quantile(w.abs(), 0.99)
    bits = round(2 + 6 * abs(math.tanh(width)))
    d = 2 * end * (1 - abs(math.tanh(zone)))
    levels = 2 ** (bits - 1) - 1
    s = (end - d / 2) / (levels - 0.5)
    c = (d - s) / 2
    q = (w.sign() * (w.abs() - c).relu() / s).round().clamp(-levels, levels)
    return s * q + c * q.sign()


@pytest.mark.parametrize(("zone", "width"), [(3.0, 3.0), (0.5, 0.4), (0.1, 0.0)])
def test_the_peer_follows_its_formulas(zone: float, width: float) -> None:
    weight = gaussian(1000)
    peer = DeadZone()
    with torch.no_grad():
        peer.zone.fill_(zone)
        peer.width.fill_(width)
    torch.testing.assert_close(peer(weight).detach(), reference_dead_zone(weight, zone, width))
    (peer(weight) * gaussian(1000, 1)).sum().backward()
    assert peer.zone.grad is not None
    assert peer.width.grad is not None
    assert float(peer.zone.grad) != 0


def test_decay_of_its_logits_prunes_and_narrows_the_peer() -> None:
    model = network(2, width=12)
    attach(model[2], DeadZone())
    (each,) = attached(model)
    before = each.stats()
    decay = Decay(list(each.map.parameters()), 0.05)
    fit(model, labelled(), steps=60, options=options(average_decay=0, companions=[decay]))
    after = each.stats()
    assert after.kept < 0.7 * before.kept
    assert float(after.bits.detach()) < 0.5 * float(before.bits.detach())
    harden(model)
    bake(model)
    assert int(model[2].weight.count_nonzero()) == after.kept


def test_wrong_requests_are_refused_in_a_sentence() -> None:
    for bits in (0, 9, float("nan")):
        with pytest.raises(BadArgument, match="a budget of stored bits is above 0, at most 8"):
            JointPruneQuantise(bits)
    with pytest.raises(BadArgument, match="come together"):
        JointPruneQuantise(2.0, 4.0)
    with pytest.raises(BadArgument, match="widths are 2 to 8 bits"):
        JointPruneQuantise(2.0, widths=(1, 4)).recipe(network(), pictures(1), 1)
    with pytest.raises(BadArgument, match="relu"):
        JointPruneQuantise(2.0, 4.0, map_layers=["relu"]).recipe(network(), pictures(1), 1)
