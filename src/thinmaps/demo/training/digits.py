# SPDX-License-Identifier: Apache-2.0
"""Trains `digits.onnx`: reads a handwritten digit of 8 x 8 grey pixels, 6 thousand parameters.

The digits are scikit-learn's. They were written by several people, in the order of the file; the
last 500 are held out and never seen here, the first 1297 are learned, shifted and scaled at random.
Also writes `digits.npz`: the held-out digits, their labels, and 100 learned ones to calibrate on.

    python digits.py -o FOLDER        (a minute on one core)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from onnx_writer import conv, node, save
from sklearn.datasets import load_digits
from torch import nn

SEED = 20240608
HELD_OUT = 500
CALIBRATION = 100
EPOCHS = 80


class Reader(nn.Module):
    """Three convolutions, two poolings, one fully connected layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 20, 3, padding=1)
        self.third = nn.Conv2d(20, 16, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, digits: torch.Tensor) -> torch.Tensor:
        """Logits of grey digits in 0..1."""
        maps = torch.relu(self.first(digits))
        maps = nn.functional.max_pool2d(torch.relu(self.second(maps)), 2)
        maps = nn.functional.max_pool2d(torch.relu(self.third(maps)), 2)
        return self.head(maps.flatten(1))


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Bytes (n, 8, 8, 1), ink 0..16 spread over 0..255, and labels."""
    bunch = load_digits()
    return np.rint(bunch.images * 255 / 16).astype(np.uint8)[..., None], bunch.target


def jitter(batch: torch.Tensor) -> torch.Tensor:
    """Shift by up to half a pixel, stretch by up to 8 %."""
    scale = 1 + 0.16 * (torch.rand(len(batch), 2) - 0.5)
    shift = 0.25 * (torch.rand(len(batch), 2) - 0.5)
    matrix = torch.stack([torch.diag_embed(scale)[:, 0], torch.diag_embed(scale)[:, 1]], 1)
    grid = nn.functional.affine_grid(
        torch.cat([matrix, shift[..., None]], 2), list(batch.shape), align_corners=False
    )
    return nn.functional.grid_sample(batch, grid, align_corners=False)


def train(model: Reader, pictures: torch.Tensor, labels: torch.Tensor) -> None:
    """Cross-entropy with AdamW and one cosine."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    steps = EPOCHS * (len(pictures) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(pictures))
        for chosen in order[: len(order) // 64 * 64].view(-1, 64):
            logits = model(jitter(pictures[chosen]))
            loss = nn.functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()


def export(model: Reader, path: Path) -> None:
    """Write the network as ONNX, without any metadata."""
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    nodes = [
        conv("conv1", "digit", tensors, "first", model.first),
        node("Relu", ["conv1"], "relu1"),
        conv("conv2", "relu1", tensors, "second", model.second),
        node("Relu", ["conv2"], "relu2"),
        node("MaxPool", ["relu2"], "pool2", kernel_shape=[2, 2], strides=[2, 2]),
        conv("conv3", "pool2", tensors, "third", model.third),
        node("Relu", ["conv3"], "relu3"),
        node("MaxPool", ["relu3"], "pool3", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["pool3"], "flat", axis=1),
        node("Gemm", ["flat", "head.weight", "head.bias"], "logits", transB=1),
    ]
    save(path, "digits", nodes, tensors, ("digit", (1, 1, 8, 8)), ("logits", (1, 10)))


def main() -> None:
    """Train, measure, export."""
    parser = argparse.ArgumentParser(description="Train the classifier of the demo.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    folder = parser.parse_args().output
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    pictures, labels = digits()
    floats = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    targets = torch.from_numpy(labels).long()
    model = Reader()
    train(model, floats[:-HELD_OUT], targets[:-HELD_OUT])
    with torch.no_grad():
        right = (model(floats[-HELD_OUT:]).argmax(1) == targets[-HELD_OUT:]).float().mean()
    print(f"{sum(p.numel() for p in model.parameters())} parameters, top-1 {100 * right:.1f} %")
    export(model, folder / "digits.onnx")
    np.savez_compressed(
        folder / "digits.npz",
        calibration=pictures[:CALIBRATION],
        pictures=pictures[-HELD_OUT:],
        labels=labels[-HELD_OUT:].astype(np.uint8),
    )


if __name__ == "__main__":
    main()
