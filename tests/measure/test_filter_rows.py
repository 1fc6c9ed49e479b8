# SPDX-License-Identifier: Apache-2.0
"""What `show` says of filters: those made of codes, and those with zero blocks."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from small_networks import Builder, chain, every_operator
from winograd_operators import tiled_network

from thinmaps.graph.operators import CodedConv, Conv, Window, WinogradConv
from thinmaps.measure.filter_rows import FilterRow, filter_rows
from thinmaps.measure.report import report
from thinmaps.measure.show import filters_table
from thinmaps.plan.build import build


def test_layers_of_codes_say_what_they_store() -> None:
    network = every_operator()
    (row,) = filter_rows(build(network, effort=0))
    node = next(node for node in network.nodes if isinstance(node.operator, CodedConv))
    assert row == FilterRow(node.name, 4 * 4 * 9, 4 * 4 * 3 + 4, 3)
    stored = Conv(
        node.operator.window, 1, node.operator.weights, node.operator.bias, node.operator.multiplier
    )
    nodes = tuple(replace(n, operator=stored) if n is node else n for n in network.nodes)
    plain = replace(network, nodes=nodes)
    assert filter_rows(build(plain, effort=0)) == ()
    held = [report(build(each, effort=0)).weights_bytes for each in (network, plain)]
    assert held[1] - held[0] == row.filter_bytes - row.stored_bytes


def test_zero_blocks_are_counted_where_they_can_be_skipped_and_shown() -> None:
    network = chain()
    nodes = []
    for node in network.nodes:
        operator = node.operator
        if isinstance(operator, Conv):  # one of the three is depthwise
            weights = operator.weights.copy()
            weights[:4] = 0
            operator = replace(operator, weights=weights)
        nodes.append(replace(node, operator=operator))
    rows = filter_rows(build(replace(network, nodes=tuple(nodes)), effort=0))
    assert [row.zero_block_share for row in rows] == pytest.approx([1 / 2, 1 / 3])
    assert all(row.codes == 0 and row.stored_bytes == row.filter_bytes for row in rows)
    console = Console(width=120, record=True, file=StringIO())
    console.print(filters_table(rows))
    assert "33.3%" in console.export_text()


def test_tiles_are_exact_where_the_plan_has_scratch_and_scaled_where_the_network_says_so() -> None:
    b = Builder(3)
    plain = b.conv(b.picture(13, 11), 17, Window((3, 3), pads=(1, 1, 1, 1)))
    network = b.network(plain, b.head(b.mean(plain), 5))
    (row,) = filter_rows(build(network, schedule="layer", winograd=True))
    assert (row.node, row.tiles) == (network.producer[plain].name, "exact")
    assert filter_rows(build(network, schedule="layer")) == ()
    scaled = filter_rows(build(tiled_network(0), effort=0))
    names = [n.name for n in tiled_network(0).nodes if isinstance(n.operator, WinogradConv)]
    assert [(row.node, row.tiles) for row in scaled] == [(name, "scaled") for name in names]
    assert all(row.stored_bytes > row.filter_bytes for row in scaled)
