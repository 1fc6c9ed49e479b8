# SPDX-License-Identifier: Apache-2.0
"""Figures of a paper as data: what was published, what we measured, how far a run may be from it.

`expected.toml` has one table `[[figure]]` per figure:

    what        what the figure is, in words
    published   the paper's figure; left out where it has none for this network
    where       where it is printed
    ours        ours, as measured last
    tolerance   how far a new run may be from it
    option      the option of run.py that measures it; left out where every run does
"""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thinmaps.calibrate.picture_set import network_values
from thinmaps.measure.accuracy import classification, judge_class
from thinmaps.measure.truths import labelled_pictures
from thinmaps.types import Preprocessing

CHECKOUT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("THINMAPS_ASSETS", CHECKOUT.parent / "shared" / "assets"))
HALF = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = "images/imagenet-sample/calibrate"

# Network -> its preprocessing and the pictures that its maps are taken from.
NETWORKS: Mapping[str, tuple[Preprocessing, str]] = {
    "squeezenet1_1": (Preprocessing(), IMAGENET),
    "mobilenet_v2": (HALF, IMAGENET),
    "cifar10_resnet20_jpeg": (Preprocessing(), "images/cifar10/cifar10_jpeg_train.npz"),
}
# Network -> pictures and labels to report on, which nothing is fitted or chosen on.
IMAGENET_EVALUATION = ("images/imagenet-sample", "images/imagenet-sample/eval_val.csv")
EVALUATION: Mapping[str, tuple[str, str | None]] = {
    "squeezenet1_1": IMAGENET_EVALUATION,
    "mobilenet_v2": IMAGENET_EVALUATION,
    "cifar10_resnet20_jpeg": ("images/cifar10/cifar10_jpeg_test.npz", None),
}

Scores = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Case:
    """A picture at the network's size, its class, and what the float network says of it."""

    picture: NDArray[np.uint8]
    label: int
    scores: NDArray[np.float32]


def cases(
    assets: Path, network: str, size: tuple[int, int], at_most: int, exact: Scores
) -> list[Case]:
    """Evaluation pictures, evenly spread."""
    folder, labels = EVALUATION[network]
    found, classes = labelled_pictures(assets / folder, labels and assets / labels)
    assert classes is not None
    chosen, preprocessing = found.at_most(at_most), NETWORKS[network][0]
    cases = []
    for index, (name, picture) in zip(chosen.indices, chosen.read(), strict=True):
        fitted = network_values(name, picture, (*size, 3), preprocessing)
        cases.append(Case(fitted, classes[index], exact(fitted)))
    return cases


def judged(cases: Sequence[Case], answers: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    """Top-1 and agreement with the float network, in percent."""
    found = classification(
        [
            judge_class(ours, case.scores, case.label)
            for case, ours in zip(cases, answers, strict=True)
        ]
    )
    assert found.top1 is not None
    assert found.agreement is not None
    return {"top-1 %": found.top1, "agreement %": found.agreement}


@dataclass(frozen=True)
class Figure:
    """One line of `expected.toml`."""

    what: str
    ours: float
    tolerance: float
    published: float | None = None
    where: str = ""
    option: str = ""


def assets_from_arguments(document: str) -> Path:
    """The folder of networks and pictures, from the command line."""
    folder: Path = arguments_of(document).parse_args().assets
    return folder


def arguments_of(document: str, *, networks: bool = False) -> argparse.ArgumentParser:
    """What every run.py takes, and which networks it is to measure."""
    arguments = argparse.ArgumentParser(description=document.splitlines()[0])
    arguments.add_argument("--assets", type=Path, default=ASSETS)
    if networks:
        arguments.add_argument("networks", nargs="*", metavar="network", default=[*NETWORKS])
    return arguments


def expected(folder: Path) -> list[Figure]:
    """The figures of a paper's folder."""
    with (folder / "expected.toml").open("rb") as stream:
        return [Figure(**each) for each in tomllib.load(stream)["figure"]]


def of_run(
    figures: Sequence[Figure], networks: Collection[str], options: Collection[str] = ()
) -> list[Figure]:
    """Those that a run of these networks with these options measures.

    A figure without an option begins with the name of its network.
    """
    return [
        each
        for each in figures
        if each.option in options or (not each.option and each.what.split(":")[0] in networks)
    ]


def compare(
    folder: Path, measured: Mapping[str, float], figures: Sequence[Figure] | None = None
) -> int:
    """Print every figure beside what was measured now; 1 where one has moved or is missing.

    `figures` are those that were to be measured, all of the folder's unless said otherwise.
    """
    figures = expected(folder) if figures is None else figures
    moved = 0
    print(f"{'':58} {'published':>9} {'ours':>7} {'now':>7}")
    for figure in figures:
        now = measured.get(figure.what)
        published = "-" if figure.published is None else f"{figure.published:.2f}"
        holds = now is not None and abs(now - figure.ours) <= figure.tolerance
        mark = "" if holds else "  moved" if now is not None else "  not measured"
        shown = "-" if now is None else f"{now:.2f}"
        print(f"{figure.what:58} {published:>9} {figure.ours:>7.2f} {shown:>7}{mark}")
        moved += not holds
    for what in measured.keys() - {figure.what for figure in figures}:
        print(f"{what:58} {'':>9} {'':>7} {measured[what]:>7.2f}  not in expected.toml")
        moved += 1
    return int(moved > 0)
