# SPDX-License-Identifier: Apache-2.0
"""Scaling channels, so that all channels of a map make use of its one scale.

A channel of a map may be divided by any positive factor if the filters that make it are divided by
it and those that read it are multiplied: ReLU, pooling, sums, slices and concatenations commute
with it. The network computes the same; but a channel that reached a tenth of its map's range, and
had a tenth of its codes, now has more of them. What the map gains the readers' weights lose,
since the columns of a filter grow unequal; hence the exponent.

Source
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
    arXiv:1906.04721, scales channels so that weight ranges become equal; Xiao et al.,
    "SmoothQuant", 2022, arXiv:2211.10438, so that ranges of maps and weights meet half-way.
    Ours: weights have a scale per output channel already, so only maps count; channels that a
    sum or a concatenation ties together have one factor, found by walking the graph; the
    producers of a concatenation are brought to one range.

The factors are in the weights afterwards: values of the uint8 network's inner maps are those of the
float network's, channel by channel divided by a constant. Inputs and outputs are never scaled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thinmaps.graph.float_network import (
    FloatAdd,
    FloatArray,
    FloatAveragePool,
    FloatConcat,
    FloatConv,
    FloatMean,
    FloatNetwork,
    FloatNode,
    FloatPad,
    ScalarFunction,
)
from thinmaps.graph.operators import DepthToSpace, MaxPool, Resize, Slice
from thinmaps.graph.scales import MOVES_BYTES

# A factor is the channel's share of its part's range to this power: 0 leaves them as they are.
EXPONENT = 0.5
SMALLEST_FACTOR = 1 / 64

CHANNEL_BY_CHANNEL = (MaxPool, Resize, FloatAdd, FloatAveragePool, FloatMean)
HOMOGENEOUS_FUNCTIONS = {"leaky_relu", "prelu"}


def channel_factors(
    network: FloatNetwork, magnitudes: Mapping[str, NDArray[np.floating]]
) -> dict[str, FloatArray]:
    """What each channel of each map is to be divided by, in `SMALLEST_FACTOR..1`.

    `magnitudes` holds, per map name, how far each channel reaches from 0.
    """
    ties = _Ties(network)
    parts = _parts(network)
    share = np.zeros(ties.channels)
    for name in _witnesses(network):
        reach = np.asarray(magnitudes[name], np.float64)
        np.maximum.at(share, ties.classes(name), _factors_of(reach, parts[name]))
    factor = np.clip(share, SMALLEST_FACTOR, 1.0)
    factor[(share == 0) | ties.is_fixed()] = 1.0
    return {name: factor[ties.classes(name)].astype(np.float32) for name in network.shapes}


def _factors_of(reach: NDArray[np.float64], parts: NDArray[np.intp]) -> NDArray[np.float64]:
    """Factors that one map asks for: of a part all, of a channel within its part the root."""
    largest = np.zeros(len(reach))
    np.maximum.at(largest, parts, reach)
    of_part = np.maximum(largest[parts], np.finfo(np.float64).tiny)
    return np.asarray((reach / of_part) ** EXPONENT * of_part / (reach.max() or 1.0))


def _parts(network: FloatNetwork) -> dict[str, NDArray[np.intp]]:
    """For each map, which channels came side by side from different maps, numbered from 0.

    Parts are brought to one range whatever the weights lose: the parts of a concatenation share a
    scale in any case, and parts of one range are written in place, without a table.
    """
    found = {name: np.zeros(shape[2], np.intp) for name, shape in network.shapes.items()}
    for node in network.nodes:
        if isinstance(node.operator, FloatConcat):
            widths = [network.shapes[name][2] for name in node.inputs]
            found[node.output] = np.repeat(np.arange(len(widths)), widths)
        elif isinstance(node.operator, MaxPool | Resize):
            found[node.output] = found[node.inputs[0]]
    return found


def equalised(network: FloatNetwork, factors: Mapping[str, FloatArray]) -> FloatNetwork:
    """The same function with every map divided by its factors, channel by channel."""
    return replace(network, nodes=tuple(_scaled(node, factors) for node in network.nodes))


def _scaled(node: FloatNode, factors: Mapping[str, FloatArray]) -> FloatNode:
    conv = node.operator
    if not isinstance(conv, FloatConv):
        return node
    made = factors[node.output]
    read = factors[node.inputs[0]].reshape(conv.groups, 1, -1)
    filters = conv.weights.reshape(conv.groups, -1, *conv.weights.shape[1:])
    scaled = (filters * read[..., None, None]).reshape(conv.weights.shape)
    weights = (scaled / made[:, None, None, None]).astype(np.float32)
    return replace(node, operator=replace(conv, weights=weights, bias=conv.bias / made))


def _witnesses(network: FloatNetwork) -> Iterator[str]:
    """Maps whose values some node computes with; those that are only moved say nothing new."""
    read: set[str] = set()
    for node in network.nodes:
        if not isinstance(node.operator, (*MOVES_BYTES, FloatConcat)):
            read.update(node.inputs)
    return (name for name in network.shapes if name in read)


class _Ties:
    """Which channels have to share a factor, and which must keep 1.

    Channels of all maps are numbered through; number 0 stands for the factor 1.
    """

    def __init__(self, network: FloatNetwork) -> None:
        self.network = network
        self.first: dict[str, int] = {}
        count = 1
        for name, (_, _, channels) in network.shapes.items():
            self.first[name] = count
            count += channels
        self.channels = count
        self._parent = list(range(count))
        for name in (*network.inputs, *network.outputs):
            self._fix(name)
        for node in network.nodes:
            self._tie_node(node)
        self._class = np.array([self._root(at) for at in range(count)])

    def classes(self, name: str) -> NDArray[np.intp]:
        """The class of each channel of a map."""
        first = self.first[name]
        found: NDArray[np.intp] = self._class[first : first + self.network.shapes[name][2]]
        return found

    def is_fixed(self) -> NDArray[np.bool_]:
        """For each class, whether its factor has to be 1."""
        return np.asarray(np.arange(self.channels) == self._class[0])

    def _tie_node(self, node: FloatNode) -> None:
        if node.low not in (-math.inf, 0.0) or node.high != math.inf:
            self._fix(node.output)
        if isinstance(node.operator, FloatConv):
            return
        pairs = self._pairs(node)
        if pairs is None:
            for name in (*node.inputs, node.output):
                self._fix(name)
            return
        for a, b in pairs:
            self._join(a, b)

    def _pairs(self, node: FloatNode) -> Iterable[tuple[int, int]] | None:
        """Channels of inputs and output that are the same channel; None where scales matter."""
        operator, out = node.operator, self.first[node.output]
        firsts = [self.first[name] for name in node.inputs]
        channels = self.network.shapes[node.output][2]
        if isinstance(operator, CHANNEL_BY_CHANNEL) or _is_homogeneous(operator):
            return [(first + c, out + c) for first in firsts for c in range(channels)]
        if isinstance(operator, Slice):
            return [(firsts[0] + operator.channel + c, out + c) for c in range(channels)]
        if isinstance(operator, FloatPad) and operator.value == 0:
            held = self.network.shapes[node.inputs[0]][2]
            return [(firsts[0] + c, out + operator.channel + c) for c in range(held)]
        if isinstance(operator, FloatConcat):
            joined = [
                first + c
                for first, name in zip(firsts, node.inputs, strict=True)
                for c in range(self.network.shapes[name][2])
            ]
            return [(one, out + c) for c, one in enumerate(joined)]
        if isinstance(operator, DepthToSpace):
            blocks = operator.block**2
            step = (1, channels) if operator.mode == "DCR" else (blocks, 1)
            return [
                (firsts[0] + c * step[0] + b * step[1], out + c)
                for c in range(channels)
                for b in range(blocks)
            ]
        return None

    def _fix(self, name: str) -> None:
        for c in range(self.network.shapes[name][2]):
            self._join(0, self.first[name] + c)

    def _join(self, a: int, b: int) -> None:
        self._parent[self._root(b)] = self._root(a)

    def _root(self, at: int) -> int:
        while self._parent[at] != at:
            self._parent[at] = self._parent[self._parent[at]]
            at = self._parent[at]
        return at


def _is_homogeneous(operator: object) -> bool:
    """Whether f(a x) = a f(x) for every a > 0."""
    if not isinstance(operator, ScalarFunction):
        return False
    return all(name in HOMOGENEOUS_FUNCTIONS for name, _ in operator.steps)
