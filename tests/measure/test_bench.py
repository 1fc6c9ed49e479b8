# SPDX-License-Identifier: Apache-2.0
"""A comparison is of the same answers, in memory that is counted the same way for both sides."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from thinmaps.compression import compress
from thinmaps.errors import BadArgument, BadModel, MissingExtra
from thinmaps.export.onnx_qdq import to_onnx
from thinmaps.file import Model
from thinmaps.graph.float_network import Tail
from thinmaps.graph.network import Network
from thinmaps.measure import live_heap, openvino_peer
from thinmaps.measure.bench import bench
from thinmaps.measure.comparison import Comparison, Contestant
from thinmaps.measure.contenders import Task, lay_out
from thinmaps.measure.peer import refuse_crippled
from thinmaps.measure.show import comparison_table
from thinmaps.measure.timing import Spread
from thinmaps.plan.build import build
from thinmaps.types import Preprocessing

UNIT = Preprocessing((0.0,) * 3, (1.0,) * 3)


@pytest.fixture(scope="module")
def planned(network: Network) -> Model:
    return Model(build(network), Tail((), {}, ("logits",), {"logits": (1, 10)}), UNIT)


@pytest.mark.skipif(sys.platform != "linux", reason="the heap is counted on Linux")
@pytest.mark.slow
def test_both_sides_are_timed_counted_and_compared(planned: Model) -> None:
    told: list[int] = []
    found = bench(planned, threads=(1, 2), rounds=2, progress=lambda _, done, of: told.append(of))
    document = json.loads(json.dumps(found.to_json()))
    assert told == [2, 2, 2, 2]
    assert document["equal_fraction"] == 1.0
    assert document["max_step"] <= 1
    assert document["ours"]["peak_bytes"] >= planned.plan.arena_bytes
    # A run allocates nothing but a few Python objects.
    assert document["ours"]["peak_bytes"] <= planned.plan.arena_bytes + 4096
    assert document["peer"]["name"].startswith("ONNX Runtime 1.")
    rows = {(row["name"], row["threads"]): row for row in document["rows"]}
    sides = ("thinmaps", "ONNX Runtime int8", "ONNX Runtime int8, arena off")
    assert list(rows) == [(side, threads) for threads in (1, 2) for side in sides]
    for (_, threads), row in rows.items():
        assert 0 < row["ms"]["p10"] <= row["ms"]["median"] <= row["ms"]["p90"]
        assert row["within_a_step"] == 1.0
        assert (row["peak_bytes"] is None) == (threads == 2)
    ours, kept, freed = (rows[side, 1] for side in sides)
    # What the peer keeps in its arena is more than what lives at once.
    assert 0 < freed["peak_bytes"] < kept["peak_bytes"]
    assert document["peer"]["peak_bytes"] == freed["peak_bytes"]
    assert document["time_ratio"] == ours["cpu_ms"]["median"] / kept["cpu_ms"]["median"]
    for row in (ours, kept, freed):
        assert 5e6 < row["imported_rss_bytes"] < row["peak_rss_bytes"] < 1e9
    # A process that runs us loads less.
    assert ours["imported_rss_bytes"] < kept["imported_rss_bytes"]
    text = shown(found)
    for word in ("ONNX Runtime int8, arena off", "ours / peer", "100.00 %"):
        assert word in text


def shown(found: Comparison) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(comparison_table(found))
    return captured.get()


def milliseconds(median: float) -> Spread:
    return Spread(median, median, median)


def test_ratios_are_ours_over_the_peers_in_what_counts() -> None:
    ours = Contestant("a", milliseconds(8), milliseconds(2), 100)
    peer = Contestant("b", milliseconds(8), milliseconds(4), 400)
    found = Comparison(ours, peer, 1.0, 0)
    assert (found.time_ratio, found.memory_ratio) == (0.5, 0.25)
    two = [dataclasses.replace(side, threads=2) for side in (ours, peer)]
    assert Comparison(two[0], two[1], 1.0, 0).time_ratio == 1


def test_who_was_not_measured_is_shown_with_dashes() -> None:
    row = Contestant("wrong one", within_a_step=0.25)
    text = shown(Comparison(row, row, 0.25, 9, 9, (row,)))
    (line,) = (line for line in text.splitlines() if "wrong one" in line)
    assert "25.00 %" in line
    assert line.count(" -") == 5


@pytest.fixture
def floats(tmp_path: Path) -> tuple[Path, Model]:
    """A float network in a file, and the model that is made of it."""
    random = np.random.default_rng(2)
    weights = [random.standard_normal(shape, np.float32) for shape in ((8, 3, 3, 3), (4, 8, 1, 1))]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "v"], ["hidden"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["hidden"], ["positive"]),
            helper.make_node("Conv", ["positive", "w"], ["y"]),
        ],
        "floats",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 16, 16])],
        [numpy_helper.from_array(w, name) for w, name in zip(weights, "vw", strict=True)],
    )
    opset = [helper.make_opsetid("", 18)]
    path = tmp_path / "floats.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    noise = random.integers(0, 256, (6, 16, 16, 3), np.uint8)
    return path, compress(path, noise, preprocessing=UNIT)


@pytest.mark.skipif(sys.platform != "linux", reason="the heap is counted on Linux")
@pytest.mark.slow
def test_the_float_network_takes_part_where_it_is_given(floats: tuple[Path, Model]) -> None:
    path, model = floats
    found = bench(model, reference=path, rounds=2)
    row = next(row for row in found.rows if row.name == "ONNX Runtime float32")
    assert row.ms is not None
    assert 0.98 < row.correlation < 1


def test_another_float_network_is_refused(floats: tuple[Path, Model], planned: Model) -> None:
    with pytest.raises(BadModel, match=r"no map 'logits'.*not the one that this model"):
        bench(planned, reference=floats[0], rounds=2)


def test_a_wrong_answer_is_not_verified(floats: tuple[Path, Model], tmp_path: Path) -> None:
    _, model = floats
    other = Path(tmp_path / "other")
    other.mkdir()
    entries = lay_out(model, other, ["onnxruntime"])
    picture = np.random.default_rng(4).integers(0, 256, (16, 16, 3), np.uint8)
    task = Task(model, picture, other)
    assert task.open(entries[1], 1).verified
    # The same file with other filters answers something else.
    wrong = onnx.load(entries[1].file)
    weights = next(t for t in wrong.graph.initializer if t.data_type == TensorProto.INT8)
    turned = np.ascontiguousarray(numpy_helper.to_array(weights)[::-1])
    weights.CopyFrom(numpy_helper.from_array(turned, weights.name))
    onnx.save(wrong, other / "wrong.onnx")
    side = task.open(dataclasses.replace(entries[1], answers=other / "wrong.onnx"), 1)
    assert not side.verified


def test_a_peer_that_is_absent_is_named(planned: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match="pip install openvino"):
        bench(planned, against="openvino", rounds=2)


@pytest.mark.skipif(sys.platform != "linux", reason="the heap is counted on Linux")
@pytest.mark.skipif(not openvino_peer.installed(), reason="OpenVINO is not installed")
@pytest.mark.slow
def test_openvino_takes_part(planned: Model) -> None:
    found = bench(planned, against="openvino", rounds=2)
    assert [row.name for row in found.rows] == ["thinmaps", "OpenVINO int8"]
    assert found.peer.correlation > 0.95
    assert found.peer.peak_bytes is not None


def test_a_peer_that_convolves_in_float_is_refused(network: Network, tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="slow one")],
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 12, 12])],
        [weights],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "f.onnx")
    with pytest.raises(BadModel, match=r"no fair comparison.*2 of 2"):
        refuse_crippled(tmp_path / "f.onnx", network)


def test_an_honest_export_is_no_crippled_peer(network: Network, tmp_path: Path) -> None:
    onnx.save(to_onnx(network), tmp_path / "q.onnx")
    refuse_crippled(tmp_path / "q.onnx", network)


@pytest.mark.skipif(sys.platform != "linux", reason="the heap is counted on Linux")
def test_the_counter_counts_what_a_run_holds_at_once(tmp_path: Path) -> None:
    (tmp_path / "allocating.py").write_text(
        "import numpy as np\n"
        "from thinmaps.measure.live_heap import peak_of\n"
        "kept = []\n"
        "def run():\n"
        "    first = np.empty(1_000_000, np.uint8)\n"
        "    del first\n"
        "    second = np.empty(3_000_000, np.uint8)\n"
        "print(peak_of(run))\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        peak = live_heap.count_in_process("allocating", [])
    assert 3_000_000 <= peak < 3_100_000


def test_a_side_that_fails_says_why() -> None:
    with pytest.raises(BadArgument, match=r"measuring .* nobody failed.*KeyError"):
        live_heap.count_in_process("thinmaps.measure.heap_child", ["nobody"])
