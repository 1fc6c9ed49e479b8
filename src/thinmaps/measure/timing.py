# SPDX-License-Identifier: Apache-2.0
"""Times of several contestants that take turns, so that a slow moment of the machine meets all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

Progress = Callable[[str, int, int], None]

ROUND_SECONDS = 0.03  # a round repeats a short run until it takes about as long


@dataclass(frozen=True)
class Timing:
    """Seconds of one run in every round: on the clock, and of CPU time in all threads."""

    clock: tuple[float, ...]
    cpu: tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """One figure per round: the median, and what a tenth of them lie below and above."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Of at least two samples."""
        tenths = quantiles(samples, n=10, method="inclusive")
        return cls(median(samples), tenths[0], tenths[-1])


def interleaved(
    runs: Sequence[Callable[[], object]],
    rounds: int,
    progress: Progress | None = None,
    pause_seconds: float = 0.0,
) -> list[Timing]:
    """Time every run once per round, after two warm ones; `rounds` is at least 2.

    Before each timing is a pause, in which threads of the others that wait awake fall asleep.
    """
    repeats = [_repeats(run) for run in runs]
    samples: list[list[tuple[float, float]]] = [[] for _ in runs]
    for done in range(1, rounds + 1):
        for run, count, taken in zip(runs, repeats, samples, strict=True):
            time.sleep(pause_seconds)
            clock, cpu = time.perf_counter(), time.process_time()
            for _ in range(count):
                run()
            taken.append(
                ((time.perf_counter() - clock) / count, (time.process_time() - cpu) / count)
            )
        if progress:
            progress("timing", done, rounds)
    return [Timing(*(tuple(column) for column in zip(*taken, strict=True))) for taken in samples]


def spread(seconds: Sequence[float]) -> Spread:
    """In milliseconds, of at least two samples.

    >>> spread([0.003, 0.001, 0.002])
    Spread(median=2.0, p10=1.2, p90=2.8)
    """
    return Spread.of([1000 * sample for sample in seconds])


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of times in the same round, so that what slows a round cancels.

    >>> ratio([1.0, 3.0, 2.0], [2.0, 2.0, 2.0]).median
    1.0
    """
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


def _repeats(run: Callable[[], object]) -> int:
    """Runs per round; a warm run says how long one takes."""
    run()
    start = time.perf_counter()
    run()
    return max(1, round(ROUND_SECONDS / max(time.perf_counter() - start, 1e-6)))
