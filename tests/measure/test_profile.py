# SPDX-License-Identifier: Apache-2.0
"""A profile's figures: work counted by hand, limits from it, sums that are sums."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from thinmaps.file import Model
from thinmaps.graph.operators import OPERATORS
from thinmaps.measure.profile import (
    KINDS,
    Limits,
    Profile,
    moved_bytes_of,
    products_of,
    profile,
)
from thinmaps.measure.show import profile_tables
from thinmaps.plan.plan import Plan

SIDE = 12


@pytest.fixture(scope="module")
def found(model: Model) -> Profile:
    return profile(model, rounds=2)


def test_products_and_bytes_of_a_small_network_by_hand(plan: Plan) -> None:
    nodes = {node.name: node for node in plan.network.nodes}
    pixels = SIDE * SIDE
    assert products_of(plan, nodes["left"]) == pixels * 4 * 3
    assert products_of(plan, nodes["head"]) == 10 * 6
    assert products_of(plan, nodes["average"]) == 0
    # Three channels in, four out, and twelve filter bytes in every step.
    assert moved_bytes_of(plan, nodes["left"], 5) == pixels * 7 + 5 * 12
    # Both slices are written in place: nothing is left to do.
    assert moved_bytes_of(plan, nodes["concat"], 1) == 0
    assert moved_bytes_of(plan, nodes["average"], 1) == pixels * 6 + 6


def test_an_encoded_map_counts_as_it_is_stored(coded_plan: Plan) -> None:
    encode = next(n for n in coded_plan.network.nodes if n.operator.id == "encode")
    pixels = SIDE * SIDE
    stored = coded_plan.codecs["x"].max_bytes(coded_plan.network.maps["x"])
    assert stored < pixels * 3
    assert moved_bytes_of(coded_plan, encode, 1) == pixels * 3 + stored


def test_the_limit_is_the_longer_of_computing_and_moving() -> None:
    limits = Limits("portable", products_per_second=1e9, copied_bytes_per_second=1e8)
    assert limits.ms(3_000_000, 100_000) == pytest.approx(3)
    assert limits.ms(3_000_000, 1_000_000) == pytest.approx(10)


def test_nodes_and_kinds_sum_to_the_total(found: Profile, model: Model) -> None:
    total = found.total
    assert total.steps == len(model.plan.steps)
    assert total.share == pytest.approx(1)
    for parts in (found.nodes, found.kinds):
        assert sum(part.ms for part in parts) == pytest.approx(total.ms)
        assert [part.ms for part in parts] == sorted((part.ms for part in parts), reverse=True)
    assert {kind.kind for kind in found.kinds} == {
        "input", "codec", "convolution", "rearrangement", "pooling",
    }  # fmt: skip


def test_every_operator_has_a_kind() -> None:
    assert KINDS.keys() == OPERATORS.keys()


def test_a_profile_survives_json_and_is_shown(found: Profile) -> None:
    document = json.loads(json.dumps(found.to_json()))
    assert {"machine", "limits", "rounds", "run_ms", "nodes", "kinds", "total"} == document.keys()
    figures = {"steps", "rows", "ms", "share", "products", "moved_bytes", "limit_ms"}
    assert document["total"].keys() == figures
    assert document["nodes"][0].keys() == figures | {"node", "operator", "kind"}
    assert document["kinds"][0].keys() == figures | {"kind"}
    assert document["limits"]["products_per_second"] > 0
    console = Console(width=160)
    with console.capture() as captured:
        console.print(profile_tables(found))
    text = captured.get()
    for word in ("left", "GMAC/s", "total", "codec", "billion products"):
        assert word in text
