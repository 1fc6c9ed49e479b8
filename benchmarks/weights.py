# SPDX-License-Identifier: Apache-2.0
"""Weight methods on ResNet-20 for CIFAR-10: what is left, and what it answers.

    python benchmarks/weights.py [--methods NAME ...] [--soft N] [--fine N] [--output [FILE]]

`curve` prunes to shares of the multiply-adds, untrained, in three allowances. The others train
`--soft` steps, harden, and train `--fine` steps, 64 pictures each, with one seed and the same
rates, from the same weights. Answers are those to the first `--pictures` of the test, which nothing
else sees: the deviation of a share of 2,000 is 0.8 points, so smaller differences, and any of one
seed in a short run, say little. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resnet20 import resnet20
from results_file import provenance, results_file, write
from sources import ASSETS
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thinmaps.learn as tl
from thinmaps.calibrate.float_maps import real_values
from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.learn.weights.balanced_sparsity import BalancedSparsity, Groups
from thinmaps.learn.weights.dead_zone import DeadZone
from thinmaps.learn.weights.decay import Decay
from thinmaps.learn.weights.joint_prune_quantise import JointPruneQuantise
from thinmaps.learn.weights.mac_pruning import prune_by_macs
from thinmaps.learn.weights.maps import attach, bake
from thinmaps.learn.weights.ovsf import CodedFilters
from thinmaps.learn.weights.recipe import Recipe
from thinmaps.learn.weights.selection import selected
from thinmaps.learn.weights.self_pruning import SelfPruning
from thinmaps.types import Preprocessing

WEIGHTS = ASSETS / "weights" / "cifar10_resnet20_jpeg.safetensors"
SHARES = (0.8, 0.6, 0.5, 0.4, 0.3)
EXPONENTS = (0.0, 0.5, 1.0)
WATCHED_PICTURES = 1000
DENSITY = 0.2
BATCH = 64
DEAD_ZONE_DECAY = 0.006
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
class Trained:
    """One method: before and after hardening on 1,000 training pictures, in the end on the test."""

    method: str
    steps: int
    density: float
    weight_bits: float
    soft_percent: float | None
    hard_percent: float | None
    top1_percent: float
    minutes: float


@dataclass(frozen=True)
class Pictures:
    """Values as the network takes them, and labels."""

    values: Tensor
    labels: Tensor

    def first(self, count: int) -> Pictures:
        """Some of them."""
        return Pictures(self.values[:count], self.labels[:count])

    def top1_percent(self, network: nn.Module) -> float:
        """The share that the network answers rightly, in evaluation."""
        is_training = network.training
        with torch.no_grad():
            network.eval()
            found = torch.cat([network(batch).argmax(1) for batch in self.values.split(250)])
        network.train(is_training)
        return 100 * float((found == self.labels).float().mean())


def pictures(name: str, most: int) -> Pictures:
    """The first of a file of CIFAR-10."""
    path = ASSETS / "images" / "cifar10" / name
    fitted = [picture for _, picture in islice(open_pictures(path).read(), most)]
    values = np.stack([real_values(each, Preprocessing()) for each in fitted])
    with np.load(path) as arrays:
        labels = torch.from_numpy(arrays["label"][:most].astype(np.int64))
    return Pictures(torch.from_numpy(values), labels)


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


Method = Callable[[nn.Module, int, int, tl.TrainingOptions], Recipe]


def learned(peer: bool, network: nn.Module, soft: int, fine: int, options: Any) -> Recipe:
    """Thresholds to `DENSITY`."""
    return SelfPruning(DENSITY, peer=peer).recipe(network, soft, fine, options)


def masked(network: nn.Module, soft: int, fine: int, options: Any) -> Recipe:
    """The rule's masks at once, and training behind them; its share of weights is `DENSITY`."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        tried = copy.deepcopy(network)
        prune_by_macs(tried, EXAMPLE, middle)
        low, high = (middle, high) if density_of(tried) < DENSITY else (low, middle)
    prune_by_macs(network, EXAMPLE, high)
    return Recipe(soft, fine, (), options)


def balanced(form: Any, network: nn.Module, soft: int, fine: int, options: Any) -> Recipe:
    """Two of four."""
    return BalancedSparsity(Groups(2, 4), form=form).recipe(network, soft, fine, options)


def joint(network: nn.Module, soft: int, fine: int, options: Any) -> Recipe:
    """One stored bit per weight."""
    return JointPruneQuantise(1.0).recipe(network, EXAMPLE, soft, fine, options)


def dead_zone(network: nn.Module, soft: int, fine: int, options: Any) -> Recipe:
    """The peer, at one decay: where it ends up is its own."""
    maps = []
    for layer in selected(network).values():
        maps.append(DeadZone())
        attach(layer, maps[-1])
    decay = Decay([p for each in maps for p in each.parameters()], DEAD_ZONE_DECAY)
    return Recipe(soft, fine, [decay], options)


def codes(network: nn.Module, soft: int, fine: int, options: Any) -> Recipe:
    """A quarter of the codes."""
    CodedFilters(0.25).convert(network)
    return Recipe(soft, fine, (), options)


METHODS: dict[str, Method] = {
    "self-pruning": partial(learned, False),
    "soft-threshold": partial(learned, True),
    "mac-masks": masked,
    "balanced": partial(balanced, "signed"),
    "sr-ste": partial(balanced, "sr-ste"),
    "joint": joint,
    "dead-zone": dead_zone,
    "codes": codes,
}


def train(name: str, soft: int, fine: int, learnt: Pictures, tested: Pictures) -> Trained:
    """One method from the trained weights."""
    torch.manual_seed(0)
    network = resnet20(WEIGHTS)
    options = tl.TrainingOptions(
        network_rate=1e-3,
        map_rate=2e-2,
        accelerator="cpu",
        augment=tl.InTurn(tl.RandomCrop(4), tl.RandomFlip()),
        progress=lambda what, done, of: None,
    )
    recipe = METHODS[name](network, soft, fine, options)
    order = torch.Generator().manual_seed(0)
    loader = DataLoader(
        TensorDataset(learnt.values, learnt.labels), BATCH, shuffle=True, generator=order
    )
    watched = learnt.first(WATCHED_PICTURES)
    begun = time.process_time()
    result = recipe.run(network, loader, score=watched.top1_percent)
    minutes = (time.process_time() - begun) / 60
    return Trained(
        name,
        soft + fine,
        result.density,
        result.weight_bits,
        result.soft_score,
        result.hard_score,
        tested.top1_percent(network),
        minutes,
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["curve", *METHODS])
    parser.add_argument("--soft", type=int, default=300)
    parser.add_argument("--fine", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--output", nargs="?", type=Path, const=results_file("-weights"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tested = pictures("cifar10_jpeg_test.npz", arguments.pictures)
    document = {
        **provenance(),
        "pictures": arguments.pictures,
        "float_top1_percent": tested.top1_percent(resnet20(WEIGHTS)),
    }
    if "curve" in arguments.methods:
        found = curve(resnet20(WEIGHTS), tested)
        document["curve"] = [asdict(each) for each in found]
        write(document, arguments.output)
    names = [name for name in arguments.methods if name != "curve"]
    needed = (arguments.soft + arguments.fine) * BATCH
    learnt = pictures("cifar10_jpeg_train.npz", needed) if names else tested
    document["trained"] = []
    for name in names:
        made = train(name, arguments.soft, arguments.fine, learnt, tested)
        document["trained"].append(asdict(made))
        write(document, arguments.output)
        print(made, file=sys.stderr, flush=True)
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
