# SPDX-License-Identifier: Apache-2.0
"""A block code that learns: it trains on its own integers, folds into them, counts dead bits."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transform_cases import drawn_transform

from thinmaps.codecs.block_code import BlockCode, FreeTransform
from thinmaps.codecs.klt import Klt
from thinmaps.errors import BadArgument
from thinmaps.learn.surrogates import surrogate_of
from thinmaps.learn.surrogates.base import bytes_to_values
from thinmaps.learn.surrogates.block_code import BlockCodeSurrogate
from thinmaps.types import MapSpec

ZERO_POINTS = pytest.mark.parametrize("zero_point", [0, 128])


def pictures(spec: MapSpec, count: int = 6, seed: int = 0) -> np.ndarray:
    """uint8 n h w c whose neighbours resemble each other."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(0, 30, (count, spec.height, spec.width, 4)).cumsum(axis=2) / 2
    mixed = mixed @ rng.normal(0, 1, (4, spec.channels)) + spec.zero_point
    return mixed.clip(0, 255).astype(np.uint8)


def values_of(maps: np.ndarray, spec: MapSpec) -> torch.Tensor:
    return bytes_to_values(torch.from_numpy(maps).permute(0, 3, 1, 2), spec)


def started(spec: MapSpec, **options: int) -> BlockCodeSurrogate:
    made = surrogate_of(BlockCode.fit(spec, pictures(spec), **options), spec)
    assert isinstance(made, BlockCodeSurrogate)
    return made


def reference(codec: BlockCode, maps: np.ndarray, spec: MapSpec) -> torch.Tensor:
    restored = [codec.decode(codec.encode(values, spec)) for values in maps]
    return values_of(np.stack(restored), spec)


@ZERO_POINTS
def test_it_starts_as_the_codec_it_stands_for(zero_point: int) -> None:
    spec = MapSpec(6, 9, 20, 0.5, zero_point)
    codec = BlockCode.fit(spec, pictures(spec), rate=40)
    folded = surrogate_of(codec, spec).codec()
    assert folded.encode(pictures(spec)[0], spec).units == (
        codec.encode(pictures(spec)[0], spec).units
    )
    assert folded.max_bytes(spec) == codec.max_bytes(spec)


def test_maps_of_fewer_channels_than_a_group_are_one_group() -> None:
    spec = MapSpec(6, 9, 3, 0.5, 0)
    surrogate, maps = started(spec, rate=40, group=32), pictures(spec)
    codec = surrogate.codec()
    assert codec.transform.group == 32
    assert len(codec.transform.counts) == 1
    made = surrogate.train()(values_of(maps, spec))
    assert torch.equal(made, reference(codec, maps, spec))


@ZERO_POINTS
def test_training_and_evaluation_give_what_the_folded_codec_restores(zero_point: int) -> None:
    spec = MapSpec(5, 7, 20, 0.375, zero_point)
    torch.manual_seed(1)
    surrogate = started(spec, rate=36)
    with torch.no_grad():  # far from where it started, every table at another shift
        for parameter in surrogate.parameters():
            parameter.mul_(2 ** torch.randn(parameter.shape)).add_(0.3 * torch.randn(()))
    maps = pictures(spec, seed=2)
    expected = reference(surrogate.codec(), maps, spec)
    for training in (True, False):
        made = surrogate.train(training)(values_of(maps, spec))
        assert torch.equal(made, expected), training


def test_sums_at_the_limits_of_the_tables_are_exact() -> None:
    rng = np.random.default_rng(4)
    spec = MapSpec(4, 6, 33, 1.0, 128)
    transform = drawn_transform(rng, (2, 2, 32, 33))
    entries = {
        name: np.maximum(getattr(transform, name), -127) for name in ("analysis", "synthesis")
    }
    codec = BlockCode(2, FreeTransform.starting_from(replace(transform, **entries)))
    maps = rng.choice(np.uint8([0, 255]), (3, *spec.shape))
    surrogate = surrogate_of(codec, spec).eval()
    made = surrogate(values_of(maps, spec))
    assert torch.equal(made, reference(surrogate.codec(), maps, spec))


