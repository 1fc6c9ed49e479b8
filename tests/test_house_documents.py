# SPDX-License-Identifier: Apache-2.0
"""Code blocks of README and docs run as they stand, top to bottom, in one folder per document.

A comment before a block says what it needs:

    <!-- not run: REASON -->    shown only
    <!-- run with: demo -->     runs beside what `thinmaps demo` leaves behind (its digits, here)
    <!-- run with: assets -->   runs beside a real network and pictures, skips where they are absent

Blocks in other languages, and without one, are not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
DOCUMENTS = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md"]
DOCUMENTS += sorted((CHECKOUT / "docs").rglob("*.md"))
BLOCK = re.compile(
    r"^(?:<!-- (?P<rule>not run|run with): (?P<what>.+?) -->\n)?"
    r"```(?P<language>bash|python)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
CALIBRATION_PICTURES = 12


@dataclass(frozen=True)
class Block:
    """One block, and what it needs: "", "demo" or "assets"."""

    document: Path
    line: int
    language: str
    code: str
    needs: str

    @property
    def name(self) -> str:
        """Where a reader finds it."""
        return f"{self.document.name}:{self.line}"


def blocks(document: Path) -> list[Block]:
    """The blocks of a document that run."""
    text = document.read_text()
    return [
        Block(
            document,
            text.count("\n", 0, found.start("code")) + 1,
            found["language"],
            found["code"],
            found["what"] or "",
        )
        for found in BLOCK.finditer(text)
        if found["rule"] != "not run"
    ]


def execute(block: Block, folder: Path) -> None:
    """Run one block in `folder`; fails with what it said."""
    shell = ["bash", "-euo", "pipefail", "-c", block.code]
    command = shell if block.language == "bash" else [sys.executable, "-c", block.code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block.name} failed:\n{done.stdout}{done.stderr}"


def lay_out_demo(folder: Path) -> None:
    """The part of the demo's output that documents use."""
    from thinmaps.demo.main import read_digits

    (folder / "demo-out").mkdir()
    read_digits(folder / "demo-out")


def lay_out_assets(folder: Path, assets: Path) -> None:
    """A network, a dozen pictures to calibrate on, and a photograph."""
    (folder / "squeezenet1_1.onnx").symlink_to(assets / "models" / "squeezenet1_1.onnx")
    (folder / "pictures").mkdir()
    source = assets / "images" / "imagenet-sample"
    for picture in islice(sorted((source / "calibrate").iterdir()), CALIBRATION_PICTURES):
        (folder / "pictures" / picture.name).symlink_to(picture)
    (folder / "photo.jpg").symlink_to(min((source / "eval_val").iterdir()))


def with_needs(needs: str) -> list[object]:
    """Documents that have blocks with these needs."""
    return [
        pytest.param([b for b in blocks(document) if b.needs == needs], id=document.name)
        for document in DOCUMENTS
        if any(block.needs == needs for block in blocks(document))
    ]


@pytest.mark.parametrize("found", with_needs("demo"))
def test_blocks_beside_the_demo_run(found: list[Block], tmp_path: Path) -> None:
    lay_out_demo(tmp_path)
    for block in found:
        execute(block, tmp_path)


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.parametrize("found", with_needs("assets"))
def test_blocks_beside_a_real_network_run(found: list[Block], tmp_path: Path, assets: Path) -> None:
    lay_out_assets(tmp_path, assets)
    for block in found:
        execute(block, tmp_path)


@pytest.mark.parametrize("found", with_needs(""))
def test_blocks_without_needs_run(found: list[Block], tmp_path: Path) -> None:
    for block in found:
        execute(block, tmp_path)


def test_the_readme_has_blocks_that_run() -> None:
    found = blocks(CHECKOUT / "README.md")
    assert {block.needs for block in found} == {"demo", "assets"}
    assert {block.language for block in found} == {"bash", "python"}


def test_the_readme_has_its_sections() -> None:
    headings = re.findall(r"^## (.+)$", (CHECKOUT / "README.md").read_text(), re.MULTILINE)
    wanted = ["Quickstart", "What it does to your network", "Honest limits", "Patents", "Licence"]
    assert headings == wanted
