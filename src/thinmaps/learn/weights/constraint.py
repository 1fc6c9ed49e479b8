# SPDX-License-Identifier: Apache-2.0
"""Constraints with multipliers, as companions of a training run.

A measure says by how much a wish is missed: signed violations c, normalised, 0 where it is met.
The soft ones carry gradients and join the loss; the strict ones are counted and move the
multipliers (proxies, as in Cotter et al., 2019). Per violation, with step r (`step`):

    form         term of the loss                            multiplier after the step
    penalty      r/2 c^2            <=: r/2 relu(c)^2        none
    lagrangian   m c                                         m + r c
    augmented    m c + r/2 c^2                               m + r c
                 <=: (relu(m + r c)^2 - m^2) / 2r
    squared      m c^2              <=: m relu(c)^2          m + r c^2

With `<=` multipliers stay at 0 or above. `squared` is how normalisation by constraints was
published: at c = 0 its gradient is 0, so that no finite multiplier holds a constraint there and the
multiplier only grows; kept to be compared (docs/weights.md).

Source
    Bertsekas, "Constrained Optimization and Lagrange Multiplier Methods", 1982, for all but the
    last; violation, strict violation and the proportional term `nu` (Sohrabi et al., 2024,
    arXiv:2406.04558) as in Gallego-Posada et al., "Cooper", 2025, arXiv:2504.01212; restarts
    from Gallego-Posada et al., 2022, arXiv:2208.04425. The code is ours.

Cost: that of the measure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from thinmaps.errors import BadArgument
from thinmaps.learn.companion import Companion, Mean

Kind = Literal["eq", "le"]
Form = Literal["penalty", "lagrangian", "augmented", "squared"]


@dataclass(frozen=True)
class Violation:
    """How far wishes are missed: above 0 too much, below 0 too little; any number of them.

    `soft` has gradients; `strict` is what really holds, by default the same.
    """

    soft: Tensor
    strict: Tensor | None = None

    def counted(self) -> Tensor:
        """What moves the multipliers, without gradients, flat."""
        return (self.soft if self.strict is None else self.strict).detach().reshape(-1)


Measure = Callable[[], Violation]


@dataclass(frozen=True)
class Proportional:
    """Damping of the multipliers: `gain` times the change of a moving average of violations.

    The average keeps `smoothing` of itself in each step, 0 to below 1.
    """

    gain: float
    smoothing: float = 0.9


@dataclass(frozen=True)
class ConstraintOptions:
    """How a constraint acts.

    Attributes:
        kind: "eq" wants violations of 0, "le" of 0 or less.
        form: see the table above.
        step: r there: of the multipliers, and the weight of the quadratic term.
        limit: multipliers stay within -limit to limit.
        begin: the share of the run from which multipliers move; the term acts from the start.
        restart: a "le" multiplier falls to 0 where its constraint is met.
        damping: adds a proportional term to the steps of multipliers.
    """

    kind: Kind = "le"
    form: Form = "augmented"
    step: float = 1.0
    limit: float = float("inf")
    begin: float = 0.0
    restart: bool = False
    damping: Proportional | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or self.form not in get_args(Form):
            raise BadArgument(
                f"a constraint is one of {get_args(Kind)} and of {get_args(Form)}, got "
                f"{self.kind!r} and {self.form!r}"
            )
        if not self.step > 0 or not self.limit > 0 or not 0 <= self.begin <= 1:
            raise BadArgument(
                "a constraint takes a step and a limit above 0 and begins at a share of the run, "
                f"got {self.step}, {self.limit} and {self.begin}"
            )


class Constraint(Companion):
    """Keeps a measure's violations at 0, or at most 0, while a network learns."""

    def __init__(
        self, name: str, measure: Measure, options: ConstraintOptions | None = None
    ) -> None:
        self.name, self.measure = name, measure
        self.options = options or ConstraintOptions()
        self.multiplier: Tensor | None = None  # flat; of the violations' number, once known
        self._average: Tensor | None = None
        self._counted: Tensor | None = None
        self._share = 0.0

    def before(self, share: float) -> None:
        """Where the run stands."""
        self._share = share

    def parts(self) -> dict[str, Tensor]:
        """The term of this step, under the constraint's name."""
        return {self.name: self.term(self.measure())}

    def term(self, violation: Violation) -> Tensor:
        """What joins the loss, a scalar; remembers what to step by."""
        self._counted = violation.counted()
        soft = violation.soft.reshape(-1)
        if self.multiplier is None:
            self.multiplier = torch.zeros_like(self._counted)
        made = _TERMS[self.options.form]
        return made(soft, self.multiplier, self.options.step, self.options.kind == "le").sum()

    def after(self, mean: Mean) -> None:
        """The step of the multipliers, by the mean of all processes' violations."""
        assert self._counted is not None, "the term comes before the step"
        self._counted = mean(self._counted)
        if self._share >= self.options.begin:
            self.dual_step(self._counted)

    def dual_step(self, counted: Tensor) -> None:
        """Move the multipliers by violations without gradients."""
        assert self.multiplier is not None, "the term comes before the step"
        options, is_at_most = self.options, self.options.kind == "le"
        if options.form == "penalty":
            return
        square = counted.clamp(min=0) if is_at_most else counted
        error = square.square() if options.form == "squared" else counted
        raised = self.multiplier + options.step * (error + self._proportional(error))
        if is_at_most:
            raised = raised.clamp(min=0)
            if options.restart:
                raised = torch.where(counted <= 0, torch.zeros_like(raised), raised)
        self.multiplier = raised.clamp(-options.limit, options.limit)

    def watched(self) -> dict[str, float]:
        """The largest violation, and the largest multiplier by magnitude."""
        if self._counted is None or self.multiplier is None:
            return {}
        missed = self._counted if self.options.kind == "le" else self._counted.abs()
        return {
            f"{self.name} violation": float(missed.max()),
            f"{self.name} multiplier": float(self.multiplier.abs().max()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Multipliers and the damping's average."""
        return {"multiplier": self.multiplier, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from those."""
        self.multiplier, self._average = state["multiplier"], state["average"]

    def _proportional(self, error: Tensor) -> Tensor | float:
        """The damping's term; the average begins at 0."""
        damping = self.options.damping
        if damping is None:
            return 0.0
        before = torch.zeros_like(error) if self._average is None else self._average
        self._average = damping.smoothing * before + (1 - damping.smoothing) * error
        return damping.gain * (self._average - before)


def _penalty(c: Tensor, m: Tensor, step: float, is_at_most: bool) -> Tensor:
    return 0.5 * step * (c.clamp(min=0) if is_at_most else c).square()


def _lagrangian(c: Tensor, m: Tensor, step: float, is_at_most: bool) -> Tensor:
    return m * c


def _augmented(c: Tensor, m: Tensor, step: float, is_at_most: bool) -> Tensor:
    if is_at_most:
        return ((m + step * c).clamp(min=0).square() - m.square()) / (2 * step)
    return m * c + 0.5 * step * c.square()


def _squared(c: Tensor, m: Tensor, step: float, is_at_most: bool) -> Tensor:
    return m * (c.clamp(min=0) if is_at_most else c).square()


_TERMS = {
    "penalty": _penalty,
    "lagrangian": _lagrangian,
    "augmented": _augmented,
    "squared": _squared,
}
