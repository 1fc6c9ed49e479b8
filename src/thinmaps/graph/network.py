# SPDX-License-Identifier: Apache-2.0
"""`Network`: a directed acyclic graph of uint8 maps, verified on construction.

Nodes are in an order in which every map is made before it is read; each node makes one map. The
maps that no node makes are the network's inputs (the caller's pictures or float32 arrays), read
only by `Picture` and `Quantise`. The maps named in `outputs` go to the caller's buffers,
dequantised; what follows them in the model file is the `Tail`, which runs in NumPy.

A network says nothing of schedules, codecs or memory: those are the `Plan`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from thinmaps.errors import BadModel
from thinmaps.graph.operators import Operator
from thinmaps.types import MapSpec


@dataclass(frozen=True, eq=False)
class Node:
    """One operator between maps, named by the maps' names."""

    name: str
    operator: Operator
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes in execution order and the spec of every map."""

    nodes: tuple[Node, ...]
    maps: Mapping[str, MapSpec]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_wiring(self)

    @cached_property
    def producer(self) -> dict[str, Node]:
        """Map name -> the node that makes it (inputs have none)."""
        return {node.output: node for node in self.nodes}

    @cached_property
    def readers(self) -> dict[str, tuple[Node, ...]]:
        """Map name -> the nodes that read it, in execution order."""
        found: dict[str, list[Node]] = {name: [] for name in self.maps}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    def ending_in(self, outputs: Iterable[str]) -> Network:
        """The part that makes the maps `outputs`, with these as its outputs."""
        wanted = tuple(outputs)
        needed = set(wanted)
        for node in reversed(self.nodes):
            if node.output in needed:
                needed.update(node.inputs)
        return Network(
            nodes=tuple(node for node in self.nodes if node.output in needed),
            maps={name: spec for name, spec in self.maps.items() if name in needed},
            inputs=tuple(name for name in self.inputs if name in needed),
            outputs=wanted,
        )

    def input_specs(self, node: Node) -> tuple[MapSpec, ...]:
        """Specs of the maps that `node` reads, in order."""
        return tuple(self.maps[name] for name in node.inputs)

    def output_spec(self, node: Node) -> MapSpec:
        """Spec of the map that `node` makes."""
        return self.maps[node.output]


def _check_wiring(network: Network) -> None:
    """Refuse duplicate names, reads before writes, and outputs that nothing makes."""
    for names in (network.inputs, network.outputs):
        if twice := [name for name in names if names.count(name) > 1]:
            raise BadModel(f"{twice[0]!r} stands twice among the network's inputs or outputs")
    made = set(network.inputs)
    node_names: set[str] = set()
    for node in network.nodes:
        missing = [name for name in node.inputs if name not in made]
        if missing:
            raise BadModel(
                f"node {node.name!r} reads {missing[0]!r}, which nothing makes before it"
            )
        if node.output in made:
            raise BadModel(f"node {node.name!r} makes {node.output!r}, which exists already")
        if node.name in node_names:
            raise BadModel(f"two nodes are named {node.name!r}")
        made.add(node.output)
        node_names.add(node.name)
    if unknown := [name for name in network.outputs if name not in made]:
        raise BadModel(f"the network's output {unknown[0]!r} is made by no node")
    if set(network.maps) != made:
        odd = min(set(network.maps) ^ made)
        raise BadModel(f"map {odd!r} has a spec but no producer, or a producer but no spec")
