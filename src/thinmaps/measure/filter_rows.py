# SPDX-License-Identifier: Apache-2.0
"""Filters that take fewer bytes than they have values, or less time: of codes, of zero blocks.

Cost: one pass over all filters of a network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thinmaps.graph.network import Network
from thinmaps.graph.operators import CodedConv, Conv
from thinmaps.graph.zero_blocks import zero_block_share
from thinmaps.plan.kernel_choice import skippable


@dataclass(frozen=True)
class FilterRow:
    """One convolution.

    Attributes:
        node: its name.
        filter_bytes: of its filters.
        stored_bytes: in the file; fewer where the filters are made of coefficients.
        codes: of which they are made; 0 where they are stored.
        zero_block_share: of its filters' blocks, 4 by 4 channels of a tap, that are all zero; 0
            where the engine could not skip them, as in depthwise convolutions.
    """

    node: str
    filter_bytes: int
    stored_bytes: int
    codes: int
    zero_block_share: float


def filter_rows(network: Network) -> tuple[FilterRow, ...]:
    """The convolutions whose filters are made of codes, or have zero blocks to skip."""
    able, rows = skippable(network), []
    for node in network.nodes:
        operator = node.operator
        if isinstance(operator, CodedConv):
            weights, codes = operator.weights, len(operator.filters.codes)
            stored = operator.filters.coefficients.nbytes + operator.filters.shift.nbytes
        elif isinstance(operator, Conv):
            weights, codes, stored = operator.weights, 0, operator.weights.nbytes
        else:
            continue
        share = 0.0
        if node.name in able and not np.all(weights):
            share = zero_block_share(weights, operator.groups)
        if codes or share:
            rows.append(FilterRow(node.name, weights.nbytes, stored, codes, share))
    return tuple(rows)
