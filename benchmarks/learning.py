# SPDX-License-Identifier: Apache-2.0
"""Codecs that learn in ResNet-20 for CIFAR-10: the ratio, and what is left of the answers.

    python benchmarks/learning.py RECIPE [--bits B] [--rate-weight W] [--steps N]
                                  [--checkpoint FILE] [--begin FILE] [--cost]
                                  [--assets FOLDER] [--output [FILE]]

`rans` begins with the steps that rate control finds for B bits per element and learns them with the
network, what its symbols cost in the loss; `narrow` and `mixed_width` learn the steps of B bits;
`block_code` learns matrices, of B bits per element in the mean over all maps.

A recipe is one function and a course: from the network and its training pictures to codecs for the
stored maps (all 19 behind a ReLU), and how they are trained. Codecs and network learn together,
from the float network's answers on training pictures, no labels. The last 1,000 training pictures
are held out: settings are chosen there. Then the student is exported, compressed to a .thin file
and run by the engine, layer by layer, on the 10,000 test pictures, which nothing else reads: every
byte of every payload is counted against uint8 maps; tables, which a file holds once, are reported
beside it. The first test pictures' scores must equal the student's, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
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
from thinmaps.calibrate.sensitivity import Block, moments, of_maps, sensitivities
from thinmaps.codecs import Codec
from thinmaps.codecs.block_code import BlockCode, FreeTransform
from thinmaps.codecs.mixed_width import Tables, fit_together
from thinmaps.codecs.narrow import Narrow
from thinmaps.codecs.transform_fit import (
    BlockShape,
    bases_of,
    block_bytes_together,
    transform_of,
)
from thinmaps.graph.quantise import real_values
from thinmaps.learn.checkpoint import read_checkpoint
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
ROUNDS = 31  # of timing
# Channels of a block, by those of its map: tables grow with them.
GROUPS = {16: 16, 32: 8, 64: 8}


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
    """What for, how long, where a run that stopped goes on, and another run to begin with."""

    bits: float
    rate_weight: float
    steps: int
    checkpoint: Path | None
    begin: Path | None = None


@dataclass(frozen=True)
class Cost:
    """Microseconds per picture of the nodes of a kind: medians of `ROUNDS`, one thread."""

    encode_us: float
    decode_us: float
    convolutions_us: float

    @classmethod
    def of(cls, engine: Engine, picture: np.ndarray) -> Cost:
        """A map is encoded once and decoded for each of its readers."""
        kinds = {node.name: node.operator.id for node in engine.plan.network.nodes}
        rounds: dict[str, list[float]] = {kind: [] for kind in ("encode", "decode", "conv")}
        for _ in range(ROUNDS):
            taken = engine.profile(picture)
            for kind, found in rounds.items():
                found.append(sum(t.seconds for t in taken if kinds.get(t.node) == kind))
        return cls(*(round(1e6 * float(np.median(found)), 1) for found in rounds.values()))


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
    cost: Cost


def rans(bench: Bench, bits: float) -> dict[str, Codec]:
    """Entropy coded symbols, of `bits` per element to begin with."""
    samples = offers(bench.prepared, bench.names, menu(("variable",), ("rans",)), UNIT_ROWS, None)
    elements = sum(bench.prepared.networks.own.maps[name].raw_bytes for name in bench.names)
    begin = next(each.chosen for each in front(samples) if 8 * each.mean_bytes <= bits * elements)
    return {name: choice.codec for name, choice in begin.items() if choice.codec is not None}


def narrow(bench: Bench, bits: float) -> dict[str, Codec]:
    """`bits` for every element."""
    maps = bench.prepared.networks.own.maps
    return {
        name: Narrow.fit(maps[name], values, bits=int(bits), unit_rows=len(values[0]))
        for name, values in bench.samples().items()
    }


def mixed_width(bench: Bench, bits: float) -> dict[str, Codec]:
    """`bits` in the mean over all maps, where the outputs feel them most."""
    network, samples = bench.prepared.networks.own, bench.samples()
    few = open_pictures(bench.training).at_most(SENSITIVITY_PICTURES)
    weights = of_maps(sensitivities(bench.prepared.networks.real, few, TASK.preprocessing), network)
    specs = {name: network.maps[name] for name in bench.names}
    tables = {name: Tables.fit(spec, samples[name]) for name, spec in specs.items()}
    return dict(fit_together(specs, tables, weights, bits, UNIT_ROWS))


def block_code(bench: Bench, bits: float) -> dict[str, Codec]:
    """Components of what the outputs feel; bytes go to the maps where they save most."""
    network, real = bench.prepared.networks.own, bench.prepared.networks.real
    specs = {name: network.maps[name] for name in bench.names}
    shapes = {name: BlockShape(2, 2, GROUPS[spec.channels]) for name, spec in specs.items()}
    parts = {
        name: Block(shape.rows, shape.columns, shape.channels) for name, shape in shapes.items()
    }
    felt = moments(real, bench.training, parts, TASK.preprocessing)
    bases = {
        name: bases_of(
            specs[name], values, shapes[name], [m * specs[name].scale ** 2 for m in felt[name]]
        )
        for name, values in bench.samples().items()
    }
    blocks = {name: spec.height // 2 * (spec.width // 2) for name, spec in specs.items()}
    elements = sum(spec.raw_bytes for spec in specs.values())
    block_bytes = block_bytes_together(bases, blocks, bits / 8 * elements / sum(blocks.values()))
    transforms = {
        name: transform_of(shapes[name], bases[name], 8 * block_bytes[name]) for name in bench.names
    }
    return {
        name: BlockCode(2, FreeTransform.starting_from(transform))
        for name, transform in transforms.items()
    }


@dataclass(frozen=True)
class Course:
    """How codecs and network are trained; `refits` fits the codecs' tables in the end."""

    steps: int
    batch: int
    losses: tl.DistillationLosses
    options: tl.TrainingOptions
    refits: bool


