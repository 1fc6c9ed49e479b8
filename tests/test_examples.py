# SPDX-License-Identifier: Apache-2.0
"""The examples run, small, and what they say holds: no seam in the stream, seams between tiles."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import thinmaps as tm
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SIZE, TILE = (160, 224), 96


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the example leaves."""
    folder = tmp_path_factory.mktemp("seamless")
    script = [sys.executable, str(EXAMPLES / "seamless_4k.py")]
    options = ["--size", "160x224", "--tile", str(TILE), "-o", str(folder)]
    done = subprocess.run([*script, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def figures(left: Path) -> dict[str, Any]:
    return json.loads((left / "figures.json").read_text())


def test_rows_that_streamed_are_those_of_whole_maps(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("seamless_4k")
    noisy = example.noisy_picture(None, SIZE)
    engine = Engine(build(example.denoiser(SIZE).plan.source, schedule="layer"))
    with Image.open(left / "clean.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), example.one_map(engine)(noisy))


def test_tiles_make_seams_and_margins_as_wide_as_the_field_of_view_none(
    figures: dict[str, Any],
) -> None:
    bare, wide = figures["margin_0"], figures["margin_16"]
    assert bare["mean_beside"] > 1
    assert bare["mean_away"] == 0
    assert wide["largest"] == 0
    assert figures["margin_32"]["times_the_work"] > bare["times_the_work"] > 1


def test_the_stream_holds_neither_picture(figures: dict[str, Any]) -> None:
    streamed, memory = figures["streamed"], figures["memory"]
    assert streamed["arena_bytes"] == memory["whole_arena_bytes"]
    assert memory["whole_arena_bytes"] < memory["whole_layer_by_layer_bytes"] / 10
    assert memory["whole_arena_bytes"] < memory["whole_onnxruntime_float_bytes"] / 10


def test_its_pictures_show_the_crossing(left: Path) -> None:
    with Image.open(left / "seam.png") as shown, Image.open(left / "difference.png") as difference:
        assert shown.size == (3 * (3 * 160 + 4), 3 * 120)
        assert np.asarray(difference).any()


def test_sizes_that_cannot_be_shown_are_refused() -> None:
    command = [sys.executable, str(EXAMPLES / "seamless_4k.py"), "--size", "64x64"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "at least 120x160" in done.stderr


def test_labels_of_a_network_in_tiles_are_compared_with_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("seamless_4k")
    for name, size in (("whole", (64, 80)), ("tile", (48, 48))):
        tm.save(example.denoiser(size), tmp_path / f"{name}.thin")
    Image.fromarray(example.noisy_picture(None, (64, 80))).save(tmp_path / "picture.png")
    files = [str(tmp_path / name) for name in ("whole.thin", "tile.thin", "picture.png")]
    script = [sys.executable, str(EXAMPLES / "labels_in_tiles.py"), *files, "--margins", "0", "16"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    _, bare, wide = done.stdout.splitlines()
    assert wide == "margin   16: 0.0 % of the pixels, 2.70 times the work"
    assert not bare.startswith("margin    0: 0.0 %")


def learnt(example: str, folder: Path) -> Any:
    """What settings bring beside the demo's digits."""
    pytest.importorskip("torch")
    from thinmaps.demo.main import read_digits
    from thinmaps.learn.config import read_config
    from thinmaps.learn.job import learn

    (folder / "demo-out").mkdir()
    read_digits(folder / "demo-out")
    (folder / "examples").mkdir()
    settings = folder / "examples" / example
    settings.write_bytes((EXAMPLES / example).read_bytes())
    return learn(read_config(settings))


def test_settings_of_learning_are_those_of_the_document_and_run(tmp_path: Path) -> None:
    found = learnt("learn_digits.toml", tmp_path)
    assert found.ratio == 4
    assert found.held_out == 20
    assert found.agreement >= 85


def test_half_of_the_weights_go_while_maps_take_four_bits(tmp_path: Path) -> None:
    found = learnt("prune_digits.toml", tmp_path)
    assert found.ratio == 2
    assert found.density == pytest.approx(0.5, abs=0.05)
    assert found.agreement >= 85
