# SPDX-License-Identifier: Apache-2.0
"""Weight methods on ResNet-20 for CIFAR-10: what is left, and what it answers.

    python benchmarks/weights.py [--methods NAME ...] [--soft N] [--fine N] [--rates RATE ...]
        [--map-rates FACTOR ...] [--seeds N] [--density SHARE] [--bits BITS] [--pictures N]
        [--output [FILE]]

`curve` prunes to shares of the multiply-adds, untrained, in three allowances. The others train
`--soft` steps, harden, and train `--fine` steps, 32 pictures each in bfloat16, from the same
weights. With the first seed each tries every rate of the network with every rate of the maps, a
factor on it; methods whose maps learn nothing try as many rates of the network, each `--rates`
once more by every power of 1/3. They take what answers best on 500 training pictures that are held
out, among the tries that keep the method's budget within 5 %, or else come nearest; the other seeds
run with that. Those runs alone answer the first `--pictures` of the test: the deviation of a share
of 2,000 is 0.8 points, so smaller differences say little. What `blocks` leaves is timed in the
engine, beside itself without skipping. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from labelled_pictures import Pictures, cifar10
from rate_search import mean_and_deviation, search
from resnet20 import resnet20
from results_file import provenance, results_file, write
from sources import ASSETS
from sparse import Side, compare
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thinmaps.learn as tl
from thinmaps.graph.operators import Conv
from thinmaps.graph.zero_blocks import zero_block_share
from thinmaps.learn.weights.balanced_sparsity import BalancedSparsity
from thinmaps.learn.weights.dead_zone import DeadZone
from thinmaps.learn.weights.decay import Decay
from thinmaps.learn.weights.joint_prune_quantise import JointPruneQuantise
from thinmaps.learn.weights.mac_pruning import prune_by_macs
from thinmaps.learn.weights.maps import attach, bake
from thinmaps.learn.weights.ovsf import CodedFilters
from thinmaps.learn.weights.patterns import Blocks, Groups
from thinmaps.learn.weights.recipe import Recipe
from thinmaps.learn.weights.selection import selected
from thinmaps.learn.weights.self_pruning import SelfPruning
from thinmaps.plan.build import build

WEIGHTS = ASSETS / "weights" / "cifar10_resnet20_jpeg.safetensors"
SHARES = (0.8, 0.6, 0.5, 0.4, 0.3)
EXPONENTS = (0.0, 0.5, 1.0)
HELD_OUT = 500
CALIBRATION_PICTURES = 64
ROUNDS = 15
BATCH = 32
WITHIN = 1.05  # of a budget
DEAD_ZONE_DECAY = 1.8  # over all soft steps: logits keep e^-1.8 of themselves
HALVES = {"layer2.*": 5 / 16, "layer3.*": 1 / 4}  # half of the numbers of all 3x3 filters
EXAMPLE = torch.zeros(1, 3, 32, 32)


@dataclass(frozen=True)
class Pruned:
    """One point of the curve."""

    exponent: float
    mac_share: float
    density: float
    top1_percent: float
    seconds: float


@dataclass(frozen=True)
class Asked:
    """What all methods share; `density` and `bits` are their budgets."""

    soft: int
    fine: int
    rates: Sequence[float]
    map_rates: Sequence[float]
    seeds: int
    density: float
    bits: float


@dataclass(frozen=True)
class Trained:
    """One method, rates and seed: on held-out pictures before and after hardening, and in the end.

    `excess` is what is kept over the budget, 1 where it is met; `top1_percent` of the test.
    """

    method: str
    seed: int
    rate: float
    map_rate: float
    density: float
    weight_bits: float
    excess: float
    soft_percent: float | None
    hard_percent: float | None
    held_out_percent: float
    minutes: float
    top1_percent: float | None = None


@dataclass(frozen=True)
class Compared:
    """All seeds of a method with its rates: means, and the deviation of what the test says."""

    method: str
    rate: float
    map_rate: float
    density: float
    weight_bits: float
    mean_percent: float
    deviation: float


def curve(network: nn.Module, tested: Pictures) -> list[Pruned]:
    """Shares of the multiply-adds, untrained."""
    found = []
    for exponent in EXPONENTS:
        for share in SHARES:
            pruned = copy.deepcopy(network)
            begun = time.process_time()
            chosen = prune_by_macs(pruned, EXAMPLE, share, exponent=exponent)
            seconds = time.process_time() - begun
            bake(pruned)
            top1 = tested.top1_percent(pruned)
            found.append(Pruned(exponent, chosen.mac_share, density_of(pruned), top1, seconds))
            print(found[-1], file=sys.stderr, flush=True)
    return found


def density_of(network: nn.Module) -> float:
    """The share of the convolutions' weights that is not zero."""
    weights = [layer.weight for layer in selected(network).values()]
    return sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


