# SPDX-License-Identifier: Apache-2.0
"""QDQ files: scales, zero points and integers arrive exactly as stored."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime.quantization as ort_quantization
import pytest
from onnx_models import kinds, model, node, session, weights
from run_float import run

import thinmaps as tm
from thinmaps.errors import BadModel, UnsupportedOperator
from thinmaps.graph.float_network import FloatNetwork, MapQuantisation
from thinmaps.graph.onnx_reader import read
from thinmaps.graph.quantise import quantise


class Pair:
    """Writes QuantizeLinear and DequantizeLinear nodes and their constants."""

    def __init__(self, dtype: type = np.uint8, scalar: bool = True):
        self.dtype, self.scalar = dtype, scalar
        self.constants: dict[str, np.ndarray] = {}

    def on_map(self, source: str, scale: float, zero_point: int, target: str) -> list:
        shape = () if self.scalar else (1,)
        names = [f"{target}_scale", f"{target}_zero"]
        self.constants[names[0]] = np.full(shape, scale, np.float32)
        self.constants[names[1]] = np.full(shape, zero_point, self.dtype)
        return [
            node("QuantizeLinear", [source, *names], [f"{target}_integers"]),
            node("DequantizeLinear", [f"{target}_integers", *names], [target]),
        ]

    def stored(self, name: str, integers, scale, zero_point=None, axis: int = 0) -> list:
        names = [f"{name}_integers", f"{name}_scale", f"{name}_zero"]
        scale = np.asarray(scale, np.float32)
        zeros = np.zeros(scale.shape) if zero_point is None else zero_point
        values = (integers, scale, np.asarray(zeros, np.asarray(integers).dtype))
        self.constants.update(zip(names, values, strict=True))
        return [node("DequantizeLinear", names, [name], axis=axis)]


INTEGERS = np.random.default_rng(3).integers(-127, 128, (6, 4, 3, 3)).astype(np.int8)
SCALES = np.random.default_rng(4).uniform(0.01, 0.02, 6).astype(np.float32)
BIAS = np.random.default_rng(5).integers(-9999, 9999, 6).astype(np.int32)


def layer(dtype: type, zero_point: int, scalar: bool = True) -> onnx.ModelProto:
    """Quantised input, convolution with Relu, quantised output."""
    pair = Pair(dtype, scalar)
    nodes = [
        *pair.on_map("x", 0.03, zero_point, "xq"),
        *pair.stored("w", INTEGERS, SCALES),
        *pair.stored("bias", BIAS, np.float32(0.03) * SCALES),
        node("Conv", ["xq", "w", "bias"], ["c"], name="conv"),
        node("Relu", ["c"], ["r"]),
        *pair.on_map("r", 0.05, zero_point, "y"),
    ]
    return model(nodes, pair.constants)


def assert_follows_the_file(proto: onnx.ModelProto, optimised: bool = True) -> FloatNetwork:
    """At most one step from ONNX Runtime, on few elements: its float sums may round otherwise."""
    network = read(proto)
    height, width, channels = network.shapes["x"]
    x = np.random.default_rng(9).normal(size=(1, channels, height, width)).astype(np.float32)
    expected = session(proto, optimised).run(None, {"x": x})
    computed = run(network, {"x": x})
    for name, value in zip(network.tail.outputs, expected, strict=True):
        step = max(q.scale for q in network.quantisation.values())
        off = np.abs(computed[name] - value)
        assert off.max() <= 1.01 * step
        assert np.mean(off > 1e-3 * step) <= 0.02
    return network


@pytest.mark.parametrize(
    ("dtype", "zero_point", "found"), [(np.uint8, 117, 117), (np.int8, -11, 117)]
)
def test_a_layer_keeps_its_integers_scales_and_odd_zero_points(dtype, zero_point, found):
    network = assert_follows_the_file(layer(dtype, zero_point))
    assert network.kind == "qdq"
    assert kinds(network) == ["FloatConv"]
    assert network.nodes[0].low == 0
    conv = network.nodes[0].operator
    np.testing.assert_array_equal(conv.integer_weights, INTEGERS, strict=True)
    np.testing.assert_array_equal(conv.weight_scale, SCALES, strict=True)
    np.testing.assert_array_equal(conv.integer_bias, BIAS, strict=True)
    # What requantising the float bias would give.
    again = np.rint(conv.bias / (np.float32(0.03) * SCALES)).astype(np.int32)
    np.testing.assert_array_equal(again, BIAS)
    assert network.quantisation == {
        "x": MapQuantisation(float(np.float32(0.03)), found),
        "r": MapQuantisation(float(np.float32(0.05)), found),
    }


def test_scales_of_one_element_as_torch_writes_them_are_read():
    assert read(layer(np.uint8, 100, scalar=False)).quantisation["x"].zero_point == 100


def test_a_float_bias_stays_float():
    pair = Pair()
    nodes = [
        *pair.on_map("x", 0.03, 128, "xq"),
        *pair.stored("w", INTEGERS, SCALES),
        node("Conv", ["xq", "w", "bias"], ["c"]),
        *pair.on_map("c", 0.05, 120, "y"),
    ]
    bias = weights(6)
    network = assert_follows_the_file(model(nodes, {**pair.constants, "bias": bias}))
    assert network.nodes[0].operator.integer_bias is None
    np.testing.assert_array_equal(network.nodes[0].operator.bias, bias)


def test_float_weights_that_the_file_quantises_itself_become_integers():
    pair = Pair(np.int8)
    nodes = [
        *pair.on_map("x", 0.03, 0, "xq"),
        *pair.on_map("w", 0.02, 0, "wq"),
        node("Conv", ["xq", "wq"], ["c"]),
        *pair.on_map("c", 0.05, 0, "y"),
    ]
    network = assert_follows_the_file(model(nodes, {**pair.constants, "w": weights(6, 4, 3, 3)}))
    expected = np.clip(np.rint(weights(6, 4, 3, 3) / np.float32(0.02)), -128, 127)
    np.testing.assert_array_equal(network.nodes[0].operator.integer_weights, expected)
    assert network.nodes[0].operator.weight_scale.shape == (6,)


@pytest.mark.parametrize("form", ["MatMul", "Gemm", "Gemm flipped", "Transpose"])
def test_integers_of_a_fully_connected_layer_follow_its_rearrangement(form):
    matrix = np.random.default_rng(6).integers(-127, 128, (5, 140)).astype(np.int8)
    scale = np.random.default_rng(7).uniform(0.001, 0.002, 5).astype(np.float32)
    stored_flipped = form in ("Gemm flipped", "Transpose")
    pair = Pair()
    last = "wt" if form == "Transpose" else "w"
    nodes = [
        *pair.on_map("x", 0.03, 128, "xq"),
        node("Flatten", ["xq"], ["f"]),
        *pair.stored("w", matrix if stored_flipped else matrix.T, scale, axis=1 - stored_flipped),
        node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        {
            "MatMul": node("MatMul", ["f", last], ["m"]),
            "Gemm": node("Gemm", ["f", last], ["m"]),
            "Gemm flipped": node("Gemm", ["f", last], ["m"], transB=1),
            "Transpose": node("MatMul", ["f", last], ["m"]),
        }[form],
        *pair.on_map("m", 0.05, 128, "y"),
    ]
    network = assert_follows_the_file(model(nodes, pair.constants))
    conv = network.nodes[0].operator
    np.testing.assert_array_equal(conv.integer_weights, matrix.reshape(5, 4, 7, 5), strict=True)
    np.testing.assert_array_equal(conv.weight_scale, scale, strict=True)
    np.testing.assert_allclose(
        conv.weights, matrix.reshape(5, 4, 7, 5) * scale[:, None, None, None]
    )


def test_integers_of_a_transposed_convolution_follow_its_rearrangement():
    integers = INTEGERS[:4, :3]  # c k r s, two groups of three output channels
    scale = np.float32([0.01, 0.02, 0.03])
    pair = Pair()
    nodes = [
        *pair.on_map("x", 0.03, 128, "xq"),
        *pair.stored("w", integers, scale, axis=1),
        node("ConvTranspose", ["xq", "w"], ["c"], group=2, strides=[2, 2]),
        *pair.on_map("c", 0.05, 128, "y"),
    ]
    conv = assert_follows_the_file(model(nodes, pair.constants)).nodes[0].operator
    np.testing.assert_allclose(
        conv.weights, conv.integer_weights * conv.weight_scale[:, None, None, None], rtol=1e-6
    )
    assert conv.integer_weights.shape == (6, 2, 3, 3)


def test_unsigned_weights_are_exact_or_refused():
    def with_weights(integers):
        pair = Pair()
        nodes = [
            *pair.on_map("x", 0.03, 128, "xq"),
            *pair.stored("w", integers, np.float32(0.01), zero_point=np.uint8(100)),
            node("Conv", ["xq", "w"], ["c"], name="first"),
            *pair.on_map("c", 0.05, 120, "y"),
        ]
        return model(nodes, pair.constants)

    integers = np.full((6, 4, 1, 1), 227, np.uint8)
    integers[0] = 0
    conv = assert_follows_the_file(with_weights(integers)).nodes[0].operator
    assert (conv.integer_weights.min(), conv.integer_weights.max()) == (-100, 127)
    integers[0, 0] = 228
    with pytest.raises(UnsupportedOperator, match=r"'first' \(Conv\).*-100\.\.128"):
        read(with_weights(integers))


def test_batch_norm_behind_integer_weights_changes_their_scale_only():
    pair = Pair()
    norm = {name: np.abs(weights(6, seed=i)) + 0.5 for i, name in enumerate("gbmv")}
    nodes = [
        *pair.on_map("x", 0.03, 128, "xq"),
        *pair.stored("w", INTEGERS, SCALES),
        node("Conv", ["xq", "w"], ["c"]),
        node("BatchNormalization", ["c", *"gbmv"], ["n"]),
        *pair.on_map("n", 0.2, 120, "y"),
    ]
    network = assert_follows_the_file(model(nodes, {**pair.constants, **norm}))
    np.testing.assert_array_equal(network.nodes[0].operator.integer_weights, INTEGERS)


def test_a_map_quantised_twice_goes_through_a_table():
    pair = Pair()
    nodes = [
        *pair.on_map("x", 0.03, 128, "xq"),
        *pair.stored("w", INTEGERS, SCALES),
        node("Conv", ["xq", "w"], ["c"]),
        *pair.on_map("c", 0.05, 120, "once"),
        *pair.on_map("once", 0.05, 120, "again"),
        *pair.on_map("again", 0.08, 100, "y"),
    ]
    # Optimising, ONNX Runtime drops all but the last pair, which is not what the file says.
    network = assert_follows_the_file(model(nodes, pair.constants), optimised=False)
    assert kinds(network) == ["FloatConv", "ScalarFunction"]
    assert network.nodes[1].operator.steps == ()


def test_an_activation_between_two_pairs_stays_a_function_of_a_quantised_map():
    pair = Pair()
    nodes = [
        *pair.on_map("x", 0.03, 128, "xq"),
        *pair.stored("w", INTEGERS, SCALES),
        node("Conv", ["xq", "w"], ["c"]),
        *pair.on_map("c", 0.05, 120, "cq"),
        node("Sigmoid", ["cq"], ["s"]),
        *pair.on_map("s", 1 / 256, 0, "sq"),
        node("Mul", ["cq", "sq"], ["m"]),
        *pair.on_map("m", 0.05, 20, "y"),
    ]
    network = assert_follows_the_file(model(nodes, pair.constants))
    assert kinds(network) == ["FloatConv", "ScalarFunction", "FloatMul"]


def values_kept(with_pair_behind: bool) -> onnx.ModelProto:
    pair = Pair()
    before = pair.on_map("c", 0.05, 121, "cq")
    after = pair.on_map("k", 0.05, 121, "kq")
    nodes = [
        *pair.on_map("x", 0.03, 128, "xq"),
        *pair.stored("w", INTEGERS, SCALES),
        node("Conv", ["xq", "w"], ["c"]),
        *([] if with_pair_behind else before),
        node("MaxPool", ["c" if with_pair_behind else "cq"], ["p"], kernel_shape=[2, 2]),
        node("Concat", ["p", "p"], ["k"], axis=1),
        *(after if with_pair_behind else []),
        node("GlobalAveragePool", ["kq" if with_pair_behind else "k"], ["g"]),
        *pair.on_map("g", 0.04, 99, "y"),
    ]
    return model(nodes, pair.constants)


@pytest.mark.parametrize("behind", [False, True])
def test_maps_that_only_move_values_take_their_neighbours_scale(behind):
    network = assert_follows_the_file(values_kept(behind))
    assert {network.quantisation[name].zero_point for name in "cpk"} == {121}


def test_a_last_layer_without_a_pair_returns_float():
    pair = Pair()
    nodes = [
        *pair.on_map("x", 0.03, 128, "xq"),
        *pair.stored("w", INTEGERS, SCALES),
        node("Conv", ["xq", "w"], ["y"]),
    ]
    network = assert_follows_the_file(model(nodes, pair.constants))
    assert network.float_outputs == {"y"}
    assert "y" not in network.quantisation


def test_maps_without_a_scale_are_all_named_and_calibrated_where_pictures_are_given():
    pair = Pair()
    nodes = [
        *pair.on_map("x", 0.03, 128, "xq"),
        *pair.stored("w", INTEGERS, SCALES),
        node("Conv", ["xq", "w"], ["c"]),
        node("Sigmoid", ["c"], ["s"]),
        node("AveragePool", ["s"], ["a"], kernel_shape=[2, 2]),
        *pair.on_map("a", 0.04, 98, "y"),
    ]
    proto = model(nodes, pair.constants)
    with pytest.raises(BadModel, match=r"none on 'c', 's'\. .*--calibrate"):
        quantise(read(proto))
    random = np.random.default_rng(2)
    arrays = [random.standard_normal((7, 5, 4)).astype(np.float32) for _ in range(6)]
    compressed = tm.compress(proto, arrays)
    assert "2 maps without were calibrated" in compressed.notes[0]
    maps = compressed.plan.source.maps
    assert (maps["a"].scale, maps["a"].zero_point) == (float(np.float32(0.04)), 98)
    expected = session(proto).run(None, {"x": arrays[0].transpose(2, 0, 1)[None]})[0]
    assert np.abs(tm.Engine(compressed)(arrays[0]) - expected).max() <= 0.09


def with_constants(**changed: np.ndarray) -> onnx.ModelProto:
    """`layer` with some constants exchanged."""
    proto = layer(np.uint8, 117)
    proto.opset_import[0].version = 21  # knows 16-bit maps
    if "other_scale" in changed:
        proto.graph.node[1].input[1] = "other_scale"
        proto.graph.initializer.add(name="other_scale")
    for tensor in proto.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed[tensor.name], tensor.name))
    return proto


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"xq_scale": np.float32(0)}, "positive finite scales"),
        ({"xq_scale": np.full(4, 0.1, np.float32), "xq_zero": np.zeros(4, np.uint8)}, "4 scales"),
        ({"w_scale": np.full(5, 0.1, np.float32)}, "5 scales along axis 0"),
        ({"w_zero": np.zeros(2, np.int8)}, "2 zero points for 6 scales"),
        ({"xq_zero": np.uint16(5)}, "to uint16, 8 bits are supported"),
        ({"other_scale": np.float32(0.5)}, "not that of the QuantizeLinear in front"),
    ],
)
def test_quantisation_that_does_not_fit_is_refused(changed, message):
    with pytest.raises(BadModel, match=message):
        read(with_constants(**changed))


def test_weights_quantised_along_their_input_channels_are_refused():
    pair = Pair()
    nodes = [
        *pair.on_map("x", 0.03, 128, "xq"),
        *pair.stored("w", INTEGERS, np.full(4, 0.1, np.float32), axis=1),
        node("Conv", ["xq", "w"], ["c"], name="conv"),
        *pair.on_map("c", 0.05, 128, "y"),
    ]
    with pytest.raises(UnsupportedOperator, match=r"'conv' \(Conv\).*along axis 1"):
        read(model(nodes, pair.constants))


class Batches(ort_quantization.CalibrationDataReader):
    def __init__(self) -> None:
        draw = np.random.default_rng(2).normal
        self.batches = iter({"x": draw(size=(1, 4, 9, 9)).astype(np.float32)} for _ in range(3))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


@pytest.mark.parametrize("activations", ["QUInt8", "QInt8"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_what_onnx_runtimes_quantiser_writes_is_read(tmp_path, activations, per_channel):
    nodes = [
        node("Conv", ["x", "w1"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Conv", ["b", "w2"], ["c"], name="second", pads=[1, 1, 1, 1]),
        node("Add", ["b", "c"], ["d"], name="sum"),
        node("MaxPool", ["d"], ["e"], name="pool", kernel_shape=[2, 2]),
        node("Concat", ["e", "e"], ["f"], name="join", axis=1),
        node("GlobalAveragePool", ["f"], ["g"], name="mean"),
        node("Flatten", ["g"], ["h"], name="flat"),
        node("Gemm", ["h", "w3", "b3"], ["y"], name="head"),
    ]
    constants = {
        "w1": weights(6, 4, 3, 3), "w2": weights(6, 6, 3, 3), "w3": weights(12, 5),
        "b3": weights(5),
    }  # fmt: skip
    proto = model(nodes, constants, shape=(1, 4, 9, 9))
    del proto.graph.output[:]
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 5])
    )
    onnx.save(proto, tmp_path / "float.onnx")
    ort_quantization.quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "qdq.onnx",
        Batches(),
        quant_format=ort_quantization.QuantFormat.QDQ,
        activation_type=ort_quantization.QuantType[activations],
        weight_type=ort_quantization.QuantType.QInt8,
        per_channel=per_channel,
    )
    network = assert_follows_the_file(onnx.load(tmp_path / "qdq.onnx"))
    layers = [n.operator for n in network.nodes if type(n.operator).__name__ == "FloatConv"]
    assert all(conv.integer_weights is not None for conv in layers)
