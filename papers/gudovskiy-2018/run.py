# SPDX-License-Identifier: Apache-2.0
"""Layers of bits on SqueezeNet's squeezed maps: Gudovskiy et al., 2018, beside ours.

Counts what every layout of the authors' files stores, honestly (all binary channels) and as the
files' names count (without the sign's plane). Measures what the layouts lose as they begin, without
training, on 200 evaluation pictures, and reads what training brought from `results/`; with --learn
the trainings run again (`trained.py`, minutes each; needs PyTorch).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evaluation import MODEL, PICTURES, PREPROCESSING, SIDE, evaluation_cases, figures_of
from figures import arguments_of, compare, expected

from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.codecs.gf2 import PRESETS, Gf2
from thinmaps.file import Model
from thinmaps.graph.network import Network
from thinmaps.plan.build import build
from thinmaps.prepared import Prepared
from thinmaps.types import MapSpec

KIB = 1024
QUICK_PICTURES = 200
CALIBRATION_PICTURES = 100
UNTRAINED = ("BIT6CH2", "BIT4CH2", "BIT8CH2_3x3s2", "BIT6CH2_3x3s2")
SQUEEZED_CHANNELS = 16
RESULTS = Path(__file__).parent / "results"


def layout(preset: str, spec: MapSpec) -> Gf2:
    """The layout as it begins, one unit per map."""
    empty = np.zeros((0, *spec.shape), np.uint8)
    return Gf2.fit(spec, empty, preset=preset, unit_rows=spec.height)


def counted() -> dict[str, float]:
    """What one treated map takes, in KiB."""
    spec = MapSpec(56, 56, SQUEEZED_CHANNELS)
    found = {"uint8, KiB of a map": spec.raw_bytes / KIB}
    for preset, made in PRESETS.items():
        if made.maps == ("fire2",) and made.restores:  # BIT8CH is a test, stored as it is
            stored = layout(preset, spec).unit_bytes(spec, spec.height)
            found[f"{preset}, KiB of a map"] = stored / KIB
            found[f"{preset}, ratio"] = spec.raw_bytes / stored
            named = stored * (made.keep - 1) / made.keep
            found[f"{preset}, ratio as the file's name counts"] = spec.raw_bytes / named
    return found


def squeezed(network: Network, fires: tuple[str, ...]) -> list[str]:
    """The treated maps: those of 16 channels and 56 rows, in order."""
    names = [
        name for name, spec in network.maps.items() if spec.shape == (56, 56, SQUEEZED_CHANNELS)
    ]
    assert len(names) == 2
    return names[: len(fires)]


def untrained(assets: Path) -> dict[str, float]:
    """Points that the layouts lose as they begin."""
    pictures = open_pictures(assets / PICTURES / "calibrate").at_most(CALIBRATION_PICTURES)
    prepared = Prepared.open(
        assets / MODEL, pictures, preprocessing=PREPROCESSING, size=(SIDE, SIDE)
    )
    network, tail = prepared.networks.planned, prepared.source.network.tail
    cases = evaluation_cases(assets, QUICK_PICTURES)
    found: dict[str, float] = {}
    for preset in ("", *UNTRAINED):
        fires = PRESETS[preset].maps if preset else ()
        codecs = {n: layout(preset, network.maps[n]) for n in squeezed(network, fires)}
        model = Model(build(network, codecs=codecs, schedule="layer"), tail, PREPROCESSING)
        for what, value in figures_of(model, cases).items():
            found[f"{preset or 'uint8'} as it begins, {what}"] = value
        print(f"measured {preset or 'uint8'}", flush=True)
    return found


def of_training(results: dict[str, Any]) -> dict[str, float]:
    """Figures of one file of results."""
    name = results["setting"]["name"]
    return {f"{name}, {what}": results[what] for what in ("drop %", "agreement %")}


def recorded() -> dict[str, float]:
    """What the trainings left in `results/`."""
    found: dict[str, float] = {}
    for path in sorted(RESULTS.glob("*.json")):
        found |= of_training(json.loads(path.read_text()))
    return found


def learnt(assets: Path, names: Sequence[str]) -> dict[str, float]:
    """The named trainings, or all, done again; their files of results are written anew."""
    from trained import SETTINGS, run

    cases = evaluation_cases(assets)
    found: dict[str, float] = {}
    for setting in SETTINGS:
        if not names or setting.name in names:
            found |= of_training(run(assets, setting, cases))
    return found


def main() -> int:
    """Count, measure, compare with what is expected."""
    arguments = arguments_of(__doc__ or "")
    arguments.add_argument(
        "--learn", nargs="*", metavar="NAME", help="train these, or all, instead; needs PyTorch"
    )
    options = arguments.parse_args()
    folder = Path(__file__).parent
    if options.learn is None:
        return compare(folder, counted() | untrained(options.assets) | recorded())
    found = learnt(options.assets, options.learn)
    return compare(folder, found, [each for each in expected(folder) if each.what in found])


if __name__ == "__main__":
    sys.exit(main())
