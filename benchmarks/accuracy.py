# SPDX-License-Identifier: Apache-2.0
"""Accuracy of float networks and of the uint8 networks that `compress` makes of them.

Prints per network and set of pictures: top-1 of both in percent, the drop in points with its paired
95 % interval, the agreement, and how long calibration took. Calibration sees training pictures only
(`compress` takes 80 % of them); no setting is chosen on the pictures that are evaluated here.

    python benchmarks/accuracy.py [network ...] [--assets FOLDER] [--every N]
                                  [--markdown]
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thinmaps import compress
from thinmaps.calibrate.picture_set import PictureSet, network_values, open_pictures
from thinmaps.measure.accuracy import Classification, classification, judge_class
from thinmaps.measure.answers import thin_answer
from thinmaps.measure.float_model import FloatModel
from thinmaps.types import Preprocessing

CHECKOUT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("THINMAPS_ASSETS", CHECKOUT.parent / "shared" / "assets"))
HALF = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class Task:
    """A network, what it is calibrated and evaluated on, and the drop it may have in points.

    `fused` are maps that no machine stores: a classifier's is fused with the mean behind it.
    """

    network: str
    preprocessing: Preprocessing
    calibration: str
    evaluation: tuple[str, ...]
    allowed_drop: float
    fused: tuple[str, ...] = ()


IMAGENET = ("imagenet-sample/eval_val", "imagenet-sample/eval_flickr")
CIFAR = ("cifar10/cifar10_jpeg_test.npz",)
CIFAR_TRAIN = "cifar10/cifar10_jpeg_train.npz"
TASKS = (
    Task(
        "squeezenet1_1",
        Preprocessing(),
        "imagenet-sample/calibrate",
        IMAGENET,
        0.5,
        fused=("relu_25",),
    ),
    Task("mobilenet_v2", HALF, "imagenet-sample/calibrate", IMAGENET, 1.0),
    Task("cifar10_resnet20_jpeg", Preprocessing(), CIFAR_TRAIN, CIFAR, 0.5),
    Task("cifar10_resnet56", Preprocessing(), CIFAR_TRAIN, CIFAR, 0.5),
)


def main() -> int:
    """Print the table; 1 where a drop is larger than allowed."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("networks", nargs="*", metavar="network")
    arguments.add_argument("--assets", type=Path, default=ASSETS)
    arguments.add_argument("--every", type=int, default=1, help="evaluate every Nth picture only")
    arguments.add_argument("--markdown", action="store_true", help="the README's table")
    options = arguments.parse_args()
    print_head(options.markdown)
    drops_kept = [
        report(task, options.assets, options.every, options.markdown)
        for task in TASKS
        if not options.networks or task.network in options.networks
    ]
    return 0 if all(drops_kept) else 1


def report(task: Task, assets: Path, every: int, markdown: bool) -> bool:
    """Calibrate and evaluate one network; whether its pooled drop is as allowed."""
    model = assets / "models" / f"{task.network}.onnx"
    started = time.monotonic()
    thin = compress(model, assets / "images" / task.calibration, preprocessing=task.preprocessing)
    seconds = time.monotonic() - started
    shape = thin.plan.source.maps[thin.plan.source.inputs[0]].shape
    ours = thin_answer(thin)
    theirs = FloatModel(model, task.preprocessing, shape[:2])
    pooled = []
    for evaluation in task.evaluation:
        verdicts = [
            judge_class(ours(fitted)[0], theirs(fitted)[0], label)
            for fitted, label in pictures(assets / "images" / evaluation, task, shape, every)
        ]
        pooled.extend(verdicts)
        if not markdown:
            print_row(task.network, evaluation, classification(verdicts))
    result = classification(pooled)
    if markdown:
        print_markdown_row(task.network, result)
    else:
        if len(task.evaluation) > 1:
            print_row(task.network, "pooled", result)
        print(f"{'':22} {'compressed in':>28} {seconds:.0f} s", flush=True)
    return result.drop is not None and result.drop <= task.allowed_drop


def pictures(
    path: Path, task: Task, shape: tuple[int, int, int], every: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Fitted pictures with their labels."""
    found, labels = labelled(path)
    chosen = found.at_most(-(-len(found) // every))
    for name, picture in chosen.read():
        yield network_values(name, picture, shape, task.preprocessing), labels[name]


def labelled(path: Path) -> tuple[PictureSet, dict[str, int]]:
    """A folder with a .csv beside it, or an .npz with `label`; labels by picture name."""
    if path.suffix == ".npz":
        found = open_pictures(path)
        with np.load(path) as arrays:
            return found, {str(at): int(label) for at, label in enumerate(arrays["label"])}
    with path.with_suffix(".csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    return open_pictures(path), {
        Path(row["filename"]).name: int(row["class_index"]) for row in rows
    }


def print_head(markdown: bool) -> None:
    """What the columns are."""
    if markdown:
        print("| network | float top-1 | uint8 top-1 | drop | agreement |\n|---|---|---|---|---|")
    else:
        print(
            f"{'network':22} {'pictures':>28} {'float':>6} {'uint8':>6} {'drop':>6}  95 % interval"
        )


def print_markdown_row(network: str, found: Classification) -> None:
    """One row of the README, of all pictures together."""
    low, high = found.drop_interval or (float("nan"), float("nan"))
    print(
        f"| {network} | {found.float_top1:.2f} % | {found.top1:.2f} % | {found.drop:.2f} "
        f"({low:.2f} to {high:.2f}) | {found.agreement:.2f} % |",
        flush=True,
    )


def print_row(network: str, pictures: str, found: Classification) -> None:
    """One line of the table."""
    low, high = found.drop_interval or (float("nan"), float("nan"))
    print(
        f"{network:22} {pictures:>28} {found.float_top1:6.2f} {found.top1:6.2f} {found.drop:6.2f}  "
        f"{low:.2f} .. {high:.2f}, agreement {found.agreement:.2f} on {found.pictures}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
