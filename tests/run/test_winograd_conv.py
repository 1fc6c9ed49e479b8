# SPDX-License-Identifier: Apache-2.0
"""Scaled Winograd convolutions: restated pixel by pixel, under every schedule, from files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_operator import ISAS, pixels_for
from plan.simulate import simulate
from small_models import edited, refusal
from winograd_operators import random_winograd, tiled_network

from thinmaps.errors import BadModel
from thinmaps.file import Model, load, save
from thinmaps.graph import operators as op
from thinmaps.graph.float_network import Tail
from thinmaps.graph.network import Network, Node
from thinmaps.graph.rules import check_operators
from thinmaps.plan.build import build
from thinmaps.plan.verify import verify
from thinmaps.run.arithmetic import compute
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import WholeMap, interpret, run_network
from thinmaps.types import MapSpec


def restated(
    o: op.WinogradConv, x: np.ndarray, source: MapSpec, output: MapSpec, row: int, column: int
) -> list[int]:
    """One pixel of the output, from nothing but its own tile, in Python's integers."""
    tile, side, products = len(o.at), o.bt.shape[1], len(o.bt)
    top = row // tile * tile - o.window.pads[0]
    left = column // tile * tile - o.window.pads[1]
    d = np.zeros((side, side, source.channels), dtype=object)
    for i in range(side):
        for j in range(side):
            if 0 <= top + i < source.height and 0 <= left + j < source.width:
                d[i, j] = [int(byte) - source.zero_point for byte in x[top + i, left + j]]
    at, bt = o.at.astype(object), o.bt.astype(object)
    sums = o.bias.astype(object)
    for a in range(products):
        for b in range(products):
            values = sum(bt[a, i] * bt[b, j] * d[i, j] for i in range(side) for j in range(side))
            scaled = [
                min(max((value * int(scale) + 2**14) >> 15, -128), 127)
                for value, scale in zip(values, o.input_scale[a, b], strict=True)
            ]
            for k in range(output.channels):
                product = int(np.dot(o.weights[k, :, a, b].astype(object), scaled))
                z = int(np.rint(np.float32(product) * o.product_scale[k, a, b]))
                sums[k] += at[row % tile, a] * at[column % tile, b] * z
    rounded = [int(np.rint(np.float32(s) * m)) for s, m in zip(sums, o.multiplier, strict=True)]
    return [min(max(r + output.zero_point, o.low), o.high) for r in rounded]


@pytest.mark.parametrize(
    ("outputs", "polynomials"), [(2, None), (4, None), (4, "x, x-1, x+1, x-2, x+2"), (1, None)]
)
def test_a_pixel_is_what_its_tile_says(outputs: int, polynomials: str | None) -> None:
    random = np.random.default_rng(outputs)
    x, y = MapSpec(6, 5, 3, 0.25, 131), MapSpec(7, 5, 2, 0.5, 13)
    node = random_winograd(random, outputs, x, 2, op.Window((3, 3), pads=(1, 2, 2, 0)), polynomials)
    values = random.integers(0, 256, x.shape, dtype=np.uint8)
    made = compute(node, [WholeMap(x, values)], y, 0, 7)
    for row, column in ((0, 0), (3, 2), (4, 4), (6, 4)):
        assert made[row, column].tolist() == restated(node, values, x, y, row, column)


def test_a_row_is_the_same_in_whichever_step_it_is_made() -> None:
    random = np.random.default_rng(3)
    x = MapSpec(11, 5, 3, 0.25, 130)
    node = random_winograd(random, 4, x, 2, op.Window((3, 3), pads=(1, 1, 1, 1)))
    whole = WholeMap(x, random.integers(0, 256, x.shape, dtype=np.uint8))
    y = MapSpec(11, 5, 2, 0.5, 12)
    every = compute(node, [whole], y, 0, 11)
    for first, rows in ((0, 1), (3, 1), (2, 5), (5, 6), (10, 1)):
        made = compute(node, [whole], y, first, rows)
        np.testing.assert_array_equal(made, every[first : first + rows], strict=True)


@pytest.mark.usefixtures("every_step_shared")
@pytest.mark.parametrize("schedule", ["layer", "stream", "mixed"])
@pytest.mark.parametrize("stripe_rows", [1, 3])
def test_every_schedule_gives_the_defined_outputs(schedule: Any, stripe_rows: int) -> None:
    network = tiled_network(stripe_rows)
    x = pixels_for(network, 5)
    expected = run_network(network, x)
    plan = build(network, schedule=schedule, stripe_rows=stripe_rows, effort=0)
    verify(plan)
    simulate(plan)
    runs = [Engine(plan, isa=isa).maps(x) for isa in ISAS]
    for made in (*runs, Engine(plan, threads=3).maps(x), interpret(plan, x)):
        for name in network.outputs:
            np.testing.assert_array_equal(made[name], expected[name], strict=True)


@cache
def model() -> Model:
    network = tiled_network(1)
    shapes = {
        name: (1, network.maps[name].channels, *network.maps[name].shape[:2])
        for name in network.outputs
    }
    return Model(build(network, effort=0), Tail((), {}, network.outputs, shapes))


