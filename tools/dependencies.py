# SPDX-License-Identifier: Apache-2.0
"""Prints what `pyproject.toml` asks for: what builds it, what it runs on, and the named extras.

`make setup` installs these first, so that the native module can be built again and again inside
the environment (seconds) instead of in an isolated one (the better part of a minute).
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(document: dict[str, dict], extras: list[str]) -> list[str]:
    """All requirements, in the order of the file, without the package itself."""
    found = [*document["build-system"]["requires"], "cmake", "ninja"]
    found += document["project"]["dependencies"]
    for extra in extras:
        found += document["project"]["optional-dependencies"][extra]
    own = document["project"]["name"]
    return [line for line in dict.fromkeys(found) if not line.startswith(f"{own}[")]


if __name__ == "__main__":
    project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    print(*requirements(tomllib.loads(project.read_text()), sys.argv[1:]), sep="\n")
