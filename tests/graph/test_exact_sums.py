# SPDX-License-Identifier: Apache-2.0
"""Scales of sums: on the grid, never smaller, shared by a group, and exact for every byte."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps.graph.exact_sums import GRID_BITS, MOST_GROWTH, settle


def _alone(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _random_scales(generator: np.random.Generator, names: str) -> dict[str, float]:
    scales = {name: float(np.float32(generator.uniform(0.005, 0.05))) for name in names}
    scales[names[-1]] = float(np.float32(generator.uniform(0.02, 0.08)))
    return scales


@pytest.mark.parametrize("seed", range(20))
def test_ratios_lie_on_the_grid_and_scales_grow_little(seed: int) -> None:
    before = _random_scales(np.random.default_rng(seed), "aby")
    after = dict(before)
    settle([("a", "b", "y")], _alone(*"aby"), after)
    for name in "ab":
        ratio = np.float32(after[name]) / np.float32(after["y"])
        assert float(ratio) * 2**GRID_BITS % 1 == 0
    for name in "aby":
        assert before[name] <= after[name] <= MOST_GROWTH * before[name]
        assert np.float32(after[name]) == after[name]


@pytest.mark.parametrize("seed", range(5))
def test_every_order_of_rounding_gives_the_same_sum(seed: int) -> None:
    scales = _random_scales(np.random.default_rng(seed), "aby")
    settle([("a", "b", "y")], _alone(*"aby"), scales)
    ra, rb = (np.float32(scales[name]) / np.float32(scales["y"]) for name in "ab")
    a, b = np.meshgrid(np.arange(-255, 256), np.arange(-255, 256))
    rounded = a.astype(np.float32) * ra + b.astype(np.float32) * rb
    exact = a * float(ra) + b * float(rb)  # 24 bits: float64 rounds nothing
    np.testing.assert_array_equal(rounded.astype(np.float64), exact)


def test_a_chain_of_residual_sums_is_exact_throughout() -> None:
    sums = [(f"s{i}", f"b{i}", f"s{i + 1}") for i in range(20)]
    names = {name for each in sums for name in each}
    generator = np.random.default_rng(8)
    scales = {name: float(np.float32(generator.uniform(0.01, 0.03))) for name in sorted(names)}
    settle(sums, _alone(*names), scales)
    for a, b, y in sums:
        for operand in (a, b):
            ratio = float(np.float32(scales[operand]) / np.float32(scales[y]))
            assert ratio * 2 ** (GRID_BITS - 2) % 1 in (0, 0.25, 0.5, 0.75)


def test_maps_of_a_group_change_together_and_settled_ones_stay() -> None:
    group = {"a": "a", "b": "b", "pooled": "b", "y": "y", "z": "z"}
    scales = {"a": 0.011, "b": 0.013, "y": 0.021, "z": 0.033}
    settle([("a", "b", "y")], group, scales)
    first = dict(scales)
    settle([("a", "b", "y"), ("pooled", "a", "y"), ("y", "a", "z")], group, scales)
    assert {name: scales[name] for name in "aby"} == {name: first[name] for name in "aby"}


def test_the_sum_of_a_map_with_itself_is_left_alone() -> None:
    scales = {"a": 0.011, "y": 0.021}
    settle([("a", "a", "y")], _alone(*"ay"), scales)
    assert scales == {"a": 0.011, "y": 0.021}


@pytest.mark.parametrize("names", ["aba", "bab", "abb", "bbb"])
def test_a_sum_that_shares_an_operands_scale_keeps_it_and_the_other_operand_moves(
    names: str,
) -> None:
    before = {"a": float(np.float32(0.019)), "b": float(np.float32(0.013))}
    scales = dict(before)
    settle([(names[0], names[1], names[2])], _alone(*"ab"), scales)
    for name in "ab":
        ratio = np.float32(scales[name]) / np.float32(scales[names[2]])
        assert names == "bbb" or float(ratio) * 2**GRID_BITS % 1 == 0
    assert scales[names[2]] == before[names[2]]


def test_an_operand_far_finer_than_the_sum_is_left_alone() -> None:
    scales = {"a": 0.5, "b": 1e-7, "y": 0.6}
    settle([("a", "b", "y")], _alone(*"aby"), scales)
    assert scales["b"] == 1e-7
