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

# Beyond every offset.
FAR = 1 << 60


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
        steps = max((int(block.lives.dies[-1]) + 1 for block in blocks), default=0)
        self._born, self._dead = _counts(blocks, steps)
        few_first = sorted(range(len(blocks)), key=lambda i: len(blocks[i].lives.born))
        for turn, i in enumerate(few_first):
            self._meet(i, np.array(few_first[turn + 1 :], np.int64))

    def _meet(self, i: int, others: IntArray) -> None:
        """Store what `forbidden` says of block `i` and each of `others`, in one go."""
        if not len(others):
            return
        this = self.blocks[i]
        slots = np.array([self.blocks[j].slots for j in others])[:, None]
        slot_bytes = np.array([self.blocks[j].slot_bytes for j in others])[:, None]
        first = self._dead[others[:, None], this.lives.born]
        count = self._born[others[:, None], this.lives.dies + 1] - first
        start = np.where(count >= slots, 0, first % slots)
        stop = start + np.minimum(count, slots) - 1
        # What passes the ring's end goes on at slot 0.
        start = np.concatenate((start, np.zeros_like(start)), axis=1)
        stop = np.concatenate((np.minimum(stop, slots - 1), stop - slots), axis=1)
        mine = np.tile(np.arange(len(this.lives.born)) % this.slots, 2)
        low = (mine * this.slot_bytes - (stop + 1) * slot_bytes) // ALIGNMENT_BYTES + 1
        high = -(((start * slot_bytes) - (mine + 1) * this.slot_bytes) // ALIGNMENT_BYTES) - 1
        lows, highs, counts = _unions(np.where(stop >= start, low, FAR), high)
        ends = np.cumsum(counts)
        for j, end, ranges in zip(others.tolist(), ends.tolist(), counts.tolist(), strict=True):
            if ranges:
                low, high = lows[end - ranges : end], highs[end - ranges : end]
                self._ranges[j][i] = (low, high)
                self._ranges[i][j] = (-high[::-1], -low[::-1])

    def place(self, turns: Sequence[int], below: int | None = None) -> Packing | None:
        """Each block in turn at the lowest offset that the earlier ones allow.

        None as soon as a block ends after byte `below`.
        """
        offset = [-1] * len(self.blocks)
        end = 0
        most = FAR if below is None else below // ALIGNMENT_BYTES
        for i in turns:
            lows, highs = [], []
            for j, (low, high) in self._ranges[i].items():
                if offset[j] >= 0:
                    lows.append(offset[j] + low)
                    highs.append(offset[j] + high)
            offset[i] = _lowest(lows, highs)
            end = max(end, offset[i] + self._sizes[i])
            if end > most:
                return None
        return Packing(tuple(o * ALIGNMENT_BYTES for o in offset), end * ALIGNMENT_BYTES)

    def best(self, trials: int, enough: int = 0) -> Packing:
        """The best of several orders, improved by at most `trials` moves of what is on top.

        Stops at what nothing can beat, and as soon as the end is no higher than `enough`.
        """
        turns: list[int] = list(range(len(self.blocks)))
        found = self.place(turns)
        assert found is not None
        for order in self._orders():
            better = self.place(order, found.end)
            if better is not None:
                turns, found = order, better
        enough = max(enough, self.floor())
        random = np.random.default_rng(1)
        for _ in range(trials):
            if found.end <= enough:
                break
            tops = [i for i in turns if found.offsets[i] + self._size_bytes(i) == found.end]
            moved = tops[int(random.integers(len(tops)))]
            place = int(random.integers(max(1, turns.index(moved))))
            changed = [i for i in turns if i != moved]
            changed.insert(place, moved)
            better = self.place(changed, found.end)
            if better is not None:
                turns, found = changed, better
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


def _counts(blocks: Sequence[Block], steps: int) -> tuple[IntArray, IntArray]:
    """For each block and step, how many entries were born, and how many died, before it."""
    born = np.zeros((len(blocks), steps + 1), np.int64)
    dead = np.zeros_like(born)
    for i, block in enumerate(blocks):
        born[i, 1:] = np.cumsum(np.bincount(block.lives.born, minlength=steps))
        dead[i, 1:] = np.cumsum(np.bincount(block.lives.dies, minlength=steps))
    return born, dead


def _unions(low: IntArray, high: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """`_union` of each row, where ranges from FAR on do not count: joined, and how many each."""
    by_low = np.argsort(low, axis=1, kind="stable")
    low = np.take_along_axis(low, by_low, axis=1)
    reach = np.maximum.accumulate(np.take_along_axis(high, by_low, axis=1), axis=1)
    real = low < FAR
    edge = np.ones((len(low), 1), bool)
    gaps = low[:, 1:] > reach[:, :-1] + 1
    starts = real & np.concatenate((edge, gaps), axis=1)
    ends = real & np.concatenate((gaps, edge), axis=1)
    return low[starts], reach[ends], np.count_nonzero(starts, axis=1).astype(np.int64)


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
