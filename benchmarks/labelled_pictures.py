# SPDX-License-Identifier: Apache-2.0
"""Pictures with their classes, as ResNet-20 takes them: CIFAR-10 in JPEG, and Fashion-MNIST.

Source
    Xiao et al., "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms", 2017, arXiv:1708.07747; its files have the format of MNIST's.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sources import ASSETS
from torch import Tensor, nn

from thinmaps.calibrate.float_maps import real_values
from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.types import Preprocessing

SIDE = 28  # of a picture of Fashion-MNIST
GREY_MEAN, GREY_DEVIATION = 0.2860, 0.3530  # of its training pictures, white being 1
PICTURE_HEADER, LABEL_HEADER = 16, 8  # bytes: a magic number and the lengths of the axes


@dataclass(frozen=True)
class Pictures:
    """Values as the network takes them, float n c h w, and labels."""

    values: Tensor
    labels: Tensor

    def parted(self, count: int) -> tuple[Pictures, Pictures]:
        """All but the last `count`, and those."""
        values, labels = self.values, self.labels
        return Pictures(values[:-count], labels[:-count]), Pictures(
            values[-count:], labels[-count:]
        )

    def top1_percent(self, network: nn.Module) -> float:
        """The share that the network answers rightly, in evaluation."""
        is_training = network.training
        with torch.no_grad():
            network.eval()
            found = torch.cat([network(batch).argmax(1) for batch in self.values.split(250)])
        network.train(is_training)
        return 100 * float((found == self.labels).float().mean())


def cifar10(name: str, most: int) -> Pictures:
    """The first of a file of CIFAR-10."""
    path = ASSETS / "images" / "cifar10" / name
    fitted = [picture for _, picture in islice(open_pictures(path).read(), most)]
    values = np.stack([real_values(each, Preprocessing()) for each in fitted])
    with np.load(path) as arrays:
        labels = torch.from_numpy(arrays["label"][:most].astype(np.int64))
    return Pictures(torch.from_numpy(values), labels)


def fashion_mnist(part: str, most: int) -> Pictures:
    """The first of a part, `train` or `t10k`: one channel, mean 0 and variance 1."""
    folder = ASSETS / "images" / "fashion-mnist"
    grey = _bytes(folder / f"{part}-images-idx3-ubyte.gz")[PICTURE_HEADER:]
    labels = _bytes(folder / f"{part}-labels-idx1-ubyte.gz")[LABEL_HEADER:][:most]
    real = grey.reshape(-1, 1, SIDE, SIDE)[:most].astype(np.float32) / 255
    values = torch.from_numpy((real - GREY_MEAN) / GREY_DEVIATION)
    return Pictures(values, torch.from_numpy(labels.astype(np.int64)))


def _bytes(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with gzip.open(path) as stream:
        return np.frombuffer(stream.read(), np.uint8)
