# SPDX-License-Identifier: Apache-2.0
"""Calibration end to end: small networks on small pictures, real ones where the assets are."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from thinmaps.calibrate.calibration import calibrate
from thinmaps.calibrate.float_maps import FloatMaps
from thinmaps.calibrate.picture_set import network_values, open_pictures
from thinmaps.errors import BadData, BadModel
from thinmaps.graph.onnx_reader import normalise, read_model
from thinmaps.graph.operators import Conv, Picture, Quantise
from thinmaps.graph.quantise import quantise, real_values
from thinmaps.graph.scales import Range
from thinmaps.plan.build import build
from thinmaps.quant import dequantise
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import run_network
from thinmaps.types import Preprocessing

PREPROCESSING = Preprocessing((0.4, 0.5, 0.6), (0.25, 0.25, 0.3), order="bgr")


def classifier(side=12, seed=0):
    """Conv, Relu, a depthwise Conv, a sum, a pool, a concatenation, a mean and a head."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.normal(size=(8, 3, 3, 3)) / 5 * np.geomspace(0.03, 1, 8)[:, None, None, None],
        "b1": rng.normal(size=8) / 10,
        "w2": rng.normal(size=(8, 1, 3, 3)) / 3,
        "b2": rng.normal(size=8) / 10,
        "w3": rng.normal(size=(5, 16)) / 4,
        "b3": rng.normal(size=5),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], group=8),
        node("Add", ["c2", "r1"], ["s"]),
        node("MaxPool", ["s"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxPool", ["r1"], ["q"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", ["p", "q"], ["j"], axis=1),
        node("GlobalAveragePool", ["j"], ["m"]),
        node("Flatten", ["m"], ["f"]),
        node("Gemm", ["f", "w3", "b3"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def pictures(count=12, side=12, seed=1):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(count, 3, 3, 3))
    smooth = np.kron(coarse, np.ones((1, side // 3, side // 3, 1)))
    return list(np.clip(smooth + rng.normal(size=smooth.shape) * 8, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def calibrated():
    network, model = normalise(classifier())
    return network, model, calibrate(model, network, pictures(), PREPROCESSING)


def float_answer(model, picture):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": real_values(picture, PREPROCESSING)[None]})[0].ravel()


def test_the_uint8_network_answers_as_the_float_network_does(calibrated):
    network, _, calibration = calibrated
    made = calibration.apply(network)
    for picture in pictures(6, seed=99):
        expected = float_answer(classifier(), picture)
        answer = run_network(made, {"x": picture})[made.outputs[0]].ravel()
        np.testing.assert_allclose(answer, expected, atol=0.03 * np.ptp(expected))


def test_equalisation_rounding_and_bias_correction_make_it_better(calibrated):
    network, model, calibration = calibrated
    names = [name for name in network.shapes if name not in network.inputs]
    maps = FloatMaps(model, network, names, PREPROCESSING)
    found = [maps.of(str(at), picture) for at, picture in enumerate(pictures())]
    plain_ranges = {
        name: Range(
            min(float(m[name].min()) for m in found), max(float(m[name].max()) for m in found)
        )
        for name in network.shapes
    }
    plain = quantise(network, plain_ranges, preprocessing=PREPROCESSING)
    ours = calibration.apply(network)
    assert total_error(ours) < 0.7 * total_error(plain)


def total_error(made):
    error = 0.0
    for picture in pictures(8, seed=98):
        answer = run_network(made, {"x": picture})[made.outputs[0]].ravel()
        error += float(np.sum((answer - float_answer(classifier(), picture)) ** 2))
    return error


def test_every_zero_point_is_even_and_rectified_maps_have_0(calibrated):
    network, _, calibration = calibrated
    made = calibration.apply(network)
    assert all(spec.zero_point % 2 == 0 for spec in made.maps.values())
    assert all(made.maps[node.output].zero_point == 0 for node in network.nodes if node.low == 0.0)
    weights = [node.operator.weights for node in made.nodes if isinstance(node.operator, Conv)]
    assert min(int(w.min()) for w in weights) >= -127


def test_the_same_pictures_give_the_same_network(calibrated):
    network, model, calibration = calibrated
    again = calibrate(model, network, iter(pictures()), PREPROCESSING).apply(network)
    once = calibration.apply(network)
    assert again.maps == once.maps
    for a, b in zip(again.nodes, once.nodes, strict=True):
        if isinstance(a.operator, Conv):
            np.testing.assert_array_equal(a.operator.weights, b.operator.weights, strict=True)
            np.testing.assert_array_equal(a.operator.bias, b.operator.bias, strict=True)


def test_ranges_found_at_one_size_serve_another(calibrated):
    _, _, calibration = calibrated
    larger, _ = normalise(classifier(), (24, 18))
    made = calibration.apply(larger)
    assert made.maps["x"].shape == (24, 18, 3)
    rows = run_network(made, {"x": np.full((24, 18, 3), 100, np.uint8)})
    assert rows[made.outputs[0]].shape == (1, 1, 5)


def test_the_picture_s_scale_covers_all_bytes_and_arrays_are_quantised(calibrated):
    network, model, calibration = calibrated
    made = calibration.apply(network)
    picture = made.nodes[0].operator
    assert isinstance(picture, Picture)
    values = dequantise(
        picture.table, made.maps["x_quantised"].scale, made.maps["x_quantised"].zero_point
    )
    assert (
        np.abs(values[:, 255] - (1 - np.array(PREPROCESSING.mean)) / PREPROCESSING.std).max() < 0.03
    )
    real = [real_values(p, PREPROCESSING) for p in pictures()]
    from_arrays = calibrate(model, network, real, None).apply(network)
    assert isinstance(from_arrays.nodes[0].operator, Quantise)


def test_no_more_pictures_are_used_than_allowed_and_progress_is_told(calibrated):
    network, model, _ = calibrated
    told = []
    found = calibrate(
        model, network, pictures(), PREPROCESSING, pictures_at_most=5,
        progress=lambda what, done, of: told.append((what, done, of)),
    )  # fmt: skip
    assert found.pictures == 5
    assert "few pictures (5)" in found.notes[0]
    assert told[-1][1:] == (5, 5)
    assert {what for what, _, _ in told} == {"channels", "ranges", "weights"}


def test_a_corrupt_picture_among_many_is_skipped_and_counted(calibrated, tmp_path):
    network, model, _ = calibrated
    for index, picture in enumerate(pictures(6)):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    (tmp_path / "3.png").write_bytes(b"damaged")
    found = calibrate(model, network, tmp_path, PREPROCESSING)
    assert found.pictures == 5
    assert len(found.skipped) == 1
    assert "3.png" in found.skipped[0]


def test_a_picture_of_another_number_of_channels_is_named(calibrated):
    network, model, _ = calibrated
    with pytest.raises(BadData, match=r"'1'.*3 channels"):
        calibrate(model, network, [pictures()[0], np.zeros((12, 12, 4), np.uint8)], PREPROCESSING)


def test_a_map_that_overflows_is_named(calibrated):
    network, model, _ = calibrated
    with pytest.raises(BadModel, match=r"map '.*not finite"):
        calibrate(model, network, [np.full((12, 12, 3), 3e38, np.float32)], None)


@pytest.mark.assets
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "training", "agreement"),
    [("squeezenet1_1", "imagenet-sample", 0.9), ("cifar10_resnet20_jpeg", "cifar10", 0.97)],
)
def test_real_networks_agree_with_their_float_selves_on_held_out_pictures(
    assets, name, training, agreement
):
    """A few pictures keep this short; `make bench-accuracy` measures all of them."""
    network, model = normalise(read_model(assets / "models" / f"{name}.onnx"))
    where = assets / "images" / training
    source = where / ("calibrate" if training != "cifar10" else "cifar10_jpeg_train.npz")
    found = open_pictures(source).at_most(200)
    calibration = calibrate(model, network, found.fitting(), Preprocessing(), pictures_at_most=60)
    engine = Engine(build(calibration.apply(network), schedule="layer"))
    reference = FloatMaps(model, network, network.outputs, Preprocessing())
    shape = network.shapes[network.inputs[0]]
    agreeing = []
    for key, picture in found.held_out().read():
        fitted = network_values(key, picture, shape, Preprocessing())
        answer = next(iter(engine.maps(fitted).values()))
        agreeing.append(answer.argmax() == reference.of(key, picture)[network.outputs[0]].argmax())
    assert len(agreeing) == 40
    assert np.mean(agreeing) >= agreement
