# SPDX-License-Identifier: Apache-2.0
"""A comparison is of the same answers, in memory that is counted the same way for both sides."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from thinmaps.errors import BadArgument, BadModel
from thinmaps.export.onnx_qdq import to_onnx
from thinmaps.file import Model
from thinmaps.graph.float_network import Tail
from thinmaps.graph.network import Network
from thinmaps.measure import live_heap
from thinmaps.measure.bench import bench
from thinmaps.measure.comparison import Comparison, Contestant
from thinmaps.measure.peer import refuse_crippled
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
    found = bench(planned, rounds=2, progress=lambda what, done, of: told.append(of))
    document = json.loads(json.dumps(found.to_json()))
    assert told == [2, 2]
    assert document["equal_fraction"] == 1.0
    assert document["max_step"] <= 1
    assert document["ours"]["peak_bytes"] >= planned.plan.arena_bytes
    # A run allocates nothing but a few Python objects.
    assert document["ours"]["peak_bytes"] <= planned.plan.arena_bytes + 4096
    assert document["peer"]["peak_bytes"] > 0
    assert document["time_ratio"] == document["ours"]["ms"] / document["peer"]["ms"]


def test_ratios_are_ours_over_the_peers() -> None:
    found = Comparison(Contestant("a", 2.0, 100), Contestant("b", 4.0, 400), 1.0, 0)
    assert (found.time_ratio, found.memory_ratio) == (0.5, 0.25)


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
    with pytest.raises(BadArgument, match=r"counting the heap of nobody failed.*KeyError"):
        live_heap.count_in_process("thinmaps.measure.heap_child", ["nobody"])