Method = Callable[[nn.Module, Asked, tl.TrainingOptions], Recipe]


def learned(peer: bool, network: nn.Module, asked: Asked, options: Any) -> Recipe:
    """Thresholds to the density."""
    return SelfPruning(asked.density, peer=peer).recipe(network, asked.soft, asked.fine, options)


def masked(network: nn.Module, asked: Asked, options: Any) -> Recipe:
    """The rule's masks at once, and training behind them, at the density."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        tried = copy.deepcopy(network)
        prune_by_macs(tried, EXAMPLE, middle)
        low, high = (middle, high) if density_of(tried) < asked.density else (low, middle)
    prune_by_macs(network, EXAMPLE, high)
    return Recipe(asked.soft, asked.fine, (), options)


def blocks(form: Any, network: nn.Module, asked: Asked, options: Any) -> Recipe:
    """A quarter of the blocks that the engine skips."""
    method = BalancedSparsity(Blocks(0.25), form=form)
    return method.recipe(network, asked.soft, asked.fine, options)


def balanced(form: Any, network: nn.Module, asked: Asked, options: Any) -> Recipe:
    """Two of four."""
    method = BalancedSparsity(Groups(2, 4), form=form)
    return method.recipe(network, asked.soft, asked.fine, options)


def joint(network: nn.Module, asked: Asked, options: Any) -> Recipe:
    """To the stored bits per weight."""
    return JointPruneQuantise(asked.bits).recipe(network, EXAMPLE, asked.soft, asked.fine, options)


def dead_zone(network: nn.Module, asked: Asked, options: Any) -> Recipe:
    """The peer, at one decay: where it ends up is its own."""
    maps = []
    for layer in selected(network).values():
        maps.append(DeadZone())
        attach(layer, maps[-1])
    decay = Decay([p for each in maps for p in each.parameters()], DEAD_ZONE_DECAY / asked.soft)
    return Recipe(asked.soft, asked.fine, [decay], options)


def codes(shares: dict[str, float], network: nn.Module, asked: Asked, options: Any) -> Recipe:
    """Of the named layers, a share of the codes."""
    for layers, share in shares.items():
        CodedFilters(share, [layers]).convert(network)
    return Recipe(asked.soft, asked.fine, (), options)


METHODS: dict[str, Method] = {
    "self-pruning": partial(learned, False),
    "soft-threshold": partial(learned, True),
    "balanced": partial(balanced, "signed"),
    "sr-ste": partial(balanced, "sr-ste"),
    "blocks": partial(blocks, "signed"),
    "blocks sr-ste": partial(blocks, "sr-ste"),
    "dead-zone": dead_zone,
    "joint": joint,
    "codes 1/2": partial(codes, {"*": 1 / 2}),
    "codes 1/4": partial(codes, {"*": 1 / 4}),
    "codes of halves": partial(codes, HALVES),
    "mac-masks": masked,
}

WITHOUT_MAP_RATE = {"sr-ste", "blocks sr-ste", "mac-masks", *(n for n in METHODS if "codes" in n)}


def excess(name: str, asked: Asked, density: float, bits: float) -> float:
    """What a method keeps over its budget; methods without one keep what they shall."""
    if name in ("self-pruning", "soft-threshold", "mac-masks"):
        return density / asked.density
    return bits / asked.bits if name == "joint" else 1.0


def tries(name: str, asked: Asked) -> list[tuple[float, float]]:
    """Rates of network and maps; as many for every method."""
    if name not in WITHOUT_MAP_RATE:
        return [(rate, factor * rate) for rate, factor in product(asked.rates, asked.map_rates)]
    shrunk = range(len(asked.map_rates))
    return [(rate / 3**times, 0.0) for rate, times in product(asked.rates, shrunk)]


def train(
    name: str, seed: int, rates: tuple[float, float], asked: Asked, learnt: Pictures
) -> tuple[Trained, nn.Module]:
    """One method from the trained weights, judged on the pictures that are held out."""
    torch.manual_seed(seed)
    network = resnet20(WEIGHTS).to(memory_format=torch.channels_last)
    options = tl.TrainingOptions(
        network_rate=rates[0],
        map_rate=rates[1],
        seed=seed,
        precision="bf16-mixed",
        exact_from=1.0,
        accelerator="cpu",
        augment=tl.InTurn(tl.RandomCrop(4), tl.RandomFlip()),
        progress=lambda what, done, of: None,
    )
    recipe = METHODS[name](network, asked, options)
    fitting, held_out = learnt.parted(HELD_OUT)
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        TensorDataset(fitting.values, fitting.labels), BATCH, shuffle=True, generator=order
    )
    begun = time.process_time()
    result = recipe.run(network, loader, score=held_out.top1_percent)
    minutes = (time.process_time() - begun) / 60
    assert result.score is not None
    made = Trained(
        name,
        seed,
        *rates,
        result.density,
        result.weight_bits,
        excess(name, asked, result.density, result.weight_bits),
        result.soft_score,
        result.hard_score,
        result.score,
        minutes,
    )
    print(made, file=sys.stderr, flush=True)
    return made, network


def measured(
    name: str, asked: Asked, learnt: Pictures, tested: Pictures
) -> tuple[list[Trained], Compared, nn.Module]:
    """All rates of a method with one seed, then the other seeds with those that are taken."""
    rest, taken = search(
        lambda rates, seed: train(name, seed, rates, asked, learnt),
        tries(name, asked),
        lambda made: (max(made.excess, WITHIN), -made.held_out_percent),
        asked.seeds,
    )
    shares = [tested.top1_percent(network) for _, network in taken]
    runs = [
        replace(made, top1_percent=share) for (made, _), share in zip(taken, shares, strict=True)
    ]
    compared = Compared(
        name,
        runs[0].rate,
        runs[0].map_rate,
        mean(made.density for made in runs),
        mean(made.weight_bits for made in runs),
        *mean_and_deviation(shares),
    )
    print(compared, file=sys.stderr, flush=True)
    return [*rest, *runs], compared, taken[0][1]


def skipping(name: str, network: nn.Module, learnt: Pictures) -> Side:
    """The network in the engine, with zero blocks skipped and not."""
    examples = learnt.values[:CALIBRATION_PICTURES]
    student = tl.prepare(network, EXAMPLE, calibrate=examples)
    plan = build(student.network(), schedule="mixed")
    zeros = [
        zero_block_share(node.operator.weights, node.operator.groups)
        for node in plan.source.nodes
        if node.name in plan.skipping and isinstance(node.operator, Conv)
    ]
    share = float(np.mean(zeros)) if zeros else 0.0
    picture = np.ascontiguousarray(examples[0].permute(1, 2, 0).numpy())
    return compare(name, share, plan, picture, False, ROUNDS)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["curve", *METHODS])
    parser.add_argument("--soft", type=int, default=300)
    parser.add_argument("--fine", type=int, default=100)
    parser.add_argument("--rates", nargs="+", type=float, default=[5e-4, 1e-3])
    parser.add_argument("--map-rates", nargs="+", type=float, default=[30.0, 120.0, 300.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--density", type=float, default=0.2)
    parser.add_argument("--bits", type=float, default=1.0)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--output", nargs="?", type=Path, const=results_file("-weights"))
    given = parser.parse_args()
    asked = Asked(
        given.soft,
        given.fine,
        given.rates,
        given.map_rates,
        given.seeds,
        given.density,
        given.bits,
    )
    torch.set_num_threads(1)
    tested = cifar10("cifar10_jpeg_test.npz", given.pictures)
    document = {
        **provenance(),
        "pictures": given.pictures,
        "asked": asdict(asked),
        "float_top1_percent": tested.top1_percent(resnet20(WEIGHTS)),
    }
    if "curve" in given.methods:
        found = curve(resnet20(WEIGHTS), tested)
        document["curve"] = [asdict(each) for each in found]
        write(document, given.output)
    names = [name for name in given.methods if name != "curve"]
    needed = (asked.soft + asked.fine) * BATCH + HELD_OUT
    learnt = cifar10("cifar10_jpeg_train.npz", needed) if names else tested
    document |= {"trained": [], "compared": [], "skipping": []}
    for name in names:
        trained, compared, network = measured(name, asked, learnt, tested)
        document["trained"] += [asdict(made) for made in trained]
        document["compared"].append(asdict(compared))
        if name.startswith("blocks"):
            document["skipping"].append(asdict(skipping(name, network, learnt)))
        write(document, given.output)
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
