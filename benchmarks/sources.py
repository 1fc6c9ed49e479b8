# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks run: four networks, calibrated once, planned for any size.

Ranges hardly change the time, so a few pictures calibrate. The ResNets have random weights.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from resnets import resnet18, resnet50

from thinmaps.calibrate.calibration import Calibration, calibrate
from thinmaps.calibrate.picture_set import network_values, open_pictures
from thinmaps.file import Model
from thinmaps.graph.onnx_reader import normalise, read_model
from thinmaps.plan.build import build
from thinmaps.types import Preprocessing

CHECKOUT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("THINMAPS_ASSETS", CHECKOUT.parent / "shared" / "assets"))
HALF = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BUILT = {"resnet18": resnet18, "resnet50": resnet50}
NETWORKS = ("squeezenet1_1", "mobilenet_v2", *BUILT)
SIZES = ((224, 224), (1088, 1920))
CALIBRATION_PICTURES = 4

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Planned:
    """A network at one size: ours, the float one, and the pictures as it takes them."""

    model: Model
    floats: onnx.ModelProto
    pictures: list[Array]


@dataclass(frozen=True)
class Source:
    """A float network, calibrated, ready to be planned for any size."""

    name: str
    model: onnx.ModelProto
    pictures: list[Array]
    calibration: Calibration
    preprocessing: Preprocessing

    @classmethod
    def open(cls, name: str, assets: Path) -> Source:
        """A network that is built, one of the assets, or a file."""
        file = file_of(name, assets)
        model = BUILT[name]() if name in BUILT else read_model(file)
        preprocessing = HALF if name == "mobilenet_v2" else Preprocessing()
        network, clean = normalise(model)
        pictures = some_pictures(assets)
        calibration = calibrate(clean, network, pictures, preprocessing)
        return cls(file.stem, model, pictures, calibration, preprocessing)

    def planned(self, size: tuple[int, int]) -> Planned:
        """The network at a size (height, width)."""
        network, floats = normalise(self.model, size)
        quantised = self.calibration.apply(network)
        model = Model(build(quantised), network.tail, self.preprocessing)
        shape = quantised.maps[quantised.inputs[0]].shape
        fitted = [
            network_values("picture", picture, shape, self.preprocessing)
            for picture in self.pictures
        ]
        return Planned(model, floats, fitted)


def sources(names: Sequence[str], assets: Path) -> Iterator[Source]:
    """The networks that are there; a sentence for each that is not."""
    for name in names:
        if name in BUILT or file_of(name, assets).is_file():
            yield Source.open(name, assets)
        else:
            print(f"skipped {name}: no {file_of(name, assets)}", file=sys.stderr)


def file_of(name: str, assets: Path) -> Path:
    """Where a network lies, if it is not built."""
    return Path(name) if name.endswith(".onnx") else assets / "models" / f"{name}.onnx"


def some_pictures(assets: Path) -> list[Array]:
    """Photographs, or noise where there are none."""
    folder = assets / "images" / "imagenet-sample" / "calibrate"
    if not folder.is_dir():
        shape = (CALIBRATION_PICTURES, 256, 256, 3)
        return list(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    return [picture for _, picture in open_pictures(folder).at_most(CALIBRATION_PICTURES).read()]


def size_of(text: str) -> tuple[int, int]:
    """`1088x1920` as (height, width)."""
    height, _, width = text.partition("x")
    return int(height), int(width)


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """What to measure, and how often."""
    parser.add_argument("--networks", nargs="*", default=NETWORKS, help="names, or ONNX files")
    parser.add_argument("--sizes", nargs="*", type=size_of, default=SIZES, metavar="HxW")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--rounds", type=int, default=9)
