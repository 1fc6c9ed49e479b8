# SPDX-License-Identifier: Apache-2.0
"""Figures of papers are data that parse; each paper's are measured again where assets are."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx_models import model, node, weights

from thinmaps.types import Preprocessing

PAPERS = Path(__file__).resolve().parent.parent / "papers"
FOLDERS = sorted(path.parent for path in PAPERS.glob("*/run.py"))

sys.path.insert(0, str(PAPERS))

from figures import Figure, compare, expected  # noqa: E402 (behind the path)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_paper_has_its_claim_and_figures_with_a_place_and_a_tolerance(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert "**Claim.**" in text
    assert f"({folder.name})" in (PAPERS / "README.md").read_text()
    figures = expected(folder)
    assert len({figure.what for figure in figures}) == len(figures) > 0
    for figure in figures:
        assert 0 < figure.tolerance < figure.ours
        assert (figure.published is None) == (figure.where == "")


def test_a_figure_that_has_moved_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "expected.toml").write_text(
        '[[figure]]\nwhat = "ratio"\nours = 2.0\ntolerance = 0.1\n'
    )
    assert expected(tmp_path) == [Figure("ratio", 2.0, 0.1)]
    assert compare(tmp_path, {"ratio": 2.05}) == 0
    assert compare(tmp_path, {"ratio": 2.2}) == 1
    assert compare(tmp_path, {}) == 1
    assert compare(tmp_path, {"ratio": 2.0, "other": 1.0}) == 1
    assert "not in expected.toml" in capsys.readouterr().out


@pytest.fixture
def bit_planes() -> ModuleType:
    """`cavigelli-2019/run.py` as a module."""
    place = spec_from_file_location("bit_planes", PAPERS / "cavigelli-2019" / "run.py")
    assert place is not None
    assert place.loader is not None
    module = module_from_spec(place)
    place.loader.exec_module(module)
    return module


def test_bytes_of_the_bit_plane_paper_are_cut_and_reach_95(bit_planes: ModuleType) -> None:
    values = np.float32([[[0, 0.9, 4]], [[8, 7.99, 2]]])
    found = bit_planes.fixed_point(values, 8.0)
    np.testing.assert_array_equal(found, np.uint8([[[0, 95], [10, 95], [47, 23]]]), strict=True)


def test_the_bit_plane_paper_is_measured_on_a_tiny_network(bit_planes: ModuleType) -> None:
    nodes = [
        node("Conv", ["x", "first"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "second"], ["c"]),
        node("Conv", ["c", "third"], ["y"]),
    ]
    kernels = {
        "first": weights(6, 1, 3, 3, seed=1),
        "second": weights(5, 6, 1, 1, seed=2),
        "third": weights(2, 5, 1, 1, seed=3),
    }
    proto = model(nodes, kernels, shape=(1, 1, 16, 16))
    ramp = np.linspace(0, 255, 256).reshape(16, 16, 1)
    pictures = [np.roll(ramp, shift).astype(np.uint8) for shift in range(6)]
    half = Preprocessing((0.5,), (0.5,), fit="none")
    found = bit_planes.measured("tiny", proto, pictures, half)
    assert len(found) == 11
    assert all(0.5 < ratio < 50 for ratio in found.values())
    # One map of two is behind a ReLU, and its convention has fewer levels than ours.
    figures = {what.removeprefix("tiny: "): ratio for what, ratio in found.items()}
    for code in ("bit planes", "zero bitmap", "entropy"):
        assert figures[f"uint8, ReLU maps, {code}"] > figures[f"uint8, all stored maps, {code}"]
    assert figures["theirs, ReLU maps, entropy"] > figures["uint8, ReLU maps, entropy"]


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_figures_of_a_paper_have_not_moved(folder: Path, assets: Path) -> None:
    environment = {**os.environ, "THINMAPS_ASSETS": str(assets)}
    run = [sys.executable, str(folder / "run.py")]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
