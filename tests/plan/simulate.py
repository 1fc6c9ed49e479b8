# SPDX-License-Identifier: Apache-2.0
"""Walks through a plan byte by byte: a slow, obvious judge that shares no code with the planner.

Every byte of the arena carries the name of what was last written there: (map, entry). A step checks
that each entry it reads is there, whole; that it writes over nothing that it reads, unless an
element-wise operator writes a row over the same row of an operand; and then leaves its own name.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from thinmaps.graph.operators import Concat, Conv, Encode, WinogradConv
from thinmaps.plan.plan import ALIGNMENT_BYTES, Plan


class Simulation:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.network = plan.network
        self.written_by = np.zeros(plan.arena_bytes, np.int64)
        self.read_in = np.full(plan.arena_bytes, -1, np.int64)
        self.labels: dict[tuple[str, int], int] = {}
        self.done: dict[int, int] = defaultdict(int)
        self.rows_made: dict[str, int] = defaultdict(int)

    def run(self) -> None:
        for number, step in enumerate(self.plan.steps):
            self.step(number, step.node, step.first, step.rows)
        for i, node in enumerate(self.network.nodes):
            work = node.operator.work_rows(
                self.network.input_specs(node), self.network.output_spec(node)
            )
            assert self.done[i] == work, f"{node.name} did {self.done[i]} of {work} rows"

    def step(self, number: int, i: int, first: int, rows: int) -> None:
        node = self.network.nodes[i]
        inputs, output = self.network.input_specs(node), self.network.output_spec(node)
        assert rows >= 1
        assert first == self.done[i], f"{node.name} starts at {first}, not {self.done[i]}"
        for row in range(first, first + rows):
            for index, name in enumerate(node.inputs):
                if name not in self.network.inputs:
                    need = node.operator.input_rows(index, row, inputs, output)
                    height = inputs[index].height
                    for r in range(max(need.first, 0), min(need.stop, height)):
                        self.read(number, node.name, name, r)
        if node.name in self.plan.states:
            scratch = isinstance(node.operator, Conv | WinogradConv)
            self.keep_state(number, node.name, first == 0 or scratch)
        self.done[i] = first + rows
        made = node.operator.rows_made(first + rows, inputs, output)
        for r in range(self.rows_made[node.output], made):
            self.write(number, node, r)
        self.rows_made[node.output] = made

    def slot(self, name: str, row: int) -> tuple[int, np.ndarray]:
        """The entry that holds a row, and the addresses of its bytes: (pixels, channels)."""
        place = self.plan.places[name]
        buffer = self.plan.buffers[place.buffer]
        entry = row // place.unit_rows
        start = buffer.offset + entry % buffer.slots * buffer.slot_bytes
        assert start % ALIGNMENT_BYTES == 0 or entry % buffer.slots
        assert start + buffer.slot_bytes + ALIGNMENT_BYTES <= self.plan.arena_bytes
        addresses = np.arange(start, start + buffer.slot_bytes)
        if place.pixel_bytes:
            channels = self.network.maps[name].channels
            pixels = addresses.reshape(-1, place.pixel_bytes)
            assert len(pixels) == self.network.maps[name].width
            assert place.channel + channels <= place.pixel_bytes
            return entry, pixels[:, place.channel : place.channel + channels]
        return entry, addresses[None]

    def label(self, name: str, entry: int) -> int:
        return self.labels.setdefault((name, entry), len(self.labels) + 1)

    def content(self, name: str, entry: int) -> np.ndarray:
        """Per channel, the label of whoever wrote it: slices in place bear their maker's."""
        node = self.network.producer[name]
        channels = self.network.maps[name].channels
        if not isinstance(node.operator, Concat):
            one = 1 if isinstance(node.operator, Encode) else channels
            return np.full(one, self.label(name, entry))
        parts, channel = [], 0
        for index, source in enumerate(node.inputs):
            width = self.network.maps[source].channels
            if self.in_its_slice(name, channel, source) and node.operator.is_copy(index):
                parts.append(self.content(source, entry))
            else:
                parts.append(np.full(width, self.label(name, entry)))
            channel += width
        return np.concatenate(parts)

    def in_its_slice(self, whole: str, channel: int, part: str) -> bool:
        a, b = self.plan.places.get(whole), self.plan.places.get(part)
        return (
            a is not None
            and b is not None
            and a.buffer == b.buffer
            and a.pixel_bytes == b.pixel_bytes
            and b.channel == a.channel + channel
        )

    def read(self, number: int, reader: str, name: str, row: int) -> None:
        assert row < self.rows_made[name], f"{reader} reads row {row} of {name} too early"
        entry, addresses = self.slot(name, row)
        intact = self.written_by[addresses] == self.content(name, entry)
        assert np.all(intact), f"{reader} finds entry {entry} of {name} overwritten"
        self.read_in[addresses] = number

    def write(self, number: int, node, row: int) -> None:
        if node.output not in self.plan.places:
            assert node.output in self.network.outputs
            return
        entry, addresses = self.slot(node.output, row)
        here = self.plan.places[node.output]
        content = self.content(node.output, entry)
        written = np.broadcast_to(content == self.label(node.output, entry), addresses.shape)
        for index in node.operator.in_place:
            operand = node.inputs[index]
            same_size = self.network.maps[operand].shape == self.network.maps[node.output].shape
            if same_size and self.plan.places.get(operand) == here:
                self.read_in[self.slot(operand, row)[1]] = -1
        target = addresses[written]
        assert not np.any(self.read_in[target] == number), f"{node.name} writes over what it reads"
        if row % here.unit_rows == 0:
            self.written_by[target] = self.label(node.output, entry)
        # Two rows in one slot within one step show when somebody reads the first.
        kept = self.written_by[addresses] == content
        assert np.all(kept), f"{node.name} makes entry {entry}, whose slices are gone"

    def keep_state(self, number: int, name: str, begins: bool) -> None:
        """Sums are there from the step before, unless they begin; scratch begins in every step."""
        buffer = self.plan.buffers[self.plan.states[name]]
        addresses = np.arange(buffer.offset, buffer.offset + buffer.bytes)
        label = self.label(f"sums of {name}", 0)
        assert begins or np.all(self.written_by[addresses] == label), f"{name} lost its sums"
        assert not np.any(self.read_in[addresses] == number), f"{name} sums into what it reads"
        self.written_by[addresses] = label
        # The sums are read once more when the mean is made.
        self.read_in[addresses] = number


def simulate(plan: Plan) -> None:
    """Run the plan; an AssertionError says what is wrong with it."""
    Simulation(plan).run()
