# SPDX-License-Identifier: Apache-2.0
"""A thin network as a function from one fitted picture to the outputs of its model file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadArgument
from thinmaps.file import Model
from thinmaps.graph.tail import evaluate as evaluate_tail
from thinmaps.measure.counting import means
from thinmaps.measure.report import Overflow, overflows
from thinmaps.quant import dequantise
from thinmaps.run.engine import Engine
from thinmaps.types import Preprocessing

Array = NDArray[Any]


class ThinAnswer:
    """The engine with the tail behind it, for a network of one input."""

    def __init__(self, model: Model, threads: int = 1) -> None:
        self.model, self.engine = model, Engine(model.plan, threads=threads)
        self._passed: list[Mapping[str, float]] = []

    def __call__(self, picture: NDArray[np.uint8]) -> list[Array]:
        """The outputs of the model file."""
        answers = list(final_outputs(self.model, self.engine.maps(picture)).values())
        self._passed.append(self.engine.overflow_shares)
        return answers

    @property
    def overflows(self) -> tuple[Overflow, ...]:
        """Of the maps with a cap, the mean share over all pictures so far."""
        return overflows(self.model.plan, means(self._passed))


def thin_answer(model: Model, threads: int = 1) -> ThinAnswer:
    """A thin network, ready to answer."""
    return ThinAnswer(model, threads)


def final_outputs(model: Model, maps: Mapping[str, Array]) -> dict[str, Array]:
    """The model file's outputs from the network's last maps, as the engine leaves them."""
    specs = model.plan.source.maps
    real = {
        name: values
        if values.dtype == np.float32
        else dequantise(values, specs[name].scale, specs[name].zero_point)
        for name, values in maps.items()
    }
    return evaluate_tail(model.tail, real) if model.tail.outputs else real


def blank_outputs(model: Model) -> list[Array]:
    """What the model file's outputs look like: those of last maps of zeros."""
    specs = model.plan.source.maps
    zeros = {
        name: np.zeros(specs[name].shape, specs[name].dtype) for name in model.plan.source.outputs
    }
    return list(final_outputs(model, zeros).values())


def picture_input(model: Model) -> tuple[tuple[int, int, int], Preprocessing]:
    """Shape and preprocessing of the one picture that the network takes.

    Raises:
        BadArgument: it takes several inputs, or arrays.
    """
    source = model.plan.source
    if len(source.inputs) != 1 or model.preprocessing is None:
        raise BadArgument(
            f"answers are judged one picture at a time, but this network takes "
            f"{len(source.inputs)} input(s) {', '.join(source.inputs)}"
            f"{'' if model.preprocessing else ' as arrays'}"
        )
    return source.maps[source.inputs[0]].shape, model.preprocessing
