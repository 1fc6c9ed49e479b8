# SPDX-License-Identifier: Apache-2.0
"""The largest live heap of one warm run, counted in a process of its own, and its resident memory.

The process is started with `libthinmaps_live_heap.so` in LD_PRELOAD, which counts what malloc and
its kin, and anonymous mmap, hold. It loads the network, runs it a few times, resets the counter,
runs once more, and reports the peak above the reset. So weights, pictures and outputs, which exist
before, do not count; what a run allocates does. What an engine keeps between runs for its maps (our
arena) exists before too, and is added. Resident memory counts everything: the interpreter, the
libraries, weights and pictures.

Linux only, and of no use where the library is not installed: `BadArgument` says so.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinmaps.errors import BadArgument
from thinmaps.measure.child import said_by

LIBRARY = "libthinmaps_live_heap.so"
WARM_RUNS = 3


@dataclass(frozen=True)
class Memory:
    """What `bench` says of a process that runs a network: the largest live heap of a run, the most
    that was resident, and what was resident before it opened the model."""

    peak_bytes: int
    peak_rss_bytes: int
    imported_rss_bytes: int


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


def count_in_process(module: str, arguments: list[str]) -> Any:
    """Run a module under the counter; what it counted is JSON in its last line.

    Raises:
        BadArgument: the process failed; with the last line that it said.
    """
    return said_by(["-m", module, *arguments], {"LD_PRELOAD": str(library())})


def peak_of(run: Callable[[], object], warm_runs: int = WARM_RUNS, counted_runs: int = 1) -> int:
    """Peak of live bytes above what is live before, over some calls of `run` after warm ones.

    Only in a process that `count_in_process` has started.
    """
    counter = ctypes.CDLL(None)
    counter.thinmaps_live_heap_peak.restype = ctypes.c_int64
    for _ in range(warm_runs):
        run()
    counter.thinmaps_live_heap_reset()
    for _ in range(counted_runs):
        run()
    return int(counter.thinmaps_live_heap_peak())


def resident_bytes() -> int:
    """Memory of this process that is resident."""
    return _status_bytes("VmRSS")


def largest_resident_bytes() -> int:
    """The most that was, since this process started its program."""
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    """A figure that Linux keeps for this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])
