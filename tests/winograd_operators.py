# SPDX-License-Identifier: Apache-2.0
"""Scaled Winograd convolutions of random constants, that fill bytes and fall on ties."""

from __future__ import annotations

import numpy as np
from small_networks import Builder

from thinmaps.graph import operators as op
from thinmaps.graph.network import Network
from thinmaps.types import MapSpec
from thinmaps.winograd import arrays, derive


def random_winograd(
    random: np.random.Generator,
    outputs: int,
    x: MapSpec,
    channels: int,
    window: op.Window,
    polynomials: str | None = None,
) -> op.WinogradConv:
    """Matrices of F(outputs, 3), which have only whole numbers; all else is random."""
    at, _, bt = arrays(derive(outputs, 3, polynomials).matrices)
    square = (len(bt), len(bt))
    return op.WinogradConv(
        window,
        at.astype(np.int8),
        bt.astype(np.int8),
        random.integers(100, 1 << 15, (*square, x.channels), dtype=np.int32),
        random.integers(-128, 128, (channels, x.channels, *square), dtype=np.int8),
        (2.0 ** random.integers(-4, 0, (channels, *square))).astype(np.float32),
        random.integers(-5000, 5000, channels, dtype=np.int32),
        (2.0 ** random.integers(-11, -7, channels)).astype(np.float32),
        low=2,
        high=251,
    )


def tiled_network(seed: int) -> Network:
    """Tiles of 4, padded unlike on each side, then of 2 beside a skip; two outputs."""
    b = Builder(seed)
    first = b.conv(b.picture(13, 11), 17, op.Window((3, 3), pads=(1, 1, 1, 1)))
    tiled = _add(b, 4, first, 9, (0, 2, 1, 0))
    again = _add(b, 2, tiled, 9, (1, 1, 1, 1))
    total = b.add(again, tiled)
    return b.network(_add(b, 4, total, 20, (1, 1, 1, 1)), b.head(b.mean(total), 5))


def _add(b: Builder, outputs: int, x: str, channels: int, pads: tuple[int, int, int, int]) -> str:
    spec, window = b.maps[x], op.Window((3, 3), pads=pads)
    rows, columns = spec.height + pads[0] + pads[2] - 2, spec.width + pads[1] + pads[3] - 2
    node = random_winograd(b.random, outputs, spec, channels, window)
    return b.node(node, (x,), MapSpec(rows, columns, channels, 0.5, 12))