@dataclass(frozen=True)
class Recipe:
    """Codecs of so many bits per element to begin with, and their course."""

    codecs: Callable[[Bench, float], dict[str, Codec]]
    course: Course


STEPS = Course(
    steps=1000,
    batch=32,
    losses=tl.DistillationLosses(temperature=2.0, logit_weight=0.1),
    options=tl.TrainingOptions(
        network_rate=1e-3,
        codec_rate=5e-3,
        warm_up=0.03,
        clip_norm=10.0,
        exact_from=1.0,  # its integers differ by single bytes, and cost twice the time
        augment=tl.InTurn(tl.RandomCrop(2), tl.RandomFlip()),
    ),
    refits=True,
)
MATRICES = Course(
    steps=400,
    batch=64,
    losses=tl.DistillationLosses(temperature=2.0),
    options=tl.TrainingOptions(
        network_rate=3e-4,
        codec_rate=1e-3,
        augment=tl.InTurn(tl.RandomCrop(4), tl.RandomFlip()),
    ),
    refits=False,
)
RECIPES = {
    "rans": Recipe(rans, STEPS),
    "narrow": Recipe(narrow, STEPS),
    "mixed_width": Recipe(mixed_width, STEPS),
    "block_code": Recipe(block_code, MATRICES),
}


def distilled(bench: Bench, recipe: Recipe, training: Training) -> tl.Student:
    """A student with the recipe's codecs, both taught by the float network."""
    student, course = bench.student(recipe.codecs(bench, training.bits)), recipe.course
    rate = course.options.network_rate
    if training.begin is not None:
        student.load_state_dict(read_checkpoint(training.begin)["student"])
        rate /= 2
    options = replace(
        course.options,
        network_rate=rate,
        rate_weight=training.rate_weight,
        checkpoint=training.checkpoint,
        checkpoint_every=50,
        resume=training.checkpoint is not None,
        log=None if training.checkpoint is None else training.checkpoint.parent,
    )
    loader = tl.PictureLoader(bench.training, batch=course.batch, size=(32, 32))
    tl.distill(
        student,
        bench.teacher,
        loader,
        steps=training.steps,
        losses=course.losses,
        options=options,
    )
    if course.refits:
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
    engine = Engine(model.plan, threads=1)
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
        batch=RECIPES[recipe].course.batch,
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
        cost=Cost.of(engine, bench.training[0]),
    )


def _require_equal(student: tl.Student, fitted: np.ndarray, scores: np.ndarray) -> None:
    """Stop where the engine's scores are not the student's, to the last bit."""
    real = torch.from_numpy(real_values(fitted, TASK.preprocessing)[None])
    with torch.no_grad():
        expected = student(real).numpy()
    np.testing.assert_array_equal(np.reshape(scores, expected.shape), expected)


def cost(bench: Bench, codecs: dict[str, Codec]) -> Cost:
    """Of codecs that are not trained; at a fixed rate learning changes no size."""
    plan = build(bench.prepared.networks.own, codecs=codecs, schedule="layer")
    return Cost.of(Engine(plan, threads=1), bench.training[0])


def main() -> int:
    """Train, measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("recipe", choices=RECIPES)
    arguments.add_argument("--bits", type=float, default=2.0, help="per element, in the mean")
    arguments.add_argument("--rate-weight", type=float, default=0.0, help="of the symbols' bits")
    arguments.add_argument("--steps", type=int, help="instead of the recipe's own")
    arguments.add_argument("--cost", action="store_true", help="the time of codecs, untrained")
    arguments.add_argument("--checkpoint", type=Path, help="go on from there, if it exists")
    arguments.add_argument("--begin", type=Path, help="with what a run of this checkpoint learned")
    arguments.add_argument("--assets", type=Path, default=ASSETS)
    arguments.add_argument("--output", type=Path, nargs="?", const=True)
    options = arguments.parse_args()
    bench = Bench.open(options.assets)
    recipe = RECIPES[options.recipe]
    if options.cost:
        print(cost(bench, recipe.codecs(bench, options.bits)))
        return 0
    steps = options.steps or recipe.course.steps
    training = Training(options.bits, options.rate_weight, steps, options.checkpoint, options.begin)
    started = time.process_time()
    student = distilled(bench, recipe, training)
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
