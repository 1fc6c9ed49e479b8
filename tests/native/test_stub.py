# SPDX-License-Identifier: Apache-2.0
"""The committed stub of the native module is the one that nanobind generates from it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import thinmaps


def test_the_committed_stub_describes_the_native_module(tmp_path: Path) -> None:
    made = tmp_path / "_core.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "thinmaps._core", "-o", made]
    subprocess.run(command, check=True)
    committed = Path(thinmaps.__file__).with_name("_core.pyi")
    # As syntax trees: ruff has formatted the committed one.
    assert ast.dump(ast.parse(committed.read_text())) == ast.dump(ast.parse(made.read_text())), (
        f"regenerate it: {sys.executable} -m nanobind.stubgen -m thinmaps._core -o {committed}"
    )
