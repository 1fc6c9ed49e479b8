# SPDX-License-Identifier: Apache-2.0
"""What a network and a plan mean: the slow, obvious executor that the engine must equal.

`run_network` computes whole maps, node by node: the meaning of a network (with lossy codecs on its
maps, every reader sees decoded values). `interpret` executes a plan, step by step, in a real arena:
rows are written to and read from the very bytes that the plan gives them, so a wrong schedule,
ring or offset shows as a wrong result. Both give the same outputs for every legal plan.

Encoded rows: a slot holds one unit's payload; for variable-rate codecs four bytes before it say
how long it is (little-endian).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import Codec
from thinmaps.errors import BadShape
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Decode, Encode, Mean
from thinmaps.plan.flow import LENGTH_PREFIX_BYTES
from thinmaps.plan.plan import Plan, Step
from thinmaps.run.arithmetic import compute, mean_output, mean_sums
from thinmaps.types import MapSpec

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class WholeMap:
    """A `RowSource` over an array that holds all rows."""

    spec: MapSpec
    values: Array

    def read(self, first: int, stop: int) -> Array:
        """Rows `first .. stop - 1`."""
        return self.values[first:stop]


def check_inputs(network: Network, inputs: Mapping[str, Array]) -> None:
    """Refuse inputs that are absent, or of another dtype or shape than the network's."""
    for name in network.inputs:
        spec = network.maps[name]
        if name not in inputs:
            raise BadShape(f"the network needs input {name!r}, got {sorted(inputs)}")
        x = inputs[name]
        if x.dtype != np.dtype(spec.dtype) or x.shape != spec.shape:
            raise BadShape(
                f"input {name!r} needs {spec.dtype} (h, w, c) = {spec.shape}, "
                f"got {x.dtype} {x.shape}"
            )


def run_node(network: Network, node: Node, values: Mapping[str, Array]) -> Array:
    """All rows of one node's output from whole input maps."""
    sources = [WholeMap(network.maps[name], values[name]) for name in node.inputs]
    output = network.output_spec(node)
    if isinstance(node.operator, Mean):
        sums = mean_sums(sources[0], 0, sources[0].spec.height)
        return mean_output(node.operator, sums, output)
    return compute(node.operator, sources, output, 0, output.height)


def run_network(
    network: Network, inputs: Mapping[str, Array], codecs: Mapping[str, Codec] | None = None
) -> dict[str, Array]:
    """Every map of the network, whole, as `(h, w, c)`.

    A map named in `codecs` is replaced by what its readers see, decode(encode(map)).
    """
    check_inputs(network, inputs)
    values: dict[str, Array] = {name: inputs[name] for name in network.inputs}
    for node in network.nodes:
        made = run_node(network, node, values)
        codec = (codecs or {}).get(node.output)
        if codec is not None:
            made = codec.decode(codec.encode(made, network.output_spec(node)))
        values[node.output] = made
    return values


