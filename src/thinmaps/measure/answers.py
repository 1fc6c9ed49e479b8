# SPDX-License-Identifier: Apache-2.0
"""A thin network as a function from one fitted picture to the outputs of its model file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.file import Model
from thinmaps.graph.tail import evaluate as evaluate_tail
from thinmaps.measure.accuracy import Answer
from thinmaps.run.engine import Engine


def thin_answer(model: Model, threads: int = 1) -> Answer:
    """The engine with the tail behind it, for a network of one input."""
    engine = Engine(model.plan, threads=threads)

    def answer(picture: NDArray[np.uint8]) -> list[NDArray[Any]]:
        return list(evaluate_tail(model.tail, engine.maps(picture)).values())

    return answer
