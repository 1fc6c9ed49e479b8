# SPDX-License-Identifier: Apache-2.0
"""Which convolutions skip zero blocks or go by Winograd's algorithm: where that pays, by `cost.py`.

Both give the bytes of the direct kernel and want scratch in the arena (`scratch.py`), which the
planner hands out; the engine then asks again, for the instruction set that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import ArrayLike

from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.plan.cost import MachineRates, StepCost
from thinmaps.plan.scratch import scratch_bytes, winograd_scratch_bytes
from thinmaps.types import MapSpec
from thinmaps.winograd.exact import OUTPUTS

# Another kernel than the direct one has to be predicted faster by this much, as not all that is
# predicted comes true.
WORTH = 0.9
# Rows of a tile that a step by Winograd's algorithm may have to need.
LEAST_ROWS = (1, 2, 3, 4)
# Maps of fewer tiles share a walk over filters of eight times the bytes among too few.
LEAST_TILES = 12


def skippable(network: Network) -> tuple[str, ...]:
    """Nodes that could skip zero blocks of their filters, if there are any."""
    return _with_scratch(network, scratch_bytes)


def worth_skipping(network: Network, rates: MachineRates) -> tuple[str, ...]:
    """Nodes that are predicted to be faster if they skip zero blocks, by a tenth or more.

    In thin steps, in which every row under the window is laid anew, and in whole maps. Cost: one
    pass over all filters, more over those with many zeros.
    """
    names = skippable(network)
    able = {
        v: node for v, node in enumerate(network.nodes) if node.name in names and _has_zeros(node)
    }
    if not able:
        return ()
    cost = StepCost(network, rates), StepCost(network, rates, [each.name for each in able.values()])
    found = []
    for v, node in able.items():
        rows = np.array([1, network.output_spec(node).height])
        dense, skips = (each(np.full(2, v), rows) for each in cost)
        if np.all(skips < WORTH * dense):
            found.append(node.name)
    return tuple(found)


def transformable(network: Network) -> tuple[str, ...]:
    """Nodes that Winograd's algorithm could do with the bits of the direct one."""
    return _with_scratch(network, winograd_scratch_bytes)


def worth_winograd(network: Network, rates: MachineRates) -> tuple[str, ...]:
    """Nodes that Winograd's algorithm is predicted to do faster in steps of the whole map.

    By a tenth or more. Thinner steps need not be faster: the engine does those directly.
    """
    able = transformable(network)
    if not able:
        return ()
    cost = StepCost(network, rates, (), able)
    found = []
    for v, node in enumerate(network.nodes):
        height = network.output_spec(node).height
        if node.name not in able or _tiles_of(network, node) < LEAST_TILES:
            continue
        if cost.tiled(v, height) < WORTH * cost.direct(v, height):
            found.append(node.name)
    return tuple(found)


def winograd_rows(
    network: Network, rates: MachineRates, steps: ArrayLike, able: Collection[str]
) -> dict[str, int]:
    """Of the nodes `able`, those that are predicted to gain a tenth in a plan's `steps`, or more.

    With the least rows of a tile, on average, that a step has to need for it: steps of fewer are
    left to the direct kernel. 1 where that has none to do.
    """
    if not able:
        return {}
    table = np.array(steps, np.int64).reshape(-1, 3)
    cost = StepCost(network, rates, (), able)
    found = {}
    for v, node in enumerate(network.nodes):
        rows = table[table[:, 0] == v, 2]
        if node.name not in able or not len(rows) or _tiles_of(network, node) < LEAST_TILES:
            continue
        direct, tiled = cost.direct(v, rows), cost.tiled(v, rows)
        mean_rows = rows / np.ceil(rows / OUTPUTS)
        totals = [np.where(mean_rows >= least, tiled, direct).sum() for least in LEAST_ROWS]
        best = int(np.argmin(totals))
        if totals[best] < WORTH * direct.sum():
            found[node.name] = 1 if np.all(mean_rows >= LEAST_ROWS[best]) else LEAST_ROWS[best]
    return found


def _tiles_of(network: Network, node: Node) -> int:
    """Of the node's whole map."""
    output = network.output_spec(node)
    return -(-output.height // OUTPUTS) * -(-output.width // OUTPUTS)


def _has_zeros(node: Node) -> bool:
    """Whether a tenth of the filters or more is zero: fewer blocks are, and are worth nothing."""
    assert isinstance(node.operator, op.Conv)
    weights = node.operator.weights
    return int(np.count_nonzero(weights)) <= WORTH * weights.size


def _with_scratch(
    network: Network, bytes_of: Callable[[op.Operator, MapSpec, MapSpec], int]
) -> tuple[str, ...]:
    """Nodes that have a use for scratch of a kind."""
    return tuple(
        node.name
        for node in network.nodes
        if bytes_of(node.operator, network.input_specs(node)[0], network.output_spec(node))
    )
