# SPDX-License-Identifier: Apache-2.0
"""Convolutions in tiles by Winograd's algorithm have the bits of direct ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from one_operator import ISAS, check, filters, network_of, pixels_for

from thinmaps.errors import PlanImpossible
from thinmaps.graph import operators as op
from thinmaps.graph.network import Network
from thinmaps.plan.build import build
from thinmaps.plan.cost import RATES
from thinmaps.plan.verify import verify
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import run_network
from thinmaps.types import MapSpec


def conv(inputs: int, outputs: int, pads: tuple[int, int, int, int] = (1, 1, 1, 1)) -> op.Conv:
    random = np.random.default_rng(inputs)
    return op.Conv(op.Window((3, 3), pads=pads), 1, **filters(random, outputs, inputs, (3, 3)))


def lone(x: MapSpec, outputs: int, operator: op.Conv | None = None) -> Network:
    """One convolution that keeps the map's height and width."""
    operator = operator or conv(x.channels, outputs)
    return network_of(operator, (x,), MapSpec(x.height, x.width, outputs, 0.5, 6))


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 9), (2, 4), (3, 5), (4, 4), (5, 2), (9, 13), (17, 25)]
)
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 16), (17, 33), (40, 65), (64, 15)])
def test_any_size_with_any_channels_is_exact(height, width, inputs, outputs):
    x = MapSpec(height, width, inputs, 0.5, 131)
    check(conv(inputs, outputs), x, MapSpec(height, width, outputs, 0.25, 7), seed=width)


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (2, 0, 1, 3), (0, 1, 2, 0), (5, 6, 7, 8)])
def test_any_padding_is_exact(pads):
    top, left, bottom, right = pads
    output = MapSpec(7 + top + bottom, 8 + left + right, 20, 0.25, 200)
    check(conv(12, 20, pads), MapSpec(9, 10, 12, 0.5, 255), output, seed=1)


@pytest.mark.usefixtures("every_step_shared")
@pytest.mark.parametrize("stripe_rows", [1, 2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_steps_of_any_rows_and_threads_give_the_same_bytes(stripe_rows, threads):
    network = lone(MapSpec(15, 30, 24, 0.5, 99), 140)
    values = pixels_for(network, 3)
    expected = run_network(network, values)["end"]
    plan = build(network, schedule="stream", stripe_rows=stripe_rows, winograd=True, effort=0)
    verify(plan)
    assert plan.winograd
    for isa in ISAS:
        made = Engine(plan, threads=threads, isa=isa, winograd=True).maps(values)["end"]
        np.testing.assert_array_equal(made, expected, strict=True)


def test_a_convolution_between_the_callers_own_buffers_reads_nothing_beyond_them():
    spec = MapSpec(6, 6, 5, 0.5, 9)
    node = dataclasses.replace(lone(spec, 5).nodes[1], inputs=("x",), output="y")
    network = Network((node,), {"x": spec, "y": spec}, ("x",), ("y",))
    plan = build(network, schedule="layer", winograd=True)
    x = np.random.default_rng(0).integers(0, 256, spec.shape, np.uint8)
    expected = run_network(network, {"x": x})["y"]
    for isa in ISAS:
        np.testing.assert_array_equal(Engine(plan, isa=isa, winograd=True)(x), expected)


@pytest.mark.parametrize("sign", [-128, 127])
def test_the_largest_sums_are_exact(sign):
    operator = conv(228, 2)
    weights = np.full_like(operator.weights, sign)
    operator = dataclasses.replace(
        operator, weights=weights, multiplier=np.full(2, 2.0**-18, np.float32)
    )
    network = lone(MapSpec(5, 5, 228, 0.5, 0), 2, operator)
    pictures = {"pixels0": np.full((5, 5, 228), 255, np.uint8)}
    identity = np.tile(np.arange(256, dtype=np.uint8), (228, 1))
    picture = op.Picture(identity, tuple(range(228)))
    first = dataclasses.replace(network.nodes[0], operator=picture)
    network = dataclasses.replace(network, nodes=(first, *network.nodes[1:]))
    expected = run_network(network, pictures)["end"]
    plan = build(network, schedule="layer", winograd=True)
    for isa in ISAS:
        made = Engine(plan, isa=isa, winograd=True).maps(pictures)["end"]
        np.testing.assert_array_equal(made, expected)


def test_filters_that_are_too_large_get_no_scratch_and_are_refused():
    x = MapSpec(5, 5, 240, 0.5, 0)
    operator = conv(240, 2)
    large = dataclasses.replace(operator, weights=np.full_like(operator.weights, 127))
    assert build(lone(x, 2, large), winograd=True).winograd == ()
    plan = build(lone(x, 2, operator), winograd=True)
    assert len(plan.winograd) == 1
    hostile = dataclasses.replace(
        plan,
        network=dataclasses.replace(
            plan.network,
            nodes=tuple(
                dataclasses.replace(node, operator=large) if node.operator is operator else node
                for node in plan.network.nodes
            ),
        ),
    )
    assert hostile.winograd == ()
    made = Engine(hostile, winograd=True).maps(pixels_for(plan.source, 1))
    assert made, "it runs without"


def test_scratch_that_is_too_small_is_used_for_nothing():
    plan = build(lone(MapSpec(9, 9, 8, 0.5, 0), 8), winograd=True)
    (name,) = plan.winograd
    small = dataclasses.replace(plan.buffers[plan.states[name]], slot_bytes=64)
    buffers = tuple(small if b.name == small.name else b for b in plan.buffers)
    hostile = dataclasses.replace(plan, buffers=buffers)
    assert hostile.winograd == ()
    with pytest.raises(PlanImpossible, match="needs scratch of"):
        Engine(hostile, winograd=True, skip_zero_blocks=True)


def test_the_filters_of_both_kernels_count():
    plan = build(
        lone(MapSpec(9, 64, 64, 0.5, 0), 64), schedule="stream", stripe_rows=3, winograd=True
    )
    direct = Engine(plan, winograd=False).weights_bytes
    tiles = Engine(plan, winograd=True).weights_bytes
    assert tiles - direct == 64 * 64 * (36 * 2 - 9) + 64 * 4


def test_the_engine_uses_the_kernel_that_is_faster_for_its_steps():
    network = lone(MapSpec(24, 96, 64, 0.5, 0), 64)
    whole = build(network, schedule="layer", winograd=True)
    thin = build(network, schedule="stream", arena_bytes="smallest", effort=0, winograd=True)
    for plan, uses in ((whole, True), (thin, False)):
        chosen, none, each = (
            Engine(plan, isa="portable", winograd=choice).weights_bytes
            for choice in (None, False, True)
        )
        assert none < each
        assert chosen == (each if uses else none)


def test_thin_steps_among_thick_ones_are_left_to_the_direct_kernel(monkeypatch):
    # With the portable loops a tile of which one row is needed is as fast as the row alone.
    slower = dataclasses.replace(RATES["portable"], point_products_per_second=16e9)
    monkeypatch.setitem(RATES, "portable", slower)
    network = lone(MapSpec(13, 96, 64, 0.5, 0), 64)
    plan = build(network, schedule="stream", stripe_rows=4, winograd=True)
    assert {rows for _, _, rows in plan.steps} == {1, 4}
    engine = Engine(plan, isa="portable")
    only = [Engine(plan, isa="portable", winograd=choice) for choice in (False, True)]
    assert engine.weights_bytes > max(each.weights_bytes for each in only), "both kernels' filters"
    values = pixels_for(network, 5)
    expected = run_network(network, values)["end"]
    np.testing.assert_array_equal(engine.maps(values)["end"], expected, strict=True)
