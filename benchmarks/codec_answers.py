# SPDX-License-Identifier: Apache-2.0
"""What codecs cost a detector and a segmenter: mAP, and pixels of the float network's class.

Calibrated on pictures without labels that are not evaluated. Rate control gets a goal, points of
drop or a share of what the uint8 network moves layer by layer, and chooses the settings of each
codec for it; of both networks the answers are measured as `thinmaps eval` does. Ratios count every
stored byte on the evaluation pictures, over the maps that benchmarks/codecs.py takes.

    python benchmarks/codec_answers.py [network ...] [--assets FOLDER] [--drops P ...]
                                       [--shares S ...] [--codecs ID ...] [--calibration N]
                                       [--output FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accuracy import ASSETS

from thinmaps.calibrate.picture_set import network_values, open_pictures
from thinmaps.errors import PlanImpossible
from thinmaps.file import Model
from thinmaps.judge import Goals
from thinmaps.measure import evaluate as evaluation
from thinmaps.measure.accuracy import Detections, Segmentation
from thinmaps.measure.counting import count
from thinmaps.measure.map_profile import stored_maps
from thinmaps.measure.report import report
from thinmaps.plan.build import build
from thinmaps.prepared import Prepared
from thinmaps.rate_control import Controlled, Scope, control
from thinmaps.types import Preprocessing

BY_255 = 255.0


@dataclass(frozen=True)
class Task:
    """A network, its input, and where its pictures and annotations are."""

    network: str
    kind: evaluation.Task
    preprocessing: Preprocessing
    images: str
    annotations: str | None = None
    anchors: str | None = None


TASKS = (
    Task(
        "yolo_fastest_xl_voc",
        "detect",
        Preprocessing((0, 0, 0), (1, 1, 1), fit="stretch"),
        "images/voc-sample/JPEGImages",
        "images/voc-sample/Annotations",
        "weights/yolo_fastest_xl_voc.cfg",
    ),
    Task(
        "espnet_cityscapes",
        "segment",
        Preprocessing(
            (72.39 / BY_255, 82.91 / BY_255, 73.16 / BY_255),
            (45.32, 46.15, 44.91),
            order="bgr",
            fit="stretch",
        ),
        "images/highres",
    ),
)
CALIBRATION = "images/imagenet-sample/calibrate"


@dataclass(frozen=True, eq=False)
class Bench:
    """A calibrated network and its evaluation pictures."""

    task: Task
    prepared: Prepared
    names: tuple[str, ...]
    assets: Path

    @classmethod
    def of(cls, task: Task, assets: Path, calibration_pictures: int) -> Bench:
        """Calibrate."""
        prepared = Prepared.open(
            assets / "models" / f"{task.network}.onnx",
            open_pictures(assets / CALIBRATION).at_most(calibration_pictures),
            preprocessing=task.preprocessing,
            anchors=assets / task.anchors if task.anchors else None,
        )
        return cls(task, prepared, stored_maps(prepared.networks.own), assets)

    def goals(self, drops: Sequence[float], shares: Sequence[float]) -> Iterator[tuple[str, Goals]]:
        """Goals with a name each."""
        traffic = report(build(self.prepared.networks.own, schedule="layer")).moved_bytes
        yield from ((f"drop {points:g}", Goals(max_drop=points)) for points in drops)
        for share in shares:
            yield f"traffic {share:.0%}", Goals(traffic_bytes=int(share * traffic))

    def controlled(self, goals: Goals, codec: str) -> Controlled:
        """What rate control finds."""
        network = self.prepared.networks.own
        return control(
            self.prepared,
            goals,
            lambda chosen: build(network, codecs=chosen, schedule="layer"),
            Scope((codec,), self.names),
        )

    def measure(self, codec: str, goal: str, found: Controlled | None) -> Row:
        """Ratio and answers with these codecs."""
        network = self.prepared.networks.own
        chosen = found.plan.codecs if found else {}
        plan = build(network, codecs=chosen, schedule="layer")
        stored = count(plan, self._pictures() if chosen else ()).encoded_bytes
        maps = network.maps
        raw = sum(maps[each].raw_bytes for each in self.names)
        plain = sum(maps[each].raw_bytes for each in self.names if each not in chosen)
        model = Model(plan, self.prepared.source.own_network.tail, self.task.preprocessing)
        return Row(
            self.task.network,
            codec,
            goal,
            raw / (plain + sum(stored.values())),
            self._answers(model),
            found.drop if found else None,
            found.notes if found else (),
        )

    def _pictures(self) -> Iterator[np.ndarray]:
        network = self.prepared.networks.own
        shape = network.maps[network.inputs[0]].shape
        for name, picture in open_pictures(self.assets / self.task.images).read():
            yield network_values(name, picture, shape, self.task.preprocessing)

    def _answers(self, model: Model) -> Detections | Segmentation:
        task, assets = self.task, self.assets
        found = evaluation.evaluate(
            model,
            assets / task.images,
            assets / task.annotations if task.annotations else None,
            task=task.kind,
            reference=assets / "models" / f"{task.network}.onnx",
            anchors=assets / task.anchors if task.anchors else None,
        ).result
        assert isinstance(found, Detections | Segmentation)
        return found


@dataclass(frozen=True)
class Row:
    """What was chosen for a goal on calibration pictures, and what it is worth on others."""

    network: str
    codec: str
    goal: str
    ratio: float
    answers: Detections | Segmentation
    expected_drop: float | None
    notes: tuple[str, ...]

    def print(self) -> None:
        """One line."""
        found = self.answers
        if isinstance(found, Detections):
            low, high = found.drop_interval or (0.0, 0.0)
            said = (
                f"mAP {found.map50:.2f} of {found.float_map50:.2f}, drop {found.drop:+.2f} "
                f"({low:+.2f} to {high:+.2f})"
            )
        else:
            said = f"{found.pixel_agreement:.2f} % of pixels agree, {found.pictures} pictures"
        where = f"{self.network:20} {self.codec:12} {self.goal:12}"
        print(f"{where} {self.ratio:5.2f}x  {said}", flush=True)


def rows_of(bench: Bench, options: argparse.Namespace) -> Iterator[Row]:
    """The uint8 network, and every codec within every goal; refusals go to standard error."""
    yield bench.measure("uint8", "", None)
    for codec in options.codecs:
        for name, goals in bench.goals(options.drops, options.shares):
            try:
                found = bench.controlled(goals, codec)
            except PlanImpossible as refusal:
                print(f"{bench.task.network}, {codec}, {name}: {refusal}", file=sys.stderr)
                continue
            yield bench.measure(codec, name, found)


def main() -> int:
    """Print a line per network, codec and goal."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("networks", nargs="*", metavar="network")
    arguments.add_argument("--assets", type=Path, default=ASSETS)
    arguments.add_argument("--drops", nargs="*", type=float, default=[1.0], help="points")
    arguments.add_argument("--shares", nargs="*", type=float, default=[], help="of the traffic")
    arguments.add_argument(
        "--codecs", nargs="+", metavar="ID", default=["block_width", "rans", "mixed_width"]
    )
    arguments.add_argument("--calibration", type=int, default=100, help="pictures")
    arguments.add_argument("--output", type=Path, metavar="FILE", help="all rows, as JSON")
    options = arguments.parse_args()
    rows = []
    for task in TASKS:
        if options.networks and task.network not in options.networks:
            continue
        bench = Bench.of(task, options.assets, options.calibration)
        for row in rows_of(bench, options):
            row.print()
            rows.append({**dataclasses.asdict(row), "calibration_pictures": options.calibration})
            if options.output:
                options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
