# SPDX-License-Identifier: Apache-2.0
"""The shapes of well-known networks, with weights that are never looked at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Window
from thinmaps.types import MapSpec

ONE = np.int8(1)
NO_BIAS = np.zeros(1, np.int32)
NO_SCALE = np.ones(1, np.float32)
IDENTITY = np.arange(256, dtype=np.uint8)


def square(kernel: int, stride: int = 1, dilation: int = 1, pad: int | None = None) -> Window:
    """A square window; padded so that stride 1 keeps the size, unless `pad` is given."""
    around = (kernel - 1) * dilation // 2 if pad is None else pad
    sides = (around, around, around, around)
    return Window((kernel, kernel), (stride, stride), (dilation, dilation), sides)


class Shapes:
    """Adds nodes one by one; every method returns the name of the map it makes."""

    def __init__(self, height: int, width: int, channels: int = 3) -> None:
        self.nodes: list[Node] = []
        self.maps = {"picture": MapSpec(height, width, channels)}
        table = np.zeros((channels, 256), np.uint8)
        operator = op.Picture(table, tuple(range(channels)))
        self.start = self.node(operator, ("picture",), height, width, channels)

    def node(self, operator: op.Operator, inputs: tuple[str, ...], h: int, w: int, c: int) -> str:
        name = f"{operator.id}{len(self.nodes)}"
        self.maps[f"{name}:0"] = MapSpec(h, w, c)
        self.nodes.append(Node(name, operator, inputs, f"{name}:0"))
        return f"{name}:0"

    def network(self, *outputs: str) -> Network:
        return Network(tuple(self.nodes), self.maps, ("picture",), outputs)

    def shape(self, x: str) -> tuple[int, int, int]:
        return self.maps[x].shape

    def _swept(self, x: str, window: Window, ceil: bool = False) -> tuple[int, int]:
        sizes = []
        for axis in (0, 1):
            reach = (window.kernel[axis] - 1) * window.dilation[axis]
            room = self.shape(x)[axis] + window.pads[axis] + window.pads[axis + 2] - reach - 1
            stride = window.stride[axis]
            sizes.append((-(-room // stride) if ceil else room // stride) + 1)
        return sizes[0], sizes[1]

    def conv(self, x: str, channels: int, window: Window, groups: int = 1) -> str:
        weights = np.broadcast_to(ONE, (channels, self.shape(x)[2] // groups, *window.kernel))
        operator = op.Conv(window, groups, weights, NO_BIAS, NO_SCALE)
        return self.node(operator, (x,), *self._swept(x, window), channels)

    def pointwise(self, x: str, channels: int) -> str:
        return self.conv(x, channels, square(1))

    def depthwise(self, x: str, window: Window) -> str:
        channels = self.shape(x)[2]
        return self.conv(x, channels, window, channels)

    def max_pool(self, x: str, window: Window, ceil: bool = False) -> str:
        return self.node(op.MaxPool(window), (x,), *self._swept(x, window, ceil), self.shape(x)[2])

    def average_pool(self, x: str, window: Window) -> str:
        operator = op.AveragePool(window, False, np.ones(99, np.float32))
        return self.node(operator, (x,), *self._swept(x, window), self.shape(x)[2])

    def up(self, x: str, channels: int) -> str:
        window = Window((2, 2), (2, 2))
        operator = op.ConvTranspose(window, 1, NO_BIAS, NO_BIAS, NO_SCALE)
        height, width, _ = self.shape(x)
        return self.node(operator, (x,), 2 * height, 2 * width, channels)

    def resize(self, x: str, height: int, width: int, linear: bool = True) -> str:
        sources = []
        for made, source in ((height, self.shape(x)[0]), (width, self.shape(x)[1])):
            place = np.clip((np.arange(made) + 0.5) * source / made - 0.5, 0, source - 1)
            low = np.floor(place) if linear else np.rint(place)
            high = np.ceil(place) if linear else low
            sources.append(np.stack([low, high], axis=1).astype(np.int32))
        none = np.zeros(1, np.int32)
        operator = op.Resize(sources[0], sources[1], none, none)
        return self.node(operator, (x,), height, width, self.shape(x)[2])

    def mean(self, x: str) -> str:
        return self.node(op.Mean(NO_SCALE), (x,), 1, 1, self.shape(x)[2])

    def lookup(self, x: str) -> str:
        return self.node(op.Lookup(IDENTITY[None]), (x,), *self.shape(x))

    def add(self, a: str, b: str) -> str:
        return self.node(op.Add(NO_SCALE), (a, b), *max(self.shape(a), self.shape(b)))

    def mul(self, a: str, b: str) -> str:
        return self.node(op.Mul(NO_SCALE), (a, b), *self.shape(a))

    def concat(self, *names: str, copies: bool = True) -> str:
        table = np.tile(IDENTITY if copies else IDENTITY[::-1], (len(names), 1))
        channels = sum(self.shape(name)[2] for name in names)
        return self.node(op.Concat(table), names, *self.shape(names[0])[:2], channels)

    def head(self, x: str, classes: int) -> str:
        height, width, _ = self.shape(x)
        return self.conv(x, classes, Window((height, width)))


def mobilenet_v2(height: int = 224, width: int = 224, classes: int = 1000) -> Network:
    b = Shapes(height, width)
    x = b.conv(b.start, 32, square(3, 2))
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)]
    for expand, channels, count, stride in [*rows, (6, 160, 3, 2), (6, 320, 1, 1)]:
        for i in range(count):
            y = x if expand == 1 else b.pointwise(x, expand * b.shape(x)[2])
            y = b.pointwise(b.depthwise(y, square(3, stride if i == 0 else 1)), channels)
            x = b.add(x, y) if i else y
    return b.network(b.head(b.mean(b.pointwise(x, 1280)), classes))


def squeezenet(height: int = 224, width: int = 224) -> Network:
    b = Shapes(height, width)
    x = b.conv(b.start, 64, square(3, 2, pad=0))
    for squeezed, expanded in [
        (0, 0), (16, 64), (16, 64), (0, 0), (32, 128), (32, 128), (0, 0),
        (48, 192), (48, 192), (64, 256), (64, 256),
    ]:  # fmt: skip
        if not squeezed:
            x = b.max_pool(x, square(3, 2, pad=0), ceil=True)
            continue
        s = b.pointwise(x, squeezed)
        x = b.concat(b.pointwise(s, expanded), b.conv(s, expanded, square(3)))
    return b.network(b.mean(b.pointwise(x, 1000)))


def resnet_cifar(depth: int = 20, size: int = 32) -> Network:
    b = Shapes(size, size)
    x = b.conv(b.start, 16, square(3))
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        for i in range((depth - 2) // 6):
            step = stride if i == 0 else 1
            y = b.conv(b.conv(x, channels, square(3, step)), channels, square(3))
            x = b.add(x if step == 1 else b.conv(x, channels, square(1, 2)), y)
    return b.network(b.head(b.mean(x), 10))


def resnet18(size: int = 224) -> Network:
    b = Shapes(size, size)
    x = b.max_pool(b.conv(b.start, 64, square(7, 2)), square(3, 2))
    for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for i in range(2):
            step = stride if i == 0 else 1
            y = b.conv(b.conv(x, channels, square(3, step)), channels, square(3))
            x = b.add(x if step == 1 else b.conv(x, channels, square(1, 2)), y)
    return b.network(b.head(b.mean(x), 1000))


def _esp(b: Shapes, x: str, channels: int, stride: int) -> str:
    """Reduce, five dilated convolutions, hierarchical sums, concatenation."""
    part = channels // 5
    first = channels - 4 * part
    s = b.conv(x, part, square(3, 2)) if stride == 2 else b.pointwise(x, part)
    total, parts = "", [b.conv(s, first, square(3))]
    for dilation in (2, 4, 8, 16):
        y = b.conv(s, part, square(3, dilation=dilation))
        total = b.add(total, y) if total else y
        parts.append(total)
    out = b.concat(*parts)
    return b.lookup(out if stride == 2 else b.add(x, out))


def espnet(height: int = 512, width: int = 1024, classes: int = 20) -> Network:
    b = Shapes(height, width)
    half = b.average_pool(b.start, square(3, 2))
    quarter = b.average_pool(half, square(3, 2))
    level1 = b.lookup(b.concat(b.conv(b.start, 16, square(3, 2)), half))
    down = x = _esp(b, level1, 64, 2)
    for _ in range(2):
        x = _esp(b, x, 64, 1)
    level2 = b.lookup(b.concat(x, down, quarter))
    down = x = _esp(b, level2, 128, 2)
    for _ in range(8):
        x = _esp(b, x, 128, 1)
    level3 = b.pointwise(b.lookup(b.concat(down, x)), classes)
    x = b.up(level3, classes)
    x = b.concat(b.pointwise(level2, classes), x)
    x = b.up(_esp(b, b.pointwise(x, classes), classes, 1), classes)
    x = b.conv(b.concat(x, level1), classes, square(3))
    return b.network(b.up(x, classes))


def unet(height: int = 256, width: int = 256, depth: int = 4, channels: int = 16) -> Network:
    b = Shapes(height, width)
    x, skips = b.start, []
    for level in range(depth + 1):
        for _ in range(2):
            x = b.conv(x, channels << level, square(3))
        if level < depth:
            skips.append(x)
            x = b.max_pool(x, square(2, 2, pad=0))
    for level in reversed(range(depth)):
        x = b.concat(skips[level], b.up(x, channels << level))
        for _ in range(2):
            x = b.conv(x, channels << level, square(3))
    return b.network(b.pointwise(x, 2))


def densenet(size: int = 64, growth: int = 12, layers: int = 6) -> Network:
    b = Shapes(size, size)
    x = b.conv(b.start, 2 * growth, square(3, 2))
    for block in range(3):
        for _ in range(layers):
            y = b.conv(b.pointwise(b.lookup(x), 4 * growth), growth, square(3))
            x = b.concat(x, y)
        if block < 2:
            x = b.average_pool(b.pointwise(x, b.shape(x)[2] // 2), square(2, 2, pad=0))
    return b.network(b.head(b.mean(x), 10))


def pyramid_heads(height: int = 160, width: int = 224) -> Network:
    """A detector: a backbone, top-down joins, heads at strides 8, 16 and 32."""
    b = Shapes(height, width)
    x, levels = b.start, []
    for channels in (16, 32, 64, 128, 256):
        x = b.conv(b.conv(x, channels, square(3, 2)), channels, square(3))
        levels.append(x)
    top = b.pointwise(levels[4], 64)
    heads = [b.pointwise(b.conv(top, 64, square(3)), 18)]
    for level in (levels[3], levels[2]):
        size = b.shape(level)[:2]
        top = b.add(b.pointwise(level, 64), b.resize(top, *size, linear=False))
        heads.append(b.pointwise(b.conv(top, 64, square(3)), 18))
    return b.network(*heads)


def squeeze_excite(size: int = 96) -> Network:
    b = Shapes(size, size)
    x = b.conv(b.start, 16, square(3, 2))
    for channels, stride in ((24, 2), (24, 1), (40, 2), (40, 1)):
        y = b.depthwise(b.pointwise(x, 4 * b.shape(x)[2]), square(5, stride))
        gate = b.lookup(b.pointwise(b.pointwise(b.mean(y), 8), b.shape(y)[2]))
        y = b.pointwise(b.mul(y, gate), channels)
        x = b.add(x, y) if stride == 1 else y
    return b.network(b.head(b.mean(x), 10))


def pyramid_pooling(height: int = 60, width: int = 60) -> Network:
    """Means over grids, resized and joined with the map they come from."""
    b = Shapes(height, width)
    x = b.conv(b.start, 32, square(3))
    parts = [x, b.resize(b.pointwise(b.mean(x), 8), height, width)]
    for cells in (2, 3, 6):
        window = square(height // cells, height // cells, pad=0)
        parts.append(b.resize(b.pointwise(b.average_pool(x, window), 8), height, width))
    return b.network(b.conv(b.concat(*parts), 4, square(3)))


def odd_sizes() -> Network:
    """17 x 1 pixels, kernels taller than the map, dilation beyond it, an output that is read."""
    b = Shapes(17, 1)
    x = b.conv(b.start, 5, square(3, 2))
    y = b.conv(x, 5, square(7, dilation=4))
    z = b.max_pool(b.add(x, y), Window((2, 1), (2, 1)), ceil=True)
    w = b.concat(z, z, copies=False)
    return b.network(z, b.conv(b.conv(w, 3, Window((5, 1), (3, 1))), 2, square(3)))


def single_pixel() -> Network:
    b = Shapes(1, 1)
    return b.network(b.pointwise(b.lookup(b.conv(b.start, 7, square(3))), 3))


ZOO: dict[str, Callable[[], Network]] = {
    "mobilenet_v2": lambda: mobilenet_v2(64, 96),
    "squeezenet": lambda: squeezenet(97, 97),
    "resnet20": resnet_cifar,
    "resnet18": lambda: resnet18(64),
    "espnet": lambda: espnet(64, 96),
    "unet": lambda: unet(48, 64, 3),
    "densenet": lambda: densenet(32),
    "pyramid_heads": lambda: pyramid_heads(96, 64),
    "squeeze_excite": lambda: squeeze_excite(48),
    "pyramid_pooling": pyramid_pooling,
    "odd_sizes": odd_sizes,
    "single_pixel": single_pixel,
}
