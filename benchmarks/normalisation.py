# SPDX-License-Identifier: Apache-2.0
"""Normalisation by constraints beside batch and group norms, where batches are small.

    python benchmarks/normalisation.py [--pictures {fashion-mnist,cifar10}] [--batches N ...]
        [--methods NAME ...] [--shown N] [--rates RATE ...] [--seeds N] [--tested N]
        [--output [FILE]]

ResNet-20 learns from scratch on `--shown` pictures, in batches of each of `--batches`, without
augmentation, with Adam and half a cosine. Every method tries all `--rates` with the first seed and
takes the one that answers best on 500 training pictures that are held out; the other seeds run at
that rate. Those runs alone answer the first `--tested` of the test. Error ratios are of mean
errors. Group norms have groups of 4 channels. Networks with constraints begin from a batch of 64
pictures (`start_from`). Needs PyTorch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from labelled_pictures import Pictures, cifar10, fashion_mnist
from rate_search import mean_and_deviation, search
from resnet20 import ResNet20
from results_file import provenance, results_file, write
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thinmaps.learn as tl
from thinmaps.learn.weights.lagrangian_norm import LagrangianNorm, saved_bytes, start_from
from thinmaps.learn.weights.maps import attached

Method = Literal["batch", "group", "signed", "published"]

METHODS: tuple[Method, ...] = get_args(Method)
HELD_OUT = 500
STARTED_FROM = 64
GROUP_CHANNELS = 4
MAP_RATE = 3.0  # of gains, in rates of the network: they have to keep up with its weights
STEP, LIMIT = 1e-3, 1e-3  # of the multipliers: stronger ones hold statistics and learn less


@dataclass(frozen=True)
class Asked:
    """What all methods share; `shown` counts pictures of training."""

    shown: int
    rates: Sequence[float]
    seeds: int


@dataclass(frozen=True)
class Trained:
    """One method, batch, rate and seed; `test_percent` where its rate is the method's."""

    method: str
    batch: int
    rate: float
    seed: int
    held_out_percent: float
    minutes: float
    test_percent: float | None = None


@dataclass(frozen=True)
class Compared:
    """All seeds of a method at its rate: what it answers to the test, and what it keeps.

    `kept_bytes` is what autograd keeps of the forward pass of one batch until the backward one.
    """

    method: str
    batch: int
    rate: float
    mean_percent: float
    deviation: float
    kept_bytes: int


def grouped(network: nn.Module) -> None:
    """Put group norms in the place of batch norms."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            groups = child.num_features // GROUP_CHANNELS
            setattr(network, name, nn.GroupNorm(groups, child.num_features))
        else:
            grouped(child)


def begun(
    method: Method, learnt: Pictures, steps: int, options: tl.TrainingOptions
) -> tuple[nn.Module, tl.TrainingOptions]:
    """An untrained network, and the options of its training."""
    network = ResNet20(learnt.values.shape[1])
    if method == "group":
        grouped(network)
    if method != "signed" and method != "published":
        return network, options
    recipe = LagrangianNorm(method, STEP, LIMIT).recipe(network, learnt.values[:1], steps)
    layers = [each.layer for each in attached(network) if isinstance(each.layer, nn.Conv2d)]
    start_from(network, layers, learnt.values[:STARTED_FROM])
    return network, replace(options, companions=recipe.companions)


def train(
    method: Method, batch: int, rate: float, seed: int, learnt: Pictures, asked: Asked
) -> tuple[Trained, nn.Module]:
    """One run, judged on the pictures that are held out."""
    torch.manual_seed(seed)
    fitting, held_out = learnt.parted(HELD_OUT)
    steps = asked.shown // batch
    options = tl.TrainingOptions(
        network_rate=rate,
        map_rate=MAP_RATE * rate,
        average_decay=0.0,
        clip_norm=float("inf"),
        seed=seed,
        accelerator="cpu",
        progress=lambda what, done, of: None,
    )
    network, options = begun(method, fitting, steps, options)
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        TensorDataset(fitting.values, fitting.labels), batch, shuffle=True, generator=order
    )
    started = time.process_time()
    tl.fit(network, loader, steps=steps, options=options)
    minutes = (time.process_time() - started) / 60
    made = Trained(method, batch, rate, seed, held_out.top1_percent(network), minutes)
    print(made, file=sys.stderr, flush=True)
    return made, network


def compare(
    method: Method, batch: int, learnt: Pictures, tested: Pictures, asked: Asked
) -> tuple[list[Trained], Compared]:
    """All rates with one seed, then the other seeds of the best."""
    rest, taken = search(
        lambda rate, seed: train(method, batch, rate, seed, learnt, asked),
        asked.rates,
        lambda made: -made.held_out_percent,
        asked.seeds,
    )
    shares = [tested.top1_percent(network) for _, network in taken]
    runs = [
        replace(made, test_percent=share) for (made, _), share in zip(taken, shares, strict=True)
    ]
    kept = kept_bytes(taken[0][1], learnt.values[:batch])
    compared = Compared(method, batch, runs[0].rate, *mean_and_deviation(shares), kept)
    print(compared, file=sys.stderr, flush=True)
    return [*rest, *runs], compared


def kept_bytes(network: nn.Module, pictures: torch.Tensor) -> int:
    """What autograd keeps of one forward pass in training, parameters and pictures apart."""
    there = [pictures, *network.parameters(), *network.buffers()]
    network.train()
    return saved_bytes(lambda: network(pictures), there)


def error_ratios(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """Errors of constraints over those of either norm, per batch."""
    errors = {(each.method, each.batch): 100 - each.mean_percent for each in found}
    return [
        {"method": method, "batch": batch, "peer": peer, "error_ratio": error / errors[peer, batch]}
        for (method, batch), error in errors.items()
        for peer in ("batch", "group")
        if method in ("signed", "published") and (peer, batch) in errors
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sets = ("fashion-mnist", "cifar10")
    parser.add_argument("--pictures", choices=sets, default=sets[0])
    parser.add_argument("--batches", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS[:3]))
    parser.add_argument("--shown", type=int, default=1600)
    parser.add_argument("--rates", nargs="+", type=float, default=[5e-4, 1.5e-3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tested", type=int, default=2000)
    parser.add_argument("--output", nargs="?", type=Path, const=results_file("-normalisation"))
    given = parser.parse_args()
    asked = Asked(given.shown, given.rates, given.seeds)
    torch.set_num_threads(1)
    most = given.shown + HELD_OUT
    if given.pictures == "cifar10":
        learnt = cifar10("cifar10_jpeg_train.npz", most)
        tested = cifar10("cifar10_jpeg_test.npz", given.tested)
    else:
        learnt, tested = fashion_mnist("train", most), fashion_mnist("t10k", given.tested)
    document = {
        **provenance(),
        "pictures": given.pictures,
        "tested": given.tested,
        "asked": asdict(asked),
    }
    trained: list[Trained] = []
    found: list[Compared] = []
    for batch in given.batches:
        for method in given.methods:
            runs, compared = compare(method, batch, learnt, tested, asked)
            trained += runs
            found.append(compared)
            document["trained"] = [asdict(each) for each in trained]
            document["compared"] = [asdict(each) for each in found]
            document["error_ratios"] = error_ratios(found)
            write(document, given.output)
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
