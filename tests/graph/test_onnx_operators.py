# SPDX-License-Identifier: Apache-2.0
"""Every operator of the reader alone, against ONNX Runtime, on odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import assert_computes_the_same, between_convolutions, kinds, model, node, weights

from thinmaps.graph.onnx_reader import read


@pytest.mark.parametrize(
    ("attributes", "filters", "shape"),
    [
        ({}, (3, 4, 3, 3), (1, 4, 7, 5)),
        ({"pads": [0, 1, 2, 3], "strides": [2, 3]}, (3, 4, 3, 2), (1, 4, 9, 8)),
        ({"dilations": [2, 3], "pads": [2, 3, 2, 3]}, (3, 4, 3, 3), (1, 4, 7, 5)),
        ({"group": 4, "pads": [1, 1, 1, 1]}, (8, 1, 3, 3), (1, 4, 7, 5)),
        ({"group": 2}, (6, 2, 1, 1), (1, 4, 7, 5)),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (3, 4, 3, 4), (1, 4, 7, 6)),
        ({"auto_pad": "SAME_LOWER", "strides": [2, 3]}, (3, 4, 4, 2), (1, 4, 7, 6)),
        ({"auto_pad": "VALID"}, (3, 4, 3, 3), (1, 4, 7, 6)),
    ],
)
def test_a_convolution_of_any_geometry_is_read(attributes, filters, shape):
    nodes = [node("Conv", ["x", "w", "bias"], ["y"], **attributes)]
    constants = {"w": weights(*filters), "bias": weights(filters[0], seed=3)}
    assert_computes_the_same(model(nodes, constants, shape=shape))


def test_same_padding_counts_dilation():
    # ONNX Runtime has no answer here, so the explicit pads are the judge.
    attributes = {"dilations": [2, 1], "strides": [1, 2]}
    nodes = [node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", **attributes)]
    network = read(model(nodes, {"w": weights(3, 4, 3, 3)}, shape=(1, 4, 7, 6)))
    assert network.nodes[0].operator.window.pads == (2, 0, 2, 1)
    assert network.shapes["y"] == (7, 3, 3)


@pytest.mark.parametrize(
    ("attributes", "filters"),
    [
        ({}, (4, 3, 2, 3)),
        ({"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 0]}, (4, 3, 3, 3)),
        ({"strides": [3, 2], "dilations": [2, 1], "group": 2}, (4, 3, 2, 3)),
        ({"strides": [2, 2], "output_shape": [14, 11]}, (4, 3, 3, 3)),
        ({"strides": [2, 2], "output_shape": [13, 10]}, (4, 3, 4, 3)),
        ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, (4, 3, 3, 3)),
        ({"strides": [2, 2], "auto_pad": "SAME_LOWER"}, (4, 3, 3, 3)),
        ({"strides": [2, 1], "auto_pad": "VALID"}, (4, 3, 3, 3)),
    ],
)
def test_a_transposed_convolution_of_any_geometry_is_read(attributes, filters):
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], **attributes)]
    network = assert_computes_the_same(model(nodes, {"w": weights(*filters)}))
    assert kinds(network) == ["FloatConv"]


@pytest.mark.parametrize("flatten", ["Flatten", "Reshape"])
@pytest.mark.parametrize("flipped", [0, 1])
def test_a_fully_connected_layer_on_a_map_becomes_a_convolution_of_the_maps_size(flatten, flipped):
    matrix = weights(10, 140) if flipped else weights(140, 10)
    nodes = [
        node(flatten, ["x", "to"] if flatten == "Reshape" else ["x"], ["flat"]),
        node("Gemm", ["flat", "w", "c"], ["y"], transB=flipped, alpha=0.5, beta=2.0),
    ]
    constants = {"w": matrix, "c": weights(10, seed=4)}
    if flatten == "Reshape":
        constants["to"] = np.array([1, -1])
    network = assert_computes_the_same(model(nodes, constants))
    assert network.nodes[0].operator.window.kernel == (7, 5)
    assert network.float_outputs == {"y"}


def test_matmul_with_an_added_bias_is_one_layer_and_two_layers_chain():
    nodes = [
        node("Flatten", ["x"], ["flat"]),
        node("MatMul", ["flat", "w1"], ["m1"]),
        node("Add", ["c1", "m1"], ["s1"]),
        node("Relu", ["s1"], ["r1"]),
        node("MatMul", ["r1", "w2"], ["y"]),
    ]
    constants = {"w1": weights(140, 6), "c1": weights(6), "w2": weights(6, 3)}
    network = assert_computes_the_same(model(nodes, constants))
    assert kinds(network) == ["FloatConv", "FloatConv"]
    assert network.nodes[0].low == 0


def test_a_transposed_first_factor_is_read():
    nodes = [
        node("Reshape", ["x", "to"], ["flat"]),
        node("Gemm", ["flat", "w"], ["y"], transA=1),
    ]
    assert_computes_the_same(model(nodes, {"w": weights(140, 3), "to": np.array([-1, 1])}))


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 0, 1, 0]},
        {"kernel_shape": [3, 3], "dilations": [2, 1], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [2, 2], "strides": [1, 2], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [7, 5]},
    ],
)
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool", "AveragePool counting pads"])
def test_a_pool_of_any_geometry_is_read(pool, attributes):
    if pool.endswith("pads"):
        attributes = {**attributes, "count_include_pad": 1}
    middle = [node(pool.split()[0], ["a"], ["b"], **attributes)]
    opset = 19 if "dilations" in attributes else 18
    assert_computes_the_same(between_convolutions(middle, opset=opset))


def test_an_average_over_the_whole_map_is_a_mean():
    middle = [node("AveragePool", ["a"], ["b"], kernel_shape=[7, 5])]
    network = assert_computes_the_same(between_convolutions(middle))
    assert kinds(network) == ["FloatConv", "FloatMean", "FloatConv"]


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "GlobalMaxPool"])
def test_a_global_pool_is_read(pool):
    assert_computes_the_same(between_convolutions([node(pool, ["a"], ["b"])]))


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_height_and_width_is_read(opset, axes, keepdims):
    by_input = {"inputs": ["a", "axes"], "constants": {"axes": np.array(axes)}, "attributes": {}}
    by_attribute = {"inputs": ["a"], "constants": {}, "attributes": {"axes": axes}}
    form = by_input if opset == 18 else by_attribute
    middle = [
        node("ReduceMean", form["inputs"], ["m"], keepdims=keepdims, **form["attributes"]),
        node("Reshape", ["m", "to"], ["b"]),
    ]
    constants = {**form["constants"], "to": np.array([1, 4, 1, 1])}
    network = assert_computes_the_same(between_convolutions(middle, constants, opset=opset))
    assert kinds(network) == ["FloatConv", "FloatMean", "FloatConv"]


def test_a_mean_over_a_flattened_plane_is_read():
    middle = [
        node("Reshape", ["a", "plane"], ["p"]),
        node("ReduceMean", ["p", "axis"], ["m"], keepdims=1),
        node("Unsqueeze", ["m", "last"], ["b"]),
    ]
    constants = {
        "plane": np.array([0, 0, -1]), "axis": np.array([-1]), "last": np.array([3]),
    }  # fmt: skip
    assert_computes_the_same(between_convolutions(middle, constants))


@pytest.mark.parametrize(
    ("op", "constant"),
    [
        ("Add", 1.5), ("Sub", -2.0), ("Mul", 0.7), ("Div", 3.0),
        ("Add", (4, 1, 1)), ("Sub", (1, 4, 1, 1)), ("Mul", (1, 4, 1, 1)), ("Div", (4, 1, 1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_a_constant_beside_a_map_folds_into_the_convolution_in_front(op, constant, first):
    value = weights(*constant) + 3 if isinstance(constant, tuple) else np.array(constant)
    # A map as divisor is refused.
    middle = [node(op, ["a", "c"] if first or op == "Div" else ["c", "a"], ["b"])]
    network = assert_computes_the_same(between_convolutions(middle, {"c": value}))
    assert kinds(network) == ["FloatConv", "FloatConv"]


def test_a_difference_of_maps_is_a_sum_and_the_sign_goes_into_the_layer_in_front():
    middle = [
        node("Conv", ["a", "w"], ["c"]),
        node("Sub", ["x", "c"], ["d"]),
        node("Sub", ["d", "x"], ["s"]),
        node("Sum", ["s", "d"], ["b"]),
    ]
    network = assert_computes_the_same(between_convolutions(middle, {"w": weights(4, 4, 1, 1)}))
    assert kinds(network)[1:6] == ["FloatConv", "FloatAdd", "ScalarFunction"] + ["FloatAdd"] * 2
    assert network.nodes[1].output == "d_minus"


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_two_maps_are_combined_and_a_one_by_one_map_comes_second(op):
    middle = [
        node("GlobalAveragePool", ["a"], ["g"]),
        node(op, ["g", "a"], ["m"]),
        node(op, ["m", "x"], ["b"]),
    ]
    network = assert_computes_the_same(between_convolutions(middle))
    kind = f"Float{op}"
    assert kinds(network) == ["FloatConv", "FloatMean", kind, kind, "FloatConv"]
    assert network.nodes[2].inputs == ("a", "g")


ACTIVATIONS = [
    (node("LeakyRelu", ["a"], ["b"], alpha=0.3), {}),
    (node("PRelu", ["a", "s"], ["b"]), {"s": weights(4, 1, 1)}),
    (node("PRelu", ["a", "s"], ["b"]), {"s": weights(1, 1, 1)}),
    (node("Sigmoid", ["a"], ["b"]), {}),
    (node("HardSigmoid", ["a"], ["b"], alpha=0.3, beta=0.4), {}),
    (node("HardSwish", ["a"], ["b"]), {}),
    (node("Tanh", ["a"], ["b"]), {}),
    (node("Elu", ["a"], ["b"], alpha=0.7), {}),
    (node("Abs", ["a"], ["b"]), {}),
    (node("Erf", ["a"], ["b"]), {}),
    (node("Exp", ["a"], ["b"]), {}),
    (node("Softplus", ["a"], ["b"]), {}),
]


@pytest.mark.parametrize("bound", ["Max", "Min"])
@pytest.mark.parametrize("second", ["a", "r"])
def test_a_bound_of_two_lines_of_a_map_is_a_scalar_function(bound, second):
    lines = [
        node("Mul", ["a", "s"], ["p"]),
        node("Add", ["p", "t"], ["q"]),
        node("Neg", ["a"], ["r"]),
        node(bound, ["q", second], ["b"]),
    ]
    constants = {"s": weights(4, 1, 1), "t": weights(4, 1, 1, seed=5)}
    network = assert_computes_the_same(between_convolutions(lines, constants))
    assert kinds(network) == ["FloatConv", "ScalarFunction", "FloatConv"]


@pytest.mark.parametrize(("activation", "constants"), ACTIVATIONS)
def test_an_activation_is_a_scalar_function(activation, constants):
    network = assert_computes_the_same(between_convolutions([activation], constants))
    assert kinds(network) == ["FloatConv", "ScalarFunction", "FloatConv"]


@pytest.mark.parametrize(
    ("nodes", "bounds"),
    [
        ([node("Relu", ["s"], ["b"])], (0, np.inf)),
        ([node("Clip", ["s", "lo", "hi"], ["b"])], (-0.5, 0.75)),
        ([node("Clip", ["s", "", "hi"], ["b"])], (-np.inf, 0.75)),
        ([node("Relu", ["s"], ["r"]), node("Clip", ["r", "lo", "hi"], ["b"])], (0, 0.75)),
        ([node("Max", ["lo", "s"], ["m"]), node("Min", ["m", "hi"], ["b"])], (-0.5, 0.75)),
    ],
)
@pytest.mark.parametrize(
    "front",
    [
        node("Conv", ["a", "w"], ["s"]),
        node("Add", ["a", "x"], ["s"]),
        node("Mul", ["a", "x"], ["s"]),
        node("AveragePool", ["a"], ["s"], kernel_shape=[3, 3]),
    ],
    ids=lambda n: n.op_type,
)
def test_relu_and_clip_become_the_clamp_of_the_node_in_front(front, nodes, bounds):
    constants = {"w": weights(4, 4, 1, 1), "lo": np.float32(-0.5), "hi": np.float32(0.75)}
    network = assert_computes_the_same(between_convolutions([front, *nodes], constants))
    assert len(network.nodes) == 3
    assert (network.nodes[1].low, network.nodes[1].high) == bounds


def test_clip_with_attributes_as_in_old_files_is_read():
    middle = [node("Clip", ["a"], ["b"], min=0.0, max=6.0)]
    network = assert_computes_the_same(between_convolutions(middle, opset=9))
    assert (network.nodes[0].low, network.nodes[0].high) == (0, 6)


BATCH_NORM = {
    "scale": weights(4), "shift": weights(4, seed=1), "mean": weights(4, seed=2),
    "variance": np.abs(weights(4, seed=3)) + 0.1,
}  # fmt: skip


def batch_norm(source: str, target: str) -> object:
    return node("BatchNormalization", [source, *BATCH_NORM], [target], epsilon=1e-3)


def test_batch_norm_folds_into_the_convolution_in_front():
    network = assert_computes_the_same(between_convolutions([batch_norm("a", "b")], BATCH_NORM))
    assert kinds(network) == ["FloatConv", "FloatConv"]
    assert network.nodes[0].output == "b"


def test_batch_norm_and_prelu_behind_a_concat_are_one_function():
    middle = [
        node("Split", ["a"], ["l", "r"], axis=1, num_outputs=2),
        node("Concat", ["r", "l"], ["c"], axis=1),
        batch_norm("c", "n"),
        node("PRelu", ["n", "slope"], ["b"]),
    ]
    constants = {**BATCH_NORM, "slope": weights(4, 1, 1)}
    network = assert_computes_the_same(between_convolutions(middle, constants))
    assert kinds(network)[3:5] == ["FloatConcat", "ScalarFunction"]
    assert network.nodes[4].operator.channels == 4


GATES = {
    "silu": [node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["b"])],
    "silu, gate first": [node("Sigmoid", ["a"], ["s"]), node("Mul", ["s", "a"], ["b"])],
    "hard swish": [
        node("HardSigmoid", ["a"], ["s"], alpha=1 / 6, beta=0.5),
        node("Mul", ["a", "s"], ["b"]),
    ],
    "hard swish of clip": [
        node("Add", ["a", "three"], ["t"]),
        node("Clip", ["t", "zero", "six"], ["s"]),
        node("Mul", ["a", "s"], ["m"]),
        node("Div", ["m", "six"], ["b"]),
    ],
    "gelu": [
        node("Div", ["a", "root"], ["d"]),
        node("Erf", ["d"], ["e"]),
        node("Add", ["e", "one"], ["p"]),
        node("Mul", ["a", "p"], ["m"]),
        node("Mul", ["m", "half"], ["b"]),
    ],
    "hard swish, divided first": [
        node("Add", ["a", "three"], ["t"]),
        node("Clip", ["t", "zero", "six"], ["s"]),
        node("Div", ["s", "six"], ["d"]),
        node("Mul", ["a", "d"], ["b"]),
    ],
}


@pytest.mark.parametrize("form", GATES)
def test_a_map_times_a_function_of_itself_is_one_function(form):
    numbers = {"three": 3, "zero": 0, "six": 6, "one": 1, "half": 0.5, "root": np.sqrt(2)}
    constants = {name: np.float32(value) for name, value in numbers.items()}
    network = assert_computes_the_same(between_convolutions(GATES[form], constants))
    assert kinds(network) == ["FloatConv", "ScalarFunction", "FloatConv"]


def test_squeeze_and_excitation_is_read():
    middle = [
        node("GlobalAveragePool", ["a"], ["g"]),
        node("Conv", ["g", "down"], ["d"]),
        node("Relu", ["d"], ["r"]),
        node("Conv", ["r", "up"], ["u"]),
        node("Sigmoid", ["u"], ["s"]),
        node("Mul", ["s", "a"], ["b"]),
    ]
    constants = {"down": weights(2, 4, 1, 1), "up": weights(4, 2, 1, 1)}
    network = assert_computes_the_same(between_convolutions(middle, constants))
    assert kinds(network)[-3:] == ["ScalarFunction", "FloatMul", "FloatConv"]


def test_squeeze_and_excitation_of_fully_connected_layers_is_read():
    middle = [
        node("ReduceMean", ["a", "plane"], ["g"], keepdims=0),
        node("Gemm", ["g", "down"], ["d"]),
        node("Relu", ["d"], ["r"]),
        node("Gemm", ["r", "up"], ["u"]),
        node("HardSigmoid", ["u"], ["s"]),
        node("Reshape", ["s", "to"], ["f"]),
        node("Mul", ["a", "f"], ["b"]),
    ]
    constants = {
        "down": weights(4, 2), "up": weights(2, 4), "plane": np.array([2, 3]),
        "to": np.array([1, 4, 1, 1]),
    }  # fmt: skip
    assert_computes_the_same(between_convolutions(middle, constants))


@pytest.mark.parametrize("axis", [1, -3])
def test_split_and_concat_along_channels_are_read(axis):
    middle = [
        node("Split", ["a", "sizes"], ["p", "q"], axis=axis),
        node("Concat", ["q", "x", "p"], ["b"], axis=axis),
    ]
    constants = {"sizes": np.array([1, 3])}
    network = assert_computes_the_same(between_convolutions(middle, constants, channels=8))
    assert kinds(network) == ["FloatConv", "Slice", "Slice", "FloatConcat", "FloatConv"]


def test_split_with_sizes_in_an_attribute_and_along_height_is_read():
    middle = [
        node("Split", ["a"], ["p", "q"], axis=2, split=[3, 4]),
        node("Slice", ["q"], ["s"], starts=[1], ends=[4], axes=[2]),
        node("Add", ["p", "s"], ["b"]),
    ]
    assert_computes_the_same(between_convolutions(middle, opset=9))


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps", "channels"),
    [
        ([1], [3], [1], [1], 2),
        ([-3], [2**62], [-3], [1], 3),
        ([0, 1], [99, -1], [2, 3], [2, 3], 4),
        ([1, 0, 2], [4, 9, 5], [1, 2, 3], [1, 3, 1], 3),
    ],
)
def test_slices_in_channels_and_with_steps_in_space_are_read(starts, ends, axes, steps, channels):
    names = ["starts", "ends", "axes", "steps"]
    constants = dict(zip(names, map(np.array, (starts, ends, axes, steps)), strict=True))
    middle = [node("Slice", ["a", *names], ["b"])]
    assert_computes_the_same(between_convolutions(middle, constants, channels=channels))


def test_slices_that_share_a_slice_read_the_map_itself():
    middle = [
        node("Slice", ["a", "zero", "end", "rows", "two"], ["p"]),
        node("Slice", ["p", "zero", "six", "columns", "two"], ["q"]),
        node("Slice", ["p", "one", "six", "columns", "two"], ["r"]),
        node("Concat", ["q", "r"], ["b"], axis=1),
    ]
    constants = {
        "zero": [0], "one": [1], "two": [2], "six": [6], "end": [2**40], "rows": [2],
        "columns": [3],
    }  # fmt: skip
    proto = between_convolutions(middle, constants, shape=(1, 4, 6, 6), channels=8)
    network = assert_computes_the_same(proto)
    assert kinds(network) == ["FloatConv", "Slice", "Slice", "FloatConcat", "FloatConv"]
    assert [n.inputs for n in network.nodes[1:3]] == [("a",), ("a",)]


def test_slices_of_slices_are_one_and_slices_of_everything_are_none():
    middle = [
        node("Slice", ["a", "one", "end", "rows", "two"], ["p"]),
        node("Slice", ["p", "one", "end", "rows", "two"], ["q"]),
        node("Slice", ["q", "one", "end", "columns", "two"], ["r"]),
        node("Slice", ["r", "zero", "end", "columns", "one"], ["b"]),
    ]
    constants = {
        "zero": [0], "one": [1], "two": [2], "end": [2**40], "rows": [2], "columns": [3],
    }  # fmt: skip
    network = assert_computes_the_same(between_convolutions(middle, constants, shape=(1, 4, 11, 9)))
    assert kinds(network) == ["FloatConv", "Slice", "FloatConv"]


@pytest.mark.parametrize("value", [0.0, 1.25])
def test_a_border_in_space_and_channels_is_read(value):
    pads = [0, 1, 2, 0, 0, 3, 1, 4]
    constants = {"pads": np.array(pads), "value": np.float32(value)}
    middle = [node("Pad", ["a", "pads", "value"], ["b"])]
    network = assert_computes_the_same(between_convolutions(middle, constants, channels=8))
    assert kinds(network) == ["FloatConv", "FloatPad", "FloatConv"]


def test_a_border_with_attributes_as_in_old_files_is_read():
    middle = [node("Pad", ["a"], ["b"], pads=[0, 0, 1, 2, 0, 0, 3, 4], value=0.5)]
    assert_computes_the_same(between_convolutions(middle, opset=9))


def test_a_border_with_chosen_axes_is_read():
    constants = {"pads": np.array([1, 2, 3, 4]), "axes": np.array([-1, 2]), "v": np.float32(1)}
    middle = [node("Pad", ["a", "pads", "v", "axes"], ["b"])]
    assert_computes_the_same(between_convolutions(middle, constants))


def test_a_border_of_zeros_is_the_next_convolutions_padding():
    middle = [
        node("Pad", ["a", "pads"], ["p"]),
        node("Conv", ["p", "w"], ["b"], pads=[1, 0, 0, 1], strides=[2, 2]),
    ]
    constants = {"pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]), "w": weights(4, 4, 3, 3)}
    network = assert_computes_the_same(between_convolutions(middle, constants))
    assert kinds(network) == ["FloatConv"] * 3
    assert network.nodes[1].operator.window.pads == (2, 2, 0, 2)


NEAREST = [
    {"coordinate_transformation_mode": transform, "nearest_mode": rounding}
    for transform in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
]
LINEAR = [
    {"coordinate_transformation_mode": transform, "mode": "linear"}
    for transform in (
        "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric",
    )
]  # fmt: skip


@pytest.mark.parametrize("attributes", NEAREST + LINEAR, ids=lambda a: "-".join(a.values()))
@pytest.mark.parametrize("scales", [(2, 2), (1.5, 3.3), (0.5, 0.6), (1, 2)], ids=str)
def test_resize_by_scales_is_read_in_every_mode(attributes, scales):
    constants = {"scales": np.float32([1, 1, *scales])}
    middle = [node("Resize", ["a", "", "scales"], ["b"], **attributes)]
    # Weights of 11 bits: at most 2^-12 off in each direction, times the difference of neighbours.
    tolerance = 2e-3 if attributes.get("mode") == "linear" else 1e-5
    assert_computes_the_same(between_convolutions(middle, constants, opset=19), tolerance)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("sizes", [(14, 10), (13, 3), (7, 11), (1, 1)], ids=str)
def test_resize_to_sizes_is_read(mode, sizes):
    constants = {"sizes": np.array([1, 4, *sizes])}
    middle = [node("Resize", ["a", "", "", "sizes"], ["b"], mode=mode)]
    assert_computes_the_same(between_convolutions(middle, constants), 2e-3)


def test_resize_with_chosen_axes_is_read():
    constants = {"scales": np.float32([3, 2])}
    middle = [node("Resize", ["a", "", "scales"], ["b"], axes=[3, 2], mode="nearest")]
    network = assert_computes_the_same(between_convolutions(middle, constants))
    assert network.shapes["b"] == (14, 15, 4)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("op", "opset", "scales"),
    [
        ("Upsample", 7, (2, 3)),
        ("Upsample", 9, (1.5, 1.3)),
        ("Resize", 10, (1.5, 3)),
        ("Resize", 10, (0.5, 0.7)),  # Upsample only enlarges
    ],
)
def test_upsample_and_resize_of_old_files_are_read(op, opset, scales, mode):
    factors = [1.0, 1.0, *map(float, scales)]
    by_input = {"inputs": ["a", "scales"], "attributes": {}}
    by_attribute = {"inputs": ["a"], "attributes": {"scales": factors}}
    form = by_attribute if opset == 7 else by_input
    middle = [node(op, form["inputs"], ["b"], mode=mode, **form["attributes"])]
    constants = {} if opset == 7 else {"scales": np.float32(factors)}
    tolerance = 2e-3 if mode == "linear" else 1e-5
    assert_computes_the_same(between_convolutions(middle, constants, opset=opset), tolerance)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_is_read(mode):
    middle = [node("DepthToSpace", ["a"], ["b"], blocksize=2, mode=mode)]
    assert_computes_the_same(between_convolutions(middle, shape=(1, 12, 3, 5), channels=3))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_spelled_out_is_read(mode):
    split, order = {
        "CRD": ((0, 3, 2, 2, 3, 5), (0, 1, 4, 2, 5, 3)),
        "DCR": ((0, 2, 2, 3, 3, 5), (0, 3, 4, 1, 5, 2)),
    }[mode]
    middle = [
        node("Reshape", ["a", "split"], ["s"]),
        node("Transpose", ["s"], ["t"], perm=order),
        node("Reshape", ["t", "joined"], ["b"]),
    ]
    constants = {"split": np.array(split), "joined": np.array([1, 3, 6, 10])}
    network = assert_computes_the_same(
        between_convolutions(middle, constants, shape=(1, 12, 3, 5), channels=3)
    )
    assert network.nodes[1].operator.mode == mode


def test_a_channel_shuffle_is_a_convolution_with_a_permutation():
    middle = [
        node("Reshape", ["a", "split"], ["s"]),
        node("Transpose", ["s"], ["t"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "joined"], ["b"]),
    ]
    constants = {"split": np.array([1, 2, 3, 7, 5]), "joined": np.array([1, 6, 7, 5])}
    network = assert_computes_the_same(between_convolutions(middle, constants, shape=(1, 6, 7, 5)))
    assert kinds(network) == ["FloatConv"] * 3
    np.testing.assert_array_equal(
        network.nodes[1].operator.weights[:, :, 0, 0].argmax(axis=1), [0, 3, 1, 4, 2, 5]
    )


def test_nodes_that_change_nothing_leave_no_node():
    middle = [
        node("Identity", ["a"], ["i"]),
        node("Dropout", ["i"], ["d"]),
        node("Cast", ["d"], ["c"], to=1),
        node("Concat", ["c"], ["k"], axis=1),
        node("Pad", ["k", "none"], ["p"]),
        node("Resize", ["p", "", "ones"], ["r"], mode="linear"),
        node("Transpose", ["r"], ["b"], perm=[0, 1, 2, 3]),
    ]
    constants = {"none": np.zeros(8, np.int64), "ones": np.ones(4, np.float32)}
    network = assert_computes_the_same(between_convolutions(middle, constants))
    assert kinds(network) == ["FloatConv", "FloatConv"]
