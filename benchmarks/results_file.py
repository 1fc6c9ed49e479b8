# SPDX-License-Identifier: Apache-2.0
"""Results as JSON in benchmarks/results/, with what they depend on: machine, commit, versions."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sources import CHECKOUT

from thinmaps import _core
from thinmaps.measure.openvino_peer import installed
from thinmaps.measure.profile import machine_name

RESULTS = CHECKOUT / "benchmarks" / "results"


def provenance() -> dict[str, Any]:
    """The machine, its load, the commit and the versions."""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    packages = ("thinmaps", "numpy", "onnxruntime", "openvino", "nncf", "torch")
    return {
        "machine": machine_name(),
        "isa": _core.isa(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "date": datetime.date.today().isoformat(),
        "commit": done.stdout.strip(),
        "versions": {name: version(name) for name in packages if installed(name)},
    }


def results_file(what: str = "") -> Path:
    """Where this machine's results of today go."""
    machine = re.sub(r"[^a-z0-9]+", "-", machine_name().lower()).strip("-")
    return RESULTS / f"{machine}-{datetime.date.today().isoformat()}{what}.json"


def write(document: dict[str, Any], output: Path | None) -> None:
    """What is measured so far, with the load of now beside that of the start."""
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**document, "load_at_end": os.getloadavg()}, indent=2)
        output.write_text(text + "\n")
