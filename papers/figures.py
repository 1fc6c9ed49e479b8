# SPDX-License-Identifier: Apache-2.0
"""Figures of a paper as data: what was published, what we measured, how far a run may be from it.

`expected.toml` has one table `[[figure]]` per figure:

    what        what the figure is, in words
    published   the paper's figure; left out where it has none for this network
    where       where it is printed
    ours        ours, as measured last
    tolerance   how far a new run may be from it
"""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Figure:
    """One line of `expected.toml`."""

    what: str
    ours: float
    tolerance: float
    published: float | None = None
    where: str = ""


def assets_from_arguments(document: str) -> Path:
    """The folder of networks and pictures, from the command line."""
    arguments = argparse.ArgumentParser(description=document.splitlines()[0])
    arguments.add_argument("--assets", type=Path, default=ASSETS)
    folder: Path = arguments.parse_args().assets
    return folder


def expected(folder: Path) -> list[Figure]:
    """The figures of a paper's folder."""
    with (folder / "expected.toml").open("rb") as stream:
        return [Figure(**each) for each in tomllib.load(stream)["figure"]]


def compare(folder: Path, measured: Mapping[str, float]) -> int:
    """Print every figure beside what was measured now; 1 where one has moved or is missing."""
    figures = expected(folder)
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
