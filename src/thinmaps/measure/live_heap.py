# SPDX-License-Identifier: Apache-2.0
"""The largest live heap of one warm run, counted in a process of its own.

The process is started with `libthinmaps_live_heap.so` in LD_PRELOAD, which counts what malloc and
its kin, and anonymous mmap, hold. It loads the network, runs it a few times, resets the counter,
runs once more, and reports the peak above the reset. So weights, pictures and outputs, which exist
before, do not count; what a run allocates does. What an engine keeps between runs for its maps (our
arena) exists before too, and is added.

Linux only, and of no use where the library is not installed: `BadArgument` says so.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from thinmaps.errors import BadArgument

LIBRARY = "libthinmaps_live_heap.so"
WARM_RUNS = 3


def library() -> Path:
    """The counting library, which lies beside the native core.

    Raises:
        BadArgument: it is not there.
    """
    from thinmaps import _core  # beside it

    found = Path(_core.__file__ or "").parent / LIBRARY
    if not found.is_file():
        raise BadArgument(f"the live heap is counted on Linux with {LIBRARY}, absent at {found}")
    return found


def count_in_process(program: str | Path, arguments: list[str]) -> int:
    """Run a module, or a script by its path, under the counter; it prints what it counted.

    Raises:
        BadArgument: the process failed; with the last line that it said.
    """
    environment = {**os.environ, "LD_PRELOAD": str(library()), "OMP_NUM_THREADS": "1"}
    chosen = [str(program)] if isinstance(program, Path) else ["-m", program]
    command = [sys.executable, *chosen, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise BadArgument(f"counting the heap of {arguments[0]} failed, it said: {said[-1]}")
    return int(json.loads(done.stdout.strip().splitlines()[-1]))


def peak_of(run: Callable[[], object]) -> int:
    """Peak of live bytes above what is live before, over one call of `run` after some warm ones.

    Only in a process that `count_in_process` has started.
    """
    counter = ctypes.CDLL(None)
    counter.thinmaps_live_heap_peak.restype = ctypes.c_int64
    for _ in range(WARM_RUNS):
        run()
    counter.thinmaps_live_heap_reset()
    run()
    return int(counter.thinmaps_live_heap_peak())
