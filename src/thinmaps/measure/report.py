# SPDX-License-Identifier: Apache-2.0
"""`Report`: where every byte of a plan goes, predicted from the plan and counted by an engine.

Of every map three figures, in bytes:

    raw      elements of the uint8 map (4 times as many where it is float32)
    held     the part of the arena that the map's stored form has for itself: its ring, or its
             whole map. 0 for inputs and outputs, which live in the caller's buffers
    moved    the stored form written once and read once per node that reads it, in one inference.
             Exact for raw maps and fixed-rate codecs. For a variable-rate codec the measured mean
             where one was measured, else the worst case, both with the length before every
             payload; `moved_is` says which

A producer that writes its slice straight into a concatenation holds nothing for itself (`inside`
names the concatenation, which holds the buffer). The slice's writing counts at the producer, so
that every byte counts once. `window` is what a codec needs beside the stored form: the raw rows
before encoding and the decoded rows of each reader. A concatenation of decoded parts that its
reader uses at once is a window too, and moves nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from thinmaps.file import document
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Concat, Decode, Encode
from thinmaps.plan.flow import LENGTH_PREFIX_BYTES
from thinmaps.plan.lower import joins_decoded
from thinmaps.plan.plan import Plan

MovedIs = Literal["exact", "measured", "worst case"]


@dataclass(frozen=True)
class MapRow:
    """One map's bytes; the page's head says what each figure counts."""

    name: str
    shape: tuple[int, int, int]
    codec: str
    raw_bytes: int
    held_bytes: int
    moved_bytes: int
    window_bytes: int = 0
    where: Literal["arena", "caller"] = "arena"
    inside: str | None = None
    moved_is: MovedIs = "exact"


@dataclass(frozen=True)
class Counted:
    """What an engine counted: its arena, its packed weights, stored bytes moved per inference.

    `encoded_bytes` is the mean size of each encoded map over the pictures that were run,
    `overflow_shares` the mean share of units that passed the cap of each map that has one.
    """

    arena_bytes: int
    weights_bytes: int
    encoded_bytes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    overflow_shares: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Overflow:
    """Units of a map that pass its cap, as shares: in calibration and in runs, where known."""

    map: str
    foreseen: float | None
    counted: float | None


def overflows(plan: Plan, counted: Mapping[str, float]) -> tuple[Overflow, ...]:
    """One for every map of `plan` whose codec has a cap."""
    return tuple(
        Overflow(name, codec.foreseen_overflow, counted.get(name))
        for name, codec in plan.codecs.items()
        if codec.has_cap
    )


@dataclass(frozen=True)
class Report:
    """Bytes of a plan. `weights_bytes` counts every constant: filters, biases, tables."""

    arena_bytes: int
    weights_bytes: int
    input_bytes: int
    output_bytes: int
    schedule: str
    stripe_rows: int
    segments: int
    steps: int
    maps: tuple[MapRow, ...]
    counted: Counted | None = None
    overflows: tuple[Overflow, ...] = ()

    @property
    def raw_bytes(self) -> int:
        """Bytes of all maps between nodes, not encoded."""
        return sum(row.raw_bytes for row in self.maps if row.where == "arena")

    @property
    def moved_bytes(self) -> int:
        """Stored bytes that one inference writes and reads."""
        return sum(row.moved_bytes for row in self.maps)

    def to_json(self) -> dict[str, Any]:
        """JSON values under the field names."""
        return {**dataclasses.asdict(self), "moved_bytes": self.moved_bytes}


def report(plan: Plan, counted: Counted | None = None) -> Report:
    """Where the bytes of `plan` go."""
    network = plan.source
    measured = counted.encoded_bytes if counted else {}
    return Report(
        arena_bytes=plan.arena_bytes,
        weights_bytes=constant_bytes(network) + sum(map(array_bytes, plan.codecs.values())),
        input_bytes=sum(network.maps[name].raw_bytes for name in network.inputs),
        output_bytes=sum(network.maps[name].raw_bytes for name in network.outputs),
        schedule=plan.schedule,
        stripe_rows=plan.stripe_rows,
        segments=len(set(plan.segments)),
        steps=len(plan.steps),
        maps=tuple(
            _row(plan, name, measured)
            for name in (*network.inputs, *(node.output for node in network.nodes))
        ),
        counted=counted,
        overflows=overflows(plan, counted.overflow_shares if counted else {}),
    )


def constant_bytes(network: Network) -> int:
    """Bytes of every constant of every node."""
    return sum(array_bytes(node.operator) for node in network.nodes)


def array_bytes(noun: Any) -> int:
    """Bytes of the arrays that a file holds for a noun, however deep they lie in it."""
    arrays: dict[str, NDArray[Any]] = {}
    document.write(noun, "noun", arrays)
    return sum(array.nbytes for array in arrays.values())


def _row(plan: Plan, name: str, measured: Mapping[str, float]) -> MapRow:
    """One map's row."""
    spec = plan.source.maps[name]
    codec = plan.codecs.get(name)
    stored = stored_name(plan, name)
    inside = _owner(plan, stored)
    held = 0 if inside or stored not in plan.places else _buffer_bytes(plan, stored)
    stored_bytes, moved_is = _stored_bytes(plan, name, measured)
    if _is_window(plan, name):
        return MapRow(name, spec.shape, "raw", spec.raw_bytes, 0, 0, held)
    return MapRow(
        name=name,
        shape=spec.shape,
        codec=codec.id if codec else "raw",
        raw_bytes=spec.raw_bytes,
        held_bytes=held,
        moved_bytes=_written(plan, name, stored_bytes) + stored_bytes * _reads(plan, name),
        window_bytes=sum(_buffer_bytes(plan, window) for window in _windows(plan, name, stored)),
        where="arena" if stored in plan.places else "caller",
        inside=inside,
        moved_is=moved_is,
    )


