# SPDX-License-Identifier: Apache-2.0
"""What sensitivities are worth on a real network, on calibration pictures of no fit."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import thinmaps as tm
from thinmaps.calibrate.calibration import calibrate
from thinmaps.calibrate.float_maps import FloatMaps
from thinmaps.calibrate.picture_set import network_values, open_pictures
from thinmaps.calibrate.sensitivity import of_maps, sensitivities
from thinmaps.codecs.mixed_width import Tables, fit_together
from thinmaps.codecs.narrow import Narrow
from thinmaps.graph.onnx_reader import normalise, read_model
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine

pytestmark = pytest.mark.assets

MODEL = "models/cifar10_resnet20_jpeg.onnx"
PICTURES = "images/cifar10/cifar10_jpeg_train.npz"
PREPROCESSING = tm.Preprocessing()


def test_noise_in_a_map_moves_the_logits_as_predicted(assets):
    network, model = normalise(read_model(assets / MODEL))
    pictures = open_pictures(assets / PICTURES)
    found = sensitivities(network, pictures.fitting(), PREPROCESSING)
    names = [node.output for node in network.nodes if node.output not in network.outputs][::4]
    maps = FloatMaps(model, network, [*names, *network.outputs], PREPROCESSING)
    seen = [maps.of(*shown) for shown in pictures.held_out().at_most(20).read()]
    rng = np.random.default_rng(0)
    ratios = []
    for name in names:
        height, width, channels = network.shapes[name]
        step = float(np.ptp(seen[0][name])) / 255
        noisy = session_with_noise(model, name)
        squares = []
        for values in seen:
            noise = rng.uniform(-step / 2, step / 2, (1, channels, height, width))
            feed = {network.inputs[0]: values[network.inputs[0]][None]}
            (moved,) = noisy.run(None, {**feed, "noise": noise.astype(np.float32)})
            logits = values[network.outputs[0]].ravel()
            squares.append(np.mean((moved.ravel() - logits) ** 2))
        ratios.append(np.mean(squares) / (height * width * step**2 / 12 * found[name].sum()))
    # Other pictures and few of them: measured 0.88 to 1.18 over all maps with 40 pictures.
    assert 0.9 < np.median(ratios) < 1.15
    assert 0.7 < min(ratios) <= max(ratios) < 1.4


def session_with_noise(model: onnx.ModelProto, name: str) -> ort.InferenceSession:
    """The model with its input "noise" added to a value."""
    noisy = onnx.ModelProto()
    noisy.CopyFrom(model)
    for node in noisy.graph.node:
        node.input[:] = ["noisy" if value == name else value for value in node.input]
    (place,) = [i for i, node in enumerate(noisy.graph.node) if name in node.output]
    added = onnx.helper.make_node("Add", [name, "noise"], ["noisy"])
    noisy.graph.node.insert(place + 1, added)
    noise = onnx.helper.make_tensor_value_info("noise", onnx.TensorProto.FLOAT, None)
    noisy.graph.input.append(noise)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(noisy.SerializeToString(), options)


def test_maps_that_share_bits_by_sensitivity_agree_more_than_equal_bits(assets):
    network, model = normalise(read_model(assets / MODEL))
    pictures = open_pictures(assets / PICTURES)
    fitting = pictures.fitting().at_most(64)
    calibration = calibrate(model, network, fitting, PREPROCESSING)
    small = calibration.apply(network)
    weights = sensitivities(calibration.calibrated(network), fitting, PREPROCESSING)
    specs = {
        node.output: small.maps[node.output]
        for node in small.nodes
        if node.operator.id in ("conv", "add") and node.output not in small.outputs
    }
    shape = network.shapes[network.inputs[0]]

    def shown(chosen):
        return [network_values(*each, shape, PREPROCESSING) for each in chosen.read()]

    observer = Engine(build(small.ending_in(specs), schedule="layer"))
    seen = [observer.maps(picture) for picture in shown(fitting)]
    samples = {name: np.stack([maps[name] for maps in seen]) for name in specs}
    tables = {name: Tables.fit(spec, samples[name]) for name, spec in specs.items()}
    mixed = fit_together(specs, tables, of_maps(weights, small), 3)
    narrow = {name: Narrow.fit(spec, samples[name], bits=3) for name, spec in specs.items()}
    stored, given = (
        sum(codec.max_bytes(specs[name]) for name, codec in codecs.items())
        for codecs in (mixed, narrow)
    )
    assert stored <= 1.005 * given  # rows end on whole bytes

    others = shown(pictures.held_out().at_most(400))

    def classes(codecs) -> np.ndarray:
        engine = Engine(build(small, codecs=codecs, schedule="layer"))
        (head,) = small.outputs
        return np.array([engine.maps(picture)[head].argmax() for picture in others])

    whole = classes({})
    agreement = [100 * np.mean(classes(codecs) == whole) for codecs in (narrow, mixed)]
    # On 1,000 pictures 84.5 and 93.3 % with the float network.
    assert agreement[1] > agreement[0] + 3
