# SPDX-License-Identifier: Apache-2.0
"""SqueezeNet 1.1 learns to live with layers of bits: distilled from itself, without labels.

The student is the uint8 network with a `gf2` codec on squeezed maps; the float network teaches it
on random windows of the calibration pictures (400 of the 500 to learn from, 100 to choose settings
on). Codecs stay as they begin, the network's weights learn, gradients pass the codecs straight
through: learning the codecs' own weights by the surrogate's gradients made them worse at every rate
that moved them (README).

Each run leaves a JSON file in `results/`: the setting, seeds and time, and what came out. The
evaluation pictures are read once, when the run is over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluation import MODEL, PICTURES, PREPROCESSING, SIDE, evaluation_cases, figures_of
from figures import Case
from safetensors.torch import load_file
from squeezenet import SQUEEZED, SqueezeNet
from start import KINDS, fitted

import thinmaps.learn as tl
from thinmaps.calibrate.picture_set import PictureSet, network_values, open_pictures
from thinmaps.codecs.bit_layers import BitLayer
from thinmaps.codecs.gf2 import PRESETS, Gf2
from thinmaps.file import Model
from thinmaps.learn.preparation import float_pictures
from thinmaps.measure.float_model import FloatModel
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine
from thinmaps.types import MapSpec

WEIGHTS = "weights/squeezenet1_1.safetensors"
RESULTS = Path(__file__).parent / "results"
CALIBRATION_PICTURES = 100
STORED_SIDE = 256  # of the calibration pictures


@dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        name: of its file of results.
        preset: the layout; its planes are stored, or as many bits per channel and block.
        maps: the fire modules whose squeezed maps are treated.
        start: "identity", or of `start.py` (windows of 3 x 3 only) "mean", "pixels", or
            "thresholds", whichever is better for a channel.
        steps, batch, side, rate, seed: of the training.
    """

    name: str
    preset: str
    maps: tuple[str, ...]
    start: str = "identity"
    steps: int = 0
    batch: int = 16
    side: int = 131
    rate: float = 1e-4
    seed: int = 1


TWO = ("fire2", "fire3")
SETTINGS = (
    Setting("BIT6CH2_3x3s2 learnt", "BIT6CH2_3x3s2", TWO, steps=500),
    Setting("7 bits of thresholds learnt", "BIT6CH2_3x3s2", TWO, "pixels", steps=500),
    Setting("BIT8CH2_3x3s2 learnt", "BIT8CH2_3x3s2", TWO, steps=500),
    Setting("9 bits of thresholds learnt", "BIT8CH2_3x3s2", TWO, "pixels", steps=500),
    Setting("BIT6CH2_3x3s2 on all squeezed maps learnt", "BIT6CH2_3x3s2", (*SQUEEZED,), steps=500),
)


def float_network(assets: Path) -> SqueezeNet:
    """The network with its weights."""
    network = SqueezeNet()
    network.load_state_dict(load_file(assets / WEIGHTS))
    return network.eval()


def codecs_of(bare: tl.Student, setting: Setting, pictures: PictureSet) -> dict[str, Gf2]:
    """A codec for each treated map."""
    network, names = bare.network(), [SQUEEZED[fire] for fire in setting.maps]
    specs = {name: network.maps[name] for name in names}
    if setting.start == "identity":
        return {name: identity(spec, setting.preset) for name, spec in specs.items()}
    engine = Engine(build(network.ending_in(names), schedule="layer"))
    shape = (SIDE, SIDE, 3)
    seen = [engine.maps(values) for values in float_pictures(pictures, shape, PREPROCESSING)]
    bits = PRESETS[setting.preset].keep
    kinds = KINDS if setting.start == "thresholds" else (setting.start,)
    return {
        n: fitted(spec, np.stack([maps[n] for maps in seen]), bits, kinds)
        for n, spec in specs.items()
    }


