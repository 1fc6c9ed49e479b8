# SPDX-License-Identifier: Apache-2.0
"""The main job on real networks: every schedule and codec gives one answer, ONNX Runtime's."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import thinmaps as tm
from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.compression import fit_codec
from thinmaps.export.onnx_qdq import to_onnx
from thinmaps.graph.quantise import real_values
from thinmaps.plan.build import build
from thinmaps.plan.held import held_maps
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import interpret, run_network

pytestmark = pytest.mark.assets

IMAGENET = "images/imagenet-sample/calibrate"
CIFAR = "images/cifar10/cifar10_jpeg_train.npz"
HALF = tm.Preprocessing((0.5,) * 3, (0.5,) * 3)
PLAIN = tm.Preprocessing((0.0,) * 3, (1.0,) * 3, fit="stretch")
# network -> pictures, preprocessing, and a size small enough for the interpreter
NETWORKS = {
    "squeezenet1_1": (IMAGENET, tm.Preprocessing(), (97, 112)),
    "mobilenet_v2": (IMAGENET, HALF, None),
    "cifar10_resnet20": (CIFAR, tm.Preprocessing(), None),
    "cifar10_resnet20_jpeg": (CIFAR, tm.Preprocessing(), None),
    "cifar10_resnet56": (CIFAR, tm.Preprocessing(), None),
    "yolo_fastest_xl_voc": ("images/voc-sample/JPEGImages", PLAIN, (96, 128)),
    "espnet_cityscapes": ("images/highres", PLAIN, (72, 136)),
    "ultraface_rfb_640": (IMAGENET, PLAIN, None),
}
EACH_NETWORK = pytest.mark.parametrize("name", NETWORKS)


@cache
def compressed(assets: Path, name: str) -> tuple[tm.Model, np.ndarray]:
    """The network compressed on three pictures, and a picture that is none of them."""
    folder, preprocessing, size = NETWORKS[name]
    pictures = open_pictures(assets / folder)
    model = tm.compress(
        assets / "models" / f"{name}.onnx",
        pictures.at_most(3),
        preprocessing=preprocessing,
        size=size,
    )
    other = pictures.load(pictures.indices[1])
    return model, tm.Engine(model).fit(other)


@EACH_NETWORK
@pytest.mark.usefixtures("every_step_shared")
def test_the_engine_equals_the_definition_bit_for_bit(assets, name):
    model, picture = compressed(assets, name)
    network = model.plan.source
    expected = run_network(network, {network.inputs[0]: picture})
    made = Engine(model.plan, threads=2).maps(picture)
    for output in network.outputs:
        np.testing.assert_array_equal(made[output], expected[output], strict=True)


@EACH_NETWORK
def test_onnx_runtime_gives_the_same_final_maps_within_a_step(assets, name):
    model, picture = compressed(assets, name)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    # Straight from the maps: what follows them is the same float arithmetic on both sides.
    exported = to_onnx(model.plan.source, codecs={}, tail=None)
    session = ort.InferenceSession(exported.SerializeToString(), options)
    values = real_values(picture, model.preprocessing)[None]
    theirs = session.run(None, {session.get_inputs()[0].name: values})
    ours = Engine(model.plan).maps(picture)
    for name_, their in zip(model.plan.source.outputs, theirs, strict=True):
        spec = model.plan.source.maps[name_]
        our = ours[name_].astype(np.float32)
        if spec.dtype == "uint8":
            our = (our - spec.zero_point) * np.float32(spec.scale)
        steps = np.abs(our.transpose(2, 0, 1).ravel() - their.ravel()) / np.float32(spec.scale)
        tolerance = 1.001 if spec.dtype == "uint8" else 1e-4 * np.abs(their).max()
        assert (steps <= tolerance).mean() >= 0.999


@pytest.mark.usefixtures("every_step_shared")
@pytest.mark.parametrize("schedule", ["layer", "stream", "mixed"])
@pytest.mark.parametrize("stripe_rows", [1, 3, 1000])
@pytest.mark.parametrize("codec", [None, "raw", "zero_bitmap", "narrow:5", "narrow:3,unit_rows=2"])
def test_every_schedule_stripe_codec_and_thread_count_gives_the_same_bits(
    assets, schedule, stripe_rows, codec
):
    model, picture = compressed(assets, "squeezenet1_1")
    network = model.plan.source
    inputs = {network.inputs[0]: picture}
    codecs = {}
    if codec is not None:
        whole = run_network(network, inputs)
        held = [*held_maps(build(network, schedule="layer"))][2:14:3]
        codecs = {m: fit_codec(codec, network, m, whole[m][None]) for m in held}
    plan = build(network, codecs=codecs, schedule=schedule, stripe_rows=stripe_rows)
    expected = run_network(network, inputs, codecs)[network.outputs[0]]
    for threads in (1, 3):
        made = Engine(plan, threads=threads).maps(picture)[network.outputs[0]]
        np.testing.assert_array_equal(made, expected, strict=True)


@pytest.mark.parametrize("name", ["cifar10_resnet20", "espnet_cityscapes"])
def test_the_interpreter_runs_the_plan_step_by_step_to_the_same_maps(assets, name):
    model, picture = compressed(assets, name)
    network = model.plan.source
    inputs = {network.inputs[0]: picture}
    expected = run_network(network, inputs)
    for output, values in interpret(model.plan, inputs).items():
        np.testing.assert_array_equal(values, expected[output], strict=True)


@EACH_NETWORK
def test_the_same_input_gives_the_same_file(assets, name, tmp_path):
    model, picture = compressed(assets, name)
    tm.save(model, tmp_path / "a.thin")
    again = tm.load(tmp_path / "a.thin")
    tm.save(again, tmp_path / "b.thin")
    assert (tmp_path / "a.thin").read_bytes() == (tmp_path / "b.thin").read_bytes()
    first, second = Engine(model.plan).maps(picture), Engine(again.plan).maps(picture)
    for output in first:
        np.testing.assert_array_equal(first[output], second[output], strict=True)


def test_every_eligible_convolution_is_an_integer_one_in_onnx_runtime(assets, tmp_path):
    for name in ("squeezenet1_1", "mobilenet_v2", "yolo_fastest_xl_voc"):
        model, _ = compressed(assets, name)
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{name}.onnx")
        options.log_severity_level = 4
        exported = to_onnx(model.plan.source, codecs={}, tail=model.tail)
        ort.InferenceSession(exported.SerializeToString(), options)
        kinds = [node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node]
        assert "Conv" not in kinds
        assert "FusedConv" not in kinds
        assert kinds.count("QLinearConv") > 20
