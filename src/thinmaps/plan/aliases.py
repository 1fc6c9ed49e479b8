# SPDX-License-Identifier: Apache-2.0
"""Which maps share a buffer: slices of concatenations, and results written over their operand.

* A producer may write its channels straight into the rows of the concatenation that reads it, if
  they arrive there unchanged. The row then lives from the first producer's write to the last read
  of the concatenation or of any producer. Chains of concatenations nest.
* An element-wise operator may write its row over the row of an input that dies in that step.

Sharing is a forest: each map has at most one `Link`, to the map in whose rows it lies. In place is
never dearer than not; of two operands that die, the one with the taller ring is written over. A
slice may be dearer: the skip of a U-Net, held at the full width of the concatenation long before
the rest of it exists, costs more than a copy. So slices are chosen from the lives of the maps,
earliest concatenation first, by the bytes of the rings that result.

Cost: two or three ring computations per candidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from thinmaps.graph.operators import Concat, Operator
from thinmaps.plan.flow import Flow, NodeFlow
from thinmaps.plan.lifetimes import Lives


@dataclass(frozen=True)
class Link:
    """A map lies in the rows of map `parent`, from byte `channel` of each pixel on.

    With `over`, the parent is written over it; otherwise it is a slice of the parent.
    """

    parent: int
    channel: int
    over: bool


Links = Mapping[int, Link]


def root_of(m: int, links: Links) -> tuple[int, int]:
    """The map that owns the buffer of map `m`, and `m`'s first byte in each of its pixels."""
    channel = 0
    while m in links:
        channel += links[m].channel
        m = links[m].parent
    return m, channel


def choose_links(flow: Flow, lives: Mapping[int, Lives]) -> dict[int, Link]:
    """Links that make the rings of these lives small; maps without lives keep to themselves."""
    return _Chooser(flow, lives).links


class _Chooser:
    """Adds links one by one; `groups` are the joint lives of each owner and all that lie in it."""

    def __init__(self, flow: Flow, lives: Mapping[int, Lives]) -> None:
        self.flow = flow
        self.lives = lives
        self.links: dict[int, Link] = {}
        self.groups = dict(lives)
        for v, node in enumerate(flow.nodes):
            if node.output in lives:
                self._write_over(v, node)
        for v, node in enumerate(flow.nodes):
            if node.output in lives and isinstance(flow.network.nodes[v].operator, Concat):
                self._choose_slices(v, node)

    def _write_over(self, v: int, node: NodeFlow) -> None:
        """Let the node's output take the rows of the operand that dies, if one does."""
        operands = dict.fromkeys(node.edges[i].map for i in self._operator(v).in_place)
        output = node.output
        dying = [
            m
            for m in operands
            if m in self.lives
            and m not in self.links
            and self._shape(m) == self._shape(output)
            and bool(np.all(self.groups[m].dies <= self.lives[output].born))
        ]
        if dying:
            tallest = max(dying, key=lambda m: self.groups[m].slots)
            self._link(tallest, Link(output, 0, over=True))

    def _choose_slices(self, v: int, node: NodeFlow) -> None:
        """Link those producers of one concatenation whose slices pay, latest made first."""
        candidates = dict(self._slices(v, node))
        latest_first = sorted(candidates, key=lambda m: (-int(self.groups[m].born[0]), m))
        owner, _ = root_of(node.output, self.links)
        together = self.groups[owner]
        alone = sum(self._ring_bytes(m, self.groups[m]) for m in latest_first)
        least, chosen = alone + self._ring_bytes(owner, together), 0
        for count, m in enumerate(latest_first, 1):
            together = Lives.joint((together, self.groups[m]))
            alone -= self._ring_bytes(m, self.groups[m])
            bytes_now = alone + self._ring_bytes(owner, together)
            if bytes_now <= least:
                least, chosen = bytes_now, count
        for m in latest_first[:chosen]:
            self._link(m, candidates[m])

    def _slices(self, v: int, node: NodeFlow) -> Iterator[tuple[int, Link]]:
        """The inputs of a concatenation that may lie in its rows."""
        operator = self._operator(v)
        assert isinstance(operator, Concat)
        inputs = [edge.map for edge in node.edges]
        channel = 0
        for i, m in enumerate(inputs):
            free = m in self.lives and m not in self.links and inputs.count(m) == 1
            if free and operator.is_copy(i) and self._outlived(m, node.output):
                yield m, Link(node.output, channel, over=False)
            channel += self._shape(m)[2]

    def _outlived(self, m: int, parent: int) -> bool:
        """Whether nothing reads `m` after something wrote over `parent`."""
        while parent in self.links:
            link = self.links[parent]
            if link.over and np.any(self.groups[m].dies > self.lives[link.parent].born):
                return False
            parent = link.parent
        return True

    def _link(self, m: int, link: Link) -> None:
        self.links[m] = link
        owner, _ = root_of(m, self.links)
        self.groups[owner] = Lives.joint((self.groups[owner], self.groups[m]))

    def _operator(self, v: int) -> Operator:
        return self.flow.network.nodes[v].operator

    def _shape(self, m: int) -> tuple[int, int, int]:
        return self.flow.network.maps[self.flow.maps[m].name].shape

    def _ring_bytes(self, m: int, lives: Lives) -> int:
        return lives.slots * self.flow.maps[m].slot_bytes
