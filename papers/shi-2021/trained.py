# SPDX-License-Identifier: Apache-2.0
"""ResNet-20 trained with the codec in the loop: a mask per map, and the network's weights.

How the paper finds its masks is not public. Ours: behind every ReLU the map is rounded to uint8,
goes through the DCT along groups of channels, is rounded to steps, loses what the mask drops and
comes back. All roundings are straight-through. Every frequency of a map has a score, the highest
`keep` percent stay, and a score's gradient is that of a factor of its frequency; the share that
stays falls from all to `keep` in the first steps. A frequency that is dropped comes back as a
constant, its mean to begin with. Scores begin as ranks of energy, summed over those maps of a stage
that its shortcuts join, so that one map does not lose what the next one keeps. Scores, constants,
weights and batch statistics learn from the float network's answers to unlabelled training pictures;
labels are not read.

Weights stay in float. Bytes are those that `channel_dct` has for whole maps as units: a form, and
for every frequency that stays a bit and a byte where it is not zero, or all bytes where that is
shorter (`tests/test_papers.py` holds one to the other).

Cost: about four forward passes of the network per picture and epoch; 7 minutes of one core of a
Zen 4 per setting.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError:
    sys.exit("training masks needs PyTorch: pip install torch")

from safetensors.torch import load_file

from thinmaps.calibrate.float_maps import real_values
from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.codecs.channel_dct_fit import dct_matrix
from thinmaps.types import Preprocessing

GROUP = 8
BATCH = 50
EPOCHS = 2
RATE_OF_WEIGHTS = 2e-3
RATE_OF_SCORES = 3e-4
CLOSING = 0.1  # of the steps: in these the share falls from all to what stays
SOFTNESS = 2.0  # the temperature of both answers
PICTURES_FOR_RANGES = 500
STAGES = (16, 32, 64)


@dataclass(frozen=True)
class Setting:
    """Share of the frequencies that stay, and their step in bytes of the map."""

    keep_percent: int
    step: float

    @property
    def words(self) -> str:
        """How figures name it."""
        return f"{self.keep_percent} % kept"


SETTINGS = (Setting(75, 4.0), Setting(50, 4.0))


def rounded(x: Tensor) -> Tensor:
    """The nearest integers, with the gradient of `x`."""
    return x + (x.round() - x).detach()


class CodedMap(nn.Module):
    """What is left of a map behind a ReLU; it passes as it is until `begin`."""

    def __init__(self, channels: int, setting: Setting) -> None:
        super().__init__()
        self.setting = setting
        self.scores = nn.Parameter(torch.zeros(channels))
        self.share = 1.0
        self.coding = False
        self.watching = False
        dct = torch.tensor(dct_matrix(GROUP), dtype=torch.float32)
        groups = channels // GROUP
        self.register_buffer("forward_dct", dct.repeat(groups, 1)[:, :, None, None])
        self.register_buffer("inverse_dct", dct.T.repeat(groups, 1)[:, :, None, None])
        self.register_buffer("scale", torch.zeros(()))
        self.register_buffer("energy", torch.zeros(channels))
        self.mean = nn.Parameter(torch.zeros(channels))
        self.batches = 0
        self.coded_bytes = 0
        self.raw_bytes = 0

    def forward(self, x: Tensor) -> Tensor:
        """The map that a reader gets."""
        if self.watching:
            self.watch(x)
        if not self.coding:
            return x
        levels = rounded((x / self.scale).clamp(0, 255))
        mask = self.mask()
        codes = rounded(self.frequencies(levels) / self.setting.step) * mask
        if not self.training:
            self.count(codes)
        found = codes * self.setting.step + (1 - mask) * self.mean[:, None, None]
        restored = functional.conv2d(found, self.inverse_dct, groups=len(self.scores) // GROUP)
        return rounded(restored.clamp(0, 255)) * self.scale

    def watch(self, x: Tensor) -> None:
        """Remember the range, and sums over the frequencies."""
        found = self.frequencies(x)
        self.scale = torch.maximum(self.scale, x.amax() / 255)
        self.energy += found.var((0, 2, 3))
        self.mean.data += found.mean((0, 2, 3))
        self.batches += 1

    def frequencies(self, x: Tensor) -> Tensor:
        """The DCT along groups of channels."""
        return functional.conv2d(x, self.forward_dct, groups=len(self.scores) // GROUP)

    def begin(self) -> None:
        """Code from here on, with scores by what was watched: the energy about the mean."""
        rank = self.energy.argsort().argsort()
        self.scores.data = rank / len(rank)
        self.mean.data /= self.batches * self.scale
        self.watching, self.coding = False, True

    def mask(self) -> Tensor:
        """1 or 0 per frequency, with the gradient of its score."""
        least = self.scores.sort(descending=True).values[self.kept() - 1]
        chosen = (self.scores >= least).float()
        return (chosen + (self.scores - self.scores.detach()))[:, None, None]

    def kept(self) -> int:
        """Frequencies that stay."""
        return max(1, round(len(self.scores) * self.share))

    def count(self, codes: Tensor) -> None:
        """The bytes of a batch of maps, each of them a unit."""
        positions = codes.shape[2] * codes.shape[3]
        every = self.kept() * positions
        present = (codes != 0).sum((1, 2, 3))
        shorter = torch.clamp(math.ceil(every / 8) + present, max=every)
        self.coded_bytes += int((1 + shorter).sum())
        self.raw_bytes += codes.numel()


class Block(nn.Module):
    """Two convolutions and a shortcut without weights; names are those of the weights."""

    def __init__(self, inputs: int, outputs: int, setting: Setting) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.inner = CodedMap(outputs, setting)
        self.outer = CodedMap(outputs, setting)
        self.border = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, as its readers get it."""
        inner = self.inner(functional.relu(self.bn1(self.conv1(x))))
        short = x[:, :, :: self.stride, :: self.stride]
        short = functional.pad(short, (0, 0, 0, 0, self.border, self.border))
        return self.outer(functional.relu(self.bn2(self.conv2(inner)) + short))


