# SPDX-License-Identifier: Apache-2.0
"""Filters that the engine makes when a step runs: the definition's bytes, held as coefficients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from coded_filters import coded_conv
from one_operator import ISAS, check, network_of, pixels_for

from thinmaps.errors import PlanImpossible
from thinmaps.graph import operators as op
from thinmaps.graph.network import Network
from thinmaps.graph.rules import check_operators
from thinmaps.plan.build import build
from thinmaps.plan.verify import verify
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import interpret, run_network
from thinmaps.types import MapSpec

PADDED = op.Window((3, 3), pads=(1, 1, 1, 1))


def output_of(window: op.Window, source: MapSpec, channels: int, dtype: str = "uint8") -> MapSpec:
    """The map that a window makes of another."""
    sizes = [
        (size + window.pads[axis] + window.pads[axis + 2] - 2 * window.dilation[axis] - 1)
        // window.stride[axis]
        + 1
        for axis, size in enumerate(source.shape[:2])
    ]
    return MapSpec(sizes[0], sizes[1], channels, 1.0, 128 if dtype == "uint8" else 0, dtype)


# Inputs, outputs, groups, window: whole and part blocks and pieces, gaps in them, every geometry.
CASES = [
    (4, 16, 1, PADDED),
    (4, 3, 1, op.Window((3, 3))),
    (24, 33, 1, replace(PADDED, stride=(2, 2))),
    (64, 64, 1, PADDED),
    (36, 20, 1, replace(PADDED, dilation=(2, 3), pads=(2, 3, 2, 3))),
    (200, 40, 1, op.Window((3, 3), (1, 2), pads=(0, 1, 1, 0))),
    (16, 24, 2, PADDED),
    (136, 34, 2, replace(PADDED, stride=(3, 1))),
]


@pytest.mark.parametrize(("inputs", "outputs", "groups", "window"), CASES)
@pytest.mark.parametrize("codes", [1, 4, 9])
def test_filters_are_made_as_they_are_defined(
    inputs: int, outputs: int, groups: int, window: op.Window, codes: int
) -> None:
    random = np.random.default_rng(inputs + codes)
    reduction = "average" if codes == 4 and inputs % 3 else "crop"
    conv = coded_conv(
        random, (inputs, outputs), window, codes=codes, groups=groups, reduction=reduction
    )
    source = MapSpec(7, 9, inputs, 1.0, 77)
    check(conv, source, output_of(window, source, outputs), seed=codes)


def test_a_head_and_rows_with_gaps_between_pixels_get_the_defined_values() -> None:
    random = np.random.default_rng(5)
    source = MapSpec(5, 6, 8, 1.0, 3)
    check(
        coded_conv(random, (8, 10), op.Window((3, 3)), codes=3),
        source,
        output_of(op.Window((3, 3)), source, 10, "float32"),
        seed=0,
    )
    # Behind a concatenation in place: the reader of one part steps over the other.
    joined = two_parts(random)
    values = pixels_for(joined, 1)
    expected = run_network(joined, values)
    for isa in ISAS:
        made = Engine(build(joined, schedule="layer", effort=0), isa=isa).maps(values)
        for name in joined.outputs:
            np.testing.assert_array_equal(made[name], expected[name], strict=True)


def two_parts(random: np.random.Generator) -> Network:
    """A map of 12 channels and one of 8 in one ring; a coded layer reads the first of them."""
    source = MapSpec(9, 10, 12, 1.0, 77)
    table = np.arange(256, dtype=np.uint8)
    both = op.Concat(np.stack([table, table]))
    network = network_of(both, (source, replace(source, channels=8)), replace(source, channels=20))
    conv = coded_conv(random, (12, 17), PADDED, codes=2)
    maps = dict(network.maps) | {"read": replace(source, channels=17)}
    node = replace(network.nodes[0], name="coded", operator=conv, inputs=("x0",), output="read")
    nodes = (*network.nodes, node)
    return Network(nodes, maps, network.inputs, (*network.outputs, "read"))


def layer(inputs: int = 64, outputs: int = 96, codes: int = 4) -> Network:
    """One coded layer between tables, of several blocks."""
    random = np.random.default_rng(0)
    source = MapSpec(40, 48, inputs, 1.0, 100)
    conv = coded_conv(random, (inputs, outputs), PADDED, codes=codes)
    network = network_of(conv, (source,), output_of(PADDED, source, outputs))
    check_operators(network)
    return network


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("outputs", [16, 96])
def test_threads_make_filters_of_their_own(threads: int, outputs: int) -> None:
    """By blocks of output channels where there are many, else every thread all of them."""
    network = layer(outputs=outputs)
    values = pixels_for(network, 2)
    plan = build(network, schedule="layer", effort=0)
    expected = Engine(plan).maps(values)["end"]
    try:
        engine = Engine(plan, threads=threads)
    except PlanImpossible:
        pytest.skip(f"fewer than {threads} cores")
    np.testing.assert_array_equal(engine.maps(values)["end"], expected)


@pytest.mark.parametrize("schedule", ["layer", "stream", "mixed"])
def test_the_scratch_for_filters_lies_in_the_arena(schedule: str) -> None:
    network = layer(inputs=8, outputs=40)
    plan = build(network, schedule=schedule, effort=0, arena_bytes=None)  # type: ignore[arg-type]
    verify(plan)
    name = next(node.name for node in network.nodes if isinstance(node.operator, op.CodedConv))
    buffer = plan.buffers[plan.states[name]]
    assert buffer.bytes == 2 * 16 * 9 * 8
    assert plan.skipping == ()
    values = pixels_for(network, 3)
    np.testing.assert_array_equal(Engine(plan).maps(values)["end"], interpret(plan, values)["end"])


def test_scratch_is_for_two_threads_or_for_four_where_many_pixels_are_worth_it() -> None:
    conv = coded_conv(np.random.default_rng(0), (64, 64), PADDED, codes=2)
    block = 16 * 9 * 64
    for height, blocks in ((63, 2), (64, 4)):
        source = MapSpec(height, 64, 64)
        assert conv.scratch_bytes((source,), source) == blocks * block
    wide = coded_conv(np.random.default_rng(0), (256, 16), PADDED, codes=2)
    source = MapSpec(64, 64, 256)
    assert wide.scratch_bytes((source,), replace(source, channels=16)) == 2 * 16 * 9 * 256


def test_only_coefficients_are_held() -> None:
    network = layer(codes=4)
    conv = network.nodes[1].operator
    assert isinstance(conv, op.CodedConv)
    stored = op.Conv(conv.window, 1, conv.weights, conv.bias, conv.multiplier)
    nodes = list(network.nodes)
    nodes[1] = replace(nodes[1], operator=stored)
    plain = replace(network, nodes=tuple(nodes))
    held, before = (Engine(build(each, effort=0)).weights_bytes for each in (network, plain))
    constants = 96 * 9  # a bias, a multiplier and a shift per channel
    tables = 64 * 256 + 256
    assert held <= 96 * 64 * 4 + constants + tables + 64
    assert held >= 96 * 64 * 4
    assert before - held >= 96 * 64 * 5 - 96 - 64


def test_the_coefficients_of_a_plan_without_scratch_are_refused() -> None:
    network = layer(inputs=8, outputs=16)
    plan = build(network, effort=0)
    with pytest.raises(PlanImpossible, match="needs scratch of 1152 bytes or more for the filters"):
        Engine(replace(plan, states={}))
