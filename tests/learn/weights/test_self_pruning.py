# SPDX-License-Identifier: Apache-2.0
"""Learned thresholds: their formulas, the budgets they keep, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from learning_networks import CLASSES, network, options, pictures
from torch import Tensor

from thinmaps.errors import BadArgument, BadModel
from thinmaps.learn import fit
from thinmaps.learn.weights.decay import Decay
from thinmaps.learn.weights.maps import attached, harden
from thinmaps.learn.weights.self_pruning import (
    LAST_FLOOR,
    STEEPEST,
    AnalyticThreshold,
    PruningPenalty,
    SelfPruning,
    SoftThreshold,
    kept_share,
    thresholded,
)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def gaussian(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labelled(count: int = 16) -> list[tuple[Tensor, Tensor]]:
    return [(pictures(count), torch.arange(count) % CLASSES)]


def slopes(w: Tensor, a: Tensor, b: Tensor, gradient: str) -> tuple[Tensor, Tensor, Tensor]:
    variables = [w.clone().requires_grad_(), a.clone().requires_grad_(), b.clone().requires_grad_()]
    thresholded(*variables, gradient).sum().backward()
    return tuple(v.grad for v in variables)


@pytest.mark.parametrize(("a", "b"), [(3.0, 0.4), (12.0, 0.5), (40.0, 1.0)])
def test_gradients_are_those_of_central_differences(a: float, b: float) -> None:
    w, a_, b_ = 0.8 * gaussian(50), scalar(a), scalar(b)

    def value(w: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return w * kept_share(w, a, b)

    def difference(at: int) -> Tensor:
        # Richardson's: fourth order, so that h = 1e-3 leaves less than 1e-8 even where a is 40.
        def plain(h: float) -> Tensor:
            steps = [h if i == at else 0.0 for i in range(3)]
            up = value(w + steps[0], a_ + steps[1], b_ + steps[2])
            down = value(w - steps[0], a_ - steps[1], b_ - steps[2])
            return (up - down) / (2 * h)

        h = 2e-4
        return (4 * plain(h / 2) - plain(h)) / 3

    by_w, by_a, by_b = slopes(w, a_, b_, "exact")
    assert (by_w - difference(0)).abs().max() < 1e-8
    assert abs(by_a - difference(1).sum()) < 1e-8
    assert abs(by_b - difference(2).sum()) < 1e-8


def test_h_has_its_published_shape() -> None:
    a, b = scalar(6.0), scalar(1.0)
    assert float(kept_share(scalar(0.0), a, b)) == pytest.approx(1 - math.tanh(3), abs=1e-12)
    assert float(kept_share(b, a, b)) == pytest.approx(0.5 + 1 / (1 + math.exp(12)), abs=1e-12)
    w = gaussian(100)
    assert torch.equal(kept_share(w, a, b), kept_share(-w, a, b))
    steep = kept_share(w, scalar(1e6), b)
    assert torch.allclose(steep, (w.abs() > b).double())


def test_clipped_and_straight_gradients_differ_only_at_the_edges() -> None:
    w, a, b = gaussian(2000), scalar(40.0), scalar(1.0)
    exact, clipped, straight = (slopes(w, a, b, g)[0] for g in ("exact", "clipped", "straight"))
    assert exact.max() > 9
    assert torch.equal(clipped, exact.clamp(max=STEEPEST))
    assert torch.equal(straight, kept_share(w, a, b))
    far = (40 * (w.abs() - 1)).abs() > 30
    torch.testing.assert_close(exact[far], straight[far], atol=1e-9, rtol=0)


def test_the_peer_is_a_soft_threshold() -> None:
    w = gaussian(300).float()
    peer = SoftThreshold(w)
    with torch.no_grad():
        peer.s.fill_(0.0)  # a threshold of 1/2
    assert torch.allclose(peer(w), torch.nn.functional.softshrink(w, 0.5))
    assert peer.stats(w).kept == int((w.abs() > 0.5).sum())
    peer.harden(w)
    assert torch.allclose(peer(w), torch.nn.functional.softshrink(w, 0.5))


@pytest.mark.parametrize("peer", [False, True])
@pytest.mark.parametrize("counted", ["weights", "macs"])
def test_a_budget_is_kept(peer: bool, counted: str) -> None:
    model = network(2, width=12)
    example = pictures(1) if counted == "macs" else None
    chosen = options(map_rate=6e-2, average_decay=0.9)
    recipe = SelfPruning(0.4, example=example, peer=peer).recipe(model, 150, 0, chosen)
    assert {each.map.floor for each in attached(model)} == {6.0}
    thresholds = [each.map for each in attached(model)]
    result = recipe.run(model, labelled())
    assert {each.floor for each in thresholds} == {LAST_FLOOR}
    # Both layers have the same map size, so that weights and multiply-adds have one share.
    assert result.density == pytest.approx(0.4, abs=0.05)


def test_the_penalty_widens_and_sharpens_without_a_budget() -> None:
    model = network(2)
    maps = SelfPruning(1.0).attach(model)
    before = [(m.map.b.detach(), (m.map.a * m.map.b).detach()) for m in maps]
    penalty = PruningPenalty(maps, width_price=1.0, sharpness_price=100.0)
    fit(model, labelled(), steps=40, options=options(map_rate=1e-1, companions=[penalty]))
    for each, (b, product) in zip(maps, before, strict=True):
        assert each.map.b > 1.5 * b
        assert each.map.a * each.map.b > product


def test_what_hardening_changes_lies_near_the_edges() -> None:
    w = gaussian(5000).float()
    threshold = AnalyticThreshold(w)
    with torch.no_grad():
        threshold.width.fill_(0.5)
    near = threshold.near_edge(w)
    threshold.floor = LAST_FLOOR
    assert 0 < threshold.near_edge(w) < near
    soft = threshold(w)
    threshold.harden(w)
    changed = (threshold(w) - soft).abs()
    assert changed.max() <= threshold.b * 0.51
    assert torch.equal(threshold(w) != 0, w.abs() > threshold.b)


def test_a_decayed_parameter_shrinks_by_its_rate() -> None:
    parameter = torch.nn.Parameter(torch.tensor(-3200.0))
    decay = Decay([parameter], 0.25)
    decay.after(lambda values: values)
    assert float(parameter.detach()) == -2400.0
    with pytest.raises(BadArgument, match="a share of 0 to 1 in each step, got 2"):
        Decay([parameter], 2)


def test_wrong_requests_are_refused_in_a_sentence() -> None:
    with pytest.raises(BadArgument, match="a share above 0, at most 1, got 0"):
        SelfPruning(0)
    with pytest.raises(BadArgument, match="no convolution or linear layer is named 'stem'"):
        SelfPruning(0.5, layers=["stem"]).attach(network())
    with pytest.raises(BadModel, match="has no convolution"):
        SelfPruning(0.5).attach(torch.nn.Linear(3, 2))
    with pytest.raises(BadArgument, match=r"a gradient is one of .* got 'smooth'"):
        SelfPruning(0.5, gradient="smooth").attach(network())
    model = network()
    SelfPruning(0.5).attach(model)
    harden(model)
    assert all(each.map.is_hard for each in attached(model))
