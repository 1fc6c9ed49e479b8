# SPDX-License-Identifier: Apache-2.0
"""Codecs that learn in ResNet-20 for CIFAR-10: the ratio, and what is left of the answers.

    python benchmarks/learning.py RECIPE [--bits B] [--rate-weight W] [--steps N]
                                  [--checkpoint FILE] [--assets FOLDER] [--output [FILE]]

`rans` begins with the steps that rate control finds for B bits per element and learns them with the
network, what its symbols cost in the loss; `narrow` and `mixed_width` learn the steps of B bits.

A recipe is one function: from the network and its training pictures to a student whose stored maps
(all 19 behind a ReLU) have codecs. Codecs and network learn together, from the float network's
answers on training pictures, no labels. The last 1,000 training pictures are held out: settings
are chosen there. Then the student is exported, compressed to a .thin file and run by the engine,
layer by layer, on the 10,000 test pictures, which nothing else reads: every byte of every payload
is counted against uint8 maps; tables, which a file holds once, are reported beside it. The first
test pictures' scores must equal the student's, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import ASSETS, CIFAR, CIFAR_TRAIN, TASKS, pictures
from resnet20 import ResNet20, resnet20
from results_file import provenance, results_file, write

import thinmaps
import thinmaps.learn as tl
from thinmaps.allocate.choices import menu
from thinmaps.allocate.lagrange import front
from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.calibrate.sensitivity import of_maps, sensitivities
from thinmaps.codecs import Codec
from thinmaps.codecs.mixed_width import Tables, fit_together
from thinmaps.codecs.narrow import Narrow
from thinmaps.graph.quantise import real_values
from thinmaps.measure.accuracy import classification, judge_class
from thinmaps.measure.answers import final_outputs
from thinmaps.measure.float_model import FloatModel
from thinmaps.measure.map_profile import stored_maps
from thinmaps.measure.report import array_bytes
from thinmaps.plan.build import build
from thinmaps.prepared import Prepared
from thinmaps.rate_control import SENSITIVITY_PICTURES, UNIT_ROWS, offers
from thinmaps.run.engine import Engine

NETWORK = "cifar10_resnet20_jpeg"
TASK = next(task for task in TASKS if task.network == NETWORK)
EXAMPLE = torch.zeros(1, 3, 32, 32)
HELD_OUT = 1000
CALIBRATION_PICTURES = 1000
SAMPLE_PICTURES = 400
COMPARED_PICTURES = 500  # answers of engine and student
BATCH = 32
LOSSES = tl.DistillationLosses(temperature=2.0, logit_weight=0.1)


@dataclass(frozen=True, eq=False)
class Bench:
    """The float network, what it is trained on, and the uint8 network that it becomes."""

    assets: Path
    teacher: ResNet20
    training: list[np.ndarray]
    prepared: Prepared

    @classmethod
    def open(cls, assets: Path) -> Bench:
        """Read and calibrate."""
        teacher = resnet20(assets / "weights" / f"{NETWORK}.safetensors")
        everything = [
            picture for _, picture in open_pictures(assets / "images" / CIFAR_TRAIN).read()
        ]
        training = everything[:-HELD_OUT]
        captured = tl.capture(teacher, EXAMPLE).model
        calibration = open_pictures(training).at_most(CALIBRATION_PICTURES)
        prepared = Prepared.open(captured, calibration, preprocessing=TASK.preprocessing)
        return cls(assets, teacher, training, prepared)

    @property
    def names(self) -> tuple[str, ...]:
        """The maps that a machine stores layer by layer."""
        return stored_maps(self.prepared.networks.own)

    def samples(self) -> dict[str, np.ndarray]:
        """Bytes (n, h, w, c) of those maps."""
        seen = list(
            self.prepared.observed(self.names, open_pictures(self.training[:SAMPLE_PICTURES]))
        )
        return {name: np.stack([maps[name] for maps in seen]) for name in self.names}

    def student(self, codecs: dict[str, Codec]) -> tl.Student:
        """The uint8 network with those codecs, to be trained."""
        plan = build(self.prepared.networks.own, codecs=codecs, schedule="layer")
        return tl.prepare(self.teacher, EXAMPLE, plan)


@dataclass(frozen=True)
class Training:
    """What for, how long, and where a run that stopped goes on."""

    bits: float
    rate_weight: float
    steps: int
    checkpoint: Path | None


@dataclass(frozen=True)
class Result:
    """What a recipe came to; `agreement` is with the float network, in percent."""

    recipe: str
    bits: float
    rate_weight: float
    steps: int
    batch: int
    training_pictures: int
    training_cpu_seconds: float
    ratio: float
    table_bytes: int
    float_top1: float
    top1: float
    drop: float
    drop_interval: tuple[float, float]
    agreement: float
    pictures: int
    compared: int


def rans(bench: Bench, training: Training) -> tl.Student:
    """Entropy coded symbols, of `bits` per element to begin with."""
    samples = offers(bench.prepared, bench.names, menu(("variable",), ("rans",)), UNIT_ROWS, None)
    elements = sum(bench.prepared.networks.own.maps[name].raw_bytes for name in bench.names)
    begin = next(
        each.chosen for each in front(samples) if 8 * each.mean_bytes <= training.bits * elements
    )
    codecs = {name: choice.codec for name, choice in begin.items() if choice.codec is not None}
    return distilled(bench, codecs, training)


def narrow(bench: Bench, training: Training) -> tl.Student:
    """`bits` for every element."""
    maps = bench.prepared.networks.own.maps
    codecs = {
        name: Narrow.fit(maps[name], values, bits=int(training.bits), unit_rows=len(values[0]))
        for name, values in bench.samples().items()
    }
    return distilled(bench, codecs, training)


def mixed_width(bench: Bench, training: Training) -> tl.Student:
    """`bits` in the mean over all maps, where the outputs feel them most."""
    network, samples = bench.prepared.networks.own, bench.samples()
    few = open_pictures(bench.training).at_most(SENSITIVITY_PICTURES)
    weights = of_maps(sensitivities(bench.prepared.networks.real, few, TASK.preprocessing), network)
    specs = {name: network.maps[name] for name in bench.names}
    tables = {name: Tables.fit(spec, samples[name]) for name, spec in specs.items()}
    codecs = fit_together(specs, tables, weights, training.bits, UNIT_ROWS)
    return distilled(bench, codecs, training)


RECIPES: dict[str, Callable[[Bench, Training], tl.Student]] = {
    "rans": rans,
    "narrow": narrow,
    "mixed_width": mixed_width,
}


def distilled(bench: Bench, codecs: Mapping[str, Codec], training: Training) -> tl.Student:
    """A student with those codecs, both taught by the float network; tables fitted in the end."""
    student = bench.student(dict(codecs))
    options = tl.TrainingOptions(
        network_rate=1e-3,
        codec_rate=5e-3,
        rate_weight=training.rate_weight,
        warm_up=0.03,
        clip_norm=10.0,
        exact_from=1.0,  # its integers differ by single bytes, and cost twice the time
        augment=tl.InTurn(tl.RandomCrop(2), tl.RandomFlip()),
        checkpoint=training.checkpoint,
        checkpoint_every=50,
        resume=training.checkpoint is not None,
        log=None if training.checkpoint is None else training.checkpoint.parent,
    )
    loader = tl.PictureLoader(bench.training, batch=BATCH, size=(32, 32))
    tl.distill(student, bench.teacher, loader, steps=training.steps, losses=LOSSES, options=options)
    tl.refit(student, loader)
    return student


def measured(
    bench: Bench, recipe: str, student: tl.Student, training: Training, seconds: float
) -> Result:
    """The student as a .thin file, on the test pictures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student"
        tl.export(student, path.with_suffix(".onnx"))
        model = thinmaps.compress(
            path.with_suffix(".onnx"), preprocessing=TASK.preprocessing, schedule="layer"
        )
        thinmaps.save(model, path.with_suffix(".thin"))
        model = thinmaps.load(path.with_suffix(".thin"))
    engine = Engine(model.plan)
    network = model.plan.source
    shape = network.maps[network.inputs[0]].shape
    whole = FloatModel(bench.assets / "models" / f"{NETWORK}.onnx", TASK.preprocessing, shape[:2])
    student.eval()
    verdicts, stored = [], 0
    for at, (fitted, label) in enumerate(
        pictures(bench.assets / "images" / CIFAR[0], TASK, shape, 1)
    ):
        (scores,) = final_outputs(model, engine.maps(fitted)).values()
        verdicts.append(judge_class(scores, whole(fitted)[0], label))
        stored += sum(engine.encoded_bytes.values())
        if at < COMPARED_PICTURES:
            _require_equal(student, fitted, scores)
    found = classification(verdicts)
    held = [network.maps[name].raw_bytes for name in model.plan.codecs]
    assert len(held) == len(bench.names)
    assert found.drop_interval is not None
    return Result(
        recipe=recipe,
        bits=training.bits,
        rate_weight=training.rate_weight,
        steps=training.steps,
        batch=BATCH,
        training_pictures=len(bench.training),
        training_cpu_seconds=round(seconds, 1),
        ratio=sum(held) * found.pictures / stored,
        table_bytes=sum(map(array_bytes, model.plan.codecs.values())),
        float_top1=found.float_top1 or 0.0,
        top1=found.top1 or 0.0,
        drop=found.drop or 0.0,
        drop_interval=found.drop_interval,
        agreement=found.agreement or 0.0,
        pictures=found.pictures,
        compared=min(COMPARED_PICTURES, found.pictures),
    )


