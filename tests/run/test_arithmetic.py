# SPDX-License-Identifier: Apache-2.0
"""The definition of every operator, judged by ONNX Runtime or by plain formulas."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.run.arithmetic import compute
from thinmaps.run.interpret import WholeMap, run_network, run_node
from thinmaps.types import MapSpec

RNG = np.random.default_rng(20)


def network_of(operator: op.Operator, specs: list[MapSpec], output: MapSpec) -> Network:
    names = [f"x{i}" for i in range(len(specs))]
    maps = dict(zip(names, specs, strict=True)) | {"y": output}
    node = Node("node", operator, tuple(names), "y")
    return Network((node,), maps, tuple(names), ("y",))


def run(operator: op.Operator, xs: list[np.ndarray], specs: list[MapSpec], output: MapSpec):
    network = network_of(operator, specs, output)
    values = dict(zip(network.inputs, xs, strict=True))
    whole = run_node(network, network.nodes[0], values)
    if not isinstance(operator, op.Mean):  # any split into row ranges gives the same rows
        sources = [WholeMap(s, x) for s, x in zip(specs, xs, strict=True)]
        rows = [compute(operator, sources, output, r, 1) for r in range(output.height)]
        np.testing.assert_array_equal(np.concatenate(rows), whole, strict=True)
    return whole


def nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def hwc(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x[0].transpose(1, 2, 0))


def session(nodes, inputs, output, initialisers) -> ort.InferenceSession:
    """A single-operator model, every graph optimisation on."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
        [helper.make_tensor_value_info(output[0], output[1], None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in initialisers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options)


CONVOLUTIONS = [
    # channels, filters, groups, kernel, stride, dilation, pads, zx, zy
    pytest.param(3, 8, 1, (3, 3), (2, 2), (1, 1), (0, 0, 1, 1), 0, 0, id="same-stride-2"),
    pytest.param(16, 16, 16, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 128, 0, id="depthwise"),
    pytest.param(70, 5, 1, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), 7, 131, id="1x1-odd-zero-points"),
    pytest.param(8, 12, 4, (5, 3), (1, 2), (2, 1), (4, 1, 4, 0), 3, 64, id="grouped-dilated"),
    pytest.param(64, 9, 1, (3, 3), (1, 1), (1, 1), (1, 2, 0, 1), 0, 0, id="sums-above-2**24"),
]


