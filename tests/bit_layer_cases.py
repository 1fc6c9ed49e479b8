# SPDX-License-Identifier: Apache-2.0
"""Layers of bits by hand and at random, for tests of `gf2` and of what changes it."""

from __future__ import annotations

import numpy as np

from thinmaps.codecs.bit_layers import BitLayer
from thinmaps.codecs.gf2 import Gf2


def layer(weights: list[list[int]], threshold: list[int], groups: int = 1) -> BitLayer:
    """A layer of 1 x 1."""
    return BitLayer(groups, np.int8(weights)[..., None, None], np.int32(threshold))


def drawn(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, ...],
    groups: int,
    windows: float = 1.0,
) -> BitLayer:
    """A layer of random weights of one kind, half of whose sums pass the threshold.

    `windows` is the share of a window that a sum sees: where stride 2 is undone, a quarter.
    """
    kinds = {"binary": [-1, 1], "ternary": [-1, 0, 1], "some": [0, 1], "four bits": range(-8, 8)}
    weights = rng.choice(np.int8(list(kinds.get(name, range(-128, 128)))), shape)
    middle = weights.reshape(shape[0], -1).sum(axis=1, dtype=np.int32) * windows / 2
    return BitLayer(
        groups, weights, middle.astype(np.int32) + rng.integers(-1, 2, shape[0], np.int32)
    )


def stack(rng: np.random.Generator, name: str, channels: int, groups: int, kernel: int) -> Gf2:
    """Two layers on either side, one of them with the kernel."""
    bits, between, stored = 8 * channels, groups * 19, groups * 11
    seen = {1: (1.0, 1.0), 3: (0.7, 0.25)}[kernel]
    shapes = [
        (between, bits, kernel, seen[0]),
        (stored, between, 1, 1.0),
        (between, stored, kernel, seen[1]),
        (bits, between, 1, 1.0),
    ]
    layers = [
        drawn(rng, name, (outputs, inputs // groups, size, size), groups, share)
        for outputs, inputs, size, share in shapes
    ]
    return Gf2(9, 8, groups, tuple(layers[:2]), tuple(layers[2:]))
