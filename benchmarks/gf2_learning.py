# SPDX-License-Identifier: Apache-2.0
"""Layers of bits beside narrow integers, at equal stored bits and after equal training.

    python benchmarks/gf2_learning.py [--seeds N] [--steps N] [--bits B] [--codec-rate R]
                                      [--held-out] [--assets FOLDER] [--output [FILE]]

Three maps of ResNet-20 for CIFAR-10, the sums of its second stage, are stored in B bits per
element: by `narrow`, whose steps learn, or by `gf2`, whose layers learn. Network and codecs learn
together from the same pictures in the same order, a seed for each run; benchmarks/learning.py says
how a run is judged. Of `gf2` it also counts the projections' weights that are not what they began
as, and the stored bits that have one value in all of some training pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import ASSETS
from learning import RECIPES, Result, Training, distilled, measured
from results_file import provenance, results_file, write
from taught_networks import SUBJECTS, Bench

import thinmaps.learn as tl
from thinmaps.codecs.gf2 import Gf2
from thinmaps.learn.surrogates.gf2 import Gf2Surrogate

NETWORK = "cifar10_resnet20_jpeg"
CODECS = ("narrow", "gf2")
MAPS = slice(8, 13, 2)  # of the stored ones: what the blocks of the second stage add up to
BATCHES_TO_WATCH = 16
# Of steps as in benchmarks/learning.py, of layers one that did no harm in papers/gudovskiy-2018.
CODEC_RATES = {"narrow": 5e-3, "gf2": 1e-4}
NETWORK_RATE = 3e-4


@dataclass(frozen=True)
class Bits:
    """What became of the layers: of all weights, and of all bits that are stored per pixel."""

    weights_moved: float
    dead: int
    stored: int


@dataclass(frozen=True)
class Run:
    """One codec, one seed; `bits` of layers of bits."""

    result: Result
    bits: Bits | None


@dataclass(frozen=True)
class Summary:
    """Of one codec's runs: means, and deviations between seeds."""

    codec: str
    drop: float
    drop_deviation: float
    agreement: float
    agreement_deviation: float

    @classmethod
    def of(cls, codec: str, runs: Sequence[Run]) -> Summary:
        """Deviations are those of a sample; 0 of a single run."""
        drops = np.array([run.result.drop for run in runs])
        agreements = np.array([run.result.agreement for run in runs])
        spread = int(len(runs) > 1)
        return cls(
            codec,
            float(drops.mean()),
            float(drops.std(ddof=spread)),
            float(agreements.mean()),
            float(agreements.std(ddof=spread)),
        )


def bits_of(student: tl.Student, start: dict[str, Gf2], bench: Bench, batch: int) -> Bits:
    """Weights against those of the start, bits over batches of training pictures."""
    surrogates = {name: student.surrogate(name) for name in start}
    student.train()
    for surrogate in surrogates.values():
        surrogate.forget()
    with torch.no_grad():
        for _, pictures in zip(range(BATCHES_TO_WATCH), bench.loader(batch), strict=False):
            student(pictures)
    moved, weights, dead, stored = 0, 0, 0, 0
    for name, surrogate in surrogates.items():
        assert isinstance(surrogate, Gf2Surrogate)
        codec = surrogate.codec()
        for before, after in zip(start[name].project, codec.project, strict=True):
            # The start's weights are 0 and 1; folded ones use all of int8.
            began = before.weights * np.int8(127)
            moved += int((after.weights != began).sum())
            weights += began.size
        dead += surrogate.dead_bits()[len(codec.project) - 1]
        stored += codec.stored
    return Bits(moved / weights, dead, stored)


def run(bench: Bench, training: Training, *, held_out: bool) -> Run:
    """Train, count, judge."""
    recipe = RECIPES[training.recipe]
    began = time.process_time()
    student = distilled(bench, recipe, training)
    seconds = time.process_time() - began
    start = recipe.codecs(bench, training.bits)
    layers = {name: codec for name, codec in start.items() if isinstance(codec, Gf2)}
    bits = bits_of(student, layers, bench, training.batch) if layers else None
    found = measured(bench, student, training, seconds, held_out=held_out)
    line = f"{training.recipe}, seed {training.seed}: drop {found.drop:.2f}, {bits}"
    print(line, file=sys.stderr, flush=True)
    return Run(found, bits)


def main() -> int:
    """Train both with every seed, print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--bits", type=int, default=2, help="per element")
    arguments.add_argument("--codecs", nargs="+", choices=CODECS, default=CODECS)
    arguments.add_argument("--codec-rate", type=float, help="of gf2, instead of the one chosen")
    arguments.add_argument("--held-out", action="store_true", help="judge on held-out pictures")
    arguments.add_argument("--assets", type=Path, default=ASSETS)
    arguments.add_argument("--output", type=Path, nargs="?", const=results_file("-gf2-learning"))
    options = arguments.parse_args()
    whole = Bench.open(SUBJECTS[NETWORK], options.assets)
    bench = replace(whole, only=whole.names[MAPS])
    rates = {**CODEC_RATES, **({"gf2": options.codec_rate} if options.codec_rate else {})}
    runs = {
        codec: [
            run(
                bench,
                Training(
                    codec,
                    options.bits,
                    0.0,
                    NETWORK_RATE,
                    rates[codec],
                    options.steps,
                    options.batch,
                    seed,
                ),
                held_out=options.held_out,
            )
            for seed in range(options.seeds)
        ]
        for codec in options.codecs
    }
    document: dict[str, Any] = {
        **provenance(),
        "maps": bench.only,
        "summaries": [asdict(Summary.of(codec, found)) for codec, found in runs.items()],
        "runs": [asdict(each) for found in runs.values() for each in found],
    }
    print(json.dumps({key: document[key] for key in ("maps", "summaries", "runs")}, indent=1))
    write(document, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
