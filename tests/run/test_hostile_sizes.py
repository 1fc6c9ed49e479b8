# SPDX-License-Identifier: Apache-2.0
"""Every operator at sizes that vector loops find hard, bit-exact on every instruction set.

Pictures of one pixel, one row and one column; widths one less, equal and one more than 16, 32 and
64 bytes; maps of one and of eight channels; windows that are larger than the map. `make sanitize`
runs this file too, so that a read past a row shows even where the result is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from codec_cases import Setting, settings
from coded_filters import coded_conv
from one_operator import check, check_network, filters
from winograd_operators import random_winograd

from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import OPERATORS, Window
from thinmaps.types import MapSpec

WIDTHS = (15, 16, 17, 31, 32, 33, 63, 64, 65)
SIZES = [(1, 1), (1, 2), (2, 1), (5, 1), (1, 65), *((3, width) for width in WIDTHS)]
SCALE, ZERO_POINT = 0.25, 130

Inputs = MapSpec | tuple[MapSpec, ...]
Case = tuple[op.Operator, Inputs, MapSpec]


def output_of(window: Window, x: MapSpec, channels: int) -> MapSpec:
    """What the window leaves of `x`."""
    reach = [(k - 1) * d for k, d in zip(window.kernel, window.dilation, strict=True)]
    room = x.height + window.pads[0] + window.pads[2] - reach[0] - 1
    side = x.width + window.pads[1] + window.pads[3] - reach[1] - 1
    rows, columns = room // window.stride[0] + 1, side // window.stride[1] + 1
    return MapSpec(rows, columns, channels, 0.5, 12)


def around(kernel: int, stride: int = 1, dilation: int = 1) -> Window:
    """A square window, padded so that it fits on any map."""
    pad = (kernel - 1) * dilation // 2 + (kernel + 1) % 2
    return Window((kernel, kernel), (stride, stride), (dilation, dilation), (pad,) * 4)


WINDOWS = (around(1), around(3), around(3, 2), around(2, 2), around(3, 1, 4), around(7))


def convolutions(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    for window in WINDOWS:
        for channels in (1, 8):
            weights = filters(random, channels, x.channels, window.kernel)
            yield op.Conv(window, 1, **weights), x, output_of(window, x, channels)


def tiled(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    for outputs, channels in ((2, 8), (4, 1), (4, 17)):
        node = random_winograd(random, outputs, x, channels, around(3))
        yield node, x, output_of(around(3), x, channels)


def coded(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    if x.channels % 4:
        return
    for window in (around(3), around(3, 2), around(3, 1, 4)):
        for channels, codes in ((1, 9), (17, 4)):
            node = coded_conv(random, (x.channels, channels), window, codes=codes)
            yield node, x, output_of(window, x, channels)


def depthwise(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    for window in WINDOWS:
        weights = filters(random, x.channels, 1, window.kernel)
        yield op.Conv(window, x.channels, **weights), x, output_of(window, x, x.channels)


def grouped(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    x = MapSpec(x.height, x.width, 2 * x.channels, x.scale, x.zero_point)
    for window in (around(1), around(3), around(7)):
        weights = filters(random, 6, x.channels // 2, window.kernel)
        yield op.Conv(window, 2, **weights), x, output_of(window, x, 6)


def heads(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    window = Window((x.height, x.width))
    weights = filters(random, 5, x.channels, window.kernel)
    yield op.Conv(window, 1, **weights), x, MapSpec(1, 1, 5, dtype="float32")


def transposed(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    for kernel, stride, pad in ((1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 2, 1), (7, 1, 3)):
        window = Window((kernel, kernel), (stride, stride), pads=(pad,) * 4)
        rows, columns = ((n - 1) * stride + kernel - 2 * pad for n in (x.height, x.width))
        weights = filters(random, 8, x.channels, window.kernel)
        yield op.ConvTranspose(window, 1, **weights), x, MapSpec(rows, columns, 8, 0.5, 12)


def largest(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    del random
    for window in WINDOWS:
        output = output_of(window, x, x.channels)
        yield op.MaxPool(window), x, MapSpec(*output.shape, x.scale, x.zero_point)


def averages(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    del random
    for window in WINDOWS:
        output = output_of(window, x, x.channels)
        divisors = np.arange(window.kernel[0] ** 2 + 1, dtype=np.float32).clip(1)
        multiplier = np.float32(x.scale / output.scale) / divisors
        for counts_pads in (False, True):
            yield op.AveragePool(window, counts_pads, multiplier), x, output


def means(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    del random
    multiplier = np.float32([0.5 / (x.height * x.width)])
    yield op.Mean(multiplier), x, MapSpec(1, 1, x.channels, 0.5, 12)
    yield op.Mean(multiplier), x, MapSpec(1, 1, x.channels, dtype="float32")


def sums(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    del random
    other = MapSpec(*x.shape, 0.5, 3)
    single = MapSpec(1, 1, x.channels, 0.5, 3)
    # On a grid, its finest step, one with large steps, one too large, and off any.
    fine = 2.0**-14
    ratios = [(0.5, 1), (fine, 1 - fine), (64 - 2**-8, 2**-8), (200, 3), (0.3, 0.7)]
    for ratio in np.float32(ratios):
        for pair in ((x, other), (x, single)):
            yield op.Add(ratio, 3, 250), pair, MapSpec(*x.shape, 0.5, 12)
    yield op.Add(np.float32([0.5, 0.25]), 0, 255), (x, other), MapSpec(*x.shape, 0.5, 7)


def products(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    del random
    other = MapSpec(*x.shape, 0.5, 3)
    single = MapSpec(1, 1, x.channels, 0.5, 3)
    for pair in ((x, other), (x, single), (single, x)):
        yield op.Mul(np.float32([2**-6]), 3, 250), pair, MapSpec(*x.shape, 0.5, 12)


def tables(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    for rows in {1, x.channels}:
        table = random.integers(0, 256, (rows, 256), dtype=np.uint8)
        yield op.Lookup(table), x, MapSpec(*x.shape, 0.5, 12)


def concatenations(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    other = MapSpec(x.height, x.width, 3, 0.5, 3)
    copies = np.tile(np.arange(256, dtype=np.uint8), (2, 1))
    for table in (copies, random.integers(0, 256, (2, 256), dtype=np.uint8)):
        yield op.Concat(table), (x, other), MapSpec(x.height, x.width, x.channels + 3, 0.5, 12)


def paddings(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    del random
    for top, left, channel in ((0, 0, 0), (3, 0, 1), (0, 65, 0), (1, 1, 7)):
        shape = (x.height + top + 1, x.width + left, x.channels + channel + 1)
        output = MapSpec(*shape, x.scale, x.zero_point)
        yield op.Pad(top, left, channel, 77), x, output


def slices(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    del random
    last = op.Slice(x.height - 1, 1, x.width - 1, 1, x.channels - 1)
    yield last, x, MapSpec(1, 1, 1, x.scale, x.zero_point)
    rows, columns = (x.height + 1) // 2, (x.width + 1) // 2
    yield op.Slice(0, 2, 0, 2), x, MapSpec(rows, columns, x.channels, x.scale, x.zero_point)


def resizes(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    def axis(made: int, source: int, linear: int) -> tuple[np.ndarray, np.ndarray]:
        low = np.arange(made) * source // made
        pairs = np.stack([low, np.minimum(low + linear, source - 1)], 1).astype(np.int32)
        return pairs, (random.integers(0, 2049, made) * linear).astype(np.int32)

    for linear in (0, 1):
        for height, width in ((1, 1), (2 * x.height, 2 * x.width), (3, 17)):
            rows, row_weight = axis(height, x.height, linear)
            columns, column_weight = axis(width, x.width, linear)
            operator = op.Resize(rows, columns, row_weight, column_weight)
            yield operator, x, MapSpec(height, width, x.channels, x.scale, x.zero_point)


def depths_to_space(x: MapSpec, random: np.random.Generator) -> Iterator[Case]:
    del random
    for block, mode in ((2, "DCR"), (2, "CRD"), (3, "CRD")):
        source = MapSpec(x.height, x.width, x.channels * block**2, x.scale, x.zero_point)
        shape = (x.height * block, x.width * block, x.channels)
        yield op.DepthToSpace(block, mode), source, MapSpec(*shape, x.scale, x.zero_point)


CASES: tuple[Callable[[MapSpec, np.random.Generator], Iterator[Case]], ...] = (
    convolutions, tiled, coded, depthwise, grouped, heads, transposed, largest, averages, means,
    sums, products, tables, concatenations, paddings, slices, resizes, depths_to_space,
)  # fmt: skip


@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("cases", CASES, ids=lambda cases: cases.__name__)
def test_an_operator_at_hostile_sizes_equals_its_definition(
    cases: Callable[[MapSpec, np.random.Generator], Iterator[Case]], channels: int
) -> None:
    random = np.random.default_rng(channels)
    for height, width in SIZES:
        x = MapSpec(height, width, channels, SCALE, ZERO_POINT)
        for operator, inputs, output in cases(x, random):
            check(operator, inputs, output, seed=width)


def test_no_operator_is_left_out() -> None:
    x = MapSpec(2, 3, 4, SCALE, ZERO_POINT)
    random = np.random.default_rng(1)
    asked = {operator.id for cases in CASES for operator, _, _ in cases(x, random)}
    # A picture is in every network; codecs and float inputs have tests of their own.
    assert asked | {"picture", "quantise", "encode", "decode"} == set(OPERATORS)


@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("setting", settings(), ids=lambda setting: setting.name)
def test_an_encoded_map_of_hostile_size_equals_its_definition(
    setting: Setting, channels: int
) -> None:
    random = np.random.default_rng(channels)
    for height, width in SIZES:
        x = MapSpec(height, width, channels, SCALE, ZERO_POINT)
        window = around(3)
        node = op.Conv(window, 1, **filters(random, 8, channels, window.kernel))
        codec = replace(setting.fit(x, 1), unit_rows=min(2, height))
        check(node, x, output_of(window, x, 8), seed=width, codecs={"x0": codec})


@pytest.mark.parametrize("channels", [1, 8])
def test_real_values_at_hostile_sizes_are_quantised_as_defined(channels: int) -> None:
    random = np.random.default_rng(channels)
    for height, width in SIZES:
        x = MapSpec(height, width, channels, dtype="float32")
        y = MapSpec(height, width, channels, 0.03125, 7)
        nodes = (
            Node("quantise", op.Quantise(), ("x",), "y"),
            Node("table", op.Lookup(np.arange(256, dtype=np.uint8)[None]), ("y",), "end"),
        )
        network = Network(nodes, {"x": x, "y": y, "end": y}, ("x",), ("end",))
        # Multiples of half a step fall on ties, the ends of the range beyond a byte.
        values = {"x": (random.integers(-900, 900, x.shape) / 64).astype(np.float32)}
        check_network(network, values)
