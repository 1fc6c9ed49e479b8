# SPDX-License-Identifier: Apache-2.0
"""Figures of papers are data that parse; those of one paper are measured again where assets are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
@pytest.mark.assets
def test_the_figures_of_zero_value_coding_have_not_moved(assets: Path) -> None:
    environment = {**os.environ, "THINMAPS_ASSETS": str(assets)}
    run = [sys.executable, str(PAPERS / "rhu-2018" / "run.py")]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
