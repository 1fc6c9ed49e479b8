# SPDX-License-Identifier: Apache-2.0
"""What an engine counts, to stand beside what a plan predicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from thinmaps.measure.report import Counted
from thinmaps.plan.plan import Plan
from thinmaps.run.engine import Engine, Input


def count(plan: Plan, inputs: Iterable[Input] = ()) -> Counted:
    """What an engine of `plan` really took, and stored of encoded maps on `inputs`."""
    engine = Engine(plan)
    stored: list[Mapping[str, float]] = []
    passed: list[Mapping[str, float]] = []
    for x in inputs:
        engine.maps(x)
        stored.append(engine.encoded_bytes)
        passed.append(engine.overflow_shares)
    return Counted(engine.arena.nbytes, engine.weights_bytes, means(stored), means(passed))


def means(counted: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each map's counts; all have the same maps."""
    return (
        {name: float(np.mean([each[name] for each in counted])) for name in counted[0]}
        if counted
        else {}
    )
