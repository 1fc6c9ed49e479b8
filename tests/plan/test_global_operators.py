# SPDX-License-Identifier: Apache-2.0
"""A global operator in the middle: two passes over one map that is held once, encoded if asked."""

from __future__ import annotations

from functools import partial

import pytest
from codec_cases import Setting
from gated_networks import gate_under_a_skip, mobilenet_v3, one_gate

from thinmaps.graph.operators import Decode, Mean, Mul
from thinmaps.plan.build import build as build_with_effort
from thinmaps.plan.build import lower_bound_bytes
from thinmaps.plan.held import held_maps
from thinmaps.plan.plan import ALIGNMENT_BYTES, Plan

NARROW = Setting("narrow", (("bits", 4),))
LOSSLESS = Setting("zero_bitmap", ())
build = partial(build_with_effort, effort=8_000)


def aligned(count: int) -> int:
    return -(-count // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def steps_of(plan: Plan, kind: type) -> list[int]:
    """The steps of the nodes of one kind, in the order of execution."""
    nodes = plan.network.nodes
    return [i for i, step in enumerate(plan.steps) if isinstance(nodes[step.node].operator, kind)]


@pytest.mark.parametrize("schedule", ["stream", "mixed"])
def test_nothing_is_gated_before_the_mean_is_known(schedule):
    network, _ = one_gate()
    plan = build(network, schedule=schedule, arena_bytes="smallest")
    assert max(steps_of(plan, Mean)) < min(steps_of(plan, Mul))


def test_a_mean_in_the_middle_ends_its_segment():
    network, gated_map = one_gate()
    plan = build(network, arena_bytes="smallest")
    segment = {node.output: plan.segments[i] for i, node in enumerate(plan.network.nodes)}
    assert gated_map in held_maps(plan)
    product = next(node for node in plan.network.nodes if isinstance(node.operator, Mul))
    assert segment[gated_map] < segment[product.output]


def test_the_gated_map_is_held_once_and_the_product_lies_over_it():
    network, gated_map = one_gate()
    plan = build(network, arena_bytes="smallest")
    whole, row = network.maps[gated_map].raw_bytes, network.maps["picture_0:0"].row_bytes
    # While the last row is made the map is whole, and two rows of the picture are under the window.
    assert lower_bound_bytes(plan) == whole + 2 * row
    assert plan.arena_bytes == aligned(whole + 2 * row) + ALIGNMENT_BYTES


def test_maps_that_wait_whole_inside_of_a_segment_are_held():
    network, gated_map, skip = gate_under_a_skip()
    plan = build(network, schedule="stream", effort=0)
    assert set(held_maps(plan)) == {gated_map, skip}


def test_a_skip_around_a_gate_is_held_beside_the_gated_map():
    network, gated_map, skip = gate_under_a_skip()
    plan = build(network, arena_bytes="smallest")
    both = sum(network.maps[name].raw_bytes for name in (gated_map, skip))
    assert both <= lower_bound_bytes(plan) <= both + 2 * network.maps[skip].row_bytes
    assert plan.arena_bytes <= aligned(lower_bound_bytes(plan)) + ALIGNMENT_BYTES


def test_a_coded_gated_map_is_held_in_its_code_and_decoded_by_both_passes():
    network, gated_map = one_gate()
    spec = network.maps[gated_map]
    codec = NARROW.fit(spec, 1)
    plan = build(network, codecs={gated_map: codec}, arena_bytes="smallest")
    coded = plan.buffers[plan.places[f"{gated_map}.coded"].buffer]
    assert coded.bytes == spec.height * codec.unit_bytes(spec, 1) == spec.raw_bytes // 2
    decodes = [n for n in plan.network.nodes if isinstance(n.operator, Decode)]
    readers = [plan.network.readers[n.output][0].operator.id for n in decodes]
    assert readers == ["mean", "mul"]
    # Nothing else is held for long: three rows of the product, and what is on its way.
    assert plan.arena_bytes <= coded.bytes + 4 * spec.row_bytes
    assert all(b.bytes <= 3 * spec.row_bytes for b in plan.buffers if b is not coded)


def test_codes_on_gate_and_skip_add_up():
    network, gated_map, skip = gate_under_a_skip()
    codecs = {name: NARROW.fit(network.maps[name], 1) for name in (gated_map, skip)}
    plan = build(network, codecs=codecs, arena_bytes="smallest")
    halves = sum(network.maps[name].raw_bytes for name in codecs) // 2
    assert halves < plan.arena_bytes < 0.6 * build(network, arena_bytes="smallest").arena_bytes


def test_a_code_whose_worst_case_is_larger_than_the_map_is_not_what_is_held():
    network, gated_map = one_gate()
    spec = network.maps[gated_map]
    plan = build(network, codecs={gated_map: LOSSLESS.fit(spec, 1)}, arena_bytes="smallest")
    coded = plan.buffers[plan.places[f"{gated_map}.coded"].buffer]
    assert coded.slots < spec.height
    assert (
        plan.arena_bytes <= build(network, arena_bytes="smallest").arena_bytes + 3 * spec.row_bytes
    )


def test_gates_in_a_row_need_little_more_than_the_largest_with_its_skip():
    network = mobilenet_v3()
    plan = build(network, arena_bytes="smallest")
    gates = [node for node in network.nodes if isinstance(node.operator, Mul)]
    assert len(gates) == 9
    largest = max(network.maps[node.inputs[0]].raw_bytes for node in gates)
    # Half as much again with the search that users get; this one is shorter.
    assert largest <= plan.arena_bytes <= 1.75 * largest
    assert plan.arena_bytes < build(network, schedule="layer").arena_bytes / 4
