# SPDX-License-Identifier: Apache-2.0
"""Writes into the network what the plan decides about its edges: codecs and kept outputs.

* An edge with a codec becomes `Encode` -> one coded map -> one `Decode` per reading node. Maps are
  named after the edge: `NAME.coded`, and `NAME.for.READER` for what a reader sees of it.
* An output that nodes also read lives in the arena as `NAME.kept`; a copy hands it to the caller.

Everything after this pass sees plain nodes and maps. Cost: linear in the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from thinmaps.codecs.base import Codec
from thinmaps.errors import PlanImpossible
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Concat, Decode, Encode, Lookup
from thinmaps.types import MapSpec


def lower(network: Network, codecs: Mapping[str, Codec]) -> Network:
    """`network` with `Encode`, `Decode` and copy nodes where `codecs` and outputs ask for them.

    Raises:
        PlanImpossible: a codec is asked for a map that does not exist, that the caller holds,
            that is not uint8 or that nothing reads; or an output is not made by a node.
    """
    _check(network, codecs)
    kept = {name: f"{name}.kept" for name in network.outputs if network.readers[name]}
    maps: dict[str, MapSpec] = dict(network.maps)
    nodes: list[Node] = []
    for node in network.nodes:
        inputs = [kept.get(name, name) for name in node.inputs]
        for name in dict.fromkeys(node.inputs):
            if name in codecs:
                decode = _decode(node, name, codecs[name])
                nodes.append(decode)
                maps[decode.output] = network.maps[name]
                inputs = [decode.output if i == name else i for i in inputs]
        output = kept.get(node.output, node.output)
        nodes.append(replace(node, inputs=tuple(inputs), output=output))
        maps[output] = network.maps[node.output]
        if output != node.output:
            identity = Lookup(np.arange(256, dtype=np.uint8)[None])
            nodes.append(Node(f"{node.output}.copy", identity, (output,), node.output))
        if node.output in codecs:
            codec = codecs[node.output]
            encode = Encode(codec.unit_rows, codec.encode_halo_rows)
            coded = f"{node.output}.coded"
            nodes.append(Node(f"{node.output}.encode", encode, (output,), coded))
            maps[coded] = network.maps[node.output]
    return Network(tuple(nodes), maps, network.inputs, network.outputs)


def joins_decoded(network: Network, node: Node) -> bool:
    """Whether `node` only joins decoded parts for one reader: a window of them, no map to hold."""
    return (
        isinstance(node.operator, Concat)
        and node.output not in network.outputs
        and len(network.readers[node.output]) == 1
        and all(isinstance(network.producer[i].operator, Decode) for i in node.inputs)
    )


def _decode(reader: Node, name: str, codec: Codec) -> Node:
    """The node that restores map `name` for one reader."""
    operator = Decode(codec.unit_rows, codec.decode_halo_units)
    output = f"{name}.for.{reader.name}"
    return Node(f"{name}.decode.{reader.name}", operator, (f"{name}.coded",), output)


def _check(network: Network, codecs: Mapping[str, Codec]) -> None:
    """Refuse, all at once, codecs that no edge can carry; and networks with nothing to plan."""
    if not network.nodes:
        raise PlanImpossible("a plan needs a network with at least one node, this one has none")
    wrong: list[str] = []
    for name in codecs:
        if name not in network.maps:
            wrong.append(f"there is no map {name!r}")
        elif name in network.inputs:
            wrong.append(f"{name!r} is an input, which the caller holds")
        elif not network.readers[name]:
            wrong.append(f"{name!r} is read by no node")
        elif name in network.outputs:
            wrong.append(f"{name!r} is an output, which the caller holds")
        elif network.maps[name].dtype != "uint8":
            wrong.append(f"{name!r} is {network.maps[name].dtype}, not uint8")
    if wrong:
        raise PlanImpossible("these maps cannot carry a codec: " + "; ".join(wrong))
    for name in network.outputs:
        if name in network.inputs:
            raise PlanImpossible(f"output {name!r} is an input of the network: nothing to compute")
