# SPDX-License-Identifier: Apache-2.0
"""`DropMeter`: what plan after plan costs in answers, on pictures whose float answers are kept.

With labels the drop is in points of top-1. Without them it is in points that the float network
itself expects to lose: for class scores the mean of `p(its class) - p(our class)`, with `p` the
softmax of the float network's scores, which is 0 where both answers agree and small where the float
network is in two minds; for score maps, pictures and grids 100 less the agreement.

Ours, the second: a disagreement is no error, half of them are none for a classifier in doubt, so
that `100 - agreement` of the uint8 network alone is often 2 or 3 points where labels find 0. It is
the expected top-1 drop if the float network's probabilities are calibrated.

Few pictures count badly: on 200 of them one changed answer is half a point. How far scores are off
is known much better, and the drop grows about as their mean squared error does. So `foreseen`
carries a count on many pictures over to others by the ratio of both errors. ResNet-20 for CIFAR-10,
200 of 1,000 training pictures held out at random, 200 times: where 2,000 pictures lose 1.05 points,
counts on the 200 were 1.05 with a standard deviation of 0.43, what is foreseen 1.07 with 0.16.

Cost: the float network once per picture when the meter is made; then one run of the engine per
picture and plan, on fewer pictures where a plan is far beyond what is allowed. Holds the fitted
pictures and float answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.calibrate.picture_set import PictureSet, network_values
from thinmaps.errors import BadData, BadPicture
from thinmaps.file import Model
from thinmaps.measure.accuracy import NORMAL_95, Answer, agreement, best, judge_class
from thinmaps.measure.answers import thin_answer

Progress = Callable[[str, int, int], None]

# Pictures that show enough of a plan that loses far too much: these, and a mean that passes what is
# allowed by so many of its standard errors, so that looking after every picture misjudges none.
FEWEST_PICTURES = 64
CLEAR_ERRORS = 4


@dataclass(frozen=True)
class Drop:
    """Points that `pictures` lose on average, with half the width of the 95 % interval of that.

    `score_error` is the mean squared error of class scores, each picture's less their mean, which
    no answer depends on; None where the answers are no class scores.
    """

    points: float
    interval_points: float
    score_error: float | None
    pictures: int

    @property
    def at_least(self) -> float:
        """The points less their standard error."""
        return self.points - self.interval_points / NORMAL_95


def foreseen(seen: Drop, held_out: Drop) -> float:
    """Points that pictures like the held-out ones lose, by what was counted on them and on others.

    Each count has the weight of its pictures; that of the others is carried over by the ratio of
    the scores' errors. Without class scores, what was counted on the held-out ones.

    >>> foreseen(Drop(1.0, 0.4, 0.50, 300), Drop(0.0, 1.0, 0.75, 100))
    1.125
    """
    if not seen.score_error or held_out.score_error is None:
        return held_out.points
    carried = seen.points * held_out.score_error / seen.score_error
    both = seen.pictures + held_out.pictures
    return (carried * seen.pictures + held_out.points * held_out.pictures) / both


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

    def drop(self, model: Model, allowed: float | None = None) -> Drop:
        """What `model` loses; points below 0 where it is better.

        Where it clearly loses more than the points `allowed`, how many is not found out: the rest
        of the pictures is left.
        """
        answer = thin_answer(model)
        lost, errors = [], []
        for case in self.cases:
            ours = np.asarray(answer(case.fitted)[0])
            lost.append(100 * self._of(ours, case))
            if ours.size == max(ours.shape):
                errors.append(score_error(ours, case.whole))
            if allowed is not None and clearly_above(lost, allowed):
                break
        return Drop(
            float(np.mean(lost)),
            NORMAL_95 * float(np.std(lost)) / math.sqrt(len(lost)),
            float(np.mean(errors)) if errors else None,
            len(lost),
        )

    def _of(self, ours: NDArray[Any], case: _Case) -> float:
        if case.label is not None:
            verdict = judge_class(ours, case.whole, case.label)
            return float(verdict.float_place == 0) - float(verdict.place == 0)
        return expected_drop(ours, case.whole, self.shape[0])


def clearly_above(lost: Sequence[float], allowed: float) -> bool:
    """Whether the mean of what pictures lose passes `allowed`, whatever others will show.

    >>> clearly_above([0.0, 100.0] * 32, 20.0), clearly_above([0.0, 100.0] * 32, 30.0)
    (True, False)
    """
    if len(lost) < FEWEST_PICTURES:
        return False
    error = float(np.std(lost)) / math.sqrt(len(lost))
    return float(np.mean(lost)) - CLEAR_ERRORS * error > allowed


def score_error(ours: NDArray[Any], whole: NDArray[Any]) -> float:
    """Mean squared difference of class scores, less what is common to all classes.

    >>> score_error(np.array([2.0, 4.0]), np.array([1.0, 1.0]))
    1.0
    """
    return float(np.var(ours.reshape(-1).astype(np.float64) - whole.reshape(-1)))


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
