# SPDX-License-Identifier: Apache-2.0
"""Measuring in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from thinmaps.errors import BadArgument


def said_by(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """Run Python with `arguments` and one thread; the last line that it prints is JSON.

    Raises:
        BadArgument: the process failed; with the last line that it said.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise BadArgument(f"measuring {' '.join(arguments)} failed, it said: {said[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
