# SPDX-License-Identifier: Apache-2.0
"""A thin network against its own export, and against that export with one number changed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from thinmaps import cli
from thinmaps.codecs.narrow import Narrow
from thinmaps.compression import compress
from thinmaps.demo import shipped
from thinmaps.errors import BadArgument, BadModel
from thinmaps.export.onnx_qdq import export
from thinmaps.file import Model, save
from thinmaps.measure.verification import verify
from thinmaps.plan.build import build
from thinmaps.types import Preprocessing


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verified") / "digits.onnx"
    path.write_bytes(shipped.shipped("digits.onnx"))
    return path


@pytest.fixture(scope="module")
def digits(network_file: Path) -> Model:
    pictures = list(shipped.digits().calibration[:40])
    return compress(network_file, pictures, preprocessing=Preprocessing((0.0,), (1.0,), fit="none"))


@pytest.fixture(scope="module")
def exported(digits: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verified") / "digits.onnx"
    export(digits, path)
    return path


def test_an_export_equals_its_network_in_every_map(digits: Model, exported: Path) -> None:
    found = verify(digits, exported)
    assert found.difference is None
    assert found.absent == ()
    uint8 = [n.output for n in digits.plan.source.nodes]
    assert set(found.compared) == {
        name for name in uint8 if digits.plan.source.maps[name].dtype == "uint8"
    }


def test_a_lossy_codec_is_part_of_what_is_compared(digits: Model, tmp_path: Path) -> None:
    source = digits.plan.source
    name = source.nodes[1].output
    spec = source.maps[name]
    samples = np.random.default_rng(1).integers(0, 256, (1, *spec.shape), np.uint8)
    coded = dataclasses.replace(
        digits, plan=build(source, codecs={name: Narrow.fit(spec, samples, bits=3)})
    )
    export(coded, tmp_path / "coded.onnx")
    assert verify(coded, tmp_path / "coded.onnx").difference is None
    found = verify(digits, tmp_path / "coded.onnx").difference
    assert found is not None
    assert found.map == name


def test_the_first_map_behind_a_changed_weight_is_named(
    digits: Model, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(exported)
    changed = next(
        tensor
        for tensor in reversed(model.graph.initializer)
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4
    )
    weights = numpy_helper.to_array(changed).copy()
    weights[0] = -weights[0]
    changed.CopyFrom(numpy_helper.from_array(weights, changed.name))
    onnx.save(model, tmp_path / "changed.onnx")
    found = verify(digits, tmp_path / "changed.onnx").difference
    assert found is not None
    assert found.channel == 0
    save(digits, tmp_path / "digits.thin")
    assert cli.run(["verify", str(tmp_path / "digits.thin"), str(tmp_path / "changed.onnx")]) == 1
    assert capsys.readouterr().out == f"{found}\n"
    assert cli.run(["verify", str(tmp_path / "digits.thin"), str(exported), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] is None


def test_a_float_network_has_no_bytes_to_compare(digits: Model, network_file: Path) -> None:
    with pytest.raises(BadModel, match="needs a QDQ file"):
        verify(digits, network_file)


def test_a_picture_is_for_networks_that_take_one(digits: Model, exported: Path) -> None:
    arrays = dataclasses.replace(digits, preprocessing=None)
    with pytest.raises(BadArgument, match="leave the picture out to compare on noise"):
        verify(arrays, exported, "any.png")
