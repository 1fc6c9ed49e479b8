# SPDX-License-Identifier: Apache-2.0
"""Convolutions and tables of sizes around those of tiles, pieces and blocks, on every set.

Inner loops work on 16 or 32 pixels, 64 bytes of input, 16 or 32 output channels, 64 channels of a
depthwise filter; random networks are too small to leave all of these.
"""

from __future__ import annotations

import numpy as np
import pytest
from one_operator import check, check_network, filters

from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.types import MapSpec


@pytest.mark.parametrize(
    ("width", "inputs", "outputs", "kernel", "stride", "groups"),
    [
        (70, 3, 33, 3, 2, 1),
        (67, 16, 16, 3, 1, 1),
        (65, 64, 32, 1, 1, 1),
        (40, 65, 48, 3, 1, 1),
        (33, 130, 17, 1, 1, 1),
        (32, 24, 31, 2, 1, 1),
        (100, 5, 40, 3, 3, 1),
        (35, 40, 80, 3, 1, 2),
        (1, 300, 70, 1, 1, 1),
        (2, 1, 1, 2, 1, 1),
    ],
)
def test_convolutions_of_any_width_equal_the_definition(
    width: int, inputs: int, outputs: int, kernel: int, stride: int, groups: int
) -> None:
    random = np.random.default_rng(width)
    height, pad = 5, kernel // 2
    window = op.Window((kernel, kernel), (stride, stride), (1, 1), (pad, pad, pad, pad))
    rows, columns = ((extent + 2 * pad - kernel) // stride + 1 for extent in (height, width))
    node = op.Conv(window, groups, **filters(random, outputs, inputs // groups, window.kernel))
    y = MapSpec(rows, columns, outputs, 0.5, 12)
    check(node, MapSpec(height, width, inputs, 0.25, 130), y, seed=width)


@pytest.mark.parametrize("used_blocks", [0, 1, 9])
@pytest.mark.parametrize(
    ("width", "inputs", "outputs", "kernel", "stride", "dilation", "groups"),
    [
        (200, 16, 20, (3, 3), (1, 1), (1, 1), 1),
        (97, 9, 7, (1, 3), (1, 1), (1, 3), 1),
        (150, 30, 34, (3, 2), (2, 2), (1, 1), 2),
        (111, 4, 4, (2, 4), (1, 3), (3, 1), 1),
        (63, 6, 18, (3, 3), (3, 2), (2, 2), 1),
        (5, 33, 17, (1, 1), (2, 2), (1, 1), 1),
    ],
)
def test_filters_with_few_blocks_that_are_not_zero_equal_the_definition(
    width: int,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    used_blocks: int,
) -> None:
    random = np.random.default_rng(width)
    values = filters(random, outputs, inputs // groups, kernel)
    shape = values["weights"].shape
    blocks = np.indices(shape) // np.reshape([4, 4, 1, 1], (4, 1, 1, 1, 1))
    number = np.ravel_multi_index(tuple(blocks), shape)
    values["weights"] *= np.isin(number, random.permutation(np.unique(number))[:used_blocks])
    window = op.Window(kernel, stride, dilation, (1, 2, 3, 0))
    rows, columns = (
        (extent - (kernel[axis] - 1) * dilation[axis] - 1) // stride[axis] + 1
        for axis, extent in enumerate((7 + 4, width + 2))
    )
    x, y = MapSpec(7, width, inputs, 0.25, 130), MapSpec(rows, columns, outputs, 0.5, 12)
    check(op.Conv(window, groups, **values, low=3, high=250), x, y, seed=width)


@pytest.mark.parametrize("zero_point", [0, 130])
@pytest.mark.parametrize(
    ("width", "inputs", "outputs", "kernel", "stride"),
    [
        (7, 64, 33, 3, 1),
        (14, 40, 64, 3, 2),
        (5, 20, 32, 5, 1),
        (3, 8, 17, 1, 1),
        (13, 64, 32, 3, 1),
    ],
)
def test_narrow_maps_whose_rows_are_done_together_equal_the_definition(
    width: int, inputs: int, outputs: int, kernel: int, stride: int, zero_point: int
) -> None:
    random = np.random.default_rng(width)
    height, pad = 9, kernel // 2
    window = op.Window((kernel, kernel), (stride, stride), (1, 1), (pad, pad, pad, pad))
    rows, columns = ((extent + 2 * pad - kernel) // stride + 1 for extent in (height, width))
    node = op.Conv(window, 1, **filters(random, outputs, inputs, window.kernel))
    y = MapSpec(rows, columns, outputs, 0.5, 12)
    check(node, MapSpec(height, width, inputs, 0.25, zero_point), y, seed=width)


@pytest.mark.parametrize("sums", [(127, 128, 128), (128, 129, 129), (100, 128, 140), (255, 129, 1)])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_two_products_that_nearly_leave_sixteen_bits_are_exact(
    sums: tuple[int, int, int], sign: int
) -> None:
    # In each quad, filters of bytes 0 and 1, 0 and 2, 0 and 3 have these sums: every pairing that
    # fits 16 bits, or just does not, and quads that no pairing makes fit.
    random = np.random.default_rng(sums[0])
    first = random.integers(64, 128, (20, 16))
    quads = np.stack([first, *(total - first for total in sums)], axis=-1)
    values = filters(random, 20, 64, (1, 1))
    values["weights"] = (sign * quads).clip(-128, 127).astype(np.int8).reshape(20, 64, 1, 1)
    values["multiplier"] /= np.float32(16)
    maps = {"x": MapSpec(4, 13, 64), "y": MapSpec(4, 13, 20, 0.5, 128)}
    node = Node("conv", op.Conv(op.Window((1, 1)), 1, **values), ("x",), "y")
    pixels = random.choice(np.array([0, 254, 255], np.uint8), maps["x"].shape)
    check_network(Network((node,), maps, ("x",), ("y",)), {"x": pixels})


@pytest.mark.parametrize("channels", [1, 4, 16, 32, 48, 64, 70, 128, 144])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 2)])
def test_depthwise_convolutions_of_any_size_equal_the_definition(
    channels: int, kernel: int, stride: int, dilation: int
) -> None:
    random = np.random.default_rng(channels)
    height, width = 9, 23
    pad = kernel // 2 * dilation
    window = op.Window((kernel, kernel), (stride, stride), (dilation, dilation), (pad,) * 4)
    reach = (kernel - 1) * dilation + 1
    rows, columns = ((extent + 2 * pad - reach) // stride + 1 for extent in (height, width))
    low, high = (0, 255) if channels % 3 else (40, 220)
    values = filters(random, channels, 1, window.kernel)
    values["multiplier"] *= np.float32(4)
    y = MapSpec(rows, columns, channels, 0.5, 100 if channels % 2 else 0)
    node = op.Conv(window, channels, *values.values(), low=low, high=high)
    check(node, MapSpec(height, width, channels, 0.25, 7), y, seed=channels)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (3, 2), (12, 1)])
@pytest.mark.parametrize(("width", "channels"), [(1, 63), (9, 64), (40, 16), (21, 130)])
def test_largest_of_a_window_equals_the_definition(
    width: int, channels: int, kernel: int, stride: int
) -> None:
    pad = kernel // 2
    window = op.Window((kernel, kernel), (stride, stride), (1, 1), (pad,) * 4)
    rows, columns = ((extent + 2 * pad - kernel) // stride + 1 for extent in (15, width))
    x = MapSpec(15, width, channels, 0.25, 9)
    check(
        op.MaxPool(window), x, MapSpec(rows, columns, channels, x.scale, x.zero_point), seed=width
    )
