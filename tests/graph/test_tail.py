# SPDX-License-Identifier: Apache-2.0
"""Float operators behind the last maps, against ONNX Runtime, and where the maps end."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx_models import assert_computes_the_same, kinds, model, node, weights

from thinmaps.errors import BadShape
from thinmaps.graph import tail
from thinmaps.graph.onnx_reader import read

FILTERS = {"w": weights(4, 4, 1, 1)}


def behind_a_convolution(nodes, constants=None, *, opset=18, outputs=("y",)):
    """`nodes` read value "a", the last map, 1 x 4 x 7 x 5."""
    first = node("Conv", ["x", "w"], ["a"], name="conv")
    return model([first, *nodes], {**FILTERS, **(constants or {})}, opset=opset, outputs=outputs)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# Operator (or what is special) -> nodes from "a" to "y", constants, opset.
CASES = {
    "Softmax": ([node("Softmax", ["a"], ["y"], axis=1)], {}, 18),
    "Softmax, last axis by default": ([node("Softmax", ["a"], ["y"])], {}, 13),
    "Softmax of an old file, all but the batch": ([node("Softmax", ["a"], ["y"])], {}, 11),
    "Softmax of an old file, from an axis on": ([node("Softmax", ["a"], ["y"], axis=2)], {}, 11),
    "LogSoftmax": ([node("LogSoftmax", ["a"], ["y"], axis=-3)], {}, 18),
    "ArgMax": ([node("ArgMax", ["a"], ["y"], axis=1, keepdims=0)], {}, 18),
    "ArgMin": ([node("ArgMin", ["a"], ["y"], axis=-1, keepdims=1)], {}, 18),
    "ArgMax, last of equals": (
        [node("Relu", ["a"], ["r"]), node("ArgMin", ["r"], ["y"], axis=1, select_last_index=1)],
        {}, 18,
    ),
    "Transpose": ([node("Transpose", ["a"], ["y"], perm=[0, 2, 3, 1])], {}, 18),
    "Transpose, reversed by default": ([node("Transpose", ["a"], ["y"])], {}, 18),
    "Reshape": ([node("Reshape", ["a", "to"], ["y"])], {"to": integers(0, -1, 5)}, 18),
    "Flatten": ([node("Flatten", ["a"], ["y"], axis=2)], {}, 18),
    "Unsqueeze": ([node("Unsqueeze", ["a", "at"], ["y"])], {"at": integers(0, -1)}, 18),
    "Unsqueeze of an old file": ([node("Unsqueeze", ["a"], ["y"], axes=[1])], {}, 9),
    "Squeeze": ([node("Squeeze", ["a", "at"], ["y"])], {"at": integers(0)}, 18),
    "Squeeze of an old file": ([node("Squeeze", ["a"], ["y"])], {}, 9),
    "Sub of two": (
        [node("Softmax", ["a"], ["s"], axis=1),
         node("Split", ["s"], ["p", "q"], axis=1, num_outputs=2), node("Sub", ["p", "q"], ["y"])],
        {}, 18,
    ),
    "Div of two": ([node("Exp", ["a"], ["e"]), node("Div", ["a", "e"], ["y"])], {}, 18),
    "Max and Min": ([node("Max", ["a", "c"], ["m"]), node("Min", ["m", "d"], ["y"])],
                    {"c": np.float32(0.1), "d": np.float32(0.3)}, 18),
    "Log and Sqrt": ([node("Abs", ["a"], ["p"]), node("Add", ["p", "c"], ["q"]),
                      node("Log", ["q"], ["l"]), node("Sqrt", ["q"], ["s"]),
                      node("Mul", ["l", "s"], ["y"])], {"c": np.float32(1)}, 18),
    "Pow": ([node("Pow", ["a", "c"], ["y"])], {"c": np.float32(2)}, 18),
    "Reciprocal, Floor, Ceil, Neg": (
        [node("Floor", ["a"], ["f"]), node("Ceil", ["a"], ["c"]), node("Sub", ["c", "f"], ["d"]),
         node("Add", ["d", "one"], ["e"]), node("Reciprocal", ["e"], ["r"]),
         node("Neg", ["r"], ["y"])],
        {"one": np.float32(1)}, 18,
    ),
    "Softplus": ([node("Softplus", ["a"], ["y"])], {}, 18),
    "ReduceSum": ([node("ReduceSum", ["a", "at"], ["y"])], {"at": integers(1, -1)}, 18),
    "ReduceSum over everything": ([node("ReduceSum", ["a"], ["y"], keepdims=0)], {}, 18),
    "ReduceMax of an old file": ([node("ReduceMax", ["a"], ["y"], axes=[1], keepdims=0)], {}, 13),
    "ReduceMin": ([node("ReduceMin", ["a", "at"], ["y"])], {"at": integers(2)}, 18),
    "ReduceMean over channels": ([node("ReduceMean", ["a", "at"], ["y"])], {"at": integers(1)}, 18),
    "ReduceL2": ([node("ReduceL2", ["a", "at"], ["y"])], {"at": integers(1)}, 18),
    "ReduceProd": ([node("ReduceProd", ["a", "at"], ["y"])], {"at": integers(1)}, 18),
    "Slice backwards": (
        [node("Slice", ["a", "s", "e", "at", "by"], ["y"])],
        {"s": integers(-1, 0), "e": integers(-(2**62), 2**62), "at": integers(2, 1),
         "by": integers(-2, 3)}, 18,
    ),
    "Gather": ([node("Gather", ["a", "i"], ["y"], axis=-1)], {"i": integers(3, -1, 0)}, 18),
    "Split": (
        [node("Softmax", ["a"], ["s"], axis=1),
         node("Split", ["s", "n"], ["p", "q"], axis=1), node("Concat", ["q", "p"], ["y"], axis=1)],
        {"n": integers(1, 3)}, 18,
    ),
    "Cast": ([node("Cast", ["a"], ["c"], to=7), node("Cast", ["c"], ["y"], to=1)], {}, 18),
    "Clip": ([node("Softmax", ["a"], ["s"], axis=1), node("Clip", ["s", "", "hi"], ["y"])],
             {"hi": np.float32(0.4)}, 18),
    "Expand": ([node("ReduceMax", ["a", "at"], ["m"]), node("Expand", ["m", "to"], ["y"])],
               {"at": integers(1), "to": integers(1, 3, 1, 5)}, 18),
    "Conv to one channel": (
        [node("Softmax", ["a"], ["s"], axis=1), node("Conv", ["s", "mean", "bias"], ["y"])],
        {"mean": weights(1, 4, 1, 1), "bias": weights(1)}, 18,
    ),
    "MatMul and Gemm": (
        [node("Reshape", ["a", "to"], ["r"]), node("MatMul", ["r", "m"], ["p"]),
         node("Gemm", ["g", "p", "c"], ["y"], transA=1, transB=1, alpha=0.5, beta=2.0)],
        {"to": integers(28, 5), "m": weights(5, 3), "g": weights(3, 2), "c": weights(28)}, 18,
    ),
    "activations": (
        [node("Softmax", ["a"], ["s"], axis=1), node("Sigmoid", ["s"], ["b"]),
         node("Tanh", ["b"], ["t"]), node("LeakyRelu", ["t"], ["l"], alpha=0.3),
         node("PRelu", ["l", "slope"], ["p"]), node("HardSigmoid", ["p"], ["h"], alpha=0.3),
         node("HardSwish", ["h"], ["w1"]), node("Relu", ["w1"], ["r"]),
         node("Dropout", ["r"], ["d"]), node("Identity", ["d"], ["y"])],
        {"slope": weights(4, 1, 1)}, 18,
    ),
    "BatchNormalization": (
        [node("Softmax", ["a"], ["s"], axis=1),
         node("BatchNormalization", ["s", *"gbmv"], ["y"])],
        {name: np.abs(weights(4, seed=i)) + 0.5 for i, name in enumerate("gbmv")}, 18,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_float_operator_behind_the_last_map_computes_what_onnx_runtime_computes(case):
    nodes, constants, opset = CASES[case]
    network = assert_computes_the_same(behind_a_convolution(nodes, constants, opset=opset), 1e-4)
    assert kinds(network) == ["FloatConv"]


@pytest.mark.parametrize("case", CASES)
def test_the_attributes_of_a_tail_survive_json(case):
    nodes, constants, opset = CASES[case]
    found = read(behind_a_convolution(nodes, constants, opset=opset)).tail
    for item in found.nodes:
        text = json.dumps(dict(item.attributes), allow_nan=False)
        back = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        assert back == dict(item.attributes)


def test_top_k_is_computed():
    nodes = [
        node("Reshape", ["a", "to"], ["r"]),
        node("TopK", ["r", "k"], ["y", "places"], axis=1),
    ]
    proto = behind_a_convolution(
        nodes, {"to": integers(1, -1), "k": integers(5)}, outputs=("y", "places")
    )
    assert_computes_the_same(proto)


def test_several_outputs_keep_their_names_and_order():
    nodes = [node("Sigmoid", ["a"], ["s"]), node("Conv", ["a", "w"], ["z"])]
    network = assert_computes_the_same(behind_a_convolution(nodes, outputs=("z", "s", "a")))
    assert network.tail.outputs == ("z", "s", "a")
    assert set(network.outputs) == {"z", "s", "a"}


def test_an_activation_that_ends_the_network_leaves_it():
    network = read(behind_a_convolution([node("Sigmoid", ["a"], ["y"])]))
    assert (kinds(network), network.outputs) == (["FloatConv"], ("a",))
    assert [item.op_type for item in network.tail.nodes] == ["Sigmoid"]


def test_an_activation_that_a_convolution_reads_too_stays():
    nodes = [node("Sigmoid", ["a"], ["y"]), node("Conv", ["y", "w"], ["z"])]
    network = assert_computes_the_same(behind_a_convolution(nodes, outputs=("y", "z")))
    assert kinds(network) == ["FloatConv", "ScalarFunction", "FloatConv"]


def test_slices_and_joins_that_only_the_tail_reads_leave_the_network():
    nodes = [
        node("Split", ["a", "n"], ["p", "q"], axis=1),
        node("Sigmoid", ["p"], ["s"]),
        node("Concat", ["s", "q"], ["y"], axis=1),
    ]
    network = assert_computes_the_same(behind_a_convolution(nodes, {"n": integers(1, 3)}))
    assert kinds(network) == ["FloatConv"]


def test_a_join_of_maps_that_go_on_stays():
    nodes = [
        node("Conv", ["a", "w"], ["b"]),
        node("Concat", ["a", "b"], ["y"], axis=1),
    ]
    network = assert_computes_the_same(behind_a_convolution(nodes))
    assert kinds(network) == ["FloatConv", "FloatConv", "FloatConcat"]


def test_a_sum_of_large_maps_stays_and_a_norm_of_a_vector_leaves():
    nodes = [
        node("Add", ["a", "x"], ["b"]),
        node("GlobalAveragePool", ["b"], ["g"]),
        node("Mul", ["g", "g"], ["m"]),
        node("ReduceSum", ["m", "at"], ["s"]),
        node("Sqrt", ["s"], ["r"]),
        node("Div", ["g", "r"], ["y"]),
    ]
    network = assert_computes_the_same(behind_a_convolution(nodes, {"at": integers(1)}))
    assert kinds(network) == ["FloatConv", "FloatAdd", "FloatMean"]
    assert network.float_outputs == {"g"}


def test_nodes_that_nothing_reads_are_gone():
    nodes = [node("Conv", ["a", "w"], ["unused"]), node("Softmax", ["a"], ["y"], axis=1)]
    assert kinds(read(behind_a_convolution(nodes))) == ["FloatConv"]


def test_a_map_of_another_shape_is_refused():
    found = read(behind_a_convolution([node("Softmax", ["a"], ["y"], axis=1)])).tail
    with pytest.raises(BadShape, match=r"'a' needs \(1, 4, 7, 5\).*\(7, 5, 3\)"):
        tail.evaluate(found, {"a": np.zeros((7, 5, 3), np.float32)})
