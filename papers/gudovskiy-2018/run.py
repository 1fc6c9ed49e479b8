# SPDX-License-Identifier: Apache-2.0
"""Layers of bits on maps of few channels: Gudovskiy et al., 2018, beside ours.

Counts what every layout of the authors' files stores, honestly (all binary channels) and as the
files' names count (without the sign's plane). Measures what the layouts lose as they begin, without
training, on 200 evaluation pictures of ImageNet or all of VOC's sample, and reads what training
brought from `results/`; with --learn the trainings run again (`trained.py`, minutes each; needs
PyTorch).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evaluation import CALIBRATION, judge_of
from figures import arguments_of, compare, expected
from networks import SQUEEZENET, SUBJECTS, Subject
from start import identity

from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.codecs.gf2 import PRESETS, Gf2
from thinmaps.file import Model
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
    """What one treated map of the authors' network takes, and both of every network, in KiB."""
    spec = MapSpec(56, 56, SQUEEZED_CHANNELS)
    found = {"uint8, KiB of a map": spec.raw_bytes / KIB}
    for preset, made in PRESETS.items():
        if made.maps == ("fire2",) and made.restores:  # BIT8CH is a test, stored as it is
            stored = layout(preset, spec).unit_bytes(spec, spec.height)
            found[f"{preset}, KiB of a map"] = stored / KIB
            found[f"{preset}, ratio"] = spec.raw_bytes / stored
            named = _as_named(preset, stored)
            found[f"{preset}, ratio as the file's name counts"] = spec.raw_bytes / named
    for subject in SUBJECTS.values():
        for preset in UNTRAINED:
            specs = [MapSpec(*shape) for shape in subject.shapes]
            stored = sum(identity(each, preset).max_bytes(each) for each in specs)
            what = f"{subject.prefix}{preset}, KiB of both maps"
            found[what] = stored / KIB
            found[f"{what} as the file's name counts"] = _as_named(preset, stored) / KIB
    return found


def _as_named(preset: str, stored: int) -> float:
    """Bytes without the sign's plane, which the files' names leave out."""
    keep = PRESETS[preset].keep
    return stored * (keep - 1) / keep


def untrained(assets: Path, subject: Subject) -> dict[str, float]:
    """What the layouts lose as they begin, on both treated maps."""
    pictures = open_pictures(assets / CALIBRATION).at_most(CALIBRATION_PICTURES)
    prepared = Prepared.open(
        assets / subject.model,
        pictures,
        preprocessing=subject.preprocessing,
        size=(subject.side, subject.side),
    )
    network, tail = prepared.networks.planned, prepared.source.network.tail
    judge = judge_of(assets, subject, QUICK_PICTURES)
    found: dict[str, float] = {}
    for preset in ("", *UNTRAINED):
        maps = {name: network.maps[name] for name in subject.maps if preset}
        codecs = {name: identity(spec, preset) for name, spec in maps.items()}
        model = Model(build(network, codecs=codecs, schedule="layer"), tail, subject.preprocessing)
        what = f"{subject.prefix}{preset or 'uint8'} as it begins"
        found |= {f"{what}, {each}": value for each, value in judge(model).items()}
        print(f"measured {what}", flush=True)
    return found


def of_training(results: dict[str, Any]) -> dict[str, float]:
    """Figures of one file of results."""
    name = results["setting"]["name"]
    judged = ("drop %", "agreement %", "mAP %")
    return {f"{name}, {what}": results[what] for what in judged if what in results}


def recorded() -> dict[str, float]:
    """What the trainings left in `results/`."""
    found: dict[str, float] = {}
    for path in sorted(RESULTS.glob("*.json")):
        found |= of_training(json.loads(path.read_text()))
    return found


def learnt(assets: Path, names: Sequence[str]) -> dict[str, float]:
    """The named trainings, or all, done again; their files of results are written anew."""
    from trained import SETTINGS, run

    found: dict[str, float] = {}
    for setting in SETTINGS:
        if not names or setting.name in names:
            found |= of_training(run(assets, setting))
    return found


def main() -> int:
    """Count, measure, compare with what is expected."""
    arguments = arguments_of(__doc__ or "")
    arguments.add_argument(
        "networks",
        nargs="*",
        metavar="network",
        help=f"whose layouts are measured as they begin, of {', '.join(SUBJECTS)}; the first",
    )
    arguments.add_argument(
        "--learn", nargs="*", metavar="NAME", help="train these, or all, instead; needs PyTorch"
    )
    options = arguments.parse_args()
    folder = Path(__file__).parent
    if options.learn is not None:
        found = learnt(options.assets, options.learn)
        return compare(folder, found, [each for each in expected(folder) if each.what in found])
    found = counted() | recorded()
    for network in options.networks or [SQUEEZENET.network]:
        found |= untrained(options.assets, SUBJECTS[network])
    asked = [
        each
        for each in expected(folder)
        if each.what in found or " as it begins, " not in each.what
    ]
    return compare(folder, found, asked)


if __name__ == "__main__":
    sys.exit(main())
