# SPDX-License-Identifier: Apache-2.0
"""Layers of bits that learn: both ends' derivatives, folding, and what an optimiser moves."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from thinmaps.codecs.bit_layers import BitLayer
from thinmaps.codecs.gf2 import PRESETS, Gf2
from thinmaps.codecs.narrow import Narrow
from thinmaps.errors import BadArgument
from thinmaps.learn.surrogates import surrogate_of
from thinmaps.learn.surrogates.gf2 import Ends, Gf2Surrogate, from_planes, to_planes
from thinmaps.types import MapSpec

NOTHING = np.zeros((0, 1, 1, 1), np.uint8)
ZERO_POINTS = pytest.mark.parametrize("zero_point", [0, 128])


def values_of(spec: MapSpec, seed: int = 0, count: int = 2) -> torch.Tensor:
    """Values on the map's grid."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (count, spec.channels, spec.height, spec.width))
    return (torch.from_numpy(codes).float() - spec.zero_point) * spec.scale


def triangle(level: torch.Tensor, plane: int, flipped: bool) -> torch.Tensor:
    """The relaxation of a plane: 0 amid its runs of zeros, 1 amid its runs of ones."""
    run = 1 << plane
    phase = (level - (run - 1) / 2) % (2 * run)
    wave = torch.where(phase < run, phase / run, 2 - phase / run)
    return 1 - wave if flipped else wave


@ZERO_POINTS
def test_the_slopes_of_planes_are_those_of_their_relaxation(zero_point: int) -> None:
    spec = MapSpec(1, 256, 1, 0.25, zero_point)
    values = ((torch.arange(256.0) - zero_point) * spec.scale).reshape(1, 1, 1, 256)
    values.requires_grad_()
    codec = Gf2.fit(spec, NOTHING, keep=9, planes=9)
    bits = to_planes(values, Ends(codec, spec, False))
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=bits.shape)).float()
    (bits * weights).sum().backward()
    level, further, expected = torch.arange(256.0), 1 / 4, torch.zeros(256)
    for plane in range(8):  # the ninth is idle
        flipped = bool(zero_point >> plane & 1)
        here, there = (triangle(x, plane, flipped) for x in (level, level + further))
        assert torch.equal((here > 0.5).float(), bits.detach()[0, 0, plane, 0, 0])
        # On halves of a byte the wave has its corners, so a quarter to the right is on a line.
        slope = (there - here) / further / spec.scale
        expected += slope * weights[0, 0, plane, 0, 0]
    assert values.grad is not None
    torch.testing.assert_close(values.grad.flatten(), expected, rtol=1e-5, atol=1e-5)


@ZERO_POINTS
def test_bits_to_values_have_the_exact_derivative(zero_point: int) -> None:
    spec = MapSpec(2, 3, 4, 0.5, zero_point)
    codec = Gf2(
        1,
        8,
        2,
        (
            BitLayer(
                2,
                np.eye(16, dtype=np.int8)[[*range(16)] * 2][..., None, None],
                np.ones(32, np.int32),
            ),
        ),
    )
    ends = Ends(codec, spec, False)
    values = values_of(spec)
    bits = to_planes(values, ends).requires_grad_()
    restored = from_planes(bits, ends)
    assert torch.equal(restored, values)
    upstream = torch.from_numpy(np.random.default_rng(2).normal(size=values.shape)).float()
    (restored * upstream).sum().backward()
    for plane in range(8):
        one = bits.detach().clone()
        one[:, :, plane] = 1 - one[:, :, plane]
        moved = from_planes(one, ends) - restored.detach()
        change = (one - bits.detach())[:, :, plane].reshape(moved.shape)
        expected = moved / change * upstream
        assert bits.grad is not None
        torch.testing.assert_close(bits.grad[:, :, plane].reshape(moved.shape), expected)


def test_the_authors_scaler_spreads_gradients_as_their_program_does() -> None:
    spec = MapSpec(1, 5, 2, 0.5)
    codec = Gf2.fit(spec, NOTHING, preset="BIT6CH")
    ends = Ends(codec, spec, True)
    values = values_of(spec).requires_grad_()
    bits = to_planes(values, ends)
    bits.retain_grad()
    upstream = torch.from_numpy(np.random.default_rng(4).normal(size=values.shape)).float()
    (from_planes(bits, ends) * upstream).sum().backward()
    expected = upstream[:, None, None] * bits.detach()
    assert torch.equal(bits.grad, expected)
    torch.testing.assert_close(values.grad, expected.sum(dim=(1, 2)) * 2 / 9)