@pytest.mark.parametrize(
    ("channels", "filters", "groups", "kernel", "stride", "dilation", "pads", "zx", "zy"),
    CONVOLUTIONS,
)
def test_convolution_equals_qlinearconv_bit_for_bit(
    channels, filters, groups, kernel, stride, dilation, pads, zx, zy
):
    x = RNG.integers(0, 256, (9, 11, channels), np.uint8)
    weights = RNG.integers(-127, 128, (filters, channels // groups, *kernel), np.int8)
    bias = RNG.integers(-9000, 9000, filters, np.int32)
    sx, sy = np.float32(0.0625), np.float32(2.0)  # powers of two: ties happen
    sw = np.float32(2.0) ** RNG.integers(-8, -3, filters).astype(np.float32)
    judge = session(
        [
            helper.make_node(
                "QLinearConv",
                ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"],
                ["y"],
                group=groups,
                strides=stride,
                dilations=dilation,
                pads=pads,
                kernel_shape=kernel,
            )
        ],
        [("x", TensorProto.UINT8, [1, channels, 9, 11])],
        ("y", TensorProto.UINT8),
        {
            "sx": sx, "zx": np.uint8(zx), "w": weights, "sw": sw, "zw": np.zeros(filters, np.int8),
            "sy": sy, "zy": np.uint8(zy), "b": bias,
        },
    )  # fmt: skip
    expected = hwc(judge.run(None, {"x": nchw(x)})[0])
    operator = op.Conv(
        op.Window(kernel, stride, dilation, pads), groups, weights, bias, sx * sw / sy
    )
    specs = [MapSpec(9, 11, channels, float(sx), zx)]
    output = MapSpec(*expected.shape, float(sy), zy)
    np.testing.assert_array_equal(run(operator, [x], specs, output), expected, strict=True)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("groups", "dilation"), [(1, 1), (2, 2)])
def test_transposed_convolution_equals_the_float_operator_on_integers(stride, groups, dilation):
    x = RNG.integers(0, 256, (4, 5, 4), np.uint8)
    weights = RNG.integers(-9, 10, (6, 4 // groups, 3, 2), np.int8)  # k c r s
    # ONNX wants (c, k / groups, r, s): channels of group g meet filters of group g.
    split = weights.reshape(groups, 6 // groups, 4 // groups, 3, 2)
    onnx_weights = split.transpose(0, 2, 1, 3, 4).reshape(4, 6 // groups, 3, 2)
    judge = session(
        [
            helper.make_node(
                "ConvTranspose", ["x", "w"], ["y"], strides=[stride, stride], group=groups,
                dilations=[dilation, dilation], pads=[1, 0, 0, 1], kernel_shape=[3, 2],
            )
        ],
        [("x", TensorProto.FLOAT, [1, 4, 4, 5])],
        ("y", TensorProto.FLOAT),
        {"w": onnx_weights.astype(np.float32)},
    )  # fmt: skip
    expected = hwc(judge.run(None, {"x": nchw(x.astype(np.float32) - 6)})[0])
    window = op.Window((3, 2), (stride, stride), (dilation, dilation), (1, 0, 0, 1))
    operator = op.ConvTranspose(
        window, groups, weights, np.zeros(6, np.int32), np.ones(6, np.float32)
    )
    output = MapSpec(*expected.shape, dtype="float32")
    made = run(operator, [x], [MapSpec(4, 5, 4, 1.0, 6)], output)
    np.testing.assert_array_equal(made, expected, strict=True)


@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_max_pool_equals_onnx_runtime(ceil_mode):
    x = RNG.integers(0, 256, (8, 10, 3), np.uint8)
    judge = session(
        [
            helper.make_node(
                "MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 3], pads=[1, 0, 1, 1],
                dilations=[1, 2], ceil_mode=ceil_mode,
            )
        ],
        [("x", TensorProto.UINT8, [1, 3, 8, 10])],
        ("y", TensorProto.UINT8),
        {},
    )  # fmt: skip
    expected = hwc(judge.run(None, {"x": nchw(x)})[0])
    operator = op.MaxPool(op.Window((3, 2), (2, 3), (1, 2), (1, 0, 1, 1)))
    made = run(operator, [x], [MapSpec(8, 10, 3)], MapSpec(*expected.shape))
    np.testing.assert_array_equal(made, expected, strict=True)


@pytest.mark.parametrize("include_pad", [0, 1])
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_average_pool_divides_as_onnx_runtime_does(include_pad, ceil_mode):
    x = RNG.integers(0, 256, (8, 7, 3), np.uint8)
    judge = session(
        [
            helper.make_node(
                "AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2],
                pads=[1, 1, 1, 1], count_include_pad=include_pad, ceil_mode=ceil_mode,
            )
        ],
        [("x", TensorProto.FLOAT, [1, 3, 8, 7])],
        ("y", TensorProto.FLOAT),
        {},
    )  # fmt: skip
    expected = hwc(judge.run(None, {"x": nchw(x.astype(np.float32))})[0])
    counts = np.arange(10, dtype=np.float32)
    counts[0] = np.inf
    window = op.Window((3, 3), (2, 2), (1, 1), (1, 1, 1, 1))
    operator = op.AveragePool(window, bool(include_pad), (1 / counts).astype(np.float32))
    made = run(operator, [x], [MapSpec(8, 7, 3)], MapSpec(*expected.shape))
    assert np.abs(made.astype(np.float32) - expected).max() <= 0.5001


def test_add_follows_its_formula_at_odd_and_even_zero_points():
    a, b = RNG.integers(0, 256, (2, 5, 6, 4), np.uint8)
    for zero_point in (0, 4, 5):
        operator = op.Add(np.float32([0.5, 0.25]), low=zero_point)
        specs = [MapSpec(5, 6, 4, 0.5, 3), MapSpec(5, 6, 4, 0.25, 0)]
        made = run(operator, [a, b], specs, MapSpec(5, 6, 4, 1.0, zero_point))
        exact = (a.astype(float) - 3) / 2 + b / 4
        inside = np.rint(exact + zero_point) if zero_point % 2 else np.rint(exact) + zero_point
        np.testing.assert_array_equal(made, np.clip(inside, zero_point, 255).astype(np.uint8))


def test_product_with_a_one_by_one_map_scales_every_pixel():
    a = RNG.integers(0, 256, (4, 3, 5), np.uint8)
    b = RNG.integers(0, 256, (1, 1, 5), np.uint8)
    specs = [MapSpec(4, 3, 5, 1.0, 10), MapSpec(1, 1, 5, 1.0, 0)]
    operator = op.Mul(np.float32([2.0**-8]))
    made = run(operator, [a, b], specs, MapSpec(4, 3, 5, 1.0, 2))
    expected = np.rint((a.astype(int) - 10) * b / 256) + 2
    np.testing.assert_array_equal(made, np.clip(expected, 0, 255).astype(np.uint8))


def test_mean_is_one_multiplication_of_exact_sums():
    x = RNG.integers(0, 256, (7, 9, 3), np.uint8)
    operator = op.Mean(np.float32([1 / 63]))
    made = run(operator, [x], [MapSpec(7, 9, 3, 1.0, 20)], MapSpec(1, 1, 3, 1.0, 40))
    expected = np.rint((x.astype(int) - 20).sum((0, 1)).astype(np.float32) * np.float32(1 / 63))
    np.testing.assert_array_equal(made[0, 0], np.clip(expected + 40, 0, 255))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_equals_onnx_runtime(mode):
    x = RNG.integers(0, 256, (3, 4, 8), np.uint8)
    node = helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode)
    judge = session([node], [("x", TensorProto.FLOAT, [1, 8, 3, 4])], ("y", TensorProto.FLOAT), {})
    expected = hwc(judge.run(None, {"x": nchw(x.astype(np.float32))})[0]).astype(np.uint8)
    made = run(op.DepthToSpace(2, mode), [x], [MapSpec(3, 4, 8)], MapSpec(6, 8, 2))
    np.testing.assert_array_equal(made, expected, strict=True)


def test_slice_and_pad_and_concat_move_bytes_where_they_say():
    x = RNG.integers(0, 256, (9, 8, 6), np.uint8)
    sliced = run(op.Slice(1, 2, 2, 3, 1), [x], [MapSpec(9, 8, 6)], MapSpec(4, 2, 3))
    np.testing.assert_array_equal(sliced, x[1:9:2, 2:8:3, 1:4], strict=True)
    padded = run(op.Pad(2, 1, 3, 77), [x], [MapSpec(9, 8, 6)], MapSpec(12, 10, 10))
    np.testing.assert_array_equal(
        padded, np.pad(x, ((2, 1), (1, 1), (3, 1)), constant_values=77), strict=True
    )
    table = np.stack([np.arange(256), np.arange(255, -1, -1)]).astype(np.uint8)
    joined = run(op.Concat(table), [x, x], [MapSpec(9, 8, 6)] * 2, MapSpec(9, 8, 12))
    np.testing.assert_array_equal(joined, np.concatenate([x, 255 - x], 2), strict=True)


def test_bilinear_resize_mixes_with_eleven_bit_weights():
    x = RNG.integers(0, 256, (2, 3, 1), np.uint8)
    rows = np.int32([[0, 0], [0, 1], [1, 1]])
    columns = np.int32([[0, 1], [1, 2]])
    operator = op.Resize(rows, columns, np.int32([0, 1024, 0]), np.int32([512, 2048]))
    made = run(operator, [x], [MapSpec(2, 3, 1)], MapSpec(3, 2, 1))[:, :, 0]
    middle = x[:, :, 0].astype(float)
    middle = np.stack([middle[0], (middle[0] + middle[1]) / 2, middle[1]])
    expected = np.stack([middle[:, 0] * 0.75 + middle[:, 1] * 0.25, middle[:, 2]], 1)
    np.testing.assert_array_equal(made, np.floor(expected + 0.5).astype(np.uint8), strict=True)


def test_lossy_codecs_are_part_of_what_readers_see():
    class Halve:
        def encode(self, values, spec):
            return values // 2 * 2

        def decode(self, packed):
            return packed

    x = RNG.integers(0, 256, (2, 2, 3), np.uint8)
    table = np.arange(256, dtype=np.uint8)[None]
    nodes = (
        Node("a", op.Lookup(table), ("x",), "m"),
        Node("b", op.Lookup(table), ("m",), "y"),
    )
    spec = MapSpec(2, 2, 3)
    network = Network(nodes, {"x": spec, "m": spec, "y": spec}, ("x",), ("y",))
    made = run_network(network, {"x": x}, {"m": Halve()})
    np.testing.assert_array_equal(made["y"], x // 2 * 2, strict=True)
