# SPDX-License-Identifier: Apache-2.0
"""The core's SHA-256 is that of the standard library, at every length around a block."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from thinmaps import _core

LENGTHS = [0, 1, 54, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 1000]


def wrong_digests() -> list[tuple[int, int]]:
    random = np.random.default_rng(8)
    return [
        (head, rest)
        for head in LENGTHS
        for rest in LENGTHS
        for first, second in [(random.bytes(head), random.bytes(rest))]
        if _core.sha256(first, np.frombuffer(second, np.uint8))
        != hashlib.sha256(first + second).hexdigest()
    ]


def test_every_length_gives_the_digest_of_the_standard_library() -> None:
    assert wrong_digests() == []


def test_the_loop_without_instructions_gives_it_too() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_sha256 import wrong_digests\n"
        "assert wrong_digests() == []"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "THINMAPS_ISA": "portable"}
    )