def identity(spec: MapSpec, preset: str) -> Gf2:
    """The preset as it begins, as layers of one group per channel: the same code, sooner done."""
    one = replace(spec, channels=1)
    empty = np.zeros((0, *one.shape), np.uint8)
    made = Gf2.fit(one, empty, preset=preset, unit_rows=spec.height)
    project, restore = (
        tuple(
            BitLayer(
                spec.channels,
                np.tile(layer.weights, (spec.channels, 1, 1, 1)),
                np.tile(layer.threshold, spec.channels),
            )
            for layer in layers
        )
        for layers in (made.project, made.restore)
    )
    return replace(made, groups=spec.channels, project=project, restore=restore)


def student_of(network: SqueezeNet, setting: Setting, pictures: PictureSet) -> tl.Student:
    """The student, its codecs fixed."""
    example = torch.zeros(1, 3, SIDE, SIDE)
    few = pictures.at_most(CALIBRATION_PICTURES)
    made = tl.prepare(network, example, calibrate=few, preprocessing=PREPROCESSING)
    codecs = codecs_of(made, setting, few.fitting())
    student = tl.prepare(
        network, example, calibrate=few, codecs=codecs, preprocessing=PREPROCESSING
    )
    for name in codecs:
        student.surrogate(name).requires_grad_(False)
    return student


def trained(network: SqueezeNet, setting: Setting, pictures: PictureSet) -> tl.Student:
    """The student after its steps."""
    torch.manual_seed(setting.seed)
    student = student_of(network, setting, pictures)
    if not setting.steps:
        return student
    loader = tl.PictureLoader(
        pictures.fitting(), setting.batch, (STORED_SIDE, STORED_SIDE), PREPROCESSING
    )
    options = tl.TrainingOptions(
        network_rate=setting.rate,
        augment=tl.InTurn(tl.RandomWindow(setting.side), tl.RandomFlip()),
        exact_from=1.0,  # rounding is straight through as it is; exact steps take twice the time
        average_decay=0.98,
        seed=setting.seed,
    )
    losses = tl.DistillationLosses(maps=["features.5"], logit_weight=0.1)
    tl.distill(student, network, loader, steps=setting.steps, losses=losses, options=options)
    return student


def model_of(student: tl.Student) -> Model:
    """The student as it would run, layer by layer."""
    plan = build(student.network(), codecs=student.codecs(), schedule="layer")
    return Model(plan, student.tail())


def held_out_cases(assets: Path, pictures: PictureSet) -> list[Case]:
    """Calibration pictures that nothing learns from, without classes."""
    exact = FloatModel(assets / MODEL, PREPROCESSING, (SIDE, SIDE))
    found = []
    for name, picture in pictures.held_out().read():
        values = network_values(name, picture, (SIDE, SIDE, 3), PREPROCESSING)
        scores = exact(values)[0]
        found.append(Case(values, int(scores.argmax()), scores))
    return found


def stored_bytes(codecs: Mapping[str, Gf2], student: tl.Student) -> dict[str, int]:
    """What the treated maps take."""
    maps = student.network().maps
    return {name: each.unit_bytes(maps[name], maps[name].height) for name, each in codecs.items()}


def run(assets: Path, setting: Setting, cases: Sequence[Case] | None = None) -> dict[str, Any]:
    """Learn, judge, and leave the file of results."""
    torch.set_num_threads(1)
    began = time.process_time()
    pictures = open_pictures(assets / PICTURES / "calibrate")
    student = trained(float_network(assets), setting, pictures)
    seconds = time.process_time() - began
    model = model_of(student)
    held_out = figures_of(model, held_out_cases(assets, pictures))
    found = {
        "setting": asdict(setting),
        "cpu_seconds": round(seconds),
        "stored_bytes": stored_bytes(student.codecs(), student),
        "held-out agreement %": held_out["agreement %"],
        **figures_of(model, cases if cases is not None else evaluation_cases(assets)),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{setting.name.replace(' ', '_')}.json").write_text(
        json.dumps(found, indent=2) + "\n"
    )
    return found
