# SPDX-License-Identifier: Apache-2.0
"""Real networks, calibrated and exported: ONNX Runtime computes what the definition says."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from thinmaps.calibrate.calibration import calibrate
from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.export.onnx_qdq import node_to_onnx, to_onnx
from thinmaps.graph import operators as op
from thinmaps.graph.onnx_reader import normalise
from thinmaps.graph.quantise import real_values
from thinmaps.run.interpret import run_network
from thinmaps.run.pictures import fit_picture
from thinmaps.types import Preprocessing

PREPROCESSING = {
    "squeezenet1_1": Preprocessing(),
    "cifar10_resnet20": Preprocessing(fit="stretch"),
    "mobilenet_v2": Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "yolo_fastest_xl_voc": Preprocessing((0, 0, 0), (1, 1, 1), fit="stretch"),
}
# ONNX Runtime sums these in float or with fused multiply-adds: one step apart, rarely.
INEXACT = (op.Add, op.Mul, op.AveragePool, op.Mean, op.ConvTranspose)


def session(model: onnx.ModelProto, optimised: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(model.SerializeToString(), options)


@pytest.mark.assets
@pytest.mark.slow
@pytest.mark.parametrize("name", PREPROCESSING)
def test_a_real_network_computes_there_what_it_computes_here(
    name: str, assets: Path, tmp_path: Path
) -> None:
    preprocessing = PREPROCESSING[name]
    pictures = open_pictures(assets / "images/imagenet-sample/calibrate").at_most(3)
    original = onnx.load(assets / "models" / f"{name}.onnx")
    float_network, clean = normalise(original)
    network = calibrate(clean, float_network, pictures, preprocessing).apply(float_network)
    (entry,) = network.inputs
    (picture,) = (picture for _, picture in pictures.at_most(1).read())
    fitted = fit_picture(picture, preprocessing, network.maps[entry].shape[:2])
    maps = run_network(network, {entry: fitted})
    feeds = {n: np.ascontiguousarray(x.transpose(2, 0, 1)[None]) for n, x in maps.items()}
    feeds[entry] = real_values(fitted, preprocessing)[None]

    counts: dict[type, list[int]] = defaultdict(lambda: [0, 0])
    for node in network.nodes:
        inputs = {name: feeds[name] for name in node.inputs}
        theirs = session(node_to_onnx(network, node)).run(None, inputs)[0][0].transpose(1, 2, 0)
        ours = maps[node.output]
        if isinstance(node.operator, INEXACT) and ours.dtype == np.uint8:
            difference = np.abs(theirs.astype(np.int32) - ours)
            assert difference.max() <= 1, node.name
            counts[type(node.operator)][0] += int((difference > 0).sum())
            counts[type(node.operator)][1] += difference.size
        elif isinstance(node.operator, op.Mean):  # a head: 169 products, each rounded there
            np.testing.assert_allclose(theirs, ours, rtol=200 * 2**-24, atol=1e-6)
        else:
            np.testing.assert_array_equal(theirs, ours, strict=True, err_msg=node.name)
    for different, elements in counts.values():
        assert different <= 0.001 * elements

    whole = session(to_onnx(network, tail=float_network.tail), tmp_path / "optimised.onnx")
    assert [o.name for o in whole.get_outputs()] == [o.name for o in original.graph.output]
    shapes = [o.shape for o in session(clean).get_outputs()]
    assert [list(x.shape) for x in whole.run(None, {entry: feeds[entry]})] == shapes
    kinds = Counter(n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node)
    convolutions = [n for n in network.nodes if isinstance(n.operator, op.Conv)]
    assert kinds["QLinearConv"] + kinds["QGemm"] == len(convolutions)
    assert not {"Conv", "FusedConv", "Gemm"} & set(kinds)
