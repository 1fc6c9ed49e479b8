# SPDX-License-Identifier: Apache-2.0
"""A float network and its gradients as one ONNX graph.

The graph runs a picture forward once and several projections of the outputs back through it:
reverse accumulation, written down as operators. Its inputs are the network's own and, per output,
the `batch` projections `v` (`batch c h w`); the gradient of a map `x` is `d(sum v * outputs) / dx`.

Cost: the forward pass, and about as much again per projection. A runtime frees each map once the
gradient has passed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from thinmaps.calibrate.gradient_moves import planes
from thinmaps.calibrate.gradient_rules import Place, backward, forward
from thinmaps.calibrate.graph_writer import GraphWriter
from thinmaps.graph.float_network import FloatNetwork

PICTURE = "input_{}"
PROJECTION = "projection_{}"


@dataclass(frozen=True)
class GradientGraph:
    """Names in the graph: what to feed, and the gradient of every map (`batch c h w`)."""

    writer: GraphWriter
    pictures: Mapping[str, str]
    projections: Mapping[str, str]
    gradients: Mapping[str, str]
    batch: int


def gradient_graph(network: FloatNetwork, batch: int) -> GradientGraph:
    """Write the network and the gradient of every map that an output depends on.

    Raises:
        BadModel: an operator without a gradient, by its node's name.
    """
    writer = GraphWriter()
    pictures = {
        name: writer.input(PICTURE.format(index), planes(network.shapes[name], 1))
        for index, name in enumerate(network.inputs)
    }
    projections = {
        name: writer.input(PROJECTION.format(index), planes(network.shapes[name], batch))
        for index, name in enumerate(network.outputs)
    }
    places = _forward(writer, network, pictures)
    gradients = _backward(writer, places, projections, batch)
    return GradientGraph(writer, pictures, projections, gradients, batch)


def _forward(
    writer: GraphWriter, network: FloatNetwork, pictures: Mapping[str, str]
) -> list[Place]:
    values = dict(pictures)
    places = []
    for node in network.nodes:
        place = Place(
            node,
            tuple(network.shapes[name] for name in node.inputs),
            network.shapes[node.output],
            tuple(values[name] for name in node.inputs),
        )
        output, kept = forward(writer, place)
        values[node.output] = output
        places.append(replace(place, output=output, kept=kept))
    return places


def _backward(
    writer: GraphWriter, places: list[Place], projections: Mapping[str, str], batch: int
) -> dict[str, str]:
    """The sum of what every reader of a map, and an output, contributes."""
    parts: dict[str, list[str]] = {name: [value] for name, value in projections.items()}
    gradients: dict[str, str] = {}
    for place in reversed(places):
        name = place.node.output
        if name not in parts:
            continue
        gradients[name] = _total(writer, parts[name])
        found = backward(writer, place, gradients[name], batch)
        for source, part in zip(place.node.inputs, found, strict=True):
            parts.setdefault(source, []).append(part)
    made = {place.node.output for place in places}
    for name in parts.keys() - made:
        gradients[name] = _total(writer, parts[name])
    return gradients


def _total(writer: GraphWriter, parts: Iterable[str]) -> str:
    first, *others = parts
    for other in others:
        first = writer.add("Add", first, other)
    return first
