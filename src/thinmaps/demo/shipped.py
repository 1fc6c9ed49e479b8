# SPDX-License-Identifier: Apache-2.0
"""The data that ships with the package: two networks, a photograph, digits. See `LICENSES.md`.

Noise is made here, from a seed, so that the clean photograph is known and the gain is a figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

NOISE_SEED = 1
NOISE_DEVIATION = 25.0  # in steps of 1/255
SQUARE = 256


@dataclass(frozen=True, eq=False)
class Digits:
    """Grey digits `(n, 8, 8, 1)`: some to calibrate on, and held-out ones with their labels."""

    calibration: Pixels
    pictures: Pixels
    labels: Pixels


def shipped(name: str) -> bytes:
    """The bytes of a file of the demo."""
    return files("thinmaps.demo").joinpath(name).read_bytes()


def photograph() -> Pixels:
    """The clean photograph, `(1350, 2400, 3)`."""
    return _opened("photograph.jpg")


def calibration_squares() -> list[Pixels]:
    """Nine noisy squares of other photographs, `(256, 256, 3)` each."""
    sheet = with_noise(_opened("calibration.jpg"))
    places = range(0, sheet.shape[0], SQUARE)
    return [sheet[y : y + SQUARE, x : x + SQUARE].copy() for y in places for x in places]


def digits() -> Digits:
    """The digits."""
    with np.load(BytesIO(shipped("digits.npz"))) as arrays:
        return Digits(arrays["calibration"], arrays["pictures"], arrays["labels"])


def with_noise(clean: Pixels) -> Pixels:
    """The picture as a sensor in the dark would have seen it, the same every time."""
    random = np.random.default_rng(NOISE_SEED)
    noise = random.standard_normal(clean.shape, np.float32) * NOISE_DEVIATION
    noisy: Pixels = np.rint(np.clip(clean + noise, 0, 255)).astype(np.uint8)
    return noisy


def psnr(picture: Pixels, clean: Pixels) -> float:
    """Peak signal-to-noise ratio in dB; higher is better, 3 dB is half the squared error.

    >>> round(psnr(np.full(8, 10, np.uint8), np.full(8, 11, np.uint8)), 2)
    48.13
    """
    error = float(np.mean((picture.astype(np.float64) - clean) ** 2))
    return 10 * math.log10(255**2 / max(error, 1e-12))


def _opened(name: str) -> Pixels:
    with Image.open(BytesIO(shipped(name))) as picture:
        return np.asarray(picture.convert("RGB"))
