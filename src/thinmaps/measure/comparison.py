# SPDX-License-Identifier: Apache-2.0
"""The nouns of a benchmark: contestants and how they compare."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from thinmaps.measure.timing import Spread


@dataclass(frozen=True)
class Contestant:
    """One side: times of a run on the clock and of the process's CPU, all its threads together.

    `peak_bytes` is the largest live heap of one warm run, weights and pictures excluded;
    `peak_rss_bytes` the most that a process which runs it had resident, and
    `imported_rss_bytes` what that process had after its imports, before it opened the model.
    `within_a_step` is the share of final-map elements that differ from ours by at most one step,
    `largest_step` the largest difference in steps. What was not measured is None.
    """

    name: str
    ms: Spread | None = None
    cpu_ms: Spread | None = None
    peak_bytes: int | None = None
    peak_rss_bytes: int | None = None
    imported_rss_bytes: int | None = None
    threads: int = 1
    within_a_step: float = 1.0
    largest_step: int = 0
    correlation: float = 1.0

    @property
    def counted_ms(self) -> float | None:
        """CPU time with one thread, which a busy machine hardly stretches; else on the clock."""
        counted = self.cpu_ms if self.threads == 1 else self.ms
        return None if counted is None else counted.median


@dataclass(frozen=True)
class Comparison:
    """Ours beside the peer, and `rows` of every side and number of threads.

    `peer` is the peer's int8 at its best: the time that it takes with its memory arena, the heap
    that it takes without. `equal_fraction` is the share of final-map elements that differ by at
    most one step of the quantisation on all pictures, `max_step` the largest difference in steps.
    """

    ours: Contestant
    peer: Contestant
    equal_fraction: float
    max_step: int
    rounds: int = 0
    rows: tuple[Contestant, ...] = ()

    @property
    def time_ratio(self) -> float:
        """Our time over the peer's."""
        return (self.ours.counted_ms or 0.0) / (self.peer.counted_ms or 1e-9)

    @property
    def memory_ratio(self) -> float:
        """Our peak over the peer's."""
        return (self.ours.peak_bytes or 0) / (self.peer.peak_bytes or 1)

    def to_json(self) -> dict[str, Any]:
        """JSON values under the field names, with both ratios."""
        ratios = {"time_ratio": self.time_ratio, "memory_ratio": self.memory_ratio}
        return {**dataclasses.asdict(self), **ratios}
