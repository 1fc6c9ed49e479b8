# SPDX-License-Identifier: Apache-2.0
"""Scratch of convolutions that skip the zero blocks of their filters (`graph/zero_blocks.py`).

The engine lays the rows under a window in planes, 4 channels of neighbouring pixels side by side,
for a tile of at most 96 output pixels at a time (`native/conv_sparse.cc`). The planes lie in the
arena while a step of the node runs, and in no other step:

    window rows * planes of a row * pixels of a plane * 4 bytes

so that they never hold more than the rows under one window of a map of usual width. Threads that
share a step split them.
"""

from __future__ import annotations

from thinmaps.graph import operators as op
from thinmaps.graph.zero_blocks import BLOCK
from thinmaps.types import MapSpec

# As in native/sparse_row.h and native/conv_sparse.cc.
LANES = 16  # pixels of a vector
TILE_VECTORS = 6
MOST_WINDOW_ROWS = 16
MOST_SHIFT = 255
MOST_PLANES = 1 << 16


def scratch_bytes(operator: op.Operator, source: MapSpec, output: MapSpec) -> int:
    """Bytes that skipping zero blocks needs; 0 where the engine has no kernel that skips them.

    It has none for transposed convolutions, heads, depthwise filters, and windows of more than 16
    rows or of columns that lie very far apart.

    >>> import numpy as np
    >>> conv = op.Conv(op.Window((3, 3), pads=(1, 1, 1, 1)), 1, *[np.zeros(0)] * 3)
    >>> scratch_bytes(conv, MapSpec(60, 80, 64), MapSpec(60, 80, 64))
    18432
    """
    if not isinstance(operator, op.Conv) or output.dtype != "uint8":
        return 0
    per_group = source.channels // operator.groups
    if per_group == 1 and output.channels == source.channels:
        return 0
    window = operator.window
    stride, reach = window.stride[1], (window.kernel[1] - 1) * window.dilation[1]
    phases = {column * window.dilation[1] % stride for column in range(window.kernel[1])}
    planes = len(phases) * -(-per_group // BLOCK[1])
    shift = reach // stride
    if window.kernel[0] > MOST_WINDOW_ROWS or shift > MOST_SHIFT or planes > MOST_PLANES:
        return 0
    pixels = min(whole_lanes(output.width), TILE_VECTORS * LANES) + shift
    return window.kernel[0] * planes * whole_lanes(pixels) * BLOCK[1]


def whole_lanes(pixels: int) -> int:
    """Pixels filled up to whole vectors."""
    return -(-pixels // LANES) * LANES
