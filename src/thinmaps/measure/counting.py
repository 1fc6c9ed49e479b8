# SPDX-License-Identifier: Apache-2.0
"""What an engine counts, to stand beside what a plan predicts."""

from __future__ import annotations

from thinmaps.measure.report import Counted
from thinmaps.plan.plan import Plan
from thinmaps.run.engine import Engine


def count(plan: Plan) -> Counted:
    """Bytes that an engine of `plan` really took."""
    engine = Engine(plan)
    return Counted(engine.arena.nbytes, engine.weights_bytes)
