# SPDX-License-Identifier: Apache-2.0
"""Small ONNX models for tests, and ONNX Runtime as the judge of what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from run_float import run

from thinmaps.graph.float_network import FloatNetwork
from thinmaps.graph.onnx_reader import normalise

node = helper.make_node


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any] | None = None,
    *,
    shape: Sequence[int | str] = (1, 4, 7, 5),
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
) -> onnx.ModelProto:
    """A model from input `x` to `outputs`."""
    arrays = {name: np.asarray(value) for name, value in (constants or {}).items()}
    arrays = {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in arrays.items()}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def between_convolutions(
    middle: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any] | None = None,
    *,
    shape: Sequence[int] = (1, 4, 7, 5),
    channels: int | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """`middle`, from value "a" to value "b", between two 1 x 1 convolutions: it must be a map."""
    given = shape[1]
    nodes = [
        node("Conv", ["x", "before"], ["a"], name="before"),
        *middle,
        node("Conv", ["b", "after"], ["y"], name="after"),
    ]
    filters = {
        "before": weights(given, given, 1, 1, seed=1),
        "after": weights(2, channels or given, 1, 1, seed=2),
    }
    return model(nodes, {**filters, **(constants or {})}, shape=shape, opset=opset)


def session(proto: onnx.ModelProto, optimised: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])


def assert_computes_the_same(
    proto: onnx.ModelProto, tolerance: float = 1e-5, size: tuple[int, int] | None = None
) -> FloatNetwork:
    """The reader's network must compute what ONNX Runtime computes from `proto` as it came.

    `tolerance` is relative to the largest output: float32 sums in another order.
    """
    network, clean = normalise(proto, size)
    height, width, channels = network.shapes["x"]
    x = np.random.default_rng(5).normal(size=(1, channels, height, width)).astype(np.float32)
    judge = session(clean if size else proto)
    expected = judge.run(list(network.tail.outputs), {"x": x})
    computed = run(network, {"x": x})
    for name, value in zip(network.tail.outputs, expected, strict=True):
        ours = computed[name]
        assert ours.shape == value.shape, name
        assert (ours.dtype.kind, value.dtype.kind) in (("f", "f"), ("i", "i"))
        worst = np.abs(ours.astype(np.float64) - value).max()
        assert worst <= tolerance * max(np.abs(value).max(), 1e-3), (name, worst)
    return network


def kinds(network: FloatNetwork) -> list[str]:
    return [type(n.operator).__name__ for n in network.nodes]
