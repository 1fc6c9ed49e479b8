# SPDX-License-Identifier: Apache-2.0
"""The nouns of a benchmark: two contestants and how they compare."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Contestant:
    """One side. `ms` is the median of a run in milliseconds, `ms_low` and `ms_high` what a tenth
    of the rounds lie below and above; `cpu_ms` is the median of the process's CPU time, all
    threads together. `peak_bytes` is the largest live heap of one warm run, weights and pictures
    excluded.
    """

    name: str
    ms: float
    peak_bytes: int
    ms_low: float = 0.0
    ms_high: float = 0.0
    cpu_ms: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """`time_ratio` and `memory_ratio` are our figure over the peer's: below 1 we need less.

    `equal_fraction` is the share of final-map elements that differ by at most one step of the
    quantisation, `max_step` the largest difference in steps.
    """

    ours: Contestant
    peer: Contestant
    equal_fraction: float
    max_step: int
    rounds: int = 0

    @property
    def time_ratio(self) -> float:
        """Our time over the peer's."""
        return self.ours.ms / self.peer.ms

    @property
    def memory_ratio(self) -> float:
        """Our peak over the peer's."""
        return self.ours.peak_bytes / max(self.peer.peak_bytes, 1)

    def to_json(self) -> dict[str, Any]:
        """JSON values under the field names, with both ratios."""
        ratios = {"time_ratio": self.time_ratio, "memory_ratio": self.memory_ratio}
        return {**dataclasses.asdict(self), **ratios}
