# SPDX-License-Identifier: Apache-2.0
"""Filters that take fewer bytes than they have values, or less time: of codes, of zero blocks, in
tiles by Winograd's algorithm.

Cost: one pass over all filters of a network.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from thinmaps.graph.network import Node
from thinmaps.graph.operators import CodedConv, Conv, WinogradConv
from thinmaps.graph.zero_blocks import zero_block_share
from thinmaps.plan.kernel_choice import skippable
from thinmaps.plan.plan import Plan

Tiles = Literal["", "exact", "scaled"]


@dataclass(frozen=True)
class FilterRow:
    """One convolution.

    Attributes:
        node: its name.
        filter_bytes: of its filters.
        stored_bytes: in the file; fewer where the filters are made of coefficients, more where they
            are products of tiles.
        codes: of which they are made; 0 where they are stored.
        zero_block_share: of its filters' blocks, 4 by 4 channels of a tap, that are all zero; 0
            where the engine could not skip them, as in depthwise convolutions.
        tiles: "exact" where the plan has scratch for tiles with the direct convolution's bytes,
            which the engine takes where that is predicted to be faster; "scaled" where the network
            itself computes in rounded tiles.
    """

    node: str
    filter_bytes: int
    stored_bytes: int
    codes: int = 0
    zero_block_share: float = 0.0
    tiles: Tiles = ""


def filter_rows(plan: Plan) -> tuple[FilterRow, ...]:
    """The convolutions whose filters are made of codes, have zero blocks, or work in tiles."""
    able, tiled = skippable(plan.source), plan.winograd
    found = (_row(node, able, tiled) for node in plan.source.nodes)
    return tuple(row for row in found if row and (row.codes or row.zero_block_share or row.tiles))


def _row(node: Node, able: Collection[str], tiled: Collection[str]) -> FilterRow | None:
    """A convolution's; `able` may skip zero blocks, `tiled` have scratch for exact tiles."""
    operator = node.operator
    if isinstance(operator, WinogradConv):
        taps = operator.window.kernel[0] * operator.window.kernel[1]
        outputs, inputs = operator.weights.shape[:2]
        return FilterRow(
            node.name, outputs * inputs * taps, operator.weights.nbytes, tiles="scaled"
        )
    if not isinstance(operator, Conv | CodedConv):
        return None
    weights = operator.weights  # which coefficients make anew every time
    stored, codes = weights.nbytes, 0
    if isinstance(operator, CodedConv):
        filters = operator.filters
        stored, codes = filters.coefficients.nbytes + filters.shift.nbytes, len(filters.codes)
    share = 0.0
    if node.name in able and not np.all(weights):
        share = zero_block_share(weights, operator.groups)
    tiles: Tiles = "exact" if node.name in tiled else ""
    return FilterRow(node.name, weights.nbytes, stored, codes, share, tiles)
