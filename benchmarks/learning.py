# SPDX-License-Identifier: Apache-2.0
"""Codecs that learn in a network: the ratio, and what is left of the answers.

    python benchmarks/learning.py RECIPE [--network N] [--bits B] [--rate-weight W] [--steps N]
                                  [--batch N] [--network-rate R] [--codec-rate R]
                                  [--logit-weight W] [--seed N] [--checkpoint FILE]
                                  [--begin FILE] [--cost] [--held-out] [--assets FOLDER]
                                  [--output [FILE]]

`rans` begins with the steps that rate control finds for B bits per element and learns them with the
network, what its symbols cost in the loss; `narrow` and `mixed_width` learn the steps of B bits;
`block_code` learns matrices, of B bits per element in the mean over all maps, `gf2` layers of bits
that begin as the highest B planes. Networks are those of taught_networks.py.

A recipe is one function and a course: from the network and its training pictures to codecs for the
stored maps (all behind a ReLU), and how they are trained. Codecs and network learn together, from
the float network's answers on training pictures, no labels. Then the student is exported,
compressed to a .thin file and run by the engine, layer by layer, on the evaluation pictures, which
nothing else reads (or, with --held-out, on training pictures that nothing learned from: settings
are chosen there): every byte of every payload is counted against uint8 maps; tables, which a file
holds once, are reported beside it. The first pictures' scores must equal the student's, bit for
bit.
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
from accuracy import ASSETS
from results_file import provenance, results_file, write
from taught_networks import SUBJECTS, Bench

import thinmaps
import thinmaps.learn as tl
from thinmaps.allocate.choices import menu
from thinmaps.allocate.lagrange import front
from thinmaps.calibrate.sensitivity import Block, moments, of_maps, sensitivities
from thinmaps.codecs import Codec
from thinmaps.codecs.block_code import BlockCode, FreeTransform
from thinmaps.codecs.gf2 import Gf2
from thinmaps.codecs.mixed_width import Tables, fit_together
from thinmaps.codecs.narrow import Narrow
from thinmaps.codecs.transform_fit import (
    BlockShape,
    bases_of,
    block_bytes_together,
    transform_of,
)
from thinmaps.file import Model
from thinmaps.graph.quantise import real_values
from thinmaps.learn.checkpoint import read_checkpoint
from thinmaps.measure.accuracy import classification, judge_class
from thinmaps.measure.answers import final_outputs
from thinmaps.measure.float_model import FloatModel
from thinmaps.measure.report import array_bytes
from thinmaps.plan.build import build
from thinmaps.rate_control import SENSITIVITY_PICTURES, UNIT_ROWS, offers
from thinmaps.run.engine import Engine

ROUNDS = 31  # of timing


@dataclass(frozen=True)
class Training:
    """What for, how long, where a run that stopped goes on, and another run to begin with."""

    recipe: str
    bits: float
    rate_weight: float
    network_rate: float
    codec_rate: float
    logit_weight: float
    steps: int
    batch: int
    seed: int = 0
    checkpoint: Path | None = None
    begin: Path | None = None

    @classmethod
    def asked(cls, options: argparse.Namespace, course: Course) -> Training:
        """The course's, where the command does not say otherwise."""
        own = course.options
        network_rate, codec_rate = options.network_rate, options.codec_rate
        logit_weight = options.logit_weight
        return cls(
            options.recipe,
            options.bits,
            options.rate_weight,
            own.network_rate if network_rate is None else network_rate,
            own.codec_rate if codec_rate is None else codec_rate,
            course.losses.logit_weight if logit_weight is None else logit_weight,
            course.steps if options.steps is None else options.steps,
            options.batch or course.batch,
            options.seed,
            options.checkpoint,
            options.begin,
        )


@dataclass(frozen=True)
class Cost:
    """Microseconds per picture of the nodes of a kind: medians of `ROUNDS`, one thread."""

    encode_us: float
    decode_us: float
    convolutions_us: float

    @classmethod
    def of(cls, engine: Engine, bench: Bench) -> Cost:
        """A map is encoded once and decoded for each of its readers."""
        picture, _ = next(bench.cases(held_out=True))
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

    network: str
    recipe: str
    bits: float
    rate_weight: float
    network_rate: float
    codec_rate: float
    logit_weight: float
    steps: int
    batch: int
    seed: int
    training_pictures: int
    training_cpu_seconds: float
    ratio: float
    raw_bytes: int
    table_bytes: int
    float_top1: float
    top1: float
    drop: float
    drop_interval: tuple[float, float]
    agreement: float
    pictures: int
    held_out: bool
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
    few = bench.split.training.at_most(SENSITIVITY_PICTURES)
    real, preprocessing = bench.prepared.networks.real, bench.prepared.preprocessing
    weights = of_maps(sensitivities(real, few, preprocessing), network)
    specs = {name: network.maps[name] for name in bench.names}
    tables = {name: Tables.fit(spec, samples[name]) for name, spec in specs.items()}
    return dict(fit_together(specs, tables, weights, bits, UNIT_ROWS))


