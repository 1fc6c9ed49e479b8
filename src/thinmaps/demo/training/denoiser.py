# SPDX-License-Identifier: Apache-2.0
"""Trains `denoiser.onnx`: removes sensor-like noise from photographs, 45 thousand parameters.

    picture (3, h, w) --3x3--> 16 maps ------------------------ Add --3x3--> 16 --3x3--> noise
                                 |                               |
                           3x3 stride 2 --> 32 maps at half size, twice 3x3 --> 64, DepthToSpace
    clean picture = Clip(picture + noise, 0, 1)

A small U-Net (Ronneberger, Fischer, Brox, 2015) whose two levels meet in an Add instead of a
concatenation. It learns the noise only, as DnCNN does (Zhang et al., 2017). The noise level is
drawn anew for every patch, so the network has to find it by itself. Its skip has to wait for the
half-size branch: what a streaming engine holds of it is a dozen rows.

Run, with the pictures that `LICENSES.md` lists in one folder (about 20 minutes on one core):

    python denoiser.py --pictures FOLDER --held-out seeding coffee china -o denoiser.onnx
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx_writer import conv, node, save
from PIL import Image
from torch import nn

SEED = 20240607
WIDE = 16
DEEP = 32
PATCH = 64
BATCH = 16
NOISE = (5.0, 30.0)  # standard deviation, in steps of 1/255


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A padded 3x3 convolution that keeps the variance of its input through a Relu."""
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class Denoiser(nn.Module):
    """Predicts the noise of a picture in 0..1 and takes it away."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = conv3x3(3, WIDE)
        self.down = conv3x3(WIDE, DEEP, stride=2)
        self.deep1 = conv3x3(DEEP, DEEP)
        self.deep2 = conv3x3(DEEP, DEEP)
        self.up = conv3x3(DEEP, 4 * WIDE)
        self.mix = conv3x3(WIDE, WIDE)
        self.noise = conv3x3(WIDE, 3)
        # Start from "there is no noise"; unlearning a random answer takes thousands of steps.
        nn.init.zeros_(self.noise.weight)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """The picture without noise, not clipped."""
        wide = torch.relu(self.enter(picture))
        deep = torch.relu(self.down(wide))
        deep = torch.relu(self.deep2(torch.relu(self.deep1(deep))))
        up = torch.relu(nn.functional.pixel_shuffle(self.up(deep), 2))
        return picture + self.noise(torch.relu(self.mix(wide + up)))


def photographs(folder: Path, held_out: list[str]) -> list[torch.Tensor]:
    """Every photograph at two sizes, uint8 (3, h, w): scaling down removes its own noise."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.stem in held_out:
            continue
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        for side in (1280, 720):
            ratio = min(1.0, side / max(picture.size))
            shape = (round(picture.width * ratio), round(picture.height * ratio))
            small = np.asarray(picture.resize(shape, Image.Resampling.LANCZOS))
            found.append(torch.from_numpy(small.copy()).permute(2, 0, 1))
    return found


def batches(pictures: list[torch.Tensor], steps: int) -> Iterator[torch.Tensor]:
    """Random crops, flipped and turned, as float 0..1."""
    random = np.random.default_rng(SEED)
    for _ in range(steps):
        crops = []
        for index in random.integers(len(pictures), size=BATCH):
            picture = pictures[index]
            top = random.integers(picture.shape[1] - PATCH)
            left = random.integers(picture.shape[2] - PATCH)
            crop = picture[:, top : top + PATCH, left : left + PATCH]
            crops.append(torch.rot90(crop, int(random.integers(4)), (1, 2)))
        batch = torch.stack(crops).float() / 255
        yield batch.flip(3) if random.integers(2) else batch


def add_noise(clean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Gaussian noise, then what a file holds: whole steps of 1/255 in 0..1."""
    noisy = clean + torch.randn_like(clean) * deviation / 255
    return (noisy.clamp(0, 1) * 255).round() / 255


def train(model: Denoiser, pictures: list[torch.Tensor], steps: int) -> None:
    """Mean squared error, Adam, one cosine."""
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 2e-3, total_steps=steps, pct_start=0.03
    )
    running = 0.0
    for step, clean in enumerate(batches(pictures, steps)):
        deviation = torch.empty(len(clean), 1, 1, 1).uniform_(*NOISE)
        loss = nn.functional.mse_loss(model(add_noise(clean, deviation)), clean)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        running += loss.item()
        if step % 200 == 199:
            print(f"{step + 1:6d}  {-10 * np.log10(running / 200):.2f} dB", flush=True)
            running = 0.0


def psnr(picture: torch.Tensor, clean: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in 0..1."""
    return -10 * torch.log10(torch.mean((picture.clamp(0, 1) - clean) ** 2)).item()


def measure(model: Denoiser, folder: Path, held_out: list[str]) -> None:
    """Print noisy and denoised PSNR of the pictures that training has not seen."""
    for path in sorted(p for p in folder.iterdir() if p.stem in held_out):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
        even = np.asarray(picture)[: picture.height & ~1, : picture.width & ~1]
        clean = torch.from_numpy(even.copy()).permute(2, 0, 1)[None].float() / 255
        for deviation in (10.0, 20.0, 25.0):
            noisy = add_noise(clean, torch.tensor(deviation))
            with torch.no_grad():
                restored = model(noisy)
            print(
                f"{path.stem:14s} noise {deviation:4.0f}   {psnr(noisy, clean):.2f} dB -> "
                f"{psnr(restored, clean):.2f} dB"
            )


def export(model: Denoiser, path: Path) -> None:
    """Write the network as ONNX, without any metadata."""
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}

    def layer(name: str, source: str, output: str) -> onnx.NodeProto:
        return conv(output, source, tensors, name, getattr(model, name))

    nodes = [
        layer("enter", "picture", "enter"),
        node("Relu", ["enter"], "wide"),
        layer("down", "wide", "down"),
        node("Relu", ["down"], "half"),
        layer("deep1", "half", "deep1"),
        node("Relu", ["deep1"], "half1"),
        layer("deep2", "half1", "deep2"),
        node("Relu", ["deep2"], "half2"),
        layer("up", "half2", "up"),
        node("Relu", ["up"], "quarters"),
        node("DepthToSpace", ["quarters"], "full", blocksize=2, mode="CRD"),
        node("Add", ["wide", "full"], "both"),
        layer("mix", "both", "mix"),
        node("Relu", ["mix"], "mixed"),
        layer("noise", "mixed", "noise"),
        node("Add", ["picture", "noise"], "restored"),
        node("Clip", ["restored", "low", "high"], "clean"),
    ]
    tensors |= {"low": np.float32(0), "high": np.float32(1)}
    size = (1, 3, 256, 256)
    save(path, "denoiser", nodes, tensors, ("picture", size), ("clean", size))


def main() -> None:
    """Train, measure, export."""
    parser = argparse.ArgumentParser(description="Train the denoiser of the demo.")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--held-out", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    model = Denoiser()
    train(model, photographs(options.pictures, options.held_out), options.steps)
    measure(model, options.pictures, options.held_out)
    export(model, options.output)


if __name__ == "__main__":
    main()
