# SPDX-License-Identifier: Apache-2.0
"""`Plan`: a network, the static list of its steps, and where every row lives in one arena.

A plan is complete: an engine needs nothing else, decides nothing, and allocates nothing.

* `network` is the lowered network: where an edge is held encoded, an `Encode` node and one
  `Decode` node per reader stand in it (see `plan/lower.py`). `source` is the network before that.
* `steps` are `(node index, first work row, work rows)` in execution order.
* Every map between nodes has a `Place`: a buffer of the arena used as a ring of rows (or of coding
  units, for an encoded map). Row `r` lives in slot `r % slots`. Several maps may share a buffer
  when a concatenation's producers write their channel slices in place: then `channel` is the
  slice's first byte in each pixel and `pixel_bytes` the distance between pixels.
* Inputs and outputs have no place: they live in the caller's buffers.
* Two buffers may overlap in the arena where the lifetimes of their slots allow it: bytes are
  disjoint at every moment, slots of a buffer may live and die at different steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thinmaps.codecs.base import Codec
from thinmaps.graph.network import Network
from thinmaps.graph.operators import Conv
from thinmaps.plan.scratch import winograd_scratch_bytes

# Every buffer starts at a multiple of this many bytes, and the arena ends with as much slack,
# so that vector kernels may read (never write) a little past a row.
ALIGNMENT_BYTES = 64


class Step(NamedTuple):
    """The engine now does work rows `first .. first + rows - 1` of node `node`."""

    node: int
    first: int
    rows: int


class Steps(Sequence[Step]):
    """Steps in twelve bytes each; a tuple of them takes ten times as much.

    >>> steps = Steps([(0, 0, 2), (1, 0, 1)])
    >>> steps[1], len(steps), steps == ((0, 0, 2), (1, 0, 1))
    (Step(node=1, first=0, rows=1), 2, True)
    """

    def __init__(self, rows: ArrayLike) -> None:
        self._rows = np.array(rows, np.int32).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Steps: ...
    def __getitem__(self, index: int | slice) -> Step | Steps:
        if isinstance(index, slice):
            return Steps(self._rows[index])
        return Step(*self._rows[index].tolist())

    def __iter__(self) -> Iterator[Step]:
        return map(Step._make, zip(*self._rows.T.tolist(), strict=True))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self._rows, dtype, copy=copy)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)


@dataclass(frozen=True)
class Buffer:
    """`slots * slot_bytes` bytes of the arena from `offset` on."""

    name: str
    slots: int
    slot_bytes: int
    offset: int

    @property
    def bytes(self) -> int:
        """Size in the arena."""
        return self.slots * self.slot_bytes


@dataclass(frozen=True)
class Place:
    """Where a map lives: row `r` (unit `r // unit_rows`) in slot `... % slots` of `buffer`."""

    buffer: int
    channel: int  # first byte of the map in each pixel; 0 unless a slice of a concatenation
    pixel_bytes: int  # distance between pixels; 0 for an encoded map, whose units are opaque
    unit_rows: int = 1


@dataclass(frozen=True, eq=False)
class Plan:
    """A schedule and an arena for a network. Built by `plan.build`, checked by `plan.verify`."""

    source: Network
    network: Network
    codecs: Mapping[str, Codec]  # by map name of `source`
    steps: Sequence[Step]  # `Steps`, or a tuple
    buffers: tuple[Buffer, ...]
    places: Mapping[str, Place]  # by map name of `network`; inputs and outputs have none
    states: Mapping[str, int]  # node name -> buffer index of its running sums or scratch
    arena_bytes: int
    schedule: str  # "layer", "stream" or "mixed"
    segments: tuple[int, ...]  # for each node of `network`, the segment it belongs to
    stripe_rows: int

    @property
    def skipping(self) -> tuple[str, ...]:
        """Nodes that have scratch to skip the zero blocks of their filters."""
        operators = {node.name: node.operator for node in self.network.nodes}
        return tuple(name for name in self.states if isinstance(operators.get(name), Conv))

    @property
    def winograd(self) -> tuple[str, ...]:
        """Nodes that have scratch for Winograd's algorithm; they could skip zero blocks, too."""
        held = {
            name: self.buffers[buffer].slot_bytes
            for name, buffer in self.states.items()
            if 0 <= buffer < len(self.buffers)
        }
        found = []
        for node in self.network.nodes:
            if node.name in held and isinstance(node.operator, Conv):
                inputs, output = self.network.input_specs(node), self.network.output_spec(node)
                if 0 < winograd_scratch_bytes(node.operator, inputs[0], output) <= held[node.name]:
                    found.append(node.name)
        return tuple(found)
