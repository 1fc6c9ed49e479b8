# SPDX-License-Identifier: Apache-2.0
"""Constraints: the published formulas, and a toy problem that they solve."""

from __future__ import annotations

import math

import pytest
import torch
from learn.weights.toy_constraints import solve
from torch import Tensor

from thinmaps.errors import BadArgument
from thinmaps.learn.weights.constraint import (
    Constraint,
    ConstraintOptions,
    Form,
    Kind,
    Proportional,
    Violation,
)
from thinmaps.learn.weights.schedule import Schedule

STEP = 0.7
SOFT = (-0.9, -0.1, 0.0, 0.2, 1.5)
STRICT = (-0.8, 0.05, 0.0, 0.3, 1.4)
MULTIPLIERS = (0.4, 0.3, 0.0, 0.6, 0.1)


def constraint(kind: Kind, form: Form, **options: object) -> tuple[Constraint, Tensor]:
    """One with multipliers in the middle of a run, and the soft violations it will see."""
    soft = torch.tensor(SOFT, dtype=torch.float64, requires_grad=True)
    made = Constraint(
        "wish",
        lambda: Violation(soft, torch.tensor(STRICT, dtype=torch.float64)),
        ConstraintOptions(kind, form, STEP, **options),
    )
    made.multiplier = torch.tensor(MULTIPLIERS, dtype=torch.float64)
    return made, soft


def published_term(kind: str, form: str, c: float, m: float) -> float:
    """One violation's, as the formulations of Cooper state it, one number at a time."""
    over = max(c, 0.0)
    if form == "penalty":
        return 0.5 * STEP * (c if kind == "eq" else over) ** 2
    if form == "lagrangian":
        return m * c
    if form == "squared":
        return m * (c if kind == "eq" else over) ** 2
    if kind == "eq":
        return m * c + 0.5 * STEP * c * c
    return (max(0.0, m + STEP * c) ** 2 - m * m) / (2 * STEP)


def published_step(kind: str, form: str, c: float, m: float) -> float:
    """The multiplier behind a step of gradient ascent, projected where it must not be negative."""
    if form == "penalty":
        return m
    if form == "squared":
        c = max(c, 0.0) ** 2 if kind == "le" else c * c
    return max(0.0, m + STEP * c) if kind == "le" else m + STEP * c


@pytest.mark.parametrize("form", ["penalty", "lagrangian", "augmented", "squared"])
@pytest.mark.parametrize("kind", ["eq", "le"])
def test_terms_gradients_and_steps_are_the_published_ones(kind: Kind, form: Form) -> None:
    made, soft = constraint(kind, form)
    term = made.parts()["wish"]
    term.backward()
    pairs = list(zip(SOFT, MULTIPLIERS, strict=True))
    wanted = [published_term(kind, form, c, m) for c, m in pairs]
    # The sum of five terms, each rounded a few times in float64.
    assert float(term.detach()) == pytest.approx(math.fsum(wanted), abs=1e-14)
    h = 1e-6
    slopes = [
        (published_term(kind, form, c + h, m) - published_term(kind, form, c - h, m)) / (2 * h)
        for c, m in pairs
    ]
    # Central differences of quadratics are exact but at the kink of relu, c = 0: there within h.
    assert soft.grad is not None
    assert soft.grad.tolist() == pytest.approx(slopes, abs=2e-6)
    made.after(lambda values: values)
    steps = [published_step(kind, form, c, m) for c, m in zip(STRICT, MULTIPLIERS, strict=True)]
    assert made.multiplier is not None
    assert made.multiplier.tolist() == pytest.approx(steps, abs=1e-15)


def test_multipliers_start_at_zero_and_move_from_their_share_on() -> None:
    made = Constraint(
        "wish", lambda: Violation(torch.ones(2)), ConstraintOptions("eq", step=0.5, begin=0.5)
    )
    for share, wanted in ((0.0, 0.0), (0.49, 0.0), (0.5, 0.5), (0.9, 1.0)):
        made.before(share)
        made.parts()
        made.after(lambda values: values)
        assert made.watched() == {"wish violation": 1.0, "wish multiplier": wanted}


def test_a_limit_holds_and_a_met_constraint_restarts_its_multiplier() -> None:
    made, _ = constraint("le", "augmented", limit=0.5, restart=True)
    made.parts()
    made.after(lambda values: values)
    assert made.multiplier is not None
    # Strict violations are -0.8, 0.05, 0, 0.3, 1.4: the first and the third are met.
    assert made.multiplier.tolist() == pytest.approx([0.0, 0.335, 0.0, 0.5, 0.5])


def test_damping_adds_the_change_of_a_moving_average() -> None:
    errors, gain, smoothing = (1.0, 0.5, -0.25), 2.0, 0.9
    made = Constraint(
        "wish",
        lambda: Violation(torch.zeros(1, dtype=torch.float64)),
        ConstraintOptions("eq", step=0.1, damping=Proportional(gain, smoothing)),
    )
    made.parts()
    multiplier = average = 0.0
    for error in errors:
        after = smoothing * average + (1 - smoothing) * error
        multiplier, average = multiplier + 0.1 * (error + gain * (after - average)), after
        made.dual_step(torch.tensor([error], dtype=torch.float64))
    assert made.multiplier is not None
    assert float(made.multiplier) == pytest.approx(multiplier, abs=1e-15)


def test_signed_constraints_meet_the_toy_problem_and_squared_ones_do_not() -> None:
    signed = solve(ConstraintOptions("eq", "augmented", step=1.0), 1500, rate=3.0)
    assert abs(signed.violation) < 1e-6
    halfway, squared = (
        solve(ConstraintOptions("eq", "squared", step=1.0), steps, rate=0.1)
        for steps in (750, 1500)
    )
    assert squared.violation > 1e-2
    assert squared.multiplier > halfway.multiplier  # and still grows: no finite one would do


@pytest.mark.parametrize("wrong", [{"kind": "ge"}, {"form": "cubic"}, {"step": 0.0}, {"begin": 2}])
def test_options_outside_their_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadArgument, match="a constraint"):
        ConstraintOptions(**wrong)


def test_schedules_go_between_their_numbers() -> None:
    class Held:
        number = 0.0

    held = Held()
    for shape, middle in (("linear", 2.5), ("geometric", 2.0), ("cubic", 1 + 3 * 7 / 8)):
        schedule = Schedule([held], "number", 1, 4, until=0.8, since=0.4, shape=shape)
        seen = []
        for share in (0.0, 0.6, 1.0):
            schedule.before(share)
            seen.append(held.number)
        assert seen == pytest.approx([1.0, middle, 4.0])
    with pytest.raises(BadArgument, match="Held has no 'absent'"):
        Schedule([held], "absent", 1, 4)
    with pytest.raises(BadArgument, match="two numbers of one sign"):
        Schedule([held], "number", 0, 4, shape="geometric")
    with pytest.raises(BadArgument, match="to a later one"):
        Schedule([held], "number", 1, 4, until=0.4, since=0.4)
