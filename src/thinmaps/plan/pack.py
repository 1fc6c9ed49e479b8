# SPDX-License-Identifier: Apache-2.0
"""Places buffers in the arena: slots that live at one time never share a byte.

A buffer is not one block in time: each of its slots lives and dies on its own. So for a pair of
buffers the forbidden differences of their offsets are a union of intervals, one for each pair of
slots that live together. A held map whose rows die in order can thus be laid diagonally under one
whose rows are born in the same order, and rows that live for one step only share their bytes
through a whole segment.

Packing is bin packing in two dimensions, NP-hard; here: place buffers one after the other at the
lowest offset that is allowed, in several orders, then move the buffers on top to earlier turns for
a fixed number of trials. `live_bytes` is what no placement can beat.

Cost: O(entries log entries) per pair of buffers, then O(pairs) per trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thinmaps.plan.flow import IntArray
from thinmaps.plan.lifetimes import Lives
from thinmaps.plan.plan import ALIGNMENT_BYTES


@dataclass(frozen=True, eq=False)
class Block:
    """A buffer to place: `slots` of `slot_bytes`, entry `e` in slot `e % slots`."""

    name: str
    slots: int
    slot_bytes: int
    lives: Lives

    @property
    def bytes(self) -> int:
        """Size in the arena."""
        return self.slots * self.slot_bytes


@dataclass(frozen=True)
class Packing:
    """Offsets of the blocks, in their order, and where the highest one ends."""

    offsets: tuple[int, ...]
    end: int


def live_bytes(blocks: Sequence[Block], steps: int) -> IntArray:
    """Bytes that live in each step."""
    change = np.zeros(steps + 1, np.int64)
    for block in blocks:
        np.add.at(change, block.lives.born, block.slot_bytes)
        np.add.at(change, block.lives.dies + 1, -block.slot_bytes)
    return np.cumsum(change)[:-1]


def forbidden(a: Block, b: Block) -> tuple[IntArray, IntArray]:
    """Differences `offset(b) - offset(a)` that overlap, as inclusive ranges, in alignments.

    For each entry of `a`, the entries of `b` that live at the same time are consecutive; so are
    their slots, but for one wrap around the ring.
    """
    if len(a.lives.born) > len(b.lives.born):
        low, high = forbidden(b, a)
        return -high[::-1], -low[::-1]
    first = np.searchsorted(b.lives.dies, a.lives.born, "left")
    last = np.searchsorted(b.lives.born, a.lives.dies, "right") - 1
    meets = np.flatnonzero(first <= last)
    slot, first, last = meets % a.slots, first[meets], last[meets]
    every = last - first + 1 >= b.slots
    start = np.where(every, 0, first % b.slots)
    stop = np.where(every, b.slots - 1, last % b.slots)
    wraps = start > stop
    if np.any(wraps):
        slot = np.concatenate((slot, slot[wraps]))
        start = np.concatenate((np.where(wraps, 0, start), start[wraps]))
        stop = np.concatenate((stop, np.full(int(wraps.sum()), b.slots - 1)))
    low = slot * a.slot_bytes - (stop + 1) * b.slot_bytes
    high = (slot + 1) * a.slot_bytes - start * b.slot_bytes
    return _union(low // ALIGNMENT_BYTES + 1, -(-high // ALIGNMENT_BYTES) - 1)


def _union(low: IntArray, high: IntArray) -> tuple[IntArray, IntArray]:
    """Disjoint sorted ranges that cover the same integers."""
    by_low = np.argsort(low, kind="stable")
    low, reach = low[by_low], np.maximum.accumulate(high[by_low])
    starts = np.flatnonzero(np.concatenate(([True], low[1:] > reach[:-1] + 1))[: len(low)])
    return low[starts], reach[np.append(starts[1:], len(low)) - 1] if len(low) else reach


class Packer:
    """The conflicts of a set of blocks, computed once, and placements that respect them."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)
        self._sizes = [-(-block.bytes // ALIGNMENT_BYTES) for block in blocks]
        # Per block i and neighbour j, the forbidden values of offset(i) - offset(j).
        self._ranges: list[dict[int, tuple[IntArray, IntArray]]] = [{} for _ in blocks]
        for i, a in enumerate(blocks):
            for j in range(i):
                b = blocks[j]
                if a.lives.born[0] <= b.lives.dies[-1] and b.lives.born[0] <= a.lives.dies[-1]:
                    low, high = forbidden(b, a)
                    if len(low):
                        self._ranges[i][j] = (low, high)
                        self._ranges[j][i] = (-high[::-1], -low[::-1])

    def place(self, turns: Sequence[int]) -> Packing:
        """Each block in turn at the lowest offset that the earlier ones allow."""
        offset = [-1] * len(self.blocks)
        end = 0
        for i in turns:
            lows, highs = [], []
            for j, (low, high) in self._ranges[i].items():
                if offset[j] >= 0:
                    lows.append(offset[j] + low)
                    highs.append(offset[j] + high)
            offset[i] = _lowest(lows, highs)
            end = max(end, offset[i] + self._sizes[i])
        return Packing(tuple(o * ALIGNMENT_BYTES for o in offset), end * ALIGNMENT_BYTES)

    def best(self, trials: int) -> Packing:
        """The best of several orders, improved by at most `trials` moves of what is on top."""
        first = sorted(self._orders(), key=lambda turns: self.place(turns).end)[0]
        turns, found = list(first), self.place(first)
        floor = self.floor()
        random = np.random.default_rng(1)
        for _ in range(trials):
            if found.end <= floor:
                break
            tops = [i for i in turns if found.offsets[i] + self._size_bytes(i) == found.end]
            moved = tops[int(random.integers(len(tops)))]
            place = int(random.integers(max(1, turns.index(moved))))
            changed = [i for i in turns if i != moved]
            changed.insert(place, moved)
            tried = self.place(changed)
            if tried.end <= found.end:
                turns, found = changed, tried
        return found

    def floor(self) -> int:
        """The most bytes that live in one step, in whole alignments."""
        steps = max((int(block.lives.dies[-1]) + 1 for block in self.blocks), default=0)
        most = int(np.max(live_bytes(self.blocks, steps), initial=0))
        return -(-most // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    def _size_bytes(self, i: int) -> int:
        return self._sizes[i] * ALIGNMENT_BYTES

    def _orders(self) -> list[list[int]]:
        blocks = self.blocks
        every = range(len(blocks))
        span = [int(b.lives.dies[-1] - b.lives.born[0]) + 1 for b in blocks]
        return [
            sorted(every, key=lambda i: -blocks[i].bytes),
            sorted(every, key=lambda i: (-span[i], -blocks[i].bytes)),
            sorted(every, key=lambda i: -blocks[i].bytes * span[i]),
            sorted(every, key=lambda i: (int(blocks[i].lives.born[0]), -blocks[i].bytes)),
            sorted(every, key=lambda i: (-int(blocks[i].lives.dies[-1]), -blocks[i].bytes)),
        ]


def _lowest(lows: list[IntArray], highs: list[IntArray]) -> int:
    """The smallest integer from 0 on that lies in no range."""
    if not lows:
        return 0
    low, high = np.concatenate(lows), np.concatenate(highs)
    by_low = np.argsort(low, kind="stable")
    low, reach = low[by_low], np.maximum(np.maximum.accumulate(high[by_low]), -1)
    free = np.flatnonzero(low[1:] > reach[:-1] + 1)
    if low[0] > 0:
        return 0
    return int(reach[free[0]] if len(free) else reach[-1]) + 1