def gf2(bench: Bench, bits: float) -> dict[str, Codec]:
    """The highest `bits` planes of every element, as layers that may learn to store others."""
    maps = bench.prepared.networks.own.maps
    none = np.zeros((0, 1, 1, 1), np.uint8)
    return {
        name: Gf2.fit(maps[name], none, keep=int(bits), unit_rows=maps[name].height)
        for name in bench.names
    }


def block_code(bench: Bench, bits: float) -> dict[str, Codec]:
    """Components of what the outputs feel; bytes go to the maps where they save most."""
    network, real = bench.prepared.networks.own, bench.prepared.networks.real
    specs = {name: network.maps[name] for name in bench.names}
    groups, others = bench.subject.groups, bench.subject.other_groups
    shapes = {
        name: BlockShape(2, 2, groups.get(spec.channels, others)) for name, spec in specs.items()
    }
    parts = {
        name: Block(shape.rows, shape.columns, shape.channels) for name, shape in shapes.items()
    }
    felt = moments(real, bench.split.training, parts, bench.prepared.preprocessing)
    bases = {
        name: bases_of(
            specs[name], values, shapes[name], [m * specs[name].scale ** 2 for m in felt[name]]
        )
        for name, values in bench.samples().items()
    }
    blocks = {name: -(-spec.height // 2) * -(-spec.width // 2) for name, spec in specs.items()}
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
    """How codecs and network are trained; `refits` fits the codecs' tables in the end.

    `margin` is that of crops, of pictures that are no windows of larger ones.
    """

    steps: int
    batch: int
    margin: int
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
    margin=2,
    losses=tl.DistillationLosses(temperature=2.0, logit_weight=0.1),
    options=tl.TrainingOptions(
        network_rate=1e-3,
        codec_rate=5e-3,
        warm_up=0.03,
        clip_norm=10.0,
        exact_from=1.0,  # its integers differ by single bytes, and cost twice the time
    ),
    refits=True,
)
MATRICES = Course(
    steps=400,
    batch=64,
    margin=4,
    losses=tl.DistillationLosses(temperature=2.0),
    options=tl.TrainingOptions(
        network_rate=3e-4,
        codec_rate=1e-3,
    ),
    refits=False,
)
RECIPES = {
    "rans": Recipe(rans, STEPS),
    "narrow": Recipe(narrow, STEPS),
    "mixed_width": Recipe(mixed_width, STEPS),
    "block_code": Recipe(block_code, MATRICES),
    "gf2": Recipe(gf2, MATRICES),
}


def augmentation(bench: Bench, course: Course) -> tl.InTurn:
    """Windows where stored pictures are larger than those to learn from, else crops."""
    subject = bench.subject
    if subject.window < subject.stored_side:
        return tl.InTurn(tl.RandomWindow(subject.window), tl.RandomFlip())
    return tl.InTurn(tl.RandomCrop(course.margin), tl.RandomFlip())


def distilled(bench: Bench, recipe: Recipe, training: Training) -> tl.Student:
    """A student with the recipe's codecs, both taught by the float network."""
    student, course = bench.student(recipe.codecs(bench, training.bits)), recipe.course
    rate = training.network_rate
    if training.begin is not None:
        student.load_state_dict(read_checkpoint(training.begin)["student"])
        rate /= 2
    options = replace(
        course.options,
        network_rate=rate,
        codec_rate=training.codec_rate,
        seed=training.seed,
        rate_weight=training.rate_weight,
        checkpoint=training.checkpoint,
        checkpoint_every=50,
        resume=training.checkpoint is not None,
        log=None if training.checkpoint is None else training.checkpoint.parent,
        augment=augmentation(bench, course),
    )
    loader = bench.loader(training.batch, training.seed)
    if training.steps:
        steps = training.steps
        losses = replace(course.losses, logit_weight=training.logit_weight)
        tl.distill(student, bench.teacher, loader, steps=steps, losses=losses, options=options)
    if course.refits:
        tl.refit(student, loader)
    return student


def as_file(student: tl.Student, bench: Bench) -> Model:
    """The student as its .thin file has it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student"
        tl.export(student, path.with_suffix(".onnx"))
        model = thinmaps.compress(
            path.with_suffix(".onnx"),
            preprocessing=bench.subject.task.preprocessing,
            schedule="layer",
        )
        thinmaps.save(model, path.with_suffix(".thin"))
        return thinmaps.load(path.with_suffix(".thin"))


def measured(
    bench: Bench, student: tl.Student, training: Training, seconds: float, *, held_out: bool
) -> Result:
    """The student as a .thin file, on evaluation or held-out pictures."""
    model = as_file(student, bench)
    engine, network = Engine(model.plan, threads=1), model.plan.source
    subject = bench.subject
    file = bench.assets / "models" / f"{subject.name}.onnx"
    whole = FloatModel(file, subject.task.preprocessing, (subject.side, subject.side))
    student.eval()
    verdicts, stored = [], 0
    for at, (fitted, label) in enumerate(bench.cases(held_out=held_out)):
        (scores,) = final_outputs(model, engine.maps(fitted)).values()
        verdicts.append(judge_class(scores, whole(fitted)[0], label))
        stored += sum(engine.encoded_bytes.values())
        if at < subject.compared_pictures:
            _require_equal(bench, student, fitted, scores)
    found = classification(verdicts)
    held = [network.maps[name].raw_bytes for name in model.plan.codecs]
    assert len(held) == len(bench.names)
    assert found.drop_interval is not None
    return Result(
        network=subject.name,
        recipe=training.recipe,
        bits=training.bits,
        rate_weight=training.rate_weight,
        network_rate=training.network_rate,
        codec_rate=training.codec_rate,
        logit_weight=training.logit_weight,
        steps=training.steps,
        batch=training.batch,
        seed=training.seed,
        training_pictures=len(bench.split.training),
        training_cpu_seconds=round(seconds, 1),
        ratio=sum(held) * found.pictures / stored,
        raw_bytes=sum(held),
        table_bytes=sum(map(array_bytes, model.plan.codecs.values())),
        float_top1=found.float_top1 or 0.0,
        top1=found.top1 or 0.0,
        drop=found.drop or 0.0,
        drop_interval=found.drop_interval,
        agreement=found.agreement or 0.0,
        pictures=found.pictures,
        held_out=held_out,
        compared=min(subject.compared_pictures, found.pictures),
        cost=Cost.of(engine, bench),
    )


def _require_equal(
    bench: Bench, student: tl.Student, fitted: np.ndarray, scores: np.ndarray
) -> None:
    """Stop where the engine's scores are not the student's, to the last bit."""
    real = torch.from_numpy(real_values(fitted, bench.subject.task.preprocessing)[None])
    with torch.no_grad():
        expected = student(real).numpy()
    np.testing.assert_array_equal(np.reshape(scores, expected.shape), expected)


def cost(bench: Bench, codecs: dict[str, Codec]) -> Cost:
    """Of codecs that are not trained; at a fixed rate learning changes no size."""
    plan = build(bench.prepared.networks.own, codecs=codecs, schedule="layer")
    return Cost.of(Engine(plan, threads=1), bench)


def main() -> int:
    """Train, measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("recipe", choices=RECIPES)
    arguments.add_argument("--network", choices=SUBJECTS, default=next(iter(SUBJECTS)))
    arguments.add_argument("--bits", type=float, default=2.0, help="per element, in the mean")
    arguments.add_argument("--rate-weight", type=float, default=0.0, help="of the symbols' bits")
    arguments.add_argument("--steps", type=int, help="instead of the recipe's own; 0: no training")
    arguments.add_argument("--batch", type=int, help="pictures, instead of the recipe's own")
    arguments.add_argument("--network-rate", type=float, help="instead of the recipe's own")
    arguments.add_argument("--codec-rate", type=float, help="instead of the recipe's own")
    arguments.add_argument("--logit-weight", type=float, help="instead of the recipe's own")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--cost", action="store_true", help="the time of codecs, untrained")
    arguments.add_argument("--held-out", action="store_true", help="judge on held-out pictures")
    arguments.add_argument("--checkpoint", type=Path, help="go on from there, if it exists")
    arguments.add_argument("--begin", type=Path, help="with what a run of this checkpoint learned")
    arguments.add_argument("--assets", type=Path, default=ASSETS)
    arguments.add_argument("--output", type=Path, nargs="?", const=True)
    options = arguments.parse_args()
    bench = Bench.open(SUBJECTS[options.network], options.assets)
    recipe = RECIPES[options.recipe]
    if options.cost:
        print(cost(bench, recipe.codecs(bench, options.bits)))
        return 0
    training = Training.asked(options, recipe.course)
    started = time.process_time()
    student = distilled(bench, recipe, training)
    seconds = time.process_time() - started
    result = measured(bench, student, training, seconds, held_out=options.held_out)
    document: dict[str, Any] = {**provenance(), "learning": asdict(result)}
    print(json.dumps(document["learning"], indent=1))
    if options.output:
        here = results_file(f"-learning-{options.recipe}-{options.bits:g}")
        write(document, here if options.output is True else options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
