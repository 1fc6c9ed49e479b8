# SPDX-License-Identifier: Apache-2.0
"""Surrogates: in evaluation the codec itself, in training a gradient; asked of all codecs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from codec_cases import Setting, maps, settings

from thinmaps.learn.surrogates import surrogate_of
from thinmaps.learn.surrogates.base import bytes_to_values
from thinmaps.types import MapSpec

SPEC = MapSpec(4, 6, 8, 0.125, 128)
EACH_SETTING = pytest.mark.parametrize(
    "setting", [pytest.param(setting, id=setting.name) for setting in settings()]
)


def batch(spec: MapSpec) -> np.ndarray:
    """One picture of each kind, uint8 n h w c."""
    return np.stack(list(maps(spec).values()))


def as_values(pictures: np.ndarray, spec: MapSpec) -> torch.Tensor:
    return bytes_to_values(torch.from_numpy(pictures).permute(0, 3, 1, 2), spec)


@EACH_SETTING
def test_a_surrogate_in_evaluation_gives_what_the_reference_restores(setting: Setting) -> None:
    codec = setting.fit(SPEC, 2)
    sizes = ((4, 6), (5, 3), (1, 1))  # its own, and other picture sizes
    for spec in (MapSpec(*size, 8, 0.125, 128) for size in sizes):
        surrogate = surrogate_of(codec, SPEC).eval()
        pictures = batch(spec)
        codec_now = surrogate.codec()
        expected = [codec_now.decode(codec_now.encode(picture, spec)) for picture in pictures]
        made = surrogate(as_values(pictures, spec))
        assert torch.equal(made, as_values(np.stack(expected), spec))


@EACH_SETTING
def test_a_surrogate_in_training_passes_a_gradient(setting: Setting) -> None:
    surrogate = surrogate_of(setting.fit(SPEC, 2), SPEC).train()
    values = as_values(batch(SPEC), SPEC).requires_grad_()
    made = surrogate(values)
    assert made.shape == values.shape
    made.sum().backward()
    assert values.grad is not None
    assert values.grad.abs().sum() > 0


def test_without_torch_one_sentence_says_what_to_install() -> None:
    code = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
        "import thinmaps.learn\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtra" in done.stderr
    assert done.stderr.strip().endswith(
        "thinmaps.learn needs torch, which is not installed: pip install 'thinmaps[learn]'"
    )