def _require_equal(student: tl.Student, fitted: np.ndarray, scores: np.ndarray) -> None:
    """Stop where the engine's scores are not the student's, to the last bit."""
    real = torch.from_numpy(real_values(fitted, TASK.preprocessing)[None])
    with torch.no_grad():
        expected = student(real).numpy()
    np.testing.assert_array_equal(np.reshape(scores, expected.shape), expected)


def main() -> int:
    """Train, measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("recipe", choices=RECIPES)
    arguments.add_argument("--bits", type=float, default=2.0, help="per element, in the mean")
    arguments.add_argument("--rate-weight", type=float, default=0.0, help="of the symbols' bits")
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--checkpoint", type=Path, help="go on from there, if it exists")
    arguments.add_argument("--assets", type=Path, default=ASSETS)
    arguments.add_argument("--output", type=Path, nargs="?", const=True)
    options = arguments.parse_args()
    bench = Bench.open(options.assets)
    training = Training(options.bits, options.rate_weight, options.steps, options.checkpoint)
    started = time.process_time()
    student = RECIPES[options.recipe](bench, training)
    seconds = time.process_time() - started
    result = measured(bench, options.recipe, student, training, seconds)
    document: dict[str, Any] = {**provenance(), "learning": asdict(result)}
    print(json.dumps(document["learning"], indent=1))
    if options.output:
        here = results_file(f"-learning-{options.recipe}-{options.bits:g}")
        write(document, here if options.output is True else options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
