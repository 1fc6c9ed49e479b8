# SPDX-License-Identifier: Apache-2.0
"""Ranges of real values -> a scale and an even zero point per map.

Promises
    * every range that comes in is covered, and so is 0 (a tiny negative part, below one step, may
      saturate: spending two codes on it would cost every other value more);
    * zero points are even, so that rounding before and after adding them agrees; a map without
      negative values (behind Relu, Clip(0, 6), Sigmoid, ...) has zero point 0;
    * maps that only move bytes (pooling by maximum, slices, resizes, borders) keep the scale of
      the map they read;
    * sums are exact in float32, so that every machine agrees on them (`exact_sums`);
    * producers of a concatenation share one scale where their ranges lie within 1.25x of the
      shared one, so that they can write their channels in place; the others go through a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import numpy as np

from thinmaps.errors import BadModel
from thinmaps.graph.exact_sums import settle
from thinmaps.graph.float_network import (
    FloatAdd,
    FloatConcat,
    FloatNetwork,
    FloatNode,
    FloatPad,
    MapQuantisation,
)
from thinmaps.graph.operators import DepthToSpace, MaxPool, Resize, Slice

# A producer of a concatenation gives up at most this factor of resolution to share its scale.
SHARED_RANGE_RATIO = 1.25

# Scales outside of this could leave float32 when three of them meet in a multiplier.
SMALLEST_SCALE = 2.0**-40
LARGEST_SCALE = 2.0**40

MOVES_BYTES = (MaxPool, Slice, Resize, DepthToSpace, FloatPad)


class Range(NamedTuple):
    """Real values that a map should be able to hold."""

    low: float
    high: float

    def hull(self, other: Range) -> Range:
        """The smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))

    @property
    def width(self) -> float:
        """Distance that the codes have to span, 0 included."""
        return max(self.high, 0.0) - min(self.low, 0.0)


def even_quantisation(values: Range) -> MapQuantisation:
    """The finest scale with an even zero point that covers `values` and 0.

    >>> even_quantisation(Range(0.0, 25.5))
    MapQuantisation(scale=0.10000000149011612, zero_point=0)
    >>> even_quantisation(Range(-1.0, 1.0)).zero_point
    128
    """
    low, high = min(values.low, 0.0), max(values.high, 0.0)
    if not math.isfinite(high - low):
        raise BadModel(f"a map's range must be finite, got {values.low} to {values.high}")
    if high == low:
        return MapQuantisation(1.0, 0)
    share = -low / (high - low)
    best = min(
        (_covering(low, high, zero_point) for zero_point in _even_neighbours(255 * share)),
        key=lambda found: found.scale,
    )
    if best.scale > LARGEST_SCALE:
        raise BadModel(
            f"a map holds values of {low:g} to {high:g}, which no network needs; its weights or "
            "its preprocessing are in other units"
        )
    scale = max(best.scale, SMALLEST_SCALE)
    return MapQuantisation(float(np.float32(scale)), best.zero_point)


def _even_neighbours(code: float) -> list[int]:
    """Even zero points around `code`; 0 alone where the negative part is below one step."""
    if code < 1:
        return [0]
    below = int(code) // 2 * 2
    return [z for z in (below, below + 2) if 2 <= z <= 254]


def _covering(low: float, high: float, zero_point: int) -> MapQuantisation:
    above = high / (255 - zero_point)
    below = -low / zero_point if zero_point else 0.0
    return MapQuantisation(max(above, below), zero_point)


def scale_maps(network: FloatNetwork, ranges: Mapping[str, Range]) -> dict[str, MapQuantisation]:
    """Scale and zero point of every map of a float network from the ranges of its values.

    Args:
        network: the float network.
        ranges: for every map name the range that calibration found.

    Raises:
        BadModel: a map has no range, or one that is not finite.
    """
    groups = _Groups(_clamped(network, ranges))
    for node in network.nodes:
        if isinstance(node.operator, MOVES_BYTES):
            groups.join(node.inputs[0], node.output)
        elif isinstance(node.operator, FloatConcat):
            _share(node, groups)
    found = {name: even_quantisation(groups.range_of(name)) for name in network.shapes}
    group = {name: groups.name_of(name) for name in network.shapes}
    scales = {group[name]: quantisation.scale for name, quantisation in found.items()}
    adds = [node for node in network.nodes if isinstance(node.operator, FloatAdd)]
    settle([(add.inputs[0], add.inputs[1], add.output) for add in adds], group, scales)
    return {name: replace(each, scale=scales[group[name]]) for name, each in found.items()}


def _clamped(network: FloatNetwork, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """The ranges that were found, cut to the clamps of the nodes that make the maps."""
    if missing := sorted(set(network.shapes) - set(ranges)):
        raise BadModel(f"map {missing[0]!r} has no range: calibration reports one for every map")
    bounded = {name: Range(*ranges[name]) for name in network.shapes}
    for node in network.nodes:
        low, high = bounded[node.output]
        bounded[node.output] = Range(max(low, min(node.low, high)), min(high, max(node.high, low)))
    return bounded


@dataclass(frozen=True)
class _Group:
    members: frozenset[str]
    values: Range
    narrowest: float  # width of the member that had the least before it joined


class _Groups:
    """Sets of maps that share a scale, as the network is walked."""

    def __init__(self, ranges: Mapping[str, Range]) -> None:
        self._of = {
            name: _Group(frozenset([name]), values, values.width) for name, values in ranges.items()
        }

    def range_of(self, name: str) -> Range:
        """The range that all members of the map's group share."""
        return self._of[name].values

    def name_of(self, name: str) -> str:
        """The first member of the map's group stands for all."""
        return min(self._of[name].members)

    def widen(self, name: str, values: Range) -> None:
        """Give a map that is alone in its group another range."""
        self._of[name] = _Group(frozenset([name]), values, values.width)

    def join(self, first: str, second: str) -> None:
        """Put two maps on one scale that covers both."""
        a, b = self._of[first], self._of[second]
        narrowest = min(a.narrowest, b.narrowest)
        merged = _Group(a.members | b.members, a.values.hull(b.values), narrowest)
        self._of.update(dict.fromkeys(merged.members, merged))

    def are_close(self, first: str, second: str) -> bool:
        """Whether sharing costs no member more than the allowed resolution, or its zero point 0."""
        a, b = self._of[first], self._of[second]
        if (a.values.low < 0) != (b.values.low < 0):
            return False
        width = a.values.hull(b.values).width
        return width <= SHARED_RANGE_RATIO * min(a.narrowest, b.narrowest)


def _share(node: FloatNode, groups: _Groups) -> None:
    """A concatenation covers its producers and shares its scale with those of nearly that width."""
    producers = [groups.range_of(name) for name in node.inputs]
    groups.widen(node.output, reduce(Range.hull, producers))
    for name in node.inputs:
        if groups.are_close(node.output, name):
            groups.join(node.output, name)
