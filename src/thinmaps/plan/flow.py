# SPDX-License-Identifier: Apache-2.0
"""`Flow`: a lowered network as arrays, so that planning asks no operator a second time.

Everything that `plan` does is about *entries*: the rows of a map, or the coding units of an
encoded one. A node does *work rows* in order; each edge says, for every work row, which entries of
the input it reads (`first` to `stop`, clamped to the map, both non-decreasing), and each map says
after which work row of its producer every entry is made.

Cost: one call of `Operator.input_rows` per edge and work row; then only array look-ups.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import Codec
from thinmaps.errors import PlanImpossible
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Encode
from thinmaps.plan.scratch import scratch_bytes, winograd_scratch_bytes

IntArray = NDArray[np.int64]

# The length that precedes the payload of a variable-rate unit in its slot, uint32.
LENGTH_PREFIX_BYTES = 4


@dataclass(frozen=True, eq=False)
class Edge:
    """Work row `w` of node `node` reads entries `first[w] .. stop[w] - 1` of map `map`."""

    map: int
    node: int
    first: IntArray
    stop: IntArray


@dataclass(frozen=True, eq=False)
class MapFlow:
    """One map: how many entries, how large, who makes it (-1: the caller) and who reads it."""

    name: str
    entries: int
    slot_bytes: int
    unit_rows: int
    coded: bool
    in_arena: bool
    producer: int
    made_after: IntArray  # work row of the producer that completes each entry
    edges: list[Edge] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes of the whole map in the arena."""
        return self.entries * self.slot_bytes if self.in_arena else 0


@dataclass(frozen=True, eq=False)
class NodeFlow:
    """One node: its work rows, the rows that cannot be split, its edges in, its map out."""

    name: str
    work_rows: int
    grain: int
    edges: tuple[Edge, ...]
    output: int
    state_bytes: int  # of running sums, from the first step to the last
    scratch_bytes: int  # of each step alone


@dataclass(frozen=True, eq=False)
class Flow:
    """Nodes and maps of a lowered network, by index; nodes in the network's order."""

    network: Network
    nodes: tuple[NodeFlow, ...]
    maps: tuple[MapFlow, ...]
    index: Mapping[str, int]  # map name -> index


def flow_of(
    network: Network,
    codecs: Mapping[str, Codec],
    skipping: Collection[str] = (),
    winograd: Collection[str] = (),
) -> Flow:
    """Tabulate the lowered `network`; `codecs` are by map name of the network before lowering.

    Nodes named in `skipping` get scratch to skip zero blocks of their filters, those in `winograd`
    for that and for Winograd's algorithm (`plan/scratch.py`).

    Raises:
        PlanImpossible: a node's geometry contradicts the sizes of its maps.
    """
    producer = {node.output: i for i, node in enumerate(network.nodes)}
    index = {name: i for i, name in enumerate(network.maps)}
    held_by_caller = {*network.inputs, *network.outputs}
    maps = tuple(
        _map_flow(network, name, producer.get(name, -1), codecs, name not in held_by_caller)
        for name in network.maps
    )
    nodes = tuple(
        _node_flow(network, i, index, maps, (node.name in skipping, node.name in winograd))
        for i, node in enumerate(network.nodes)
    )
    for node in nodes:
        for edge in node.edges:
            maps[edge.map].edges.append(edge)
    return Flow(network, nodes, maps, index)


def _map_flow(
    network: Network, name: str, producer: int, codecs: Mapping[str, Codec], in_arena: bool
) -> MapFlow:
    spec = network.maps[name]
    rows, slot_bytes, coded = 1, spec.row_bytes, False
    made = np.zeros(0, np.int64)
    if producer >= 0:
        node = network.nodes[producer]
        if isinstance(node.operator, Encode):
            codec = codecs[name.removesuffix(".coded")]
            rows, coded = codec.unit_rows, True
            slot_bytes = codec.unit_bytes(spec, min(rows, spec.height))
            slot_bytes += LENGTH_PREFIX_BYTES if codec.rate == "variable" else 0
        made = _made_after(network, node, rows)
    return MapFlow(name, -(-spec.height // rows), slot_bytes, rows, coded, in_arena, producer, made)


def _made_after(network: Network, node: Node, unit_rows: int) -> IntArray:
    """The work row that completes each entry of the node's output."""
    inputs, output = network.input_specs(node), network.output_spec(node)
    work = node.operator.work_rows(inputs, output)
    made = [node.operator.rows_made(done, inputs, output) for done in range(1, work + 1)]
    if work < 1 or made[-1] != output.height:
        raise PlanImpossible(
            f"node {node.name!r} makes {made[-1] if made else 0} rows in {work} rows of work, "
            f"its map {node.output!r} has {output.height}"
        )
    last_rows = np.minimum(
        np.arange(unit_rows, output.height + unit_rows, unit_rows), output.height
    )
    return np.searchsorted(np.array(made), last_rows, "left").astype(np.int64)


def _node_flow(
    network: Network,
    position: int,
    index: Mapping[str, int],
    maps: tuple[MapFlow, ...],
    scratch_for: tuple[bool, bool],
) -> NodeFlow:
    node = network.nodes[position]
    inputs, output = network.input_specs(node), network.output_spec(node)
    work = node.operator.work_rows(inputs, output)
    edges = []
    for i, name in enumerate(node.inputs):
        rows = [node.operator.input_rows(i, row, inputs, output) for row in range(work)]
        ranges = np.clip(np.array(rows, np.int64), 0, inputs[i].height)
        if np.any(np.diff(ranges, axis=0) < 0):
            raise PlanImpossible(f"node {node.name!r} reads the rows of {name!r} out of order")
        unit = maps[index[name]].unit_rows
        edges.append(Edge(index[name], position, ranges[:, 0] // unit, -(-ranges[:, 1] // unit)))
    state = node.operator.state_bytes(inputs, output)
    skips, multiplies_less = scratch_for
    scratch = node.operator.scratch_bytes(inputs, output)
    if skips or multiplies_less:
        scratch = scratch_bytes(node.operator, inputs[0], output)
    if multiplies_less:
        scratch = max(scratch, winograd_scratch_bytes(node.operator, inputs[0], output))
    grain = node.operator.step_rows
    return NodeFlow(node.name, work, grain, tuple(edges), index[node.output], state, scratch)


def paces(flow: Flow) -> list[float]:
    """For each node, the time between two work rows, if all nodes keep up with each other.

    A node of stride 2 takes twice its input's time per row, one that doubles the rows half of it.
    The unit is arbitrary. Where inputs disagree the slowest sets the pace.
    """
    found: list[float] = []
    map_pace: dict[int, float] = {}
    for node in flow.nodes:
        pace = max((_pace(flow, node, edge, map_pace) for edge in node.edges), default=1.0)
        found.append(pace)
        out = flow.maps[node.output]
        map_pace[node.output] = pace * (node.work_rows if out.entries == 1 else out.unit_rows)
    return found


def _pace(flow: Flow, node: NodeFlow, edge: Edge, map_pace: Mapping[int, float]) -> float:
    source = flow.maps[edge.map]
    pace = map_pace.get(edge.map, 1.0 / source.entries)
    if source.coded:
        return pace / source.unit_rows
    inner = edge.first[(edge.first > 0) & (edge.stop < source.entries)]
    strides = np.diff(inner)
    if len(strides) and strides[0] and np.all(strides == strides[0]) and node.grain == 1:
        return pace * float(strides[0])
    return pace * source.entries / node.work_rows
