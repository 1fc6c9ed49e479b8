# SPDX-License-Identifier: Apache-2.0
"""The demo from end to end, on a corner of its photograph; `make demo` runs it on the whole."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import thinmaps
from thinmaps.demo import main, shipped
from thinmaps.errors import BadArgument

HEIGHT, WIDTH = 384, 640


@pytest.fixture
def corner(monkeypatch: pytest.MonkeyPatch) -> shipped.Pixels:
    """A corner of the photograph stands for the whole."""
    whole = shipped.photograph()
    part = whole[200 : 200 + HEIGHT, 300 : 300 + WIDTH].copy()
    monkeypatch.setattr(shipped, "photograph", lambda: part)
    return part


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the live heap is counted on Linux")
def test_the_demo_ends_with_a_table_and_a_page(corner: shipped.Pixels, tmp_path: Path) -> None:
    said = io.StringIO()
    page = main.run(tmp_path / "out", Console(file=said, width=120))
    assert page == tmp_path / "out" / "report.html"
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert text.count("data:image/") >= 4
    for words in ("arena", "ONNX Runtime", "right digits of 500", str(page.name)):
        assert words in said.getvalue()


def test_the_uint8_denoiser_keeps_the_gain(corner: shipped.Pixels, tmp_path: Path) -> None:
    cleaned = main.clean_photograph(tmp_path)
    before = shipped.psnr(cleaned.noisy, corner)
    assert shipped.psnr(cleaned.restored, corner) - before > 7
    # Rings of a picture 640 wide: a fortieth of what whole maps take.
    assert cleaned.engine.arena_bytes < 300_000
    assert cleaned.layer_by_layer_bytes > 20 * cleaned.engine.arena_bytes


def test_what_the_demo_leaves_behind_can_be_used(tmp_path: Path) -> None:
    found = main.read_digits(tmp_path)
    assert found.pictures == 500
    assert found.top1 is not None
    assert found.float_top1 is not None
    assert abs(found.top1 - found.float_top1) <= 1
    digit = shipped.digits()
    engine = thinmaps.Engine(tmp_path / "digits.thin")
    np.testing.assert_array_equal(
        engine(tmp_path / "digits" / "007.png"), engine(digit.pictures[7]), strict=True
    )
    assert (tmp_path / "digits.csv").read_text().splitlines()[1] == f"000.png,{digit.labels[0]}"


def test_a_file_where_the_folder_should_be_is_refused_by_name(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(BadArgument, match="taken"):
        main.run(taken)