def _is_window(plan: Plan, name: str) -> bool:
    """Whether the map only joins decoded parts, row by row, for the reader beside it."""
    lowered = plan.network
    made = made_name(plan, name)
    node = lowered.producer.get(made)
    if node is None or not joins_decoded(lowered, node):
        return False
    place = {each.name: segment for each, segment in zip(lowered.nodes, plan.segments, strict=True)}
    return place[node.name] == place[lowered.readers[made][0].name]


def stored_name(plan: Plan, name: str) -> str:
    """The lowered map that holds source map `name`: its coded form, or the copy that is kept."""
    made = made_name(plan, name)
    readers = plan.network.readers[made]
    encoder = next((node for node in readers if isinstance(node.operator, Encode)), None)
    return encoder.output if encoder else made


def made_name(plan: Plan, name: str) -> str:
    """What the node of source map `name` makes: an output that nodes read too is kept apart."""
    kept = f"{name}.kept"
    return kept if kept in plan.network.maps else name


def _windows(plan: Plan, name: str, stored: str) -> list[str]:
    """The raw rows before the encoder and those behind each decoder, if they have a place."""
    made = made_name(plan, name)
    if stored == made:
        return []
    decoded = [n.output for n in plan.network.readers[stored] if isinstance(n.operator, Decode)]
    return [window for window in (made, *decoded) if window in plan.places]


def _buffer_bytes(plan: Plan, lowered: str) -> int:
    """Bytes of the buffer in which a lowered map lives."""
    return plan.buffers[plan.places[lowered].buffer].bytes


def _owner(plan: Plan, stored: str) -> str | None:
    """The concatenation in whose buffer a map is a slice, if it is one."""
    place = plan.places.get(stored)
    if place is None or place.pixel_bytes in (0, plan.network.maps[stored].channels):
        return None
    return next(
        (
            name
            for name, other in plan.places.items()
            if other.buffer == place.buffer
            and other.pixel_bytes == plan.network.maps[name].channels
        ),
        None,
    )


def _stored_bytes(plan: Plan, name: str, measured: Mapping[str, float]) -> tuple[int, MovedIs]:
    """Bytes of the stored form, and how far to trust them."""
    spec, codec = plan.source.maps[name], plan.codecs.get(name)
    if codec is None:
        return spec.raw_bytes, "exact"
    if codec.rate == "fixed":
        return codec.max_bytes(spec), "exact"
    if name in measured:
        return round(measured[name]), "measured"
    return codec.max_bytes(spec) + LENGTH_PREFIX_BYTES * codec.unit_count(spec), "worst case"


def _written(plan: Plan, name: str, stored_bytes: int) -> int:
    """Bytes that the map's own node writes: none for inputs, and no slice a second time."""
    node = plan.source.producer.get(name)
    if node is None:
        return 0
    in_place = [i for i in dict.fromkeys(node.inputs) if _arrives_in_place(plan, node, i)]
    return stored_bytes - sum(plan.source.maps[i].raw_bytes for i in in_place)


def _reads(plan: Plan, name: str) -> int:
    """How many nodes read the stored form; a concatenation around it in place does not."""
    readers = plan.source.readers[name]
    return sum(not _arrives_in_place(plan, node, name) for node in readers)


def _arrives_in_place(plan: Plan, node: Node, name: str) -> bool:
    """Whether `name` was written as its slice of the concatenation `node`."""
    own = plan.places.get(made_name(plan, name))
    made = plan.places.get(made_name(plan, node.output))
    return (
        isinstance(node.operator, Concat)
        and own is not None
        and made is not None
        and own.buffer == made.buffer
    )
