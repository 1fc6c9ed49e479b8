# SPDX-License-Identifier: Apache-2.0
"""`DropMeter`: what plan after plan costs in answers, on pictures whose float answers are kept.

What a point is depends on the answers (`measure/answer_kinds.py`). With labels it is one of top-1,
of mAP@0.5 or of mean IoU. Without them class scores lose what the float network itself expects to
lose: the mean of `p(its class) - p(our class)`, with `p` the softmax of the float network's scores,
which is 0 where both answers agree and small where the float network is in two minds. Boxes and
pixels lose agreement with the float network, counted from that of the uint8 network.

Ours, the one for class scores: a disagreement is no error, half of them are none for a classifier
in doubt, so that `100 - agreement` of the uint8 network alone is often 2 or 3 points where labels
find 0. It is the expected top-1 drop if the float network's probabilities are calibrated.

Few pictures count badly: on 200 of them one changed answer is half a point. How far scores are off
is known much better, and the drop grows about as their mean squared error does. So `foreseen`
carries a count on many pictures over to others by the ratio of both errors. ResNet-20 for CIFAR-10,
200 of 1,000 training pictures held out at random, 200 times: where 2,000 pictures lose 1.05 points,
counts on the 200 were 1.05 with a standard deviation of 0.43, what is foreseen 1.07 with 0.16. For
boxes the error is that of the grids. Pixels are so many that what was counted stands as it is.

Cost: the float network once per picture when the meter is made; then one run of the engine per
picture and plan, on fewer pictures where a plan is far beyond what is allowed. Holds the fitted
pictures and what is compared of the float answers: scores, grids, or one class per pixel.
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
from thinmaps.measure.accuracy import NORMAL_95, Answer
from thinmaps.measure.answer_kinds import AnswerKind, Known, Seen, kind_of
from thinmaps.measure.answers import blank_outputs, picture_input, thin_answer

Progress = Callable[[str, int, int], None]

# Pictures that show enough of a plan that loses far too much: these, and points that pass what is
# allowed by so many of their standard errors, so that looking again and again misjudges none.
FEWEST_PICTURES = 64
LOOK_EVERY = 64  # an error of a precision costs 50 curves per class
CLEAR_ERRORS = 4


@dataclass(frozen=True)
class Drop:
    """Points that `pictures` lose on average, with half the width of the 95 % interval of that.

    `score_error` is the mean squared error of class scores, each picture's less their mean, which
    no answer depends on, or of a detector's grids; None for other answers.
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
    the scores' errors. Where there are none, what was counted on the held-out ones.

    >>> foreseen(Drop(1.0, 0.4, 0.50, 300), Drop(0.0, 1.0, 0.75, 100))
    1.125
    """
    if not seen.score_error or held_out.score_error is None:
        return held_out.points
    carried = seen.points * held_out.score_error / seen.score_error
    both = seen.pictures + held_out.pictures
    return (carried * seen.pictures + held_out.points * held_out.pictures) / both


def answer_kind(model: Model, known: Known) -> AnswerKind:
    """The kind of the model's answers; refuses what does not go with what is `known`, see there."""
    shape, preprocessing = picture_input(model)
    return kind_of(blank_outputs(model), shape[:2], known, crops=preprocessing.fit == "crop")


@dataclass(frozen=True, eq=False)
class _Case:
    """A picture as the network gets it, and what its answer is compared with."""

    fitted: NDArray[np.uint8]
    kept: Any


class DropMeter:
    """Judges models that take the same pictures."""

    def __init__(
        self,
        model: Model,
        reference: Answer,
        pictures: PictureSet,
        known: Known = Known(),  # noqa: B008  (frozen)
        *,
        beside_uint8: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Ask the float network `reference` about every picture; `known` is of the whole set.

        `model` says how pictures are fitted. With `beside_uint8` it is the uint8 network that
        points of agreement are counted from.

        Raises:
            BadArgument: the answers cannot be compared with what is known.
            BadData: not one picture can be opened, or labels do not fit the answers.
        """
        shape, preprocessing = picture_input(model)
        self.kind = answer_kind(model, known)
        self.skipped: list[str] = []
        self.beside_uint8 = beside_uint8 and self.kind.beside_uint8
        own = thin_answer(model) if self.beside_uint8 else None
        self.cases: list[_Case] = []
        for done, index in enumerate(pictures.indices, 1):
            try:
                picture = pictures.load(index)
                fitted = network_values(pictures.names[index], picture, shape, preprocessing)
            except BadPicture as refusal:
                self.skipped.append(str(refusal))
                continue
            whole = reference(fitted)
            truth = None if known.truths is None else known.truths[index]
            seen = Seen(whole, own(fitted) if own else whole, truth, picture.shape[:2])
            self.cases.append(_Case(fitted, self.kind.case(seen)))
            if progress:
                progress("checking", done, len(pictures))

    @property
    def points_are(self) -> str:
        """The sentence that says what is counted."""
        beside = ", beyond what the uint8 network alone loses" if self.beside_uint8 else ""
        return f"points of drop are of {self.kind.points_of}{beside}"

    def drop(self, model: Model, allowed: float | None = None) -> Drop:
        """What `model` loses; points below 0 where it is better.

        Where it clearly loses more than the points `allowed`, how many is not found out: the rest
        of the pictures is left.

        Raises:
            BadData: not one picture could be opened.
        """
        if not self.cases:
            first = f"; the first: {self.skipped[0]}" if self.skipped else ""
            raise BadData(f"none of {len(self.skipped)} pictures can be used{first}")
        answer = thin_answer(model)
        records: list[Any] = []
        errors: list[float] = []
        for case in self.cases:
            ours = answer(case.fitted)
            records.append(self.kind.record(ours, case.kept))
            error = self.kind.error(ours, case.kept)
            errors.extend([] if error is None else [error])
            looks = len(records) >= FEWEST_PICTURES and len(records) % LOOK_EVERY == 0
            if allowed is not None and looks and self._clearly_above(records, allowed):
                break
        return Drop(
            self.kind.points(records),
            NORMAL_95 * self.kind.standard_error(records),
            float(np.mean(errors)) if errors else None,
            len(records),
        )

    def _clearly_above(self, records: Sequence[Any], allowed: float) -> bool:
        """Whether the points pass `allowed`, whatever other pictures will show."""
        points = self.kind.points(records)
        if points <= allowed:
            return False
        return points - CLEAR_ERRORS * self.kind.standard_error(records) > allowed