class ResNet20(nn.Module):
    """He et al.'s network for CIFAR-10, with a codec behind each of its 19 ReLUs."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STAGES[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGES[0])
        self.stem = CodedMap(STAGES[0], setting)
        inputs = STAGES[0]
        for stage, outputs in enumerate(STAGES, 1):
            widths = (inputs, outputs, outputs)
            blocks = [Block(width, outputs, setting) for width in widths]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            inputs = outputs
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10)."""
        x = self.stem(functional.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))

    def outer_by_stage(self) -> list[list[CodedMap]]:
        """The codecs of maps that shortcuts of a stage add to."""
        stages = (self.layer1, self.layer2, self.layer3)
        found = [[block.outer for block in stage] for stage in stages]
        return [[self.stem, *found[0]], *found[1:]]

    def coded(self) -> list[CodedMap]:
        """All its codecs."""
        return [module for module in self.modules() if isinstance(module, CodedMap)]


def network_of(weights: Path, setting: Setting) -> ResNet20:
    """The trained network, whose maps pass as they are."""
    network = ResNet20(setting)
    left_out = network.load_state_dict(load_file(weights), strict=False)
    own = ("scores", "dct", "scale", "energy", ".mean", "num_batches_tracked")
    assert not left_out.unexpected_keys
    assert all(name.endswith(own) for name in left_out.missing_keys), left_out.missing_keys
    return network.eval()


def values_of(pictures: Path) -> Tensor:
    """All pictures of a file as the network takes them, n c h w."""
    fitted = [picture for _, picture in open_pictures(pictures).read()]
    return torch.from_numpy(np.stack([real_values(each, Preprocessing()) for each in fitted]))


def begin(network: ResNet20, values: Tensor) -> None:
    """Code maps from here on, with ranges and energies of these pictures."""
    for coded in network.coded():
        coded.watching = True
    answers(network, values)
    for outer in network.outer_by_stage():
        together = torch.stack([coded.energy / coded.energy.sum() for coded in outer]).sum(0)
        for coded in outer:
            coded.energy = together.clone()
    for coded in network.coded():
        coded.begin()


def train(network: ResNet20, teacher: ResNet20, values: Tensor, setting: Setting) -> None:
    """Distil the teacher's answers into the network while its masks close."""
    steps = EPOCHS * len(values) // BATCH
    scores = [coded.scores for coded in network.coded()]
    weights = [p for name, p in network.named_parameters() if not name.endswith("scores")]
    optimiser = torch.optim.Adam(
        [{"params": weights, "lr": RATE_OF_WEIGHTS}, {"params": scores, "lr": RATE_OF_SCORES}]
    )
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    network.train()
    for step, batch in enumerate(batches(values)):
        for coded in network.coded():
            closed = min(1.0, (step + 1) / steps / CLOSING)
            coded.share = 1 - closed * (1 - setting.keep_percent / 100)
        with torch.no_grad():
            wanted = teacher(batch)
        loss = distance(network(batch), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
        if step % 50 == 0:
            print(f"  step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    network.eval()


def batches(values: Tensor) -> Iterator[Tensor]:
    """Every picture once per epoch, half of them mirrored."""
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(values)).split(BATCH):
            batch = values[chosen]
            mirrored = torch.rand(len(batch)) < 0.5
            yield torch.where(mirrored[:, None, None, None], batch.flip(3), batch)


def distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Of two answers: divergence of softened classes, and squares of logits."""
    soft = functional.log_softmax(found / SOFTNESS, 1)
    aim = functional.log_softmax(wanted / SOFTNESS, 1)
    divergence = functional.kl_div(soft, aim, reduction="batchmean", log_target=True)
    return SOFTNESS**2 * divergence + functional.mse_loss(found, wanted)


@torch.no_grad()
def answers(network: ResNet20, values: Tensor) -> Tensor:
    """The class of every picture."""
    return torch.cat([network(batch).argmax(1) for batch in values.split(250)])


def measured(assets: Path, setting: Setting) -> dict[str, float]:
    """Ratio, top-1, the float network's top-1 and agreement, on the test pictures."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    weights = assets / "weights" / "cifar10_resnet20_jpeg.safetensors"
    folder = assets / "images" / "cifar10"
    teacher, network = network_of(weights, setting), network_of(weights, setting)
    values = values_of(folder / "cifar10_jpeg_train.npz")
    begin(network, values[:PICTURES_FOR_RANGES])
    train(network, teacher, values, setting)
    with np.load(folder / "cifar10_jpeg_test.npz") as arrays:
        labels = torch.from_numpy(arrays["label"].astype(np.int64))
    tested = values_of(folder / "cifar10_jpeg_test.npz")
    exact, found = answers(teacher, tested), answers(network, tested)
    raw = sum(coded.raw_bytes for coded in network.coded())
    return {
        "ratio": raw / sum(coded.coded_bytes for coded in network.coded()),
        "float, top-1 %": 100 * float((exact == labels).float().mean()),
        "top-1 %": 100 * float((found == labels).float().mean()),
        "agreement %": 100 * float((found == exact).float().mean()),
    }
