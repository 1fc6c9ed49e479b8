# SPDX-License-Identifier: Apache-2.0
"""Runs a .thin file from a file of pixel rows into another: neither picture is ever in memory.

    python stream_rows.py MODEL.thin ROWS_IN ROWS_OUT

Rows are raw bytes, (width, channels) after (width, channels), top to bottom. Prints one line of
JSON: bytes of the arena and of the picture; resident bytes at their peak, and how much of that came
after the file was loaded (Linux only); seconds of CPU and of the clock.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from numpy.typing import NDArray

from thinmaps import Engine, load

PROCESS = Path("/proc/self")


def rows_of(path: Path, width: int, channels: int) -> Iterator[NDArray[np.uint8]]:
    """Rows of a file, read one by one."""
    with path.open("rb") as file:
        while row := file.read(width * channels):
            yield np.frombuffer(row, np.uint8).reshape(width, channels)


def start_new_peak() -> None:
    """The peak counts from here."""
    if PROCESS.exists():
        (PROCESS / "clear_refs").write_text("5")


def resident_peak_bytes() -> int:
    """The most that this process has had resident since `start_new_peak`; 0 where unknown."""
    if not PROCESS.exists():
        return 0
    lines = (PROCESS / "status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peak) * 1024


def stream(model: Path, source: Path, target: Path) -> dict[str, float]:
    """Run it; returns what it cost."""
    loaded = load(model)
    start_new_peak()
    before = resident_peak_bytes()
    engine = Engine(loaded)
    ((height, width, channels),) = [spec.shape for spec in engine.native.input_specs.values()]
    clock, cpu = perf_counter(), process_time()
    with target.open("wb") as file:
        for row in engine.rows(rows_of(source, width, channels)):
            file.write(row.tobytes())
    return {
        "arena_bytes": engine.arena_bytes,
        "picture_bytes": height * width * channels,
        "resident_peak_bytes": resident_peak_bytes(),
        "resident_growth_bytes": resident_peak_bytes() - before,
        "cpu_seconds": process_time() - cpu,
        "seconds": perf_counter() - clock,
    }


if __name__ == "__main__":
    print(json.dumps(stream(*map(Path, sys.argv[1:4]))))
