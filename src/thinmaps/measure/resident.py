# SPDX-License-Identifier: Apache-2.0
"""What a process takes that does nothing but load a network and run it once.

    python -m thinmaps.measure.resident MODEL.thin PICTURE.npy

prints the most bytes that it ever had resident: heap, mapped files and libraries, code, stacks
(`VmHWM` of proc(5), so Linux only). It loads the file and calls `run_into`, the leanest door. What
an interpreter takes that has imported NumPy and does nothing is no cost of ours: `growth` takes it
off. With the figures of `live_heap` it does not compare: those processes count and import more.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from thinmaps.errors import BadArgument

PROGRAM = "thinmaps.measure.resident"
_IDLE = """
import numpy
peak, = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024)
"""


def growth(*arguments: str | Path, program: str = PROGRAM) -> int:
    """Peak of a process above that of an idle one, in bytes.

    Both run twice and the second time counts: the first leaves compiled modules in a folder, as
    installed packages have them. To compile takes memory too.

    Raises:
        BadArgument: the process failed, or the system does not count peaks.
    """
    from tempfile import TemporaryDirectory

    from thinmaps.measure.child import said_by  # neither is for the child to import

    def peak(*told: str) -> int:
        return int([said_by(told, environment) for _ in range(2)][-1])

    with TemporaryDirectory(prefix="thinmaps-") as folder:
        environment = {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        return peak("-m", program, *map(str, arguments)) - peak("-c", _IDLE)


def run_once(model: str, picture: str) -> None:
    """Load a .thin file and run it on the array in a .npy file."""
    from thinmaps.file import load
    from thinmaps.run.engine import Engine

    engine = Engine(load(model).plan)
    specs = engine.output_specs.values()
    engine.run_into([np.load(picture)], [np.empty(spec.shape, spec.dtype) for spec in specs])


def peak_bytes() -> int:
    """The most that this process has had resident so far.

    Raises:
        BadArgument: the system does not count it.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        raise BadArgument("the peak of resident memory is read from /proc, which is absent here")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    run_once(*sys.argv[1:])
    print(peak_bytes())
