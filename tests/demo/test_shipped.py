# SPDX-License-Identifier: Apache-2.0
"""The data of the demo: complete, small, anonymous, licensed, and worth showing."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import onnx
import onnxruntime
import pytest

from thinmaps.demo import shipped

NETWORKS = ("denoiser.onnx", "digits.onnx")
DATA = (*NETWORKS, "digits.npz", "photograph.jpg", "calibration.jpg")


def float_answer(name: str, values: np.ndarray) -> np.ndarray:
    """The float network's only output for `(n, c, h, w)` one by one."""
    session = onnxruntime.InferenceSession(
        shipped.shipped(name), providers=["CPUExecutionProvider"]
    )
    source = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {source: one[None]})[0] for one in values])


def test_all_of_it_stays_below_two_and_a_half_megabytes() -> None:
    assert sum(len(shipped.shipped(name)) for name in DATA) < 2.5e6


@pytest.mark.parametrize("name", DATA)
def test_the_licence_of_every_file_is_stated(name: str) -> None:
    assert f"| `{name}` |" in files("thinmaps.demo").joinpath("LICENSES.md").read_text()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_valid_and_carry_no_metadata(name: str) -> None:
    model = onnx.load_model_from_string(shipped.shipped(name))
    onnx.checker.check_model(model, full_check=True)
    assert not model.metadata_props
    assert not model.doc_string
    assert not model.graph.doc_string
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]


def test_the_denoiser_has_a_few_tens_of_thousands_of_parameters() -> None:
    model = onnx.load_model_from_string(shipped.shipped("denoiser.onnx"))
    parameters = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    assert 20_000 < parameters < 60_000


def test_noise_is_the_same_every_time_and_about_as_strong_as_stated() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    noisy = shipped.with_noise(grey)
    np.testing.assert_array_equal(noisy, shipped.with_noise(grey), strict=True)
    # 12,288 samples: the standard deviation of their deviation is 25 / sqrt(2 * 12288) = 0.16.
    assert abs(float(np.std(noisy)) - shipped.NOISE_DEVIATION) < 1


def test_the_photograph_has_a_few_megapixels_and_squares_have_the_networks_size() -> None:
    assert shipped.photograph().shape == (1350, 2400, 3)
    squares = shipped.calibration_squares()
    assert [square.shape for square in squares] == [(256, 256, 3)] * 9


def test_the_float_denoiser_gains_seven_decibels_on_a_photograph_it_has_never_seen() -> None:
    clean = shipped.photograph()[256:512, 512:768]
    noisy = shipped.with_noise(clean)
    values = np.moveaxis(noisy, -1, 0)[None].astype(np.float32) / np.float32(255)
    restored = np.rint(float_answer("denoiser.onnx", values)[0] * 255).astype(np.uint8)
    gain = shipped.psnr(np.moveaxis(restored, 0, -1), clean) - shipped.psnr(noisy, clean)
    assert gain > 7


def test_the_float_reader_reads_the_held_out_digits() -> None:
    digits = shipped.digits()
    values = np.moveaxis(digits.pictures, -1, 1).astype(np.float32) / np.float32(255)
    right = float_answer("digits.onnx", values).argmax(1) == digits.labels
    assert len(right) == 500
    assert 100 * right.mean() >= 96.5
