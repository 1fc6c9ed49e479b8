# SPDX-License-Identifier: Apache-2.0
"""Networks learn to live with layers of bits: distilled from themselves, without labels.

The student is the uint8 network with a `gf2` codec on treated maps; the float network teaches it
on random windows of the calibration pictures (400 of the 500 to learn from, 100 to choose settings
on). Codecs stay as they begin, the network's weights learn, gradients pass the codecs straight
through: learning the codecs' own weights by the surrogate's gradients made them worse at every rate
that moved them (README). A detector learns outputs and a map, since its outputs are no classes.

Each run leaves a JSON file in `results/`: the setting, seeds and time, and what came out. The
evaluation pictures are read once, when the run is over.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluation import CALIBRATION, Judge, cases_of, figures_of, judge_of
from networks import DETECTOR, MOBILENET, SQUEEZENET, SUBJECTS, Subject
from safetensors.torch import load_file
from squeezenet import SQUEEZED, SqueezeNet
from start import KINDS, fitted, identity
from torch import nn

import thinmaps.learn as tl
from thinmaps.calibrate.picture_set import PictureSet, open_pictures
from thinmaps.codecs.gf2 import PRESETS, Gf2
from thinmaps.compression import compress
from thinmaps.file import Model
from thinmaps.learn.preparation import float_pictures
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine

RESULTS = Path(__file__).parent / "results"
CALIBRATION_PICTURES = 100


@dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        name: of its file of results.
        preset: the layout; its planes are stored, or as many bits per channel and block.
        maps: those that are treated, by name or by the fire module whose squeezed map it is.
        start: "identity", or of `start.py` (windows of 3 x 3 only) "mean", "pixels", or
            "thresholds", whichever is better for a channel.
        steps, batch, side, rate, seed: of the training.
        network: one of `SUBJECTS`.
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
    network: str = SQUEEZENET.network

    @property
    def subject(self) -> Subject:
        """The network."""
        return SUBJECTS[self.network]

    @property
    def map_names(self) -> list[str]:
        """The treated maps, by their names in the student."""
        return [SQUEEZED.get(name, name) for name in self.maps]


def bottlenecks(subject: Subject, preset: str, **training: int) -> Setting:
    """The identity on both treated maps of a network that is learnt from its ONNX file."""
    name = f"{subject.network}, {preset} learnt"
    return Setting(name, preset, subject.maps, network=subject.network, **training)


TWO = ("fire2", "fire3")
SETTINGS = (
    Setting("BIT6CH2_3x3s2 learnt", "BIT6CH2_3x3s2", TWO, steps=500),
    Setting("7 bits of thresholds learnt", "BIT6CH2_3x3s2", TWO, "pixels", steps=500),
    Setting("BIT8CH2_3x3s2 learnt", "BIT8CH2_3x3s2", TWO, steps=500),
    Setting("9 bits of thresholds learnt", "BIT8CH2_3x3s2", TWO, "pixels", steps=500),
    Setting("BIT6CH2_3x3s2 on all squeezed maps learnt", "BIT6CH2_3x3s2", (*SQUEEZED,), steps=500),
    bottlenecks(MOBILENET, "BIT8CH2_3x3s2", steps=400, side=128),
    bottlenecks(MOBILENET, "BIT6CH2_3x3s2", steps=400, side=128),
    bottlenecks(DETECTOR, "BIT8CH2_3x3s2", steps=300, batch=8, side=192),
    bottlenecks(DETECTOR, "BIT6CH2_3x3s2", steps=300, batch=8, side=192),
)


def float_network(assets: Path, subject: Subject) -> nn.Module | tl.Captured:
    """The network with its weights: a module, or the ONNX file."""
    if not subject.weights:
        return tl.read_network(assets / subject.model, (subject.side, subject.side))
    network = SqueezeNet()
    network.load_state_dict(load_file(assets / subject.weights))
    return network.eval()


def codecs_of(bare: tl.Student, setting: Setting, pictures: PictureSet) -> dict[str, Gf2]:
    """A codec for each treated map."""
    network, names = bare.network(), setting.map_names
    specs = {name: network.maps[name] for name in names}
    if setting.start == "identity":
        return {name: identity(spec, setting.preset) for name, spec in specs.items()}
    engine = Engine(build(network.ending_in(names), schedule="layer"))
    shape = (setting.subject.side, setting.subject.side, 3)
    values = float_pictures(pictures, shape, setting.subject.preprocessing)
    seen = [engine.maps(each) for each in values]
    bits = PRESETS[setting.preset].keep
    kinds = KINDS if setting.start == "thresholds" else (setting.start,)
    return {
        n: fitted(spec, np.stack([maps[n] for maps in seen]), bits, kinds)
        for n, spec in specs.items()
    }


def student_of(
    network: nn.Module | tl.Captured, setting: Setting, pictures: PictureSet
) -> tl.Student:
    """The student, its codecs fixed."""
    subject = setting.subject
    example = torch.zeros(1, 3, subject.side, subject.side)
    few, known = pictures.at_most(CALIBRATION_PICTURES), subject.preprocessing
    made = tl.prepare(network, example, calibrate=few, preprocessing=known)
    codecs = codecs_of(made, setting, few.fitting())
    student = tl.prepare(network, example, calibrate=few, codecs=codecs, preprocessing=known)
    for name in codecs:
        student.surrogate(name).requires_grad_(False)
    return student


def trained(network: nn.Module | tl.Captured, setting: Setting, pictures: PictureSet) -> tl.Student:
    """The student after its steps."""
    torch.manual_seed(setting.seed)
    student, subject = student_of(network, setting, pictures), setting.subject
    if not setting.steps:
        return student
    size = (subject.stored_side, subject.stored_side)
    loader = tl.PictureLoader(pictures.fitting(), setting.batch, size, subject.preprocessing)
    options = tl.TrainingOptions(
        network_rate=setting.rate,
        augment=tl.InTurn(tl.RandomWindow(setting.side), tl.RandomFlip()),
        exact_from=1.0,  # rounding is straight through as it is; exact steps take twice the time
        average_decay=0.98,
        seed=setting.seed,
    )
    losses = tl.DistillationLosses(maps=[subject.hint], logit_weight=0.1)
    if subject.anchors:
        losses = tl.DistillationLosses(maps=[subject.hint], divergence_weight=0)
    teacher = network if isinstance(network, nn.Module) else tl.OnnxTeacher(network)
    tl.distill(student, teacher, loader, steps=setting.steps, losses=losses, options=options)
    return student


def model_of(student: tl.Student) -> Model:
    """The student as it would run, layer by layer."""
    plan = build(student.network(), codecs=student.codecs(), schedule="layer")
    return Model(plan, student.tail())


def compressed(student: tl.Student, subject: Subject) -> Model:
    """The same as `compress` reads it: a network that takes pictures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        tl.export(student, path)
        return compress(path, preprocessing=subject.preprocessing)


def stored_bytes(codecs: Mapping[str, Gf2], student: tl.Student) -> dict[str, int]:
    """What the treated maps take."""
    maps = student.network().maps
    return {name: each.unit_bytes(maps[name], maps[name].height) for name, each in codecs.items()}


def run(assets: Path, setting: Setting, judge: Judge | None = None) -> dict[str, Any]:
    """Learn, judge, and leave the file of results."""
    torch.set_num_threads(1)
    began, subject = time.process_time(), setting.subject
    pictures = open_pictures(assets / CALIBRATION)
    student = trained(float_network(assets, subject), setting, pictures)
    found: dict[str, Any] = {
        "setting": asdict(setting),
        "cpu_seconds": round(time.process_time() - began),
        "stored_bytes": stored_bytes(student.codecs(), student),
    }
    if subject.anchors:
        model = compressed(student.eval(), subject)
    else:
        model = model_of(student)
        cases = cases_of(assets, subject, pictures.held_out())
        held_out = figures_of(model, cases, subject.preprocessing)
        found["held-out agreement %"] = held_out["agreement %"]
    found |= (judge or judge_of(assets, subject))(model)
    RESULTS.mkdir(exist_ok=True)
    name = setting.name.replace(",", "").replace(" ", "_")
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    return found
