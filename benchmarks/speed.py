# SPDX-License-Identifier: Apache-2.0
"""Time and live heap of one inference beside ONNX Runtime on the exported file, one thread each.

Each result is verified before it is timed: the share of final-map elements within one step of the
peer's, and the largest difference, stand in the table. Medians of interleaved rounds with their
quartiles. Ranges hardly change the time, so a few pictures calibrate.

    python benchmarks/speed.py [network ...] [--assets FOLDER] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from thinmaps import compress
from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.measure.bench import bench
from thinmaps.measure.comparison import Comparison
from thinmaps.measure.words import bytes_in_words
from thinmaps.types import Preprocessing

CHECKOUT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("THINMAPS_ASSETS", CHECKOUT.parent / "shared" / "assets"))
CALIBRATION_PICTURES = 5
HALF = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class Row:
    """A network of the table, its size where it is not the file's, how pictures reach it."""

    file: str
    size: tuple[int, int] | None = None
    preprocessing: Preprocessing | None = None

    @property
    def name(self) -> str:
        """The network, and its size where it is chosen here."""
        return self.file if self.size is None else f"{self.file} {self.size[0]}x{self.size[1]}"


TABLE = (
    Row("squeezenet1_1", (224, 224)),
    Row("mobilenet_v2", None, HALF),
    Row("cifar10_resnet20"),
    Row("cifar10_resnet56"),
    Row("squeezenet1_1", (1088, 1920)),
)


def measure(row: Row, assets: Path, rounds: int) -> Comparison:
    """Compress and compare one network."""
    pictures = open_pictures(assets / "images" / "imagenet-sample" / "calibrate")
    few = [picture for _, picture in pictures.at_most(CALIBRATION_PICTURES).read()]
    model = compress(
        assets / "models" / f"{row.file}.onnx", few, preprocessing=row.preprocessing, size=row.size
    )
    return bench(model, few[0], rounds=rounds)


def provenance() -> dict[str, str]:
    """The machine and the commit."""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"machine": platform.processor() or platform.machine(), "commit": done.stdout.strip()}


def main() -> int:
    """Print the table, a line as soon as it is measured, or JSON."""
    parser = argparse.ArgumentParser(description="Time and memory beside ONNX Runtime.")
    parser.add_argument("networks", nargs="*", help="names of networks; all without")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.assets.is_dir():
        print(f"no networks at {options.assets}; give a folder with --assets", file=sys.stderr)
        return 2
    rows = [row for row in TABLE if not options.networks or row.file in options.networks]
    results = {}
    if not options.json:
        print("| network | thinmaps | ONNX Runtime | memory ratio | time ratio | within a step |")
        print("|---|---|---|---|---|---|")
    for row in rows:
        found = measure(row, options.assets, options.rounds)
        results[row.name] = found.to_json()
        if not options.json:
            print(_line(row, found), flush=True)
    if options.json:
        print(json.dumps({**provenance(), "networks": results}, indent=2))
    return 0


def _line(row: Row, found: Comparison) -> str:
    """One row in Markdown."""
    sides = " | ".join(
        f"{side.ms:.1f} ms ({side.ms_low:.1f} to {side.ms_high:.1f}), "
        f"{bytes_in_words(side.peak_bytes)}"
        for side in (found.ours, found.peer)
    )
    return (
        f"| {row.name} | {sides} | {found.memory_ratio:.4f} | {found.time_ratio:.2f} "
        f"| {100 * found.equal_fraction:.3f} % |"
    )


if __name__ == "__main__":
    sys.exit(main())