def interpret(plan: Plan, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of a plan, computed step by step in an arena of `plan.arena_bytes` bytes."""
    check_inputs(plan.network, inputs)
    state = _Execution(plan, inputs)
    for step in plan.steps:
        state.execute(step)
    return state.outputs


class _Execution:
    """One inference in progress: the arena and the caller's buffers."""

    def __init__(self, plan: Plan, inputs: Mapping[str, Array]) -> None:
        self.plan = plan
        self.inputs = inputs
        # Bytes that nothing has written are visible: 0xA5 is no common value of a map.
        self.arena = np.full(plan.arena_bytes, 0xA5, np.uint8)
        network = plan.network
        self.outputs = {
            name: np.zeros(network.maps[name].shape, np.dtype(network.maps[name].dtype))
            for name in network.outputs
        }

    def execute(self, step: Step) -> None:
        node = self.plan.network.nodes[step.node]
        if isinstance(node.operator, Mean):
            self._mean(node, step)
        elif isinstance(node.operator, Encode):
            self._encode(node, step)
        elif isinstance(node.operator, Decode):
            self._decode(node, step)
        else:
            sources = [_Held(self, name) for name in node.inputs]
            spec = self.plan.network.output_spec(node)
            rows = compute(node.operator, sources, spec, step.first, step.rows)
            self.write(node.output, step.first, rows)

    def slot(self, name: str, row: int) -> Array:
        """The bytes of the slot that holds row `row` of map `name`."""
        place = self.plan.places[name]
        buffer = self.plan.buffers[place.buffer]
        slot = row // place.unit_rows % buffer.slots
        first = buffer.offset + slot * buffer.slot_bytes
        return self.arena[first : first + buffer.slot_bytes]

    def row(self, name: str, row: int) -> Array:
        """A `(width, channels)` view of one raw row in the arena."""
        spec, place = self.plan.network.maps[name], self.plan.places[name]
        pixels = self.slot(name, row)[: spec.width * place.pixel_bytes]
        pixels = pixels.reshape(spec.width, place.pixel_bytes)
        return pixels[:, place.channel : place.channel + spec.channels]

    def read(self, name: str, first: int, stop: int) -> Array:
        """Raw rows of an input, or of a map in the arena."""
        if name in self.inputs:
            return self.inputs[name][first:stop]
        return np.stack([self.row(name, r) for r in range(first, stop)])

    def write(self, name: str, first: int, rows: Array) -> None:
        """Raw rows to the arena, or to the caller's output."""
        if name in self.outputs:
            self.outputs[name][first : first + len(rows)] = rows
            return
        for i, values in enumerate(rows):
            self.row(name, first + i)[:] = values

    def _mean(self, node: Node, step: Step) -> None:
        source = _Held(self, node.inputs[0])
        buffer = self.plan.buffers[self.plan.states[node.name]]
        state = self.arena[buffer.offset : buffer.offset + 4 * source.spec.channels].view(np.int32)
        if step.first == 0:
            state[:] = 0
        state += mean_sums(source, step.first, step.rows)
        if step.first + step.rows == source.spec.height:
            assert isinstance(node.operator, Mean)
            spec = self.plan.network.output_spec(node)
            self.write(node.output, 0, mean_output(node.operator, state, spec))

    def _encode(self, node: Node, step: Step) -> None:
        codec = self.plan.codecs[node.inputs[0]]
        spec = self.plan.network.maps[node.inputs[0]]
        for first in range(step.first, step.first + step.rows, codec.unit_rows):
            rows = codec.rows_of_unit(spec, first // codec.unit_rows)
            payload = codec.encode_unit(self.read(node.inputs[0], first, first + rows), spec)
            slot = self.slot(node.output, first)
            if codec.rate == "variable":
                slot[:LENGTH_PREFIX_BYTES].view("<u4")[0] = len(payload)
                slot = slot[LENGTH_PREFIX_BYTES:]
            slot[: len(payload)] = np.frombuffer(payload, np.uint8)

    def _decode(self, node: Node, step: Step) -> None:
        encoded = node.inputs[0]
        source = self.plan.network.producer[encoded].inputs[0]
        codec, spec = self.plan.codecs[source], self.plan.network.maps[source]
        for first in range(step.first, step.first + step.rows, codec.unit_rows):
            rows = codec.rows_of_unit(spec, first // codec.unit_rows)
            slot = self.slot(encoded, first)
            bytes_held = codec.unit_bytes(spec, rows)
            if codec.rate == "variable":
                bytes_held = int(slot[:LENGTH_PREFIX_BYTES].view("<u4")[0])
                slot = slot[LENGTH_PREFIX_BYTES:]
            values = codec.decode_unit(slot[:bytes_held].tobytes(), spec, rows)
            self.write(node.output, first, values)


@dataclass(frozen=True, eq=False)
class _Held:
    """A `RowSource` over rows that live in the arena or with the caller."""

    execution: _Execution
    name: str

    @property
    def spec(self) -> MapSpec:
        return self.execution.plan.network.maps[self.name]

    def read(self, first: int, stop: int) -> Array:
        return self.execution.read(self.name, first, stop)