def test_gradients_are_those_of_the_lines_between_clamps() -> None:
    spec = MapSpec(4, 4, 16, 0.25, 128)
    surrogate = started(spec, rate=64).train()
    maps = np.full((2, *spec.shape), 128, np.uint8)
    maps += np.random.default_rng(7).integers(0, 9, maps.shape).astype(np.uint8)  # clamps nothing
    values = values_of(maps, spec).requires_grad_()
    direction = torch.from_numpy(np.random.default_rng(8).normal(size=values.shape)).float()
    (surrogate(values) * direction).sum().backward()
    copied = copy.deepcopy(surrogate).double()
    again = values.detach().double().requires_grad_()
    codes = functional.conv2d(
        again / spec.scale, copied.analysis * copied.analysis_unit, copied.offset.flatten(), 2
    )
    hard = surrogate._codes(values.detach() / spec.scale).detach().double()
    codes = torch.minimum(codes.clamp(min=0), copied.largest + 1)
    codes = codes + (hard - codes).detach()
    restored = functional.conv_transpose2d(
        codes - copied.centre, copied.synthesis * copied.synthesis_unit, None, 2
    )
    (restored * spec.scale * direction).sum().backward()
    for name in ("analysis", "synthesis", "offset", "centre"):
        found, wanted = getattr(surrogate, name).grad, getattr(copied, name).grad
        torch.testing.assert_close(
            found.double(), wanted, rtol=0.03, atol=0.03 * wanted.abs().max()
        )
    torch.testing.assert_close(values.grad.double(), again.grad, rtol=0.05, atol=0.05)


def test_what_it_learns_is_in_the_codec() -> None:
    spec = MapSpec(8, 8, 16, 1.0, 0)
    maps = pictures(spec, 16)
    surrogate = started(spec, rate=8)  # half a bit: offsets and centres matter
    values = values_of(maps, spec)

    def lost() -> float:
        return float((reference(surrogate.codec(), maps, spec) - values).square().mean())

    before = lost()
    optimizer = torch.optim.Adam(surrogate.parameters(), 1e-2)
    surrogate.train()
    for _ in range(60):
        optimizer.zero_grad()
        (surrogate(values) - values).square().mean().backward()
        optimizer.step()
    assert lost() < 0.85 * before


def test_bits_that_no_code_changed_are_dead() -> None:
    spec = MapSpec(2, 2, 4, 1.0, 0)
    one = np.ones(1, np.int32)
    transform = FreeTransform(
        group=4,
        counts=2 * one,
        width=np.array([4, 2], np.uint8),
        analysis=np.array([1, 0, 0, 0, 0, 1, 0, 0], np.int8),
        analysis_shift=np.zeros(2, np.uint8),
        synthesis=np.zeros(8, np.int8),
        synthesis_shift=np.zeros(4, np.uint8),
        analysis_offset=np.zeros(2, np.int32),
        synthesis_centre=np.zeros(2, np.int32),
    )
    surrogate = surrogate_of(BlockCode(1, transform), spec).train()
    assert isinstance(surrogate, BlockCodeSurrogate)
    assert surrogate.dead_bits() == 0  # nothing was seen
    values = torch.zeros(1, 4, 2, 2)
    values[0, 0] = torch.tensor([[4.0, 5], [6, 7]])  # 01xx
    values[0, 1] = 9  # always the largest code
    surrogate(values)
    assert surrogate.dead_bits() == 2 + 2
    surrogate(values * 2)  # 8 to 14: all four bits
    assert surrogate.dead_bits() == 2
    surrogate.forget()
    surrogate(values * 0)
    assert surrogate.dead_bits() == 6


def test_another_codec_is_refused() -> None:
    with pytest.raises(BadArgument, match="surrogate of block_code was given codec 'klt'"):
        BlockCodeSurrogate(Klt(), MapSpec(1, 1, 1))
