# SPDX-License-Identifier: Apache-2.0
"""Profiles of networks small enough to count by hand, and of a shipped one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_networks import chain, every_operator

import thinmaps
from thinmaps import cli, codecs
from thinmaps.demo import shipped
from thinmaps.errors import BadModel
from thinmaps.graph.network import Network
from thinmaps.graph.operators import Add, Concat, Conv
from thinmaps.measure.map_profile import NetworkProfile, SeenMap, profile_of_shapes
from thinmaps.types import MapSpec, Preprocessing

PREPROCESSING = Preprocessing((0.0,), (1.0,), fit="none")


def test_traffic_counts_one_write_and_every_reader(network: Network) -> None:
    rows = {row.name: row for row in profile_of_shapes(network)}
    assert set(rows) == {"x", "a", "b", "mean"}  # the concatenation is its parts
    assert rows["x"].traffic_bytes == 3 * rows["x"].raw_bytes
    assert rows["a"].traffic_bytes == 2 * rows["a"].raw_bytes


def test_the_peak_is_where_most_lives(network: Network) -> None:
    found = NetworkProfile(tuple(profile_of_shapes(network)), 0)
    pixels = 12 * 12
    assert found.peak_bytes == (3 + 4 + 2) * pixels  # x is read by "right", when "a" exists
    assert found.peak_node == "right"
    assert found.raw_bytes == (3 + 4 + 2) * pixels + 6


def test_sums_are_stored_instead_of_the_convolution_in_front_of_them() -> None:
    network = every_operator()
    stored = {row.name for row in profile_of_shapes(network) if row.stored}
    for node in network.nodes:
        readers = network.readers[node.output]
        summed = [reader.operator.id for reader in readers] == ["add"]
        if isinstance(node.operator, Conv) and readers:
            assert (node.output in stored) == (not summed)
        elif isinstance(node.operator, Add) and readers:
            assert node.output in stored


@pytest.mark.parametrize("make", [chain, every_operator])
def test_every_map_that_is_read_has_a_row(make) -> None:
    network = make()
    rows = profile_of_shapes(network)
    joined = {n.output for n in network.nodes if isinstance(n.operator, Concat)}
    read = {n.output for n in network.nodes if network.readers[n.output]} - joined
    assert {row.name for row in rows} == {
        name for name in read if network.maps[name].dtype == "uint8"
    }


def test_zeros_entropy_and_ratios_are_those_of_the_elements() -> None:
    spec = MapSpec(4, 8, 2, 1.0, 7)
    values = np.full(spec.shape, 7, np.uint8)
    values[:2] = 9  # two symbols, equally often: one bit each
    seen = SeenMap(spec, [codecs.get("zero_bitmap"), codecs.get("narrow")])
    seen.add(values)
    row = seen.on(profile_of_shapes(chain())[0])
    assert row.zeros == 0.5
    assert row.entropy_bits == 1.0
    assert row.ratios == {"zero_bitmap": 64 / (64 / 8 + 32)}  # narrow loses, as it comes
    assert row.best == ("zero_bitmap", 1.6)


def test_a_network_of_several_inputs_is_refused() -> None:
    inputs = [onnx.helper.make_tensor_value_info(n, 1, [1, 3, 4, 4]) for n in ("x", "z")]
    outputs = [onnx.helper.make_tensor_value_info("y", 1, [1, 3, 4, 4])]
    weights = onnx.numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["a"]),
        onnx.helper.make_node("Add", ["a", "z"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "sum", inputs, outputs, [weights])
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    with pytest.raises(BadModel, match="one input, this has x, z"):
        thinmaps.profile(model)


def test_a_shipped_network_with_pictures_and_without(tmp_path: Path, capsys) -> None:
    path = tmp_path / "digits.onnx"
    path.write_bytes(shipped.shipped(path.name))
    digits = list(shipped.digits().calibration[:30])
    found = thinmaps.profile(path, digits, preprocessing=PREPROCESSING, codec="zero_bitmap")
    assert found.pictures == 16
    for row in found.maps:
        assert row.zeros is not None
        assert row.entropy_bits is not None
        assert 0 <= row.zeros <= 1
        assert 0 <= row.entropy_bits <= 8
        assert row.ratios["zero_bitmap"] == pytest.approx(1 / (1 - row.zeros + 1 / 8), rel=0.05)
    assert set(found.worth_treating) <= {row.name for row in found.maps}
    capsys.readouterr()
    assert cli.run(["profile", str(path), "--mean", "0", "--std", "1", "--json"]) == 0
    shapes = json.loads(capsys.readouterr().out)
    assert shapes["pictures"] == 0
    assert [row["raw_bytes"] for row in shapes["maps"]] == [row.raw_bytes for row in found.maps]
    assert shapes["peak_bytes"] == found.peak_bytes
    assert cli.run(["profile", str(path), "--mean", "0", "--std", "1"]) == 0
    assert "worth treating" in capsys.readouterr().err
