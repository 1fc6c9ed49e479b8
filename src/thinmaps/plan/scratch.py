# SPDX-License-Identifier: Apache-2.0
"""Scratch of convolutions that do not multiply everything: it lies in the arena while a step runs.

Those that skip the zero blocks of their filters (`graph/zero_blocks.py`): the engine lays the rows
under a window in planes, 4 channels of neighbouring pixels side by side, for a tile of at most 96
output pixels at a time (`native/conv_sparse.cc`):

    window rows * planes of a row * pixels of a plane * 4 bytes

so that they never hold more than the rows under one window of a map of usual width.

Those by Winograd's algorithm (`winograd/exact.py`): the 36 points of at most 24 tiles of 4x4
outputs, of their input channels in 16 bits and of at most 64 output channels in 32
(`native/winograd_exact.cc`):

    tiles * 36 * (2 * input channels in whole 32s + 4 * output channels in whole 16s)

Threads that share a step split either.
"""

from __future__ import annotations

from thinmaps.graph import operators as op
from thinmaps.graph.zero_blocks import BLOCK
from thinmaps.types import MapSpec
from thinmaps.winograd.exact import OUTPUTS, TAPS, is_exact

# As in native/sparse_row.h and native/conv_sparse.cc.
LANES = 16  # pixels of a vector
TILE_VECTORS = 6
MOST_WINDOW_ROWS = 16
MOST_SHIFT = 255
MOST_PLANES = 1 << 16
# As in native/winograd_exact_loops.h and native/winograd_exact.cc.
TILE_POINTS = (OUTPUTS + TAPS - 1) ** 2
MOST_TILES = 24  # that are done together
POINT_RUN = 32  # input channels are filled up to a multiple
PANEL_CHANNELS = 64  # output channels that are done together


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


def winograd_scratch_bytes(operator: op.Operator, source: MapSpec, output: MapSpec) -> int:
    """Bytes that Winograd's algorithm needs; 0 where the engine has none of the direct one's bits.

    It has one for 3x3 filters of stride 1, dilation 1 and one group, small enough for exact sums.

    >>> import numpy as np
    >>> weights = np.zeros((64, 64, 3, 3), np.int8)
    >>> conv = op.Conv(op.Window((3, 3), pads=(1, 1, 1, 1)), 1, weights, *[np.zeros(64)] * 2)
    >>> winograd_scratch_bytes(conv, MapSpec(56, 56, 64), MapSpec(56, 56, 64))
    331776
    """
    if not isinstance(operator, op.Conv) or output.dtype != "uint8" or operator.groups != 1:
        return 0
    window = operator.window
    if (window.kernel, window.stride, window.dilation) != ((TAPS, TAPS), (1, 1), (1, 1)):
        return 0
    if not is_exact(operator.weights):
        return 0
    tiles = min(-(-output.height // OUTPUTS) * -(-output.width // OUTPUTS), MOST_TILES)
    inputs = -(-source.channels // POINT_RUN) * POINT_RUN
    outputs = min(whole_lanes(output.channels), PANEL_CHANNELS)
    return tiles * TILE_POINTS * (2 * inputs + 4 * outputs)


def whole_lanes(pixels: int) -> int:
    """Pixels filled up to whole vectors."""
    return -(-pixels // LANES) * LANES
