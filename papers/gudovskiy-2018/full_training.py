# SPDX-License-Identifier: Apache-2.0
"""The published trainings at their full size, for who has the data and a GPU.

    python full_training.py imagenet --train IMAGENET/train --weights squeezenet1_1.safetensors \\
        --preset BIT6CH2_3x3s2 -o student.onnx
    python full_training.py voc --voc VOCdevkit/VOC2007 --network detector.onnx \\
        --preset BIT6CH_3x3s2 --maps MAP [MAP ...] -o student.onnx
    torchrun --nproc-per-node=8 full_training.py imagenet ...      (several GPUs)

imagenet: a folder per class, as torchvision's ImageFolder has it. SqueezeNet 1.1 learns its own
float answers, without labels; with `--method fit` the classes, in the order of the folders' names.
voc: JPEGImages and ImageSets/Main, as VOC has them. The detector is a float ONNX file, distilled
from itself on the pictures of `--split`.

What comes out goes on to `thinmaps compress` and `thinmaps eval`. A run that was stopped goes on
with the same line. Tested on a tiny copy of either; at full size it was not run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from squeezenet import FIRES, SQUEEZED, SqueezeNet

import thinmaps.learn as tl
from thinmaps.calibrate.picture_set import PictureSet, open_pictures
from thinmaps.codecs.gf2 import PRESETS, Gf2
from thinmaps.errors import BadData
from thinmaps.learn.processes import is_first_process
from thinmaps.run.pictures import load_picture
from thinmaps.types import Preprocessing


def of_folders(folder: Path) -> tuple[PictureSet, tuple[int, ...]]:
    """Pictures and classes of a folder per class; classes follow the order of names."""
    pictures = open_pictures(folder)
    classes = sorted({name.split("/")[0] for name in pictures.names if "/" in name})
    loose = [name for name in pictures.names if "/" not in name]
    if loose:
        raise BadData(f"{folder} needs a folder per class, {loose[0]!r} lies in none")
    numbers = {name: number for number, name in enumerate(classes)}
    return pictures, tuple(numbers[name.split("/")[0]] for name in pictures.names)


def of_voc(folder: Path, split: str) -> PictureSet:
    """The pictures that a list of VOC names."""
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not listed.is_file():
        raise BadData(f"{folder} needs ImageSets/Main/{split}.txt, which names its pictures")
    names = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
    paths = [folder / "JPEGImages" / f"{name}.jpg" for name in names]
    return PictureSet.of_all(names, lambda index: load_picture(paths[index]))


def with_codecs(
    network: torch.nn.Module | tl.Captured,
    example: torch.Tensor,
    maps: Sequence[str],
    options: argparse.Namespace,
    pictures: PictureSet,
) -> tl.Student:
    """The calibrated student with the preset's layers on the named maps."""
    how: dict[str, Any] = {
        "calibrate": pictures.at_most(options.calibrate),
        "preprocessing": options.preprocessing,
    }
    found = tl.prepare(network, example, **how).network()
    empty = np.zeros((0, 1, 1, 1), np.uint8)
    codecs: Mapping[str, Gf2] = {
        name: Gf2.fit(
            found.maps[name], empty, preset=options.preset, unit_rows=found.maps[name].height
        )
        for name in maps
    }
    student = tl.prepare(network, example, codecs=codecs, **how)
    if not options.learn_codecs:
        for name in codecs:
            student.surrogate(name).requires_grad_(False)
    return student


def learn(
    student: tl.Student,
    teacher: torch.nn.Module,
    pictures: PictureSet,
    options: argparse.Namespace,
    classes: tuple[int, ...] | None = None,
) -> None:
    """Train, and write the student."""
    loader = tl.PictureLoader(
        pictures,
        options.batch,
        student.size,
        options.preprocessing,
        labels=classes,
        workers=options.workers,
    )
    how = tl.TrainingOptions(
        network_rate=options.rate,
        codec_rate=options.codec_rate,
        augment=tl.RandomFlip(),
        precision=options.precision,
        accelerator=options.accelerator,
        checkpoint=options.output.with_suffix(".ckpt"),
        resume=True,
        log=options.output.with_suffix(".log"),
    )
    steps = options.steps or options.epochs * len(loader)
    if options.method == "fit":
        tl.fit(student, loader, steps=steps, options=how)
    else:
        losses = tl.DistillationLosses(logit_weight=0.1)
        tl.distill(student, teacher, loader, steps=steps, losses=losses, options=how)
    if is_first_process():
        tl.export(student.cpu().eval(), options.output)


def imagenet(options: argparse.Namespace) -> None:
    """SqueezeNet 1.1 on a folder per class."""
    options.preprocessing = Preprocessing()
    pictures, classes = of_folders(options.train)
    weights = load_file(options.weights)
    teacher = SqueezeNet(len(weights["classifier.1.bias"]), options.fires)
    teacher.load_state_dict(weights)
    maps = [SQUEEZED[fire] for fire in PRESETS[options.preset].maps]
    example = torch.zeros(1, 3, options.side, options.side)
    student = with_codecs(teacher, example, maps, options, pictures)
    learn(student, teacher, pictures, options, classes)


def voc(options: argparse.Namespace) -> None:
    """A detector from a float ONNX file, on VOC's pictures."""
    options.preprocessing = Preprocessing((0.0,) * 3, (1.0,) * 3, fit="stretch")
    options.method = "distill"
    pictures = of_voc(options.voc, options.split)
    network = tl.read_network(options.network, (options.side, options.side))
    example = torch.zeros(1, 3, options.side, options.side)
    student = with_codecs(network, example, options.maps, options, pictures)
    learn(student, tl.OnnxTeacher(network), pictures, options)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("imagenet")
    one.add_argument("--train", type=Path, required=True)
    one.add_argument("--weights", type=Path, required=True)
    one.add_argument("--method", choices=("distill", "fit"), default="distill")
    one.set_defaults(run=imagenet, side=227, fires=FIRES)
    two = commands.add_parser("voc")
    two.add_argument("--voc", type=Path, required=True)
    two.add_argument("--split", default="trainval")
    two.add_argument("--network", type=Path, required=True)
    two.add_argument("--maps", nargs="+", required=True)
    two.set_defaults(run=voc, side=320)
    for command in (one, two):
        command.add_argument("--preset", choices=PRESETS, required=True)
        command.add_argument("-o", "--output", type=Path, required=True)
        command.add_argument("--side", type=int, default=command.get_default("side"))
        command.add_argument("--epochs", type=int, default=2)
        command.add_argument("--steps", type=int, default=0, help="instead of epochs")
        command.add_argument("--batch", type=int, default=64, help="of a process")
        command.add_argument("--rate", type=float, default=3e-4)
        command.add_argument("--learn-codecs", action="store_true")
        command.add_argument("--codec-rate", type=float, default=2e-5)
        command.add_argument("--calibrate", type=int, default=500, help="pictures for ranges")
        command.add_argument("--workers", type=int, default=8)
        command.add_argument("--precision", default="bf16-mixed")
        command.add_argument("--accelerator", default="auto")
    return parser


def main(given: Sequence[str] | None = None) -> None:
    """Run one training."""
    options = arguments().parse_args(given)
    options.run(options)


if __name__ == "__main__":
    main()
