# SPDX-License-Identifier: Apache-2.0
"""What an engine counts, to stand beside what a plan predicts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from thinmaps.measure.report import Counted
from thinmaps.plan.plan import Plan
from thinmaps.run.engine import Engine, Input


def count(plan: Plan, inputs: Iterable[Input] = ()) -> Counted:
    """Bytes that an engine of `plan` really took, and stored of encoded maps on `inputs`."""
    engine = Engine(plan)
    stored: dict[str, list[int]] = {name: [] for name in plan.codecs}
    for x in inputs:
        engine.maps(x)
        for name, count_of_one in engine.encoded_bytes.items():
            stored[name].append(count_of_one)
    means = {name: float(np.mean(counts)) for name, counts in stored.items() if counts}
    return Counted(engine.arena.nbytes, engine.weights_bytes, means)
