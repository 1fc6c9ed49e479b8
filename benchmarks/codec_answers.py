# SPDX-License-Identifier: Apache-2.0
"""What codecs cost a detector and a segmenter: mAP, and pixels of the float network's class.

Calibrated on pictures that are not evaluated. Rate control gets a goal of traffic, a share of what
the uint8 network moves layer by layer, and chooses the codecs for it; of both networks the answers
are measured as `thinmaps eval` does. Ratios count every stored byte on the evaluation pictures,
over the maps that benchmarks/codecs.py takes.

    python benchmarks/codec_answers.py [network ...] [--assets FOLDER] [--shares S ...]
                                       [--codecs ID ...] [--calibration N]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accuracy import ASSETS

from thinmaps.calibrate.picture_set import network_values, open_pictures
from thinmaps.codecs.base import Codec
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
from thinmaps.rate_control import Scope, control
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
        )
        return cls(task, prepared, stored_maps(prepared.networks.own), assets)

    def controlled(self, share: float, codecs: tuple[str, ...]) -> Mapping[str, Codec]:
        """What rate control chooses for a share of the uint8 network's traffic."""
        network = self.prepared.networks.own
        traffic = report(build(network, schedule="layer")).moved_bytes
        found = control(
            self.prepared,
            Goals(traffic_bytes=int(share * traffic)),
            lambda chosen: build(network, codecs=chosen, schedule="layer"),
            Scope(codecs, self.names),
        )
        return found.plan.codecs

    def print_row(self, name: str, chosen: Mapping[str, Codec]) -> None:
        """Ratio and answers with these codecs."""
        network = self.prepared.networks.own
        plan = build(network, codecs=chosen, schedule="layer")
        stored = count(plan, self._pictures() if chosen else ()).encoded_bytes
        maps = network.maps
        raw = sum(maps[each].raw_bytes for each in self.names)
        plain = sum(maps[each].raw_bytes for each in self.names if each not in chosen)
        ratio = raw / (plain + sum(stored.values()))
        model = Model(plan, self.prepared.source.own_network.tail, self.task.preprocessing)
        print(f"{self.task.network:20} {name:16} {ratio:5.2f}x  {self._answers(model)}", flush=True)

    def _pictures(self) -> Iterator[np.ndarray]:
        network = self.prepared.networks.own
        shape = network.maps[network.inputs[0]].shape
        for name, picture in open_pictures(self.assets / self.task.images).read():
            yield network_values(name, picture, shape, self.task.preprocessing)

    def _answers(self, model: Model) -> str:
        task, assets = self.task, self.assets
        found = evaluation.evaluate(
            model,
            assets / task.images,
            assets / task.annotations if task.annotations else None,
            task=task.kind,
            reference=assets / "models" / f"{task.network}.onnx",
            anchors=assets / task.anchors if task.anchors else None,
        ).result
        if isinstance(found, Detections):
            return f"mAP {found.map50:.2f} of {found.float_map50:.2f}, drop {found.drop:+.2f}"
        assert isinstance(found, Segmentation)
        return f"{found.pixel_agreement:.2f} % of pixels agree, {found.pictures} pictures"


def main() -> int:
    """Print a line per network and share."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("networks", nargs="*", metavar="network")
    arguments.add_argument("--assets", type=Path, default=ASSETS)
    arguments.add_argument("--shares", nargs="+", type=float, default=[0.5], help="of the traffic")
    arguments.add_argument("--codecs", nargs="+", metavar="ID", default=["block_width", "rans"])
    arguments.add_argument("--calibration", type=int, default=100, help="pictures")
    options = arguments.parse_args()
    for task in TASKS:
        if options.networks and task.network not in options.networks:
            continue
        bench = Bench.of(task, options.assets, options.calibration)
        bench.print_row("uint8", {})
        for share in options.shares:
            try:
                chosen = bench.controlled(share, tuple(options.codecs))
            except PlanImpossible as refusal:
                print(f"{task.network}: {refusal}", file=sys.stderr)
                continue
            bench.print_row(f"traffic {share:.0%}", chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
