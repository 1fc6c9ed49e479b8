# SPDX-License-Identifier: Apache-2.0
"""Which convolutions are done by scaled tiles: what the limit allows, the most saving first."""

from __future__ import annotations

from functools import cache

import numpy as np
from small_networks import Builder

from thinmaps.calibrate.winograd_choice import (
    Samples,
    TiledNode,
    choose_tiles,
    eligible_inputs,
    with_tiles,
)
from thinmaps.graph.network import Network
from thinmaps.graph.operators import Conv, Window, WinogradConv
from thinmaps.graph.rules import check_operators
from thinmaps.run.interpret import run_network

AROUND = (1, 1, 1, 1)


@cache
def network() -> Network:
    """Four 3x3 convolutions, of which the middle two are eligible, and a head."""
    b = Builder(4)
    first = b.conv(b.picture(18, 14), 16, Window((3, 3), pads=AROUND))
    second = b.conv(first, 16, Window((3, 3), pads=AROUND))
    third = b.conv(second, 24, Window((3, 3)))
    fourth = b.conv(third, 8, Window((3, 3), (2, 2), pads=AROUND))
    return b.network(b.head(fourth, 5))


@cache
def samples() -> Samples:
    random = np.random.default_rng(8)
    return [
        run_network(network(), {"picture": random.integers(0, 256, (18, 14, 3), np.uint8)})
        for _ in range(4)
    ]


def chosen(limit: float) -> tuple[TiledNode, ...]:
    return choose_tiles(network(), samples(), limit)


def test_the_limit_decides_by_which_tiles_if_by_any() -> None:
    loose = chosen(1.0)
    assert [each.name for each in loose] == ["conv_2", "conv_3"]
    assert [each.algorithm.outputs for each in loose] == [4, 4]
    just_too_much = min(each.error for each in loose) * 0.999
    tight = chosen(just_too_much)
    assert tight
    assert all(each.algorithm.outputs == 2 for each in tight)
    assert all(0 < each.error <= just_too_much for each in tight)
    assert chosen(1e-6) == ()


def test_only_the_maps_that_samples_need_are_named() -> None:
    assert eligible_inputs(network()) == ("conv_1:0", "conv_2:0")


def test_what_is_replaced_keeps_its_maps_and_is_a_legal_network() -> None:
    tiled = with_tiles(network(), chosen(1.0))
    check_operators(tiled)
    assert tiled.maps == network().maps
    kinds = [type(node.operator) for node in tiled.nodes]
    assert kinds.count(WinogradConv) == 2
    assert kinds.count(Conv) == 3
