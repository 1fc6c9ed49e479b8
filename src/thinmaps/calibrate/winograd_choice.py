# SPDX-License-Identifier: Apache-2.0
"""Which convolutions of a uint8 network are done by scaled tiles: those whose error is allowed.

A `WinogradConv` is not equal to the convolution that it replaces. Each eligible one is made from
every second sample of its input map, with the algorithms of `ALGORITHMS` in their order, and takes
the first whose relative error on the other samples is within the limit:

    error = rms(bytes of the tiles - bytes of the convolution) / rms(bytes of the convolution - zy)

Samples are maps of the direct network, so errors are those of each convolution alone.

Cost: two NumPy convolutions per algorithm, eligible convolution and sample of the first
`ERROR_SAMPLES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thinmaps.calibrate.winograd_scales import is_eligible, winograd_conv
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Conv, WinogradConv
from thinmaps.run.interpret import run_node
from thinmaps.winograd import Algorithm, derive

# Most saving first: 2.94 times fewer products, then 2.25 times.
ALGORITHMS = ((4, 3), (2, 3))

ERROR_SAMPLES = 8  # of every second one

Samples = Sequence[Mapping[str, NDArray[np.uint8]]]


@dataclass(frozen=True, eq=False)
class TiledNode:
    """What replaces a convolution: `error` is relative, `algorithm` says by which tiles."""

    name: str
    operator: WinogradConv
    algorithm: Algorithm
    error: float


def eligible_inputs(network: Network) -> tuple[str, ...]:
    """Names of the maps that convolutions read which an algorithm could serve."""
    algorithms = [derive(*each) for each in ALGORITHMS]
    return tuple(
        dict.fromkeys(
            node.inputs[0]
            for node in network.nodes
            if any(_is_eligible(network, node, algorithm) for algorithm in algorithms)
        )
    )


def choose_tiles(network: Network, samples: Samples, limit: float) -> tuple[TiledNode, ...]:
    """The convolutions whose relative error is at most `limit`, with what replaces them.

    `samples` hold the maps of `eligible_inputs`, at least two of each.
    """
    algorithms = [derive(*each) for each in ALGORITHMS]
    found = (
        next(
            (
                tiled
                for algorithm in algorithms
                if _is_eligible(network, node, algorithm)
                and (tiled := _tiled(network, node, samples, algorithm)).error <= limit
            ),
            None,
        )
        for node in network.nodes
    )
    return tuple(tiled for tiled in found if tiled is not None)


def errors_of(network: Network, samples: Samples, algorithm: Algorithm) -> dict[str, float]:
    """The relative error of every convolution that `algorithm` serves, by the node's name."""
    return {
        node.name: _tiled(network, node, samples, algorithm).error
        for node in network.nodes
        if _is_eligible(network, node, algorithm)
    }


def with_tiles(network: Network, tiled: Iterable[TiledNode]) -> Network:
    """`network` with these convolutions replaced, at whatever size its maps have."""
    operators = {each.name: each.operator for each in tiled}
    nodes = tuple(
        replace(node, operator=operators.get(node.name, node.operator)) for node in network.nodes
    )
    return replace(network, nodes=nodes)


def _is_eligible(network: Network, node: Node, algorithm: Algorithm) -> bool:
    return isinstance(node.operator, Conv) and is_eligible(
        node.operator, network.input_specs(node)[0], network.output_spec(node), algorithm
    )


def _tiled(network: Network, node: Node, samples: Samples, algorithm: Algorithm) -> TiledNode:
    """One convolution by tiles, fitted on every second sample, and its error on the others."""
    assert isinstance(node.operator, Conv)
    source, output = network.input_specs(node)[0], network.output_spec(node)
    fitting = [sample[node.inputs[0]] for sample in samples[::2]]
    operator = winograd_conv(node.operator, source, output, fitting, algorithm)
    replaced = replace(node, operator=operator)
    off = size = 0.0
    for sample in samples[1::2][:ERROR_SAMPLES]:
        made, exact = (
            run_node(network, each, sample).astype(np.float64) for each in (replaced, node)
        )
        off += float(np.square(made - exact).sum())
        size += float(np.square(exact - output.zero_point).sum())
    return TiledNode(node.name, operator, algorithm, float(np.sqrt(off / max(size, 1.0))))
