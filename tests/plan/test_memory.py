# SPDX-License-Identifier: Apache-2.0
"""What plans need: the figures that the README claims, and the shapes that streaming finds hard."""

from __future__ import annotations

import numpy as np
import pytest
from plan.zoo import (
    ZOO,
    Shapes,
    densenet,
    espnet,
    mobilenet_v2,
    resnet_cifar,
    square,
    squeezenet,
    unet,
)

from thinmaps.errors import PlanImpossible
from thinmaps.graph.network import Network
from thinmaps.plan.aliases import root_of
from thinmaps.plan.build import build, lower_bound_bytes
from thinmaps.plan.flow import flow_of
from thinmaps.plan.held import held_maps
from thinmaps.plan.lifetimes import Lives
from thinmaps.plan.lower import lower
from thinmaps.plan.pack import Block, Packer
from thinmaps.plan.schedule import Order
from thinmaps.plan.storage import storage_of

KIB = 1024


@pytest.mark.parametrize(
    ("network", "layer_kib", "most_kib"),
    [
        pytest.param(lambda: mobilenet_v2(), 1470, 125, id="mobilenet_v2"),
        pytest.param(lambda: squeezenet(), 959, 80, id="squeezenet"),
        pytest.param(lambda: resnet_cifar(56), 48, 24, id="resnet56"),
        pytest.param(
            lambda: mobilenet_v2(1088, 1920), 61200, 2000, id="hd", marks=pytest.mark.slow
        ),
        pytest.param(lambda: squeezenet(1088, 1920), 40659, 850, id="hd2", marks=pytest.mark.slow),
        pytest.param(lambda: espnet(), 11616, 5600, id="espnet", marks=pytest.mark.slow),
    ],
)
def test_known_networks_need_a_fraction_of_layer_by_layer(network, layer_kib, most_kib):
    network = network()
    whole = build(network, schedule="layer")
    assert layer_kib * KIB <= whole.arena_bytes < (layer_kib + 1.2) * KIB
    assert build(network, arena_bytes="smallest", effort=40_000).arena_bytes <= most_kib * KIB


@pytest.mark.parametrize("name", ZOO)
def test_mixed_needs_no_more_than_stream_or_layer(name):
    network = ZOO[name]()
    least = {
        schedule: build(
            network, schedule=schedule, arena_bytes="smallest", effort=8_000
        ).arena_bytes
        for schedule in ("layer", "stream", "mixed")
    }
    assert least["mixed"] <= 1.02 * min(least.values())


def test_a_chain_of_convolutions_holds_as_many_rows_as_its_windows():
    b = Shapes(40, 8, 4)
    x = b.start
    for _ in range(3):
        x = b.conv(x, 4, square(3))
    plan = build(b.network(x), schedule="stream", effort=0)
    slots = {buffer.name: buffer.slots for buffer in plan.buffers}
    assert set(slots.values()) == {3}
    assert len(slots) == 3


def test_a_dilated_window_holds_all_the_rows_it_spans():
    b = Shapes(40, 8, 4)
    x = b.conv(b.start, 4, square(3, dilation=5))
    plan = build(b.network(x), schedule="stream", effort=0)
    assert [buffer.slots for buffer in plan.buffers] == [11]


def test_a_gate_of_a_global_mean_holds_the_whole_map():
    b = Shapes(20, 8, 16)
    x = b.conv(b.start, 16, square(3))
    y = b.conv(b.mul(x, b.mean(x)), 8, square(3))
    plan = build(b.network(y), schedule="stream", effort=0)
    slots = {buffer.name: buffer.slots for buffer in plan.buffers}
    assert max(slots.values()) == 20
    assert plan.states == {b.nodes[2].name: plan.states[b.nodes[2].name]}


def test_a_pool_over_everything_streams_behind_a_convolution():
    b = Shapes(64, 64)
    x = b.mean(b.conv(b.start, 256, square(3)))
    plan = build(b.network(b.head(x, 10)))
    assert plan.arena_bytes < 10 * 64 * 256


def test_the_rows_of_a_residual_chain_are_written_over_each_other():
    network = resnet_cifar(20)
    flow = flow_of(lower(network, {}), {})
    plan = build(network, arena_bytes="smallest", effort=20_000)
    links = storage_of(flow, Order.of_steps(plan.steps)).links
    sums = [m for m in links if links[m].over]
    assert sums
    assert plan.arena_bytes < 1.4 * max(spec.raw_bytes for spec in network.maps.values())


def test_a_skip_is_not_held_at_the_width_of_its_concatenation():
    network = unet(64, 64, 2)
    flow = flow_of(lower(network, {}), {})
    plan = build(network, schedule="stream", effort=0)
    links = storage_of(flow, Order.of_steps(plan.steps)).links
    first_skip = flow.index[network.nodes[2].output]
    assert root_of(first_skip, links)[0] == first_skip


def test_dense_blocks_write_their_slices_in_place():
    network = densenet(32)
    plan = build(network, effort=8_000)
    shared = [place for place in plan.places.values() if place.channel]
    assert len(shared) >= 9


def test_a_whole_map_is_laid_diagonally_under_the_next():
    steps = np.arange(0, 200, 2)
    first = Block("first", 100, 640, Lives(np.zeros(100, np.int64), steps))
    second = Block("second", 100, 640, Lives(steps + 1, np.full(100, 300)))
    assert Packer([first, second]).best(0).end == 100 * 640


def test_packing_reaches_the_bound_where_buffers_do_not_share_time():
    blocks = [Block(str(i), 1, 64 * (i + 1), Lives(np.array([i]), np.array([i]))) for i in range(5)]
    packer = Packer(blocks)
    assert packer.best(0).end == packer.floor() == 64 * 5


def test_arena_bytes_that_are_left_over_make_thicker_steps():
    network = squeezenet(97, 97)
    tight = build(network, arena_bytes="smallest", effort=8_000)
    roomy = build(network, effort=8_000, arena_bytes=4 * tight.arena_bytes)
    assert len(roomy.steps) < len(tight.steps) / 2
    assert roomy.arena_bytes <= 4 * tight.arena_bytes


def test_held_maps_are_those_that_leave_their_segment():
    network = mobilenet_v2(64, 64)
    assert held_maps(build(network, schedule="stream", effort=0)) == ()
    held = held_maps(build(network, schedule="layer"))
    assert held == tuple(node.output for node in network.nodes[:-1])


def test_the_bound_is_the_most_that_lives_at_once():
    b = Shapes(6, 10, 4)
    plan = build(b.network(b.pointwise(b.pointwise(b.start, 8), 3)), schedule="layer")
    assert lower_bound_bytes(plan) == 6 * 10 * (4 + 8)


def test_a_network_without_nodes_is_refused():
    with pytest.raises(PlanImpossible, match="at least one node"):
        build(Network((), {}, (), ()))


def test_hundreds_of_nodes_do_not_recurse():
    b = Shapes(4, 1, 1)
    x = b.start
    for _ in range(400):
        x = b.conv(x, 1, square(3))
    plan = build(b.network(x), schedule="stream", effort=0)
    assert len(plan.network.nodes) == 401
