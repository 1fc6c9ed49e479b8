# SPDX-License-Identifier: Apache-2.0
"""Networks that learn to live with codecs: their teachers, what they learn from, their uint8 twins.

A row of `SUBJECTS` says all that differs from network to network. Of the training pictures some are
held out: settings are chosen on those. The pictures of `Task.evaluation` are for the last figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accuracy import ASSETS, TASKS, Task, labelled, pictures
from resnet20 import resnet20
from torch import nn

import thinmaps.learn as tl
from thinmaps.calibrate.picture_set import PictureSet, network_values
from thinmaps.codecs import Codec
from thinmaps.learn.captured import Captured
from thinmaps.learn.onnx_network import OnnxTeacher
from thinmaps.measure.map_profile import stored_maps
from thinmaps.plan.build import build
from thinmaps.prepared import Prepared

CALIBRATION_PICTURES = 1000
HELD_OUT_OF_CIFAR = 1000


class Split(NamedTuple):
    """What is learned from, and what settings are chosen on."""

    training: PictureSet
    held_out: PictureSet


def last_held_out(found: PictureSet) -> Split:
    """Of pictures in no order."""
    ends = found.indices[:-HELD_OUT_OF_CIFAR], found.indices[-HELD_OUT_OF_CIFAR:]
    return Split(*(replace(found, indices=each) for each in ends))


def every_fifth_held_out(found: PictureSet) -> Split:
    """Of pictures that are sorted by class."""
    return Split(found.fitting(), found.held_out())


def from_module(weights: Path, side: int) -> tuple[Captured, nn.Module]:
    """ResNet-20 in torch, which answers many small pictures at once."""
    teacher = resnet20(weights)
    return tl.capture(teacher, torch.zeros(1, 3, side, side)), teacher


def from_file(model: Path, side: int) -> tuple[Captured, nn.Module]:
    """The ONNX file, and its answers by ONNX Runtime."""
    captured = tl.read_network(model, (side, side))
    return captured, OnnxTeacher(captured)


@dataclass(frozen=True)
class Subject:
    """A network and how it is taught.

    Attributes:
        task: its pictures, as benchmarks/accuracy.py has them.
        source: its file, in the folder of assets.
        opened: makes the captured network and its teacher of that file.
        side: of its input, which is square.
        stored_side: of training pictures.
        window: side of what is learned from, anywhere in a training picture.
        split: of its calibration pictures.
        sample_pictures: whose maps codecs are fitted to.
        compared_pictures: on which engine and student must answer the same, bit for bit.
        groups: channels of a block by those of its map, where they are not `other_groups`; tables
            grow with them.
    """

    task: Task
    source: str
    opened: Callable[[Path, int], tuple[Captured, nn.Module]]
    side: int
    stored_side: int
    window: int
    split: Callable[[PictureSet], Split]
    sample_pictures: int
    compared_pictures: int
    groups: dict[int, int] = field(default_factory=dict)
    other_groups: int = 8

    @property
    def name(self) -> str:
        """The network's."""
        return self.task.network

    @property
    def example(self) -> torch.Tensor:
        """A picture of its size."""
        return torch.zeros(1, 3, self.side, self.side)


def _task(network: str) -> Task:
    return next(task for task in TASKS if task.network == network)


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            _task("cifar10_resnet20_jpeg"),
            "weights/cifar10_resnet20_jpeg.safetensors",
            from_module,
            side=32,
            stored_side=32,
            window=32,
            split=last_held_out,
            sample_pictures=400,
            compared_pictures=500,
            groups={16: 16},
        ),
        Subject(
            _task("squeezenet1_1"),
            "models/squeezenet1_1.onnx",
            from_file,
            side=224,
            stored_side=256,
            window=160,
            split=every_fifth_held_out,
            sample_pictures=100,
            compared_pictures=20,
            groups={16: 16, 32: 16, 48: 16, 64: 16},
        ),
    )
}


@dataclass(frozen=True, eq=False)
class Bench:
    """The float network, what it is trained on, and the uint8 network that it becomes.

    `only` are the maps that get codecs, where not all that a machine stores do.
    """

    subject: Subject
    assets: Path
    captured: Captured
    teacher: nn.Module
    split: Split
    prepared: Prepared
    only: tuple[str, ...] = ()

    @classmethod
    def open(cls, subject: Subject, assets: Path = ASSETS) -> Bench:
        """Read and calibrate."""
        captured, teacher = subject.opened(assets / subject.source, subject.side)
        found, _ = labelled(assets / "images" / subject.task.calibration)
        split = subject.split(found)
        prepared = Prepared.open(
            captured.model,
            split.training.at_most(CALIBRATION_PICTURES),
            preprocessing=subject.task.preprocessing,
        )
        return cls(subject, assets, captured, teacher, split, prepared)

    @property
    def names(self) -> tuple[str, ...]:
        """The maps that a machine stores layer by layer."""
        if self.only:
            return self.only
        stored = stored_maps(self.prepared.networks.own)
        return tuple(name for name in stored if name not in self.subject.task.fused)

    def samples(self) -> dict[str, np.ndarray]:
        """Bytes (n, h, w, c) of those maps."""
        indices = self.split.training.indices[: self.subject.sample_pictures]
        few = replace(self.split.training, indices=indices)
        seen = list(self.prepared.observed(self.names, few))
        return {name: np.stack([maps[name] for maps in seen]) for name in self.names}

    def loader(self, batch: int, seed: int = 0) -> tl.PictureLoader:
        """Training pictures in batches."""
        side = (self.subject.stored_side,) * 2
        preprocessing = self.subject.task.preprocessing
        return tl.PictureLoader(self.split.training, batch, side, preprocessing, seed=seed)

    def student(self, codecs: dict[str, Codec]) -> tl.Student:
        """The uint8 network with those codecs, to be trained."""
        plan = build(self.prepared.networks.own, codecs=codecs, schedule="layer")
        return tl.prepare(self.captured, self.subject.example, plan)

    def cases(self, *, held_out: bool) -> Iterator[tuple[np.ndarray, int]]:
        """Pictures as the network takes them, with labels."""
        task, shape = self.subject.task, (self.subject.side, self.subject.side, 3)
        if not held_out:
            for evaluation in task.evaluation:
                yield from pictures(self.assets / "images" / evaluation, task, shape, 1)
            return
        _, labels = labelled(self.assets / "images" / task.calibration)
        for name, picture in self.split.held_out.read():
            yield network_values(name, picture, shape, task.preprocessing), labels[name]