@pytest.mark.parametrize("kind", ["int8", "ternary"])
@pytest.mark.parametrize("preset", list(PRESETS)[:5])
def test_every_preset_starts_as_its_identity(preset: str, kind: str) -> None:
    spec = MapSpec(5, 6, 3, 0.25)
    codec = Gf2.fit(spec, NOTHING, preset=preset, unit_rows=5)
    surrogate = Gf2Surrogate(codec, spec, kind)
    values = values_of(spec)
    evaluated = Gf2Surrogate(codec, spec).eval()(values)
    assert torch.equal(surrogate(values), evaluated)
    assert torch.equal(surrogate.eval()(values), evaluated)
    codes = (values / spec.scale).numpy().astype(np.uint8)
    for picture, made in zip(codes.transpose(0, 2, 3, 1), evaluated, strict=True):
        restored = codec.decode(codec.encode(picture, spec)).transpose(2, 0, 1)
        np.testing.assert_array_equal(made.numpy(), restored * np.float32(spec.scale))


def random_surrogate(spec: MapSpec, kind: str, kernel: int, unit_rows: int) -> Gf2Surrogate:
    """Two groups, real weights and biases drawn at random."""
    rng = np.random.default_rng(kernel)
    shapes = [(24, 8 * spec.channels, kernel), (18, 24, 1), (30, 18, kernel)]
    layers = [
        BitLayer(
            2,
            rng.choice(np.int8([-1, 1]), (outputs, inputs // 2, size, size)),
            np.ones(outputs, np.int32),
        )
        for outputs, inputs, size in [*shapes, (8 * spec.channels, 30, 1)]
    ]
    codec = Gf2(unit_rows, 8, 2, tuple(layers[:2]), tuple(layers[2:]))
    surrogate = Gf2Surrogate(codec, spec, kind)
    torch.manual_seed(kernel)
    for layer in surrogate.layers():
        nn.init.normal_(layer.weight)
        spread = layer.weight[0].numel() ** 0.5 / 4
        nn.init.normal_(layer.bias, 0, spread)
    return surrogate


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("kind", ["int8", "ternary", "binary"])
def test_training_computes_what_evaluation_folds(kind: str, kernel: int) -> None:
    spec = MapSpec(7, 6, 4, 0.25, 128)
    for unit_rows in (7, 2):
        surrogate = random_surrogate(spec, kind, kernel, unit_rows)
        values = values_of(spec)
        trained = surrogate(values)
        assert len(torch.unique(trained)) > 4
        assert torch.equal(surrogate.eval()(values), trained.detach())
        weights = [layer.weights for layer in surrogate.codec().project]
        allowed = {"int8": 127, "ternary": 1, "binary": 1}[kind]
        assert max(np.abs(each).max() for each in weights) == allowed
        assert kind != "binary" or all(each.all() for each in weights)


def test_weights_and_biases_both_move() -> None:
    spec = MapSpec(6, 6, 4, 0.25)
    codec = Gf2.fit(spec, NOTHING, preset="BIT6CH_3x3s2", unit_rows=6)
    for authors in (False, True):
        surrogate = Gf2Surrogate(codec, spec, authors=authors)
        before = copy.deepcopy(surrogate.state_dict())
        optimiser = torch.optim.SGD(surrogate.parameters(), lr=1e-3)
        values = values_of(spec)
        for _ in range(2):
            optimiser.zero_grad()
            (surrogate(values) - values).square().mean().backward()
            optimiser.step()
        after = surrogate.state_dict()
        assert set(before) == {
            f"{side}.0.{name}" for side in ("project", "restore") for name in ("weight", "bias")
        }
        for name, tensor in before.items():
            assert not torch.equal(after[name], tensor), name


def test_learning_restores_a_map_better_than_the_identity() -> None:
    spec = MapSpec(8, 8, 4)
    rng = np.random.default_rng(3)
    # Channels that are each other's doubles: their bits are worth less than half of what they take.
    one = rng.integers(0, 256, (8, 2, 8, 8))
    values = torch.from_numpy(np.concatenate([one, one], axis=1)).float()
    codec = Gf2.fit(spec, NOTHING, keep=4)
    surrogate = surrogate_of(codec, spec)
    assert isinstance(surrogate, Gf2Surrogate)

    def lost() -> torch.Tensor:
        return (surrogate.eval()(values) - values).square().mean()

    torch.manual_seed(0)
    for layer in surrogate.layers():
        nn.init.normal_(layer.weight, 0, 0.02)
    start = lost()
    optimiser = torch.optim.Adam(surrogate.parameters(), lr=0.01)
    for _ in range(60):
        surrogate.train()
        optimiser.zero_grad()
        (surrogate(values) - values).square().mean().backward()
        optimiser.step()
    assert lost() < start / 2


def test_running_statistics_fold_into_thresholds() -> None:
    spec = MapSpec(5, 5, 4, 0.25, 128)
    codec = random_surrogate(spec, "int8", 1, 5).codec()
    surrogate = Gf2Surrogate(codec, spec, normalises=True)
    torch.manual_seed(5)
    for layer in surrogate.layers():
        assert layer.norm is not None
        nn.init.normal_(layer.norm.weight)  # half of them negative
        nn.init.normal_(layer.norm.bias)
    with torch.no_grad():
        layer.norm.weight[:2] = 0
        for seed in range(30):
            surrogate(values_of(spec, seed))
    values = values_of(spec, 99)
    evaluated = surrogate.eval()(values)
    assert len(torch.unique(evaluated)) > 4
    # The same in real numbers, by each layer's running statistics.
    bits = to_planes(values, surrogate.ends)
    made = bits.reshape(2, -1, 5, 5).double()
    for layer in surrogate.layers():
        integers, scale = layer.integers()
        sums = layer._convolved(made, integers.double(), 5, 5)
        soft = layer.norm.double().eval()(sums * scale.double().reshape(-1, 1, 1))
        made = (soft + layer.bias.double().reshape(-1, 1, 1) >= 0.5).double()
    restored = from_planes(made.float().reshape(bits.shape), surrogate.ends)
    assert torch.equal(restored, evaluated)


def test_bits_that_never_change_are_counted() -> None:
    spec = MapSpec(4, 4, 2)
    surrogate = Gf2Surrogate(Gf2.fit(spec, NOTHING, keep=3), spec)
    surrogate(values_of(spec))
    # Restored planes that nothing was kept of stay 0.
    assert surrogate.dead_bits() == [0, 10]
    surrogate.layers()[0].bias.data[:4] = -9
    surrogate.forget()
    surrogate(values_of(spec))
    assert surrogate.dead_bits() == [4, 14]


def test_it_is_copied_pickled_and_restored_from_its_state() -> None:
    spec = MapSpec(4, 4, 4, 0.25, 128)
    surrogate = random_surrogate(spec, "int8", 3, 4)
    values = values_of(spec)
    expected = surrogate(values)
    other = random_surrogate(spec, "int8", 3, 4)
    for layer in other.layers():
        layer.weight.data.neg_()
    assert not torch.equal(other(values), expected)
    other.load_state_dict(surrogate.state_dict())
    for same in (other, copy.deepcopy(surrogate), pickle.loads(pickle.dumps(surrogate))):
        assert torch.equal(same(values), expected)


def test_what_does_not_fit_is_refused() -> None:
    spec = MapSpec(2, 2, 3)
    codec = Gf2.fit(spec, NOTHING)
    with pytest.raises(BadArgument, match="one of int8, ternary, binary, got 'int4'"):
        Gf2Surrogate(codec, spec, "int4")
    with pytest.raises(BadArgument, match="given codec 'narrow'"):
        Gf2Surrogate(Narrow(), spec)


def test_layers_that_do_not_learn_restore_exactly_and_pass_gradients_straight_through() -> None:
    spec = MapSpec(6, 5, 3, 0.5)
    codec = Gf2.fit(spec, NOTHING, keep=3, kernel=3, unit_rows=6)
    fixed = Gf2Surrogate(codec, spec).train().requires_grad_(False)
    values = values_of(spec).requires_grad_()
    made = fixed(values)
    assert torch.equal(made, Gf2Surrogate(codec, spec).eval()(values.detach()))
    weights = torch.from_numpy(np.random.default_rng(3).normal(size=made.shape)).float()
    (made * weights).sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, weights)
