# SPDX-License-Identifier: Apache-2.0
"""What a configuration asks for, done: network, student, training, files, and what came of it.

open       the network and its teacher, a module with weights or an ONNX file
prepare    on 80 % of the pictures: ranges, codecs -> the student
train      distill or fit, on the same 80 %; with a weight method softly first, then hard; tables
           and, if asked for, dead bits of codes follow
judge      on the other 20 %: agreement with the teacher, stored bytes
write      the student as ONNX, and as a .thin file if asked for
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from thinmaps.calibrate.picture_set import PictureSet, open_pictures
from thinmaps.compression import compress
from thinmaps.errors import BadArgument, BadData
from thinmaps.file import Model, load, save
from thinmaps.graph.onnx_reader import normalise
from thinmaps.learn.captured import Captured, capture
from thinmaps.learn.config import LearnConfig, NetworkTable
from thinmaps.learn.dead_bits import prune_dead_bits
from thinmaps.learn.distillation import distill, named_outputs
from thinmaps.learn.fitting import fit
from thinmaps.learn.module_reference import built_module
from thinmaps.learn.onnx_file import as_onnx, export
from thinmaps.learn.onnx_network import OnnxTeacher, read_network
from thinmaps.learn.options import TrainingOptions
from thinmaps.learn.picture_loader import PictureLoader
from thinmaps.learn.preparation import float_pictures, prepare
from thinmaps.learn.processes import is_first_process
from thinmaps.learn.refitting import refit
from thinmaps.learn.student import Student
from thinmaps.learn.training import TrainingResult
from thinmaps.learn.weights.maps import FLOAT_BITS
from thinmaps.learn.weights.recipe import RecipeResult, phase_options
from thinmaps.measure.accuracy import agreement
from thinmaps.measure.answers import final_outputs
from thinmaps.measure.truths import labelled_pictures
from thinmaps.measure.words import percent, three_digits, times
from thinmaps.plan.build import build
from thinmaps.prepared import preprocessing_for
from thinmaps.progress import LateBar
from thinmaps.run.engine import Engine
from thinmaps.types import Preprocessing


@dataclass(frozen=True)
class LearnReport:
    """What a run brought.

    Attributes:
        method: "distill" or "fit".
        steps: of the whole run.
        resumed_from: the step it went on from; 0 where it began anew.
        loss: of the last row that was logged; None where no step was left to do.
        density: the share of the weights that are not zero, of layers with a weight method; None
            without one.
        weight_bits: that the method stores of such a weight in the mean, 32 for a float, 0 for a
            zero.
        dead_bits: how many bits were taken out of each code that can have dead ones, per stored
            pixel or block; None where it was not asked for.
        coded_maps: how many maps have a codec.
        raw_bytes: of those maps as they are, uint8.
        stored_bytes: of the same in their codecs, the mean over held-out pictures.
        agreement: with the teacher on held-out pictures, percent, as `measure/accuracy.py` has it.
        held_out: how many pictures these are.
        seconds: of everything.
        files: what was written.
    """

    method: str
    steps: int
    resumed_from: int
    loss: float | None
    density: float | None
    weight_bits: float | None
    dead_bits: Mapping[str, int] | None
    coded_maps: int
    raw_bytes: int
    stored_bytes: float
    agreement: float
    held_out: int
    seconds: float
    files: tuple[str, ...]

    @property
    def ratio(self) -> float | None:
        """Of the maps that have a codec; None where none has."""
        return self.raw_bytes / self.stored_bytes if self.stored_bytes else None

    def to_json(self) -> dict[str, Any]:
        """All fields, and the ratio."""
        return {**asdict(self), "ratio": self.ratio}

    def figures(self) -> list[tuple[str, str]]:
        """What a person reads, line by line."""
        since = f" (from {self.resumed_from} on)" if self.resumed_from else ""
        ratio = "no map has a codec"
        if self.ratio is not None:
            stored = f"{self.raw_bytes:,} bytes in {self.stored_bytes:,.0f}"
            ratio = f"{times(self.ratio)}, {self.coded_maps} maps of {stored}"
        weights = []
        if self.density is not None and self.weight_bits is not None:
            is_quantised = self.weight_bits < FLOAT_BITS * self.density
            bits = f", {three_digits(self.weight_bits)} bits each" if is_quantised else ""
            weights = [("weights", f"{percent(100 * self.density)} are not zero{bits}")]
        dead = []
        if self.dead_bits is not None:
            bits = ", ".join(f"{count} of {name}" for name, count in self.dead_bits.items())
            dead = [("dead bits", f"taken out: {bits or 'no code can have any'}")]
        return [
            ("steps", f"{self.steps}, {self.method}{since}"),
            ("loss", "no step was left" if self.loss is None else three_digits(self.loss)),
            *weights,
            *dead,
            ("ratio", ratio),
            ("agreement", f"{percent(self.agreement)} with the teacher, {self.held_out} held out"),
            ("seconds", three_digits(self.seconds)),
        ]


class Subject(NamedTuple):
    """The network, its teacher, and how pictures reach both."""

    captured: Captured
    teacher: nn.Module
    shape: tuple[int, int, int]
    preprocessing: Preprocessing

    def example(self) -> torch.Tensor:
        """A picture of its size."""
        height, width, channels = self.shape
        return torch.zeros(1, channels, height, width)


def learn(config: LearnConfig, *, resume: bool = False) -> LearnReport | None:
    """Do all of it; None in all processes but the first.

    `resume` goes on from the checkpoint that the configuration names, where that exists.

    Raises:
        ThinmapsError: whatever the parts refuse, before any training where it can be known.
    """
    started = time.perf_counter()
    if resume:
        config = replace(config, training=replace(config.training, resume=True))
    pictures, classes = labelled_pictures(config.pictures.learn, config.pictures.labels)
    if config.method.method == "fit" and classes is None:
        raise BadData("fit learns from labels: name their CSV file, [pictures] labels")
    subject = _opened(config)
    loader = PictureLoader(
        pictures.fitting(),
        config.method.batch,
        subject.shape[:2],
        subject.preprocessing,
        labels=classes,
        seed=config.training.seed,
        workers=config.pictures.workers,
    )
    trained = _trained(config, subject, pictures, loader)
    student = trained.student
    if not is_first_process():
        return None
    if student.codecs():
        refit(student, loader)
    dead = prune_dead_bits(student, loader) if config.codecs.prune_dead_bits else None
    found = _judged(subject, student.cpu().eval(), pictures.held_out())
    files = _written(config, subject, student)
    return LearnReport(
        method=config.method.method,
        steps=config.method.steps,
        resumed_from=trained.resumed_from,
        loss=trained.loss,
        density=trained.density,
        weight_bits=trained.weight_bits,
        dead_bits=dead,
        **found._asdict(),
        seconds=time.perf_counter() - started,
        files=files,
    )


def _opened(config: LearnConfig) -> Subject:
    """The network at the size that was asked for, or at its own."""
    table, size = config.network, config.pictures.size
    if table.file is not None:
        captured = read_network(table.file, size)
        teacher: nn.Module = OnnxTeacher(captured)
    else:
        captured, teacher = _of_module(table, size, config.folder)
    real = normalise(captured.model)[0]
    preprocessing = preprocessing_for(real, config.preprocessing)
    assert preprocessing is not None
    return Subject(captured, teacher, real.shapes[real.inputs[0]], preprocessing)


def _of_module(
    table: NetworkTable, size: tuple[int, int] | None, folder: Path
) -> tuple[Captured, nn.Module]:
    if size is None:
        raise BadArgument("a module does not say its pictures' size: give [pictures] size")
    assert table.module is not None
    assert table.weights is not None
    teacher = built_module(table.module, table.weights, folder)
    return capture(teacher, torch.zeros(1, table.channels, *size)), teacher


def _prepared(config: LearnConfig, subject: Subject, pictures: PictureSet) -> Student:
    source = config.pictures.calibrate
    with LateBar() as bar:
        return prepare(
            subject.captured,
            subject.example(),
            None if config.codecs.plan is None else load(config.codecs.plan),
            calibrate=pictures if source is None else open_pictures(source),
            codecs=config.codecs.asked,
            preprocessing=subject.preprocessing,
            progress=bar if is_first_process() else None,
        )


class _Trained(NamedTuple):
    """The student, and what of its training is reported."""

    student: Student
    resumed_from: int
    loss: float | None
    density: float | None = None
    weight_bits: float | None = None

    @classmethod
    def by(cls, student: Student, *phases: TrainingResult | None) -> _Trained:
        """By trainings that followed each other."""
        done = [phase for phase in phases if phase is not None]
        rows = [row for phase in done for row in phase.rows]
        begun = sum(phase.resumed_from for phase in done)
        return cls(student, begun, rows[-1].loss if rows else None)


def _trained(
    config: LearnConfig, subject: Subject, pictures: PictureSet, loader: PictureLoader
) -> _Trained:
    student = _prepared(config, subject, pictures)
    as_onnx(student)  # what cannot be written is refused before it is trained
    weights, (steps, options) = config.weights, _length(config)
    if weights is None:
        return _Trained.by(student, _learnt(config, subject, student, loader, steps, options))
    if not weights.method.takes_modules:
        done = _by_method(config, subject, student, loader)
        found = _Trained.by(student, done.soft, done.fine)
        return found._replace(density=done.density, weight_bits=done.weight_bits)
    module = copy.deepcopy(subject.teacher)
    soft = _by_method(config, subject, module, loader).soft
    subject = subject._replace(captured=capture(module, subject.example()))
    student = _prepared(config, subject, pictures)
    steps, options = weights.shared.steps(steps)[1], phase_options(options, "fine")
    fine = _learnt(config, subject, student, loader, steps, options) if steps else None
    return _Trained.by(student, soft, fine)


def _length(config: LearnConfig) -> tuple[int, TrainingOptions]:
    """Steps, and options with the augmentation in them."""
    augment = config.augmentation.augmentation
    return config.method.steps, replace(config.training, augment=augment)


def _teacher(config: LearnConfig, subject: Subject) -> nn.Module | None:
    """None where labels are learnt."""
    return subject.teacher if config.method.method == "distill" else None


def _by_method(
    config: LearnConfig, subject: Subject, model: nn.Module, loader: PictureLoader
) -> RecipeResult:
    """Train by the table [weights]."""
    assert config.weights is not None
    recipe = config.weights.recipe(model, subject.example(), *_length(config))
    return recipe.run(model, loader, teacher=_teacher(config, subject), losses=config.losses)


def _learnt(
    config: LearnConfig,
    subject: Subject,
    student: Student,
    loader: PictureLoader,
    steps: int,
    options: TrainingOptions,
) -> TrainingResult:
    """Train codecs and network alone."""
    teacher = _teacher(config, subject)
    if teacher is None:
        return fit(student, loader, steps=steps, options=options)
    return distill(student, teacher, loader, steps=steps, losses=config.losses, options=options)


class _Judged(NamedTuple):
    coded_maps: int
    raw_bytes: int
    stored_bytes: float
    agreement: float
    held_out: int


def _judged(subject: Subject, student: Student, pictures: PictureSet) -> _Judged:
    """The student in the engine beside its teacher, layer by layer."""
    network, codecs = student.network(), student.codecs()
    model = Model(build(network, codecs=codecs, schedule="layer"), student.tail())
    engine, teacher = Engine(model.plan), subject.teacher.cpu().eval()
    equal: list[float] = []
    stored: list[int] = []
    with LateBar() as bar, torch.no_grad():
        for values in float_pictures(pictures, subject.shape, subject.preprocessing):
            ours = final_outputs(model, engine.maps(values)).values()
            wanted = named_outputs(teacher(torch.from_numpy(values.transpose(2, 0, 1))[None]))
            pairs = zip(ours, wanted.values(), strict=True)
            equal.append(_agreement([(a, b.numpy()) for a, b in pairs], subject.shape[0]))
            stored.append(sum(engine.encoded_bytes.values()))
            bar("comparing", len(equal), len(pictures))
    raw = sum(network.maps[name].raw_bytes for name in codecs)
    return _Judged(
        len(codecs), raw, float(np.mean(stored)), 100 * float(np.mean(equal)), len(equal)
    )


def _agreement(pairs: Sequence[tuple[Any, Any]], height: int) -> float:
    """The mean over outputs."""
    return float(np.mean([agreement(ours, wanted, height) for ours, wanted in pairs]))


def _written(config: LearnConfig, subject: Subject, student: Student) -> tuple[str, ...]:
    onnx, thin = config.output.onnx, config.output.thin
    export(student, onnx)
    if thin is None:
        return (str(onnx),)
    save(compress(onnx, preprocessing=subject.preprocessing), thin)
    return (str(onnx), str(thin))
