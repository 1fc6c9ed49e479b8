# SPDX-License-Identifier: Apache-2.0
"""`DropMeter`: what plan after plan costs in answers, on pictures whose float answers are kept.

With labels the drop is in points of top-1. Without them it is in points that the float network
itself expects to lose: for class scores the mean of `p(its class) - p(our class)`, with `p` the
softmax of the float network's scores, which is 0 where both answers agree and small where the float
network is in two minds; for score maps, pictures and grids 100 less the agreement.

Ours, the second: a disagreement is no error, half of them are none for a classifier in doubt, so
that `100 - agreement` of the uint8 network alone is often 2 or 3 points where labels find 0. It is
the expected top-1 drop if the float network's probabilities are calibrated.

Cost: the float network once per picture when the meter is made; then one run of the engine per
picture and plan. Holds the fitted pictures and float answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.calibrate.picture_set import PictureSet, network_values
from thinmaps.errors import BadData, BadPicture
from thinmaps.file import Model
from thinmaps.measure.accuracy import Answer, agreement, best, judge_class
from thinmaps.measure.answers import thin_answer

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class _Case:
    """A picture as the network gets it, what the float network says, and the right class."""

    fitted: NDArray[np.uint8]
    whole: NDArray[Any]
    label: int | None


class DropMeter:
    """Judges models that take the same pictures."""

    def __init__(
        self,
        model: Model,
        reference: Answer,
        pictures: PictureSet,
        classes: Sequence[int] | None = None,
    ) -> None:
        """Ask the float network `reference` about every picture; `classes` are of the whole set.

        `model` says how pictures are fitted.

        Raises:
            BadData: not one picture can be opened.
        """
        assert model.preprocessing is not None
        (name,) = model.plan.source.inputs
        self.shape = model.plan.source.maps[name].shape
        self.cases: list[_Case] = []
        reasons = []
        for index in pictures.indices:
            try:
                picture = pictures.load(index)
            except BadPicture as refusal:
                reasons.append(str(refusal))
                continue
            fitted = network_values(pictures.names[index], picture, self.shape, model.preprocessing)
            label = None if classes is None else classes[index]
            self.cases.append(_Case(fitted, np.asarray(reference(fitted)[0]), label))
        if not self.cases:
            first = f"; the first: {reasons[0]}" if reasons else ""
            raise BadData(f"none of {len(pictures)} pictures can be used{first}")

    def drop(self, model: Model) -> float:
        """The mean drop of `model`, in points; below 0 where it is better."""
        answer = thin_answer(model)
        return 100 * float(np.mean([self._of(answer, case) for case in self.cases]))

    def _of(self, answer: Answer, case: _Case) -> float:
        ours = np.asarray(answer(case.fitted)[0])
        if case.label is not None:
            verdict = judge_class(ours, case.whole, case.label)
            return float(verdict.float_place == 0) - float(verdict.place == 0)
        return expected_drop(ours, case.whole, self.shape[0])


def expected_drop(ours: NDArray[Any], whole: NDArray[Any], input_height: int) -> float:
    """Share of a right answer (0..1) that the float network expects to lose on one picture.

    >>> round(expected_drop(np.array([0.0, 1.0, 9.0]), np.array([0.0, 1.0, 0.9]), 224), 2)
    0.04
    """
    agreed = agreement(ours, whole, input_height)
    if whole.size != max(whole.shape) or agreed == 1:
        return 1 - agreed
    scores = np.asarray(whole, np.float64).reshape(-1)
    odds = np.exp(scores - scores.max())
    chosen, right = odds[best(ours)[0]], odds[best(scores)[0]]
    return float((right - chosen) / odds.sum())
