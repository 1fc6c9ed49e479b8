# SPDX-License-Identifier: Apache-2.0
"""Engines that must give the same bytes, verified and then timed in turn, one picture each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from thinmaps.measure.timing import Timing, interleaved
from thinmaps.run.engine import Engine

Array = np.ndarray[Any, Any]
Run = Callable[[], object]


def verified_runs(engines: Sequence[Engine], picture: Array) -> list[Run]:
    """A run of each engine on `picture`, after all have given what the last one gives."""
    outputs = [
        [np.zeros(spec.shape, spec.dtype) for spec in engine.output_specs.values()]
        for engine in engines
    ]
    runs = [_run(engine, picture, made) for engine, made in zip(engines, outputs, strict=True)]
    for run in runs:
        run()
    for made in outputs[:-1]:
        for ours, theirs in zip(made, outputs[-1], strict=True):
            np.testing.assert_array_equal(ours, theirs, strict=True)
    return runs


def in_turn(engines: Sequence[Engine], picture: Array, rounds: int) -> list[Timing]:
    """Times of engines that give the same bytes."""
    return interleaved(verified_runs(engines, picture), rounds)


def _run(engine: Engine, picture: Array, made: list[Array]) -> Run:
    return lambda: engine.run_into([picture], made)
