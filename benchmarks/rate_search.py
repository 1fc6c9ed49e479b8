# SPDX-License-Identifier: Apache-2.0
"""A search that gives every method the same chances: all tries with one seed, one try with all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any, TypeVar

from torch import nn

Rates = TypeVar("Rates")
Run = TypeVar("Run")


def search(
    train: Callable[[Rates, int], tuple[Run, nn.Module]],
    tries: Sequence[Rates],
    rank: Callable[[Run], Any],
    seeds: int,
) -> tuple[list[Run], list[tuple[Run, nn.Module]]]:
    """Runs that were not taken; runs and networks of all seeds with the try that was.

    `train` takes a try and a seed. Taken is the first try of least `rank` with seed 0.
    """
    tried = [train(rates, 0) for rates in tries]
    best = min(range(len(tried)), key=lambda at: rank(tried[at][0]))
    others = [train(tries[best], seed) for seed in range(1, seeds)]
    rest = [run for at, (run, _) in enumerate(tried) if at != best]
    return rest, [tried[best], *others]


def mean_and_deviation(shares: Sequence[float]) -> tuple[float, float]:
    """Of all seeds; one alone has no deviation, said as 0."""
    return mean(shares), stdev(shares) if len(shares) > 1 else 0.0
