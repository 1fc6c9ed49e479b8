# SPDX-License-Identifier: Apache-2.0
"""Real networks through the reader: the float network computes what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from run_float import run, run_maps

from thinmaps.graph.onnx_reader import normalise, read_model

pytestmark = pytest.mark.assets

# Sizes are small for a slow executor, and odd where the network allows it.
EACH_NETWORK = pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cifar10_resnet20", None),
        ("cifar10_resnet56", None),
        ("mobilenet_v2", (97, 65)),
        ("squeezenet1_1", (75, 99)),
        ("espnet_cityscapes", (48, 64)),
        ("ultraface_rfb_640", None),
        ("yolo_fastest_xl_voc", (96, 128)),
    ],
)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options)


@EACH_NETWORK
def test_a_real_network_and_its_tail_compute_what_onnx_runtime_computes(assets, name, size):
    network, clean = normalise(read_model(assets / "models" / f"{name}.onnx"), size)
    height, width, channels = network.shapes[network.inputs[0]]
    picture = np.random.default_rng(1).normal(size=(1, channels, height, width))
    feed = {network.inputs[0]: picture.astype(np.float32)}
    expected = session(clean).run(list(network.tail.outputs), feed)
    outputs = run(network, feed)
    for output, value in zip(network.tail.outputs, expected, strict=True):
        assert outputs[output].shape == value.shape
        # float32 sums in another order through some sixty layers.
        assert np.abs(outputs[output] - value).max() <= 1e-4 * np.abs(value).max()


@EACH_NETWORK
def test_every_map_is_a_value_of_the_clean_model_under_the_same_name(assets, name, size):
    network, clean = normalise(read_model(assets / "models" / f"{name}.onnx"), size)
    height, width, channels = network.shapes[network.inputs[0]]
    picture = np.random.default_rng(2).normal(size=(1, channels, height, width))
    feed = {network.inputs[0]: picture.astype(np.float32)}
    names = [node.output for node in network.nodes]
    del clean.graph.output[:]
    clean.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names)
    maps = run_maps(network, feed)
    for map_name, value in zip(names, session(clean).run(names, feed), strict=True):
        ours = np.moveaxis(maps[map_name], -1, 0).ravel()
        assert np.abs(ours - value.ravel()).max() <= 1e-4 * np.abs(value).max(), map_name
