# SPDX-License-Identifier: Apache-2.0
"""Every byte of a plan counts once, and every figure can be worked out by hand."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable

import numpy as np
from rich.console import Console

from thinmaps.codecs.capped import Capped
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.graph.network import Network
from thinmaps.measure.counting import count
from thinmaps.measure.report import Counted, MapRow, Overflow, Report, report
from thinmaps.measure.show import report_tables
from thinmaps.plan.build import build
from thinmaps.plan.plan import Plan

PIXELS = 12 * 12
PlanOf = Callable[..., Plan]


def _rows(found: Report) -> dict[str, MapRow]:
    return {row.name: row for row in found.maps}


def test_raw_maps_are_held_whole_and_moved_once_per_writer_and_reader(plan: Plan) -> None:
    x = _rows(report(plan))["x"]
    assert (x.codec, x.raw_bytes, x.held_bytes) == ("raw", 3 * PIXELS, 3 * PIXELS)
    assert x.moved_bytes == 3 * PIXELS * (1 + 2)
    assert x.moved_is == "exact"


def test_a_slice_of_a_concatenation_counts_once(plan: Plan) -> None:
    rows = _rows(report(plan))
    assert (rows["a"].inside, rows["a"].held_bytes) == ("both", 0)
    assert rows["both"].inside is None
    assert rows["both"].held_bytes == 6 * PIXELS
    # Written by the producers of the slices, read by the mean: nothing is copied.
    assert rows["a"].moved_bytes + rows["b"].moved_bytes == 6 * PIXELS
    assert rows["both"].moved_bytes == 6 * PIXELS


def test_inputs_and_outputs_live_with_the_caller(plan: Plan) -> None:
    found = report(plan)
    rows = _rows(found)
    assert (found.input_bytes, found.output_bytes) == (3 * PIXELS, 4 * 10)
    assert (rows["image"].where, rows["image"].held_bytes) == ("caller", 0)
    assert rows["image"].moved_bytes == 3 * PIXELS
    assert rows["logits"].moved_bytes == 4 * 10


def test_an_encoded_map_holds_and_moves_its_coded_bytes(coded_plan: Plan) -> None:
    x = _rows(report(coded_plan))["x"]
    coded = 12 * (12 * 3 // 2)
    assert (x.codec, x.held_bytes, x.moved_bytes) == ("narrow", coded, 3 * coded)
    assert x.window_bytes == 3 * 3 * PIXELS  # the raw rows, and decoded ones for each reader


def test_tables_count_however_deep_a_codec_holds_them(network: Network, plan_of: PlanOf) -> None:
    samples = np.zeros((4, 12, 12, 3), np.uint8)  # of which none is long: a low cap, several steps
    spec = network.maps["x"]
    codec = Capped.fit(spec, samples, np.ones(3), step=40)
    assert len(codec.steps) > 1
    tables = sum(each.step.nbytes for each in codec.steps)
    bare = report(plan_of(network, {})).weights_bytes
    assert report(plan_of(network, {"x": codec})).weights_bytes == bare + tables


def test_overflows_are_counted_beside_what_calibration_saw(
    network: Network, plan_of: PlanOf
) -> None:
    spec = network.maps["x"]
    samples = np.random.default_rng(3).integers(0, 256, (1, *spec.shape), np.uint8)
    samples[:, ::2] //= 64
    codec = Capped.fit(spec, samples, step=0, permille=500)
    plan = plan_of(network, {"x": codec})
    assert report(plan).overflows == (Overflow("x", 0.5, None),)
    pictures = np.random.default_rng(4).integers(0, 256, (2, *spec.shape), np.uint8)
    pictures[1] = 0
    counted = count(plan, pictures)
    busy = codec.overflow_share(pictures[:1], spec)  # "x" is the picture, byte for byte
    assert busy > 0.5
    assert report(plan, counted).overflows == (Overflow("x", 0.5, busy / 2),)
    assert report(plan_of(network, {"x": ZeroBitmap()}), counted).overflows == ()
    page = io.StringIO()
    Console(file=page, width=80).print(report_tables(report(plan, counted)))
    assert "units that pass their cap" in page.getvalue()
    assert f"{50 * busy:.2f} %" in page.getvalue()


def test_a_variable_rate_says_whether_it_was_measured(network: Network, plan_of: PlanOf) -> None:
    plan = plan_of(network, {"x": ZeroBitmap()})
    worst = ZeroBitmap().max_bytes(network.maps["x"]) + 4 * network.maps["x"].height
    assert _rows(report(plan))["x"].moved_bytes == 3 * worst
    assert _rows(report(plan))["x"].moved_is == "worst case"
    counted = Counted(plan.arena_bytes, 1, {"x": 100.2})
    assert _rows(report(plan, counted))["x"].moved_bytes == 3 * 100
    assert _rows(report(plan, counted))["x"].moved_is == "measured"


def test_a_concatenation_of_encoded_parts_is_a_window_of_its_reader(network: Network) -> None:
    codecs = {"a": ZeroBitmap(), "b": ZeroBitmap()}
    rows = _rows(report(build(network, codecs=codecs, schedule="layer")))
    both = rows["both"]
    assert (both.held_bytes, both.moved_bytes) == (0, 0)
    assert 6 * 12 <= both.window_bytes < both.raw_bytes  # some rows of it, never the map
    for name in codecs:
        lengths = 4 * network.maps[name].height
        assert rows[name].moved_bytes == 2 * (codecs[name].max_bytes(network.maps[name]) + lengths)
    plain = _rows(report(build(network, schedule="layer")))
    assert plain["both"].held_bytes == plain["both"].raw_bytes


def test_weights_are_every_constant_of_every_node_and_codec(plan: Plan, coded_plan: Plan) -> None:
    convolutions = (3 * 4 + 8 * 4) + (3 * 2 + 8 * 2) + (6 * 10 + 8 * 10)
    tables = 3 * 256 + 2 * 256 + 4
    assert report(plan).weights_bytes == convolutions + tables
    assert report(coded_plan).weights_bytes == convolutions + tables + 3 * (4 + 1)


def test_an_output_that_nodes_also_read_is_held_as_its_kept_copy(
    network: Network, plan_of: PlanOf
) -> None:
    both = dataclasses.replace(network, outputs=("logits", "mean"))
    row = _rows(report(plan_of(both, {})))["mean"]
    assert (row.where, row.held_bytes) == ("arena", 6)


def test_json_has_the_stable_keys(plan: Plan) -> None:
    document = json.loads(json.dumps(report(plan).to_json()))
    assert {"arena_bytes", "weights_bytes", "schedule", "maps"} <= document.keys()
    keys = {"name", "shape", "codec", "raw_bytes", "held_bytes", "moved_bytes"}
    assert all(keys <= row.keys() for row in document["maps"])
    assert document["arena_bytes"] == plan.arena_bytes
    assert np.prod(document["maps"][0]["shape"]) == 3 * PIXELS
