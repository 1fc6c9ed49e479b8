# SPDX-License-Identifier: Apache-2.0
"""Small networks of uint8 maps, built by hand from a seed: no model file, no calibration."""

from __future__ import annotations

import numpy as np
from coded_filters import coded_conv

from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Window
from thinmaps.quant import conv_multiplier
from thinmaps.types import MapSpec, Preprocessing

PREPROCESSING = Preprocessing()


def exact(value: float) -> float:
    return float(np.float32(value))


class Builder:
    """Adds nodes one by one; every method returns the name of the map it makes."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.maps: dict[str, MapSpec] = {}
        self.inputs: list[str] = []

    def network(self, *outputs: str) -> Network:
        return Network(tuple(self.nodes), dict(self.maps), tuple(self.inputs), outputs)

    def node(self, operator: op.Operator, inputs: tuple[str, ...], spec: MapSpec) -> str:
        name = f"{operator.id}_{len(self.nodes)}"
        self.maps[f"{name}:0"] = spec
        self.nodes.append(Node(name, operator, inputs, f"{name}:0"))
        return f"{name}:0"

    def picture(self, height: int, width: int) -> str:
        self.maps["picture"] = MapSpec(height, width, 3)
        self.inputs.append("picture")
        spec = MapSpec(height, width, 3, exact(0.02), 114)
        mean, std = np.float32(PREPROCESSING.mean), np.float32(PREPROCESSING.std)
        values = (np.arange(256, dtype=np.float32) / 255 - mean[:, None]) / std[:, None]
        table = np.clip(np.rint(values / np.float32(spec.scale)) + spec.zero_point, 0, 255)
        return self.node(op.Picture(table.astype(np.uint8), (0, 1, 2)), ("picture",), spec)

    def array(self, height: int, width: int, channels: int) -> str:
        name = f"array{len(self.inputs)}"
        self.maps[name] = MapSpec(height, width, channels, dtype="float32")
        self.inputs.append(name)
        spec = MapSpec(height, width, channels, exact(0.03), 128)
        return self.node(op.Quantise(), (name,), spec)

    def _filters(self, source: MapSpec, channels: int, groups: int, kernel, output: MapSpec):
        shape = (channels, source.channels // groups, *kernel)
        weights = self.random.integers(-127, 128, shape).astype(np.int8)
        spread = 60 * np.sqrt(np.prod(shape[1:])) * 40
        weight_scale = np.float32(
            output.scale * 60 / source.scale / spread * self.random.uniform(0.5, 1.5, channels)
        )
        bias = self.random.integers(-9000, 9000, channels).astype(np.int32)
        multiplier = conv_multiplier(source.scale, weight_scale, output.scale)
        return weights, bias, multiplier

    def conv(
        self, x: str, channels: int, window: Window, groups: int = 1, relu: bool = True, zero=0
    ) -> str:
        source = self.maps[x]
        height, width = (
            (extent + window.pads[i] + window.pads[i + 2] - (k - 1) * d - 1) // s + 1
            for i, (extent, k, d, s) in enumerate(
                zip(source.shape[:2], window.kernel, window.dilation, window.stride, strict=True)
            )
        )
        output = MapSpec(height, width, channels, exact(0.041), 0 if relu else zero)
        constants = self._filters(source, channels, groups, window.kernel, output)
        return self.node(op.Conv(window, groups, *constants), (x,), output)

    def coded_conv(self, x: str, channels: int) -> str:
        """3x3 filters of three codes, which are made when the network runs."""
        source = self.maps[x]
        spec = MapSpec(*source.shape[:2], channels, source.scale, 128)
        window = Window((3, 3), pads=(1, 1, 1, 1))
        random = np.random.default_rng(channels)
        operator = coded_conv(random, (source.channels, channels), window, codes=3)
        return self.node(operator, (x,), spec)

    def head(self, x: str, classes: int) -> str:
        source = self.maps[x]
        window = Window(source.shape[:2])
        shape = (classes, source.channels, *window.kernel)
        weights = self.random.integers(-127, 128, shape).astype(np.int8)
        bias = self.random.integers(-9000, 9000, classes).astype(np.int32)
        weight_scale = np.float32(self.random.uniform(0.001, 0.002, classes))
        scale = conv_multiplier(source.scale, weight_scale, 1.0)
        output = MapSpec(1, 1, classes, dtype="float32")
        return self.node(op.Conv(window, 1, weights, bias, scale), (x,), output)

    def conv_transpose(self, x: str, channels: int, window: Window) -> str:
        source = self.maps[x]
        height, width = (
            (extent - 1) * s + (k - 1) * d + 1 - window.pads[i] - window.pads[i + 2]
            for i, (extent, k, d, s) in enumerate(
                zip(source.shape[:2], window.kernel, window.dilation, window.stride, strict=True)
            )
        )
        output = MapSpec(height, width, channels, exact(0.05), 120)
        constants = self._filters(source, channels, 1, window.kernel, output)
        return self.node(op.ConvTranspose(window, 1, *constants), (x,), output)

    def max_pool(self, x: str, window: Window, height: int, width: int) -> str:
        s = self.maps[x]
        spec = MapSpec(height, width, s.channels, s.scale, s.zero_point)
        return self.node(op.MaxPool(window), (x,), spec)

    def average_pool(self, x: str, window: Window, height: int, width: int, pads: bool) -> str:
        s = self.maps[x]
        spec = MapSpec(height, width, s.channels, exact(s.scale * 0.817), s.zero_point)
        divisors = np.arange(window.kernel[0] * window.kernel[1] + 1, dtype=np.float32)
        divisors[0] = 1
        multiplier = np.float32(s.scale) / (np.float32(spec.scale) * divisors)
        return self.node(op.AveragePool(window, pads, multiplier.astype(np.float32)), (x,), spec)

    def mean(self, x: str) -> str:
        s = self.maps[x]
        spec = MapSpec(1, 1, s.channels, exact(s.scale * 0.5), s.zero_point)
        multiplier = np.float32([np.float32(s.scale) / np.float32(spec.scale * s.height * s.width)])
        return self.node(op.Mean(multiplier), (x,), spec)

    def add(self, a: str, b: str, relu: bool = False) -> str:
        sa, sb = self.maps[a], self.maps[b]
        shape = max(sa.shape, sb.shape)
        spec = MapSpec(*shape, exact(0.0613), 0 if relu else 110)
        ratio = np.float32([sa.scale, sb.scale]) / np.float32(spec.scale)
        return self.node(op.Add(ratio), (a, b), spec)

    def mul(self, a: str, b: str) -> str:
        sa, sb = self.maps[a], self.maps[b]
        spec = MapSpec(*sa.shape, exact(0.05), 100)
        product = np.float32(sa.scale) * np.float32(sb.scale)
        return self.node(op.Mul(np.float32([product / np.float32(spec.scale)])), (a, b), spec)

    def lookup(self, x: str, tables: int) -> str:
        s = self.maps[x]
        table = np.sort(self.random.integers(0, 256, (tables, 256)).astype(np.uint8), axis=1)
        return self.node(op.Lookup(table), (x,), MapSpec(*s.shape, exact(0.01), 20))

    def concat(self, *names: str) -> str:
        specs = [self.maps[name] for name in names]
        first = specs[0]
        channels = sum(spec.channels for spec in specs)
        output = MapSpec(first.height, first.width, channels, first.scale, first.zero_point)
        values = np.arange(256, dtype=np.float32)
        tables = [
            np.clip(
                np.rint((values - s.zero_point) * np.float32(s.scale) / np.float32(output.scale))
                + output.zero_point,
                0,
                255,
            )
            for s in specs
        ]
        return self.node(op.Concat(np.array(tables).astype(np.uint8)), names, output)

    def moved(self, x: str, operator: op.Operator, height: int, width: int, channels: int) -> str:
        """An operator that keeps scale and zero point: Slice, Pad, DepthToSpace."""
        s = self.maps[x]
        return self.node(operator, (x,), MapSpec(height, width, channels, s.scale, s.zero_point))

    def resize(self, x: str, height: int, width: int, linear: bool) -> str:
        """Half-pixel coordinates."""
        s = self.maps[x]
        tables = []
        for made, source in ((height, s.height), (width, s.width)):
            place = np.clip((np.arange(made) + 0.5) * source / made - 0.5, 0, source - 1)
            low = np.floor(place).astype(np.int32)
            weight = np.rint((place - low) * 2048).astype(np.int32)
            if not linear:
                low = np.ceil(place - 0.5).astype(np.int32)
                weight = np.zeros_like(weight)
            high = np.minimum(low + (weight > 0), source - 1).astype(np.int32)
            tables.append((np.stack([low, high], axis=1), weight))
        (rows, row_weight), (columns, column_weight) = tables
        operator = op.Resize(rows, columns, row_weight, column_weight)
        return self.moved(x, operator, height, width, s.channels)


def chain(seed: int = 1) -> Network:
    """Picture, three convolutions, a pool, a head."""
    b = Builder(seed)
    x = b.conv(b.picture(16, 20), 8, Window((3, 3), (2, 2), pads=(1, 1, 1, 1)))
    x = b.conv(x, 8, Window((3, 3), pads=(1, 1, 1, 1)), groups=8)
    x = b.max_pool(x, Window((2, 2), (2, 2)), 4, 5)
    x = b.conv(x, 12, Window((1, 1)))
    return b.network(b.head(b.mean(x), 7))


def every_operator(seed: int = 2) -> Network:
    """Every operator there is, with skips, a squeeze-and-excitation and two outputs."""
    b = Builder(seed)
    first = b.conv(b.picture(12, 10), 8, Window((3, 3), pads=(1, 1, 1, 1)))
    side = b.conv(b.array(12, 10, 4), 8, Window((1, 1)), relu=False, zero=130)
    total = b.add(first, side)
    gate = b.lookup(b.conv(b.mean(total), 8, Window((1, 1)), relu=False, zero=128), 1)
    gated = b.mul(total, gate)
    pooled = b.average_pool(gated, Window((3, 3), (2, 2), pads=(1, 1, 1, 1)), 6, 5, False)
    largest = b.max_pool(gated, Window((2, 2), (2, 2)), 6, 5)
    both = b.concat(pooled, largest, pooled)
    part = b.moved(both, op.Slice(1, 2, 0, 1, 8), 3, 5, 16)
    curved = b.lookup(part, 16)
    wide = b.moved(curved, op.DepthToSpace(2), 6, 10, 4)
    border = b.moved(wide, op.Pad(1, 1, 0, 20), 8, 12, 4)
    large = b.resize(b.coded_conv(border, 4), 11, 17, linear=True)
    up = b.conv_transpose(large, 3, Window((4, 4), (2, 2), pads=(1, 1, 1, 1)))
    near = b.resize(up, 44, 34, linear=False)
    return b.network(near, b.head(pooled, 5))
