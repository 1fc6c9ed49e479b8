# SPDX-License-Identifier: Apache-2.0
"""Ranges, weights, clamps and functions become integers by the rules, judged by ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from thinmaps.errors import BadArgument, BadModel
from thinmaps.graph import operators as op
from thinmaps.graph.float_network import (
    FloatAdd,
    FloatAveragePool,
    FloatConcat,
    FloatConv,
    FloatMean,
    FloatMul,
    FloatNetwork,
    FloatNode,
    FloatPad,
    MapQuantisation,
    ScalarFunction,
    Tail,
)
from thinmaps.graph.quantise import quantise
from thinmaps.graph.scales import Range, even_quantisation
from thinmaps.run.interpret import run_network
from thinmaps.types import MapSpec, Preprocessing

INFINITY = float("inf")


def network(nodes, shapes, outputs=None, float_outputs=()):
    last = nodes[-1].output
    return FloatNetwork(
        tuple(nodes), shapes, ("x",), outputs or (last,), frozenset(float_outputs),
        Tail((), {}, (last,)),
    )  # fmt: skip


def convolution(weights, bias=None, window=None, **more):
    weights = np.asarray(weights, np.float32)
    bias = np.zeros(len(weights), np.float32) if bias is None else np.asarray(bias, np.float32)
    return FloatConv(
        window or op.Window(weights.shape[2:]), more.pop("groups", 1), weights, bias, **more
    )


def one_node(operator, *, low=-INFINITY, high=INFINITY, inputs=("x",), shapes=None, **more):
    shapes = shapes or {"x": (4, 4, 2), "y": (4, 4, 2)}
    return network([FloatNode("node", operator, inputs, "y", low, high)], shapes, **more)


SIGNED = Range(-1.0, 1.0)
POSITIVE = Range(0.0, 2.0)


def test_scales_cover_the_range_with_an_even_zero_point():
    rng = np.random.default_rng(1)
    for low, high in zip(
        -(10 ** rng.uniform(-4, 4, 500)), 10 ** rng.uniform(-4, 4, 500), strict=True
    ):
        found = even_quantisation(Range(low, high))
        step = found.scale * (1 + 1e-6)
        assert found.zero_point % 2 == 0
        assert (255 - found.zero_point) * step >= high
        # A negative part below one step saturates; nothing else does.
        assert found.zero_point * step >= -low or -low < step


def test_scales_are_at_most_one_percent_coarser_than_free_zero_points_would_allow():
    for low in np.linspace(-3, -0.05, 60):
        found = even_quantisation(Range(low, 1.0))
        assert found.scale <= (1.0 - low) / 255 * 1.01


@pytest.mark.parametrize("values", [Range(0.0, 0.0), Range(0.0, 1e-30), Range(-1e14, 1e14)])
def test_degenerate_ranges_still_give_a_scale_that_multipliers_can_hold(values):
    found = even_quantisation(values)
    assert 0 < np.float32(found.scale) ** 2 < np.inf


def test_a_range_that_is_not_finite_is_refused():
    with pytest.raises(BadModel, match="finite"):
        even_quantisation(Range(0.0, float("nan")))


def test_values_that_no_scale_can_hold_are_refused():
    with pytest.raises(BadModel, match=r"-1e\+30 to 1e\+30.*other units"):
        even_quantisation(Range(-1e30, 1e30))


def test_relu_and_clip_outputs_have_zero_point_0_and_saturation_for_a_clamp():
    conv = convolution(np.ones((2, 2, 1, 1)))
    made = quantise(one_node(conv, low=0.0, high=6.0), {"x": SIGNED, "y": Range(-3.0, 9.0)})
    spec, node = made.maps["y"], made.nodes[-1].operator
    assert spec.zero_point == 0
    assert spec.scale == pytest.approx(6 / 255)
    assert (node.low, node.high) == (0, 255)


def test_a_clamp_inside_of_the_range_becomes_low_and_high_bytes():
    given = {"x": MapQuantisation(0.5, 10), "y": MapQuantisation(0.25, 100)}
    made = quantise(one_node(FloatAdd(), low=-1.0, high=6.0, inputs=("x", "x")), given)
    node = made.nodes[-1].operator
    assert (node.low, node.high) == (96, 124)


@pytest.mark.parametrize("operator", [FloatMean(), FloatAveragePool(op.Window((1, 1)), False)])
def test_a_clamp_that_an_operator_lacks_becomes_a_table_behind_it(operator):
    shapes = {"x": (1, 1, 2), "y": (1, 1, 2)}
    given = {"x": MapQuantisation(0.5, 10), "y": MapQuantisation(0.5, 10)}
    made = quantise(one_node(operator, low=0.0, shapes=shapes), given)
    values = run_network(made, {"x": np.float32([[[-2.0, 3.0]]])})
    assert (values["y"].ravel() == [10, 16]).all()


def test_weights_are_symmetric_per_output_channel():
    weights = np.float32([[[[1.0]], [[-2.0]]], [[[0.5]], [[0.25]]]])
    node = quantise(one_node(convolution(weights)), {"x": SIGNED, "y": SIGNED}).nodes[-1].operator
    assert node.weights.dtype == np.int8
    assert node.weights.reshape(2, 2).tolist() == [[64, -127], [127, 64]]


def test_a_channel_of_zero_weights_has_weight_scale_1():
    given = {"x": MapQuantisation(0.5, 0), "y": MapQuantisation(0.25, 0)}
    made = quantise(one_node(convolution(np.zeros((2, 2, 1, 1)), [3.0, 0.0])), given)
    node = made.nodes[-1].operator
    assert node.multiplier.tolist() == [2.0, 2.0]
    assert node.bias.tolist() == [6, 0]


def test_a_weight_scale_is_raised_until_the_bias_is_below_two_to_the_thirty():
    conv = convolution(np.full((2, 2, 1, 1), 1e-9), [5.0, 0.0])
    given = {"x": MapQuantisation(0.5, 0), "y": MapQuantisation(0.25, 0)}
    node = quantise(one_node(conv), given).nodes[-1].operator
    assert 2**29 < node.bias[0] < 2**30
    # multiplier = sx * sw / sy, so bias * multiplier is the bias in output steps.
    assert node.bias[0] * np.float64(node.multiplier[0]) == pytest.approx(5.0 / 0.25)
    assert node.weights[1].ravel().tolist() == [127, 127]


def test_a_channel_that_could_overflow_is_refused_by_name():
    columns = 70_000
    conv = convolution(np.ones((2, columns, 1, 1)))
    shapes = {"x": (1, 1, columns), "y": (1, 1, 2)}
    with pytest.raises(BadModel, match=r"'node'.*channel 0.*2\^31"):
        quantise(one_node(conv, shapes=shapes), {"x": SIGNED, "y": SIGNED})


@pytest.mark.parametrize("what", ["weights", "bias"])
def test_weights_that_are_not_finite_are_refused_by_name(what):
    conv = convolution(np.ones((2, 2, 1, 1)))
    broken = replace(conv, **{what: np.full_like(getattr(conv, what), np.nan)})
    with pytest.raises(BadModel, match=r"'node'.*not finite"):
        quantise(one_node(broken), {"x": SIGNED, "y": SIGNED})


def test_a_map_without_a_range_is_named():
    with pytest.raises(BadModel, match="'y' has no range"):
        quantise(one_node(FloatAdd(), inputs=("x", "x")), {"x": SIGNED})
    with pytest.raises(BadModel, match="calibrate"):
        quantise(one_node(FloatAdd(), inputs=("x", "x")))


def concatenation(ranges):
    """Two functions of x side by side; `ranges` of the maps a and b."""
    double = ScalarFunction((("affine", (np.float32([2.0]), np.float32([0.0]))),))
    nodes = [
        FloatNode("make_a", double, ("x",), "a"),
        FloatNode("make_b", double, ("x",), "b"),
        FloatNode("join", FloatConcat(), ("a", "b"), "y"),
    ]
    shapes = {"x": (2, 2, 2), "a": (2, 2, 2), "b": (2, 2, 2), "y": (2, 2, 4)}
    return quantise(network(nodes, shapes), {"x": SIGNED, "y": SIGNED, **ranges})


def test_producers_of_a_concatenation_share_a_scale_within_1_25():
    made = concatenation({"a": Range(0.0, 1.0), "b": Range(0.0, 1.25)})
    assert made.maps["a"].scale == made.maps["b"].scale == made.maps["y"].scale
    join = made.nodes[-1].operator
    assert join.is_copy(0)
    assert join.is_copy(1)


def test_a_producer_of_another_range_goes_through_a_table():
    made = concatenation({"a": Range(0.0, 1.0), "b": Range(0.0, 2.0)})
    join = made.nodes[-1].operator
    assert not join.is_copy(0)
    assert join.is_copy(1)
    assert join.table[0, 200] == 100
    assert made.maps["a"].scale == pytest.approx(1 / 255)


def test_a_map_without_negative_values_keeps_zero_point_0_beside_a_signed_one():
    made = concatenation({"a": Range(0.0, 1.0), "b": Range(-0.1, 1.0)})
    assert made.maps["a"].zero_point == 0
    assert made.maps["b"].zero_point > 0


@pytest.mark.parametrize(
    "operator",
    [op.MaxPool(op.Window((1, 1))), op.Slice(), FloatPad(0, 0, 0, 0.5), op.DepthToSpace(1)],
    ids=lambda operator: type(operator).__name__,
)
def test_nodes_that_move_bytes_keep_the_scale(operator):
    made = quantise(one_node(operator), {"x": SIGNED, "y": Range(0.0, 0.7)})
    assert made.maps["y"] == made.maps["x_quantised"]


def test_a_pad_value_is_quantised():
    given = {"x": MapQuantisation(0.25, 6)}
    made = quantise(one_node(FloatPad(1, 0, 0, 1.0)), given)
    assert made.nodes[-1].operator.value == 10


def test_a_pad_value_beyond_the_map_widens_its_range():
    ranges = {"x": Range(0.0, 1.0), "y": Range(-1.0, 1.0)}
    made = quantise(one_node(FloatPad(1, 0, 0, -1.0)), ranges)
    assert made.nodes[-1].operator.value == 1
    assert made.maps["y"].zero_point == 128


def test_a_function_becomes_a_table_rounded_in_float64():
    source, target = MapQuantisation(0.05, 120), MapQuantisation(0.03, 10)
    made = quantise(one_node(ScalarFunction((("silu", ()),))), {"x": source, "y": target})
    table = made.nodes[-1].operator.table
    real = (np.arange(256) - 120) * np.float64(np.float32(0.05))
    exact = np.rint(real / (1 + np.exp(-real)) / np.float64(np.float32(0.03))) + 10
    assert table.shape == (1, 256)
    np.testing.assert_array_equal(table[0], np.clip(exact, 0, 255))


def test_a_function_with_a_parameter_per_channel_has_a_table_per_channel():
    slope = np.float32([0.5, 0.25])
    given = {"x": MapQuantisation(1.0, 100), "y": MapQuantisation(1.0, 100)}
    made = quantise(one_node(ScalarFunction((("prelu", (slope,)),))), given)
    table = made.nodes[-1].operator.table
    assert table[:, 60].tolist() == [80, 90]
    assert table[:, 130].tolist() == [130, 130]


def test_a_picture_goes_through_a_table_in_the_order_of_the_network():
    shapes = {"x": (1, 1, 3), "y": (1, 1, 3)}
    settings = Preprocessing((0.0, 0.5, 0.0), (1.0, 1.0, 0.5), order="bgr")
    given = {"x": MapQuantisation(1 / 255, 128), "y": MapQuantisation(1 / 255, 128)}
    made = quantise(one_node(op.Slice(), shapes=shapes), given, preprocessing=settings)
    assert made.maps["x"] == MapSpec(1, 1, 3)
    pixel = run_network(made, {"x": np.uint8([[[10, 128, 30]]])})["y"]
    assert pixel.ravel().tolist() == [158, 128, 148]


@pytest.mark.parametrize(("channels", "settings"), [(3, None), (5, Preprocessing())])
def test_inputs_that_are_no_pictures_are_quantised(channels, settings):
    shapes = {"x": (1, 1, channels), "y": (1, 1, channels)}
    made = quantise(
        one_node(op.Slice(), shapes=shapes), {"x": SIGNED, "y": SIGNED}, preprocessing=settings
    )
    assert isinstance(made.nodes[0].operator, op.Quantise)
    assert made.maps["x"].dtype == "float32"


def test_preprocessing_of_another_number_of_channels_is_refused():
    shapes = {"x": (1, 1, 1), "y": (1, 1, 1)}
    with pytest.raises(BadArgument, match=r"1 channels.*3 means"):
        quantise(
            one_node(op.Slice(), shapes=shapes),
            {"x": SIGNED, "y": SIGNED},
            preprocessing=Preprocessing(),
        )


def test_a_head_returns_float_straight_from_the_sums():
    conv = convolution(np.float32([[[[0.5]], [[-1.0]]]]), [0.25])
    shapes = {"x": (1, 1, 2), "y": (1, 1, 1)}
    made = quantise(one_node(conv, shapes=shapes, float_outputs=("y",)), {"x": SIGNED, "y": SIGNED})
    assert made.maps["y"] == MapSpec(1, 1, 1, dtype="float32")
    head = run_network(made, {"x": np.float32([[[1.0, 0.5]]])})["y"]
    assert head.item() == pytest.approx(0.25, abs=0.02)


def test_a_quantised_file_keeps_its_odd_zero_points_and_integer_weights():
    integers = np.int8([[[[-128]], [[3]]], [[[5]], [[127]]]])
    scale = np.float32([0.5, 0.25])
    conv = convolution(
        integers * scale[:, None, None, None],
        [1.0, -1.0],
        integer_weights=integers,
        weight_scale=scale,
    )
    file = replace(
        one_node(conv),
        quantisation={"x": MapQuantisation(0.5, 7), "y": MapQuantisation(0.125, 33)},
        kind="qdq",
    )
    made = quantise(file)
    node = made.nodes[-1].operator
    np.testing.assert_array_equal(node.weights, integers, strict=True)
    assert (made.maps["x_quantised"].zero_point, made.maps["y"].zero_point) == (7, 33)
    assert node.bias.tolist() == [4, -8]
    assert node.multiplier.tolist() == [2.0, 1.0]


def test_a_quantised_file_that_rescales_behind_a_pool_gets_a_table():
    file = replace(
        one_node(op.MaxPool(op.Window((1, 1)))),
        quantisation={"x": MapQuantisation(0.5, 7), "y": MapQuantisation(1.0, 3)},
    )
    made = quantise(file)
    values = run_network(made, {"x": np.full((4, 4, 2), 5.0, np.float32)})
    assert (values["x_quantised"] == 17).all()
    assert (values["y"] == 8).all()


def test_products_and_sums_carry_the_ratios_of_their_scales():
    given = {"x": MapQuantisation(0.1, 0), "y": MapQuantisation(0.3, 0)}
    added = quantise(one_node(FloatAdd(), inputs=("x", "x")), given).nodes[-1].operator
    sx, sy = np.float32(0.1), np.float32(0.3)
    np.testing.assert_array_equal(added.ratio, np.float32([sx / sy, sx / sy]), strict=True)
    product = quantise(one_node(FloatMul(), inputs=("x", "x")), given).nodes[-1].operator
    np.testing.assert_array_equal(product.multiplier, np.float32([sx * sx / sy]), strict=True)


def qdq_convolution(conv, integers, scale, maps, clamp_at_zero):
    """A convolution between QuantizeLinear and DequantizeLinear, as quantisers write it."""
    (sx, zx), (sy, zy) = ((m.scale, m.zero_point) for m in (maps["x"], maps["y"]))
    constants = {
        "sx": np.float32(sx), "zx": np.uint8(zx), "sy": np.float32(sy), "zy": np.uint8(zy),
        "w": integers.weights, "sw": scale, "zw": np.zeros(len(scale), np.int8),
        "b": integers.bias, "sb": np.float32(sx) * scale, "zb": np.zeros(len(scale), np.int32),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=0),
        node("DequantizeLinear", ["b", "sb", "zb"], ["bd"], axis=0),
        node("Conv", ["xd", "wd", "bd"], ["c"], pads=conv.window.pads, strides=conv.window.stride,
             dilations=conv.window.dilation, group=conv.groups),
        *([node("Relu", ["c"], ["r"])] if clamp_at_zero else []),
        node("QuantizeLinear", ["r" if clamp_at_zero else "c", "sy", "zy"], ["yq"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", None, None, None])],
        [helper.make_tensor_value_info("yq", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("clamp_at_zero", [True, False])
@pytest.mark.parametrize(
    ("window", "groups"),
    [
        (op.Window((3, 3), pads=(1, 1, 1, 1)), 1),
        (op.Window((3, 3), (2, 2), pads=(0, 1, 1, 0)), 4),
        (op.Window((3, 1), dilation=(2, 1)), 2),
    ],
)
def test_a_quantised_convolution_equals_onnx_runtime(window, groups, clamp_at_zero):
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(8, 4 // groups, *window.kernel))
    conv = convolution(weights, rng.normal(size=8), window, groups=groups)
    x = rng.normal(size=(9, 9, 4)).astype(np.float32)
    low = 0.0 if clamp_at_zero else -INFINITY
    size = [
        (9 + window.pads[a] + window.pads[a + 2] - (window.kernel[a] - 1) * window.dilation[a] - 1)
        // window.stride[a] + 1
        for a in (0, 1)
    ]  # fmt: skip
    shapes = {"x": (9, 9, 4), "y": (size[0], size[1], 8)}
    made = quantise(one_node(conv, low=low, shapes=shapes), {"x": Range(-3, 3), "y": Range(-9, 9)})
    maps = {"x": made.maps["x_quantised"], "y": made.maps["y"]}
    node = made.nodes[-1].operator
    scale = np.abs(conv.weights).max(axis=(1, 2, 3)) / np.float32(127)
    session = onnxruntime.InferenceSession(
        qdq_convolution(conv, node, scale, maps, clamp_at_zero).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    theirs = session.run(["yq"], {"x": x.transpose(2, 0, 1)[None]})[0][0].transpose(1, 2, 0)
    ours = run_network(made, {"x": x})["y"]
    np.testing.assert_array_equal(ours, theirs, strict=True)
