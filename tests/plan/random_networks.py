# SPDX-License-Identifier: Apache-2.0
"""Networks without sense, from a seed: any operator on any maps that fit."""

from __future__ import annotations

import numpy as np
from plan.zoo import Shapes, square

from thinmaps.graph.network import Network
from thinmaps.graph.operators import DepthToSpace, Pad, Slice, Window


def random_network(seed: int, nodes: int = 24) -> Network:
    random = np.random.default_rng(seed)
    b = Shapes(int(random.integers(1, 40)), int(random.integers(1, 5)))
    maps = [b.start]
    while len(b.nodes) < nodes:
        # Recent maps more often, so that networks are deep and have skips.
        x = maps[-1 - min(int(random.exponential(1.5)), len(maps) - 1)]
        made = _grow(b, x, maps, random)
        if made is not None and max(b.shape(made)[:2]) <= 80 and b.shape(made)[2] <= 40:
            maps.append(made)
        elif made is not None:
            b.nodes.pop()
            del b.maps[made]
    read = {name for node in b.nodes for name in node.inputs}
    loose = [name for name in maps if name not in read]
    return b.network(*loose, *([maps[2]] if maps[2] not in loose and seed % 3 == 0 else []))


def _grow(b: Shapes, x: str, maps: list[str], random: np.random.Generator) -> str | None:
    height, width, channels = b.shape(x)
    choice = int(random.integers(14))
    kernel, stride, dilation = (int(random.integers(1, top)) for top in (6, 4, 4))
    if choice < 5:
        rows = Window((kernel, 1), (stride, 1), (dilation, 1), (dilation * (kernel // 2), 0) * 2)
        fits = height + 2 * rows.pads[0] > (kernel - 1) * dilation
        return b.conv(x, int(random.integers(1, 9)), rows) if fits else None
    if choice == 5 and height > 1:
        return b.max_pool(x, Window((2, 1), (2, 1)), ceil=bool(random.integers(2)))
    if choice == 6:
        return b.up(x, channels)
    if choice == 7:
        return b.resize(x, int(random.integers(1, 50)), width, bool(random.integers(2)))
    if choice == 8:
        gate = b.lookup(b.mean(x))
        return b.mul(x, gate)
    if choice == 9:
        return b.lookup(x)
    if choice == 10 and channels % 4 == 0:
        return b.node(DepthToSpace(2), (x,), 2 * height, 2 * width, channels // 4)
    if choice == 11 and height > 2:
        return b.node(Slice(1, 2), (x,), (height - 1) // 2, width, channels)
    if choice == 12:
        return b.node(Pad(2), (x,), height + 5, width, channels)
    partners = [m for m in maps if m != x and b.shape(m)[:2] == (height, width)]
    if not partners:
        return b.conv(x, channels, square(1))
    other = partners[int(random.integers(len(partners)))]
    if b.shape(other) == b.shape(x) and random.integers(2):
        return b.add(x, other)
    return b.concat(*dict.fromkeys((x, other, partners[0])), copies=bool(random.integers(4)))
