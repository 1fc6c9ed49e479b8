# SPDX-License-Identifier: Apache-2.0
"""Networks with a global operator in the middle: squeeze-and-excitation and its kin."""

from __future__ import annotations

from small_networks import Builder

from thinmaps.graph.network import Network
from thinmaps.graph.operators import Window

# Kernel, channels of the expansion, channels out, gated, stride: MobileNetV3-Small's blocks
# (Howard et al., "Searching for MobileNetV3", 2019, table 2).
BLOCKS = (
    (3, 16, 16, True, 2), (3, 72, 24, False, 2), (3, 88, 24, False, 1), (5, 96, 40, True, 2),
    (5, 240, 40, True, 1), (5, 240, 40, True, 1), (5, 120, 48, True, 1), (5, 144, 48, True, 1),
    (5, 288, 96, True, 2), (5, 576, 96, True, 1), (5, 576, 96, True, 1),
)  # fmt: skip


def around(kernel: int, stride: int = 1) -> Window:
    """A square window that keeps the size at stride 1."""
    return Window((kernel, kernel), (stride, stride), pads=(kernel // 2,) * 4)


def gated(b: Builder, x: str, squeezed: int) -> str:
    """Squeeze-and-excitation (Hu et al., 2018): mean, two small layers, sigmoid, product."""
    narrow = b.conv(b.mean(x), squeezed, Window((1, 1)))
    wide = b.conv(narrow, b.maps[x].channels, Window((1, 1)), relu=False, zero=128)
    return b.mul(x, b.lookup(wide, 1))


def one_gate(height: int = 32, width: int = 40) -> tuple[Network, str]:
    """A gate between two convolutions; and the name of the map that it needs whole."""
    b = Builder(5)
    x = b.conv(b.picture(height, width), 16, around(3))
    return b.network(b.conv(gated(b, x, 4), 8, around(3))), x


def gate_under_a_skip(height: int = 32, width: int = 40) -> tuple[Network, str, str]:
    """A gate that a skip bypasses: the skip waits for it. Both maps that must be whole."""
    b = Builder(6)
    skip = b.conv(b.picture(height, width), 16, around(3))
    x = b.conv(skip, 24, around(3))
    joined = b.add(skip, b.conv(gated(b, x, 4), 16, around(3)))
    return b.network(b.conv(joined, 4, around(3))), x, skip


def mobilenet_v3(side: int = 224) -> Network:
    """The small one, nine gates in a row; every activation is a Relu here."""
    b = Builder(7)
    x = b.conv(b.picture(side, side), 16, around(3, 2))
    for kernel, expanded, channels, gate, stride in BLOCKS:
        y = b.conv(x, expanded, Window((1, 1)))
        y = b.conv(y, expanded, around(kernel, stride), groups=expanded)
        y = gated(b, y, max(8, expanded // 4)) if gate else y
        y = b.conv(y, channels, Window((1, 1)), relu=False, zero=120)
        x = b.add(x, y) if stride == 1 and b.maps[x].channels == channels else y
    return b.network(b.head(b.mean(b.conv(x, 576, Window((1, 1)))), 10))
