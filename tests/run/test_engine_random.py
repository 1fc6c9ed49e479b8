# SPDX-License-Identifier: Apache-2.0
"""The engine equals the definition on networks that nobody would draw by hand.

`_Draw` grows a random network over every operator: odd sizes, strides, dilations, groups,
asymmetric pads, odd zero points, filters with zeros in blocks of 4 x 4 channels, and scales that
are powers of two, so that sums fall on rounding ties. Its outputs are compared with `run_network`,
which knows nothing of plans and arenas.
"""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps import _core
from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.plan.build import build
from thinmaps.plan.verify import verify
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import interpret, run_network
from thinmaps.types import MapSpec

ISAS = tuple(_core.isas())


class _Draw:
    """A network that grows by one random node at a time, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.zeros = np.random.default_rng(seed)
        self.maps: dict[str, MapSpec] = {}
        self.nodes: list[Node] = []

    def number(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def spec(self, height: int, width: int, channels: int) -> MapSpec:
        scale = float(2.0 ** self.number(-6, -2))
        zero_point = int(self.random.choice([0, 1, 77, 128, 201, 255]))
        return MapSpec(height, width, channels, scale, zero_point)

    def any_map(self) -> str:
        names = [name for name in self.maps if name != "x"]
        return names[-1] if self.random.random() < 0.6 else str(self.random.choice(names))

    def node(self, operator: op.Operator, inputs: tuple[str, ...], output: MapSpec) -> str:
        name = f"m{len(self.nodes)}"
        self.maps[name] = output
        self.nodes.append(Node(f"n{len(self.nodes)}", operator, inputs, name))
        return name

    def network(self, nodes: int) -> Network:
        height, width = self.number(5, 17), self.number(3, 19)
        if self.random.random() < 0.5:
            self.maps["x"] = MapSpec(height, width, 3)
            table = self.random.integers(0, 256, (4, 256), dtype=np.uint8)
            start: op.Operator = op.Picture(table, (2, 0, 1, 1))
        else:
            self.maps["x"] = MapSpec(height, width, 4, dtype="float32")
            start = op.Quantise()
        self.node(start, ("x",), self.spec(height, width, 4))
        grow = [
            self.conv, self.conv, self.depthwise, self.conv_transpose, self.max_pool,
            self.average_pool, self.add, self.mul, self.lookup, self.concat, self.slice, self.pad,
            self.resize, self.depth_to_space, self.squeeze_and_excite,
        ]  # fmt: skip
        while len(self.nodes) < nodes:
            grow[self.number(0, len(grow) - 1)]()
        read = {name for node in self.nodes for name in node.inputs}
        outputs = [node.output for node in self.nodes if node.output not in read]
        outputs = self.heads(outputs)
        return Network(tuple(self.nodes), dict(self.maps), ("x",), tuple(outputs))

    def heads(self, outputs: list[str]) -> list[str]:
        """A mean over the first open map, as a float32 head beside the others."""
        x = self.maps[outputs[0]]
        head = MapSpec(1, 1, x.channels, dtype="float32")
        mean = op.Mean(np.array([0.37], np.float32))
        return [self.node(mean, (outputs[0],), head), *outputs[1:]]

    def window(self, height: int, width: int) -> tuple[op.Window, tuple[int, int]]:
        """A window that touches the map everywhere, and the output's height and width."""
        kernel = (self.number(1, min(4, height)), self.number(1, min(4, width)))
        stride = (self.number(1, 3), self.number(1, 3))
        dilation = (self.number(1, 2), self.number(1, 2))
        pads = tuple(self.number(0, max(0, kernel[i % 2] - 1)) for i in range(4))
        window = op.Window(kernel, stride, dilation, pads)  # type: ignore[arg-type]
        sizes = []
        for axis, extent in enumerate((height, width)):
            reach = (kernel[axis] - 1) * dilation[axis] + 1
            sizes.append((extent + pads[axis] + pads[axis + 2] - reach) // stride[axis] + 1)
        if min(sizes) < 1:
            return self.window(height, width)
        return window, (sizes[0], sizes[1])

    def filters(self, k: int, c: int, window: op.Window) -> dict[str, np.ndarray]:
        weights = self.random.integers(-128, 128, (k, c, *window.kernel), dtype=np.int8)
        blocks = (-(-k // 4), -(-c // 4), *window.kernel)
        used = self.zeros.random(blocks) < self.zeros.choice([0, 0.1, 0.5, 1, 1])
        return {
            "weights": weights * used.repeat(4, axis=0).repeat(4, axis=1)[:k, :c],
            "bias": self.random.integers(-5000, 5000, k, dtype=np.int32),
            "multiplier": (2.0 ** self.random.integers(-12, -5, k)).astype(np.float32),
        }

    def conv(self) -> None:
        name = self.any_map()
        x = self.maps[name]
        window, (height, width) = self.window(x.height, x.width)
        groups = self.number(1, 2) if x.channels % 2 == 0 else 1
        k = groups * self.number(1, 20)
        low, high = (0, 255) if self.random.random() < 0.5 else (3, 180)
        conv = op.Conv(
            window, groups, **self.filters(k, x.channels // groups, window), low=low, high=high
        )
        self.node(conv, (name,), self.spec(height, width, k))

    def depthwise(self) -> None:
        name = self.any_map()
        x = self.maps[name]
        window, (height, width) = self.window(x.height, x.width)
        conv = op.Conv(window, x.channels, **self.filters(x.channels, 1, window))
        self.node(conv, (name,), self.spec(height, width, x.channels))

    def conv_transpose(self) -> None:
        name = self.any_map()
        x = self.maps[name]
        if max(x.height, x.width) > 24:
            return
        window, _ = self.window(4, 4)
        sizes = [
            (extent - 1) * window.stride[axis]
            + (window.kernel[axis] - 1) * window.dilation[axis]
            + 1
            - window.pads[axis]
            - window.pads[axis + 2]
            + self.number(0, window.stride[axis] - 1)
            for axis, extent in enumerate((x.height, x.width))
        ]
        if min(sizes) < 1:
            return
        groups = self.number(1, 2) if x.channels % 2 == 0 else 1
        k = groups * self.number(1, 5)
        conv = op.ConvTranspose(window, groups, **self.filters(k, x.channels // groups, window))
        self.node(conv, (name,), self.spec(sizes[0], sizes[1], k))

    def max_pool(self) -> None:
        name = self.any_map()
        x = self.maps[name]
        window, (height, width) = self.window(x.height, x.width)
        output = MapSpec(height, width, x.channels, x.scale, x.zero_point)
        self.node(op.MaxPool(window), (name,), output)

    def average_pool(self) -> None:
        name = self.any_map()
        x = self.maps[name]
        window, (height, width) = self.window(x.height, x.width)
        output = self.spec(height, width, x.channels)
        divisors = np.arange(window.kernel[0] * window.kernel[1] + 1).clip(1)
        multiplier = (x.scale / output.scale / divisors).astype(np.float32)
        pool = op.AveragePool(window, bool(self.number(0, 1)), multiplier)
        self.node(pool, (name,), output)

    def like(self, name: str) -> list[str]:
        return [other for other, x in self.maps.items()
                if x.shape == self.maps[name].shape and other != "x"]  # fmt: skip

    def add(self) -> None:
        a = self.any_map()
        b = str(self.random.choice(self.like(a)))
        ratio = (2.0 ** self.random.integers(-2, 2, 2)).astype(np.float32)
        output = self.spec(*self.maps[a].shape)
        self.node(op.Add(ratio, 0, self.number(200, 255)), (a, b), output)

    def mul(self) -> None:
        a = self.any_map()
        b = str(self.random.choice(self.like(a)))
        multiplier = np.array([2.0 ** self.number(-8, -4)], np.float32)
        self.node(op.Mul(multiplier, self.number(0, 9)), (a, b), self.spec(*self.maps[a].shape))

    def squeeze_and_excite(self) -> None:
        a = self.any_map()
        x = self.maps[a]
        mean = op.Mean(np.array([2.0 ** self.number(-8, -5)], np.float32))
        pooled = self.node(mean, (a,), self.spec(1, 1, x.channels))
        multiplier = np.array([2.0 ** self.number(-8, -4)], np.float32)
        pair = (a, pooled) if self.number(0, 1) else (pooled, a)
        self.node(op.Mul(multiplier), pair, self.spec(*x.shape))

    def lookup(self) -> None:
        name = self.any_map()
        x = self.maps[name]
        rows = 1 if self.number(0, 1) else x.channels
        table = self.random.integers(0, 256, (rows, 256), dtype=np.uint8)
        self.node(op.Lookup(table), (name,), self.spec(*x.shape))

    def concat(self) -> None:
        first = self.any_map()
        x = self.maps[first]
        names = [name for name, other in self.maps.items()
                 if other.shape[:2] == x.shape[:2] and name != "x"]  # fmt: skip
        chosen = [first, *(str(self.random.choice(names)) for _ in range(self.number(0, 2)))]
        channels = sum(self.maps[name].channels for name in chosen)
        if channels > 40:
            return
        table = np.tile(np.arange(256, dtype=np.uint8), (len(chosen), 1))
        if self.number(0, 1):
            table[0] = self.random.integers(0, 256, 256)
        self.node(op.Concat(table), tuple(chosen), self.spec(*x.shape[:2], channels))

    def slice(self) -> None:
        name = self.any_map()
        x = self.maps[name]
        steps = self.number(1, 2), self.number(1, 2)
        row, column = self.number(0, x.height - 1), self.number(0, x.width - 1)
        channel = self.number(0, x.channels - 1)
        height = self.number(1, (x.height - 1 - row) // steps[0] + 1)
        width = self.number(1, (x.width - 1 - column) // steps[1] + 1)
        channels = self.number(1, x.channels - channel)
        output = MapSpec(height, width, channels, x.scale, x.zero_point)
        self.node(op.Slice(row, steps[0], column, steps[1], channel), (name,), output)

    def pad(self) -> None:
        name = self.any_map()
        x = self.maps[name]
        top, left, channel = (self.number(0, 2) for _ in range(3))
        shape = (x.height + top + self.number(0, 2), x.width + left + self.number(0, 2),
                 x.channels + channel + self.number(0, 2))  # fmt: skip
        output = MapSpec(*shape, x.scale, x.zero_point)
        self.node(op.Pad(top, left, channel, self.number(0, 255)), (name,), output)

    def resize(self) -> None:
        name = self.any_map()
        x = self.maps[name]
        height, width = self.number(1, 20), self.number(1, 20)
        linear = self.number(0, 1)

        def axis(extent: int, source: int) -> tuple[np.ndarray, np.ndarray]:
            low = np.sort(self.random.integers(0, source, extent))
            pairs = np.stack([low, np.minimum(low + linear, source - 1)], 1).astype(np.int32)
            weights = self.random.integers(0, 2049, extent) * linear
            return pairs, weights.astype(np.int32)

        rows, row_weight = axis(height, x.height)
        columns, column_weight = axis(width, x.width)
        output = MapSpec(height, width, x.channels, x.scale, x.zero_point)
        self.node(op.Resize(rows, columns, row_weight, column_weight), (name,), output)

    def depth_to_space(self) -> None:
        name = self.any_map()
        x = self.maps[name]
        if x.channels % 4 or max(x.height, x.width) > 20:
            return
        output = MapSpec(2 * x.height, 2 * x.width, x.channels // 4, x.scale, x.zero_point)
        mode = "DCR" if self.number(0, 1) else "CRD"
        self.node(op.DepthToSpace(2, mode), (name,), output)

    def input(self) -> np.ndarray:
        x = self.maps["x"]
        if x.dtype == "uint8":
            return self.random.integers(0, 256, x.shape, dtype=np.uint8)
        # Multiples of a power of two fall on ties of the quantisation.
        return (self.random.integers(-9000, 9000, x.shape) / 1024).astype(np.float32)


def assert_same(made: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, values in made.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name, strict=True)


@pytest.mark.usefixtures("every_step_shared")
@pytest.mark.parametrize("schedule", ["layer", "stream", "mixed"])
@pytest.mark.parametrize("seed", range(20))
def test_a_random_network_gives_the_defined_outputs(seed: int, schedule: str) -> None:
    draw = _Draw(seed)
    network = draw.network(nodes=12)
    x = draw.input()
    expected = run_network(network, {"x": x})
    plan = build(network, schedule=schedule, stripe_rows=draw.number(1, 3))
    for isa in ISAS:
        assert_same(Engine(plan, isa=isa).maps(x), expected)
    assert_same(Engine(plan, threads=3).maps(x), expected)


@pytest.mark.usefixtures("every_step_shared")
@pytest.mark.parametrize("schedule", ["layer", "stream"])
@pytest.mark.parametrize("seed", range(400, 408))
def test_skipping_zero_blocks_of_filters_changes_no_output(seed: int, schedule: str) -> None:
    draw = _Draw(seed)
    network = draw.network(nodes=12)
    x = draw.input()
    expected = run_network(network, {"x": x})
    rows = draw.number(1, 3)
    plan = build(network, schedule=schedule, stripe_rows=rows, effort=0, skip_zero_blocks=True)
    verify(plan)
    for isa in ISAS:
        assert_same(Engine(plan, isa=isa, skip_zero_blocks=True).maps(x), expected)
    assert_same(Engine(plan, threads=3, skip_zero_blocks=True).maps(x), expected)
    assert_same(Engine(plan, skip_zero_blocks=False).maps(x), expected)
    assert_same(interpret(plan, {"x": x}), expected)


@pytest.mark.parametrize("seed", range(100, 104))
def test_the_arena_ends_as_the_interpreters_does(seed: int) -> None:
    draw = _Draw(seed)
    network = draw.network(nodes=8)
    x = draw.input()
    plan = build(network)
    engine = Engine(plan)
    assert_same(engine.maps(x), interpret(plan, {"x": x}))
    assert engine.arena.shape == (plan.arena_bytes,)
    assert not engine.arena.flags.writeable


@pytest.mark.parametrize("seed", range(300, 306))
def test_steps_that_are_thick_here_and_thin_there_give_the_defined_outputs(seed: int) -> None:
    draw = _Draw(seed)
    network = draw.network(nodes=12)
    x = draw.input()
    smallest = build(network, schedule="stream", arena_bytes="smallest")
    plan = build(network, schedule="stream", arena_bytes=3 * smallest.arena_bytes // 2)
    assert len(plan.steps) <= len(smallest.steps)
    assert len({step.rows for step in plan.steps}) > 1
    engine = Engine(plan)
    assert_same(engine.maps(x), interpret(plan, {"x": x}))
    assert_same(interpret(plan, {"x": x}), run_network(network, {"x": x}))


@pytest.mark.parametrize("seed", range(200, 206))
def test_rows_that_stream_equal_whole_maps(seed: int) -> None:
    draw = _Draw(seed)
    network = draw.network(nodes=8)
    x = draw.input()
    engine = Engine(build(network, schedule="stream"))
    whole = engine.maps(x)
    streamed: dict[str, list[np.ndarray]] = {name: [] for name in whole}
    for item in engine.rows(iter(x)):
        name, row = item if isinstance(item, tuple) else (next(iter(whole)), item)
        streamed[name].append(row)
    assert_same({name: np.stack(rows) for name, rows in streamed.items()}, whole)