def test_a_file_keeps_the_operator(tmp_path: Path) -> None:
    save(model(), tmp_path / "a.thin")
    loaded, x = load(tmp_path / "a.thin"), pixels_for(tiled_network(1), 7)
    expected = run_network(tiled_network(1), x)
    for name, values in Engine(loaded.plan).maps(x).items():
        np.testing.assert_array_equal(values, expected[name], strict=True)


def changed(name: str, make: Callable[[np.ndarray], Any]) -> Callable[..., None]:
    """An edit of a tensor of the first tiled convolution."""

    def change(document: Any, arrays: dict[str, np.ndarray]) -> None:
        for nodes in ("source", "network"):
            if nodes in document:
                at = next(
                    i
                    for i, node in enumerate(document[nodes]["nodes"])
                    if node["operator"]["id"] == "winograd_conv"
                )
                place = f"{nodes}/nodes/{at}/operator/{name}"
                arrays[place] = make(arrays[place])

    return change


def window(document: Any, arrays: Any) -> None:
    for node in document["source"]["nodes"]:
        if node["operator"]["id"] == "winograd_conv":
            node["operator"]["window"]["stride"] = [2, 1]


HOSTILE: dict[str, tuple[Callable[..., None], str]] = {
    "matrices that are none": (changed("at", lambda t: t.reshape(-1)), "must be matrices"),
    "no outputs": (changed("at", lambda t: t[:0]), "a tile's side lies in 1..8, got 0"),
    "more taps": (changed("at", lambda t: t[:3]), "the window must be"),
    "fewer products": (changed("bt", lambda t: t[:6].copy()), "bt (mu, n) must be"),
    "a product of nothing": (changed("at", lambda t: t * (np.arange(7) > 0).astype(np.int8)),
                             "at has a product that no output uses"),
    "inputs beyond int16": (changed("bt", lambda t: t * np.int8(3)), "which int16 does not hold"),
    "a scale of 0": (changed("input_scale", lambda t: t * 0), "input_scale lies in 1..32767"),
    "a scale of 2^15": (changed("input_scale", lambda t: t * 0 + (1 << 15)), "1..32767, got 32768"),
    "scales of fewer channels": (changed("input_scale", lambda t: t[:, :, 1:].copy()),
                                 "input_scale must be"),
    "weights of another shape": (changed("weights", lambda t: t[:, :, 1:].copy()),
                                 "weights (k c mu mu) must be"),
    "products beyond int32": (changed("product_scale", lambda t: t * np.float32(2**20)),
                              "which int32 does not hold"),
    "a scale that is negative": (changed("product_scale", lambda t: -t), "must be finite and not"),
    "a bias beyond int32": (changed("bias", lambda t: t * 0 + np.int32(2**31 - 1)),
                            "which int32 does not hold"),
    "fewer biases": (changed("bias", lambda t: t[1:].copy()), "bias must be"),
    "a multiplier of none": (changed("multiplier", lambda t: t[:0]), "multiplier must be"),
    "a stride": (window, "the window must be"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tables_are_refused(name: str, tmp_path: Path) -> None:
    change, sentence = HOSTILE[name]
    assert sentence in refusal(tmp_path / "a.thin", edited(model(), change))


@pytest.mark.parametrize("name", ["at", "bt", "input_scale", "weights", "product_scale", "bias"])
def test_the_core_itself_refuses_tables_that_do_not_fit(name: str) -> None:
    plan = build(tiled_network(1), effort=0)
    nodes = list(plan.network.nodes)
    at = next(i for i, node in enumerate(nodes) if isinstance(node.operator, op.WinogradConv))
    tensor = getattr(nodes[at].operator, name)
    cut = {name: tensor[..., :-1].copy() if tensor.ndim > 2 else tensor[:-1].copy()}
    nodes[at] = replace(nodes[at], operator=replace(nodes[at].operator, **cut))
    hostile = replace(plan, network=replace(plan.network, nodes=tuple(nodes)))
    with pytest.raises(ValueError, match="needs"):
        Engine(hostile)


def test_more_tiles_than_can_be_counted_are_refused() -> None:
    wide = MapSpec(1 << 16, 1 << 15, 1, 0.5, 12)
    node = random_winograd(
        np.random.default_rng(1), 1, wide, 1, op.Window((3, 3), pads=(1, 1, 1, 1))
    )
    pixels, table = MapSpec(*wide.shape), np.zeros((1, 256), np.uint8)
    nodes = (
        Node("picture", op.Picture(table, (0,)), ("pixels",), "x"),
        Node("tiles", node, ("x",), "y"),
        Node("end", op.Lookup(table), ("y",), "end"),
    )
    maps = {"pixels": pixels, "x": wide, "y": wide, "end": wide}
    with pytest.raises(BadModel, match=r"tiles lies in 1\.\.2147483647, got 2147483648"):
        check_operators(Network(nodes, maps, ("pixels",), ("end",)))
