# SPDX-License-Identifier: Apache-2.0
"""Fit soft, harden, fine-tune: what all weight methods with gradients have in common.

Both trainings are those of `fit` or `distill`. With `options.checkpoint` each has a file of its own
(`.soft` and `.fine` are appended), so that a recipe that stops goes on in either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from thinmaps.errors import BadArgument
from thinmaps.learn.companion import Companion
from thinmaps.learn.distillation import DistillationLosses, distill
from thinmaps.learn.fitting import fit
from thinmaps.learn.options import TrainingOptions
from thinmaps.learn.training import TrainingResult
from thinmaps.learn.weights.maps import attached, bake, harden

Score = Callable[[nn.Module], float]
Phase = Literal["soft", "fine"]


@dataclass(frozen=True)
class RecipeResult:
    """What a recipe did.

    Attributes:
        soft, fine: rows of both trainings; `fine` is None where it had no steps.
        density: the share of weights that are not zero, over all mapped layers.
        weight_bits: the mean over those weights of what is stored, 32 for a float, 0 for a zero;
            where zeros lie is not in it.
        soft_score, hard_score, score: before hardening, after it, in the end; None without a
            `score` to ask. The first two apart say what the soft state was worth.
    """

    soft: TrainingResult
    fine: TrainingResult | None
    density: float
    weight_bits: float
    soft_score: float | None = None
    hard_score: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class Recipe:
    """Two trainings with a hardening between them.

    Attributes:
        soft_steps: of the training in which maps learn, beside the companions.
        fine_steps: of the training behind it, with all decisions frozen.
        companions: schedules and constraints of the first.
        options: of both; their own companions take part in both.
    """

    soft_steps: int
    fine_steps: int = 0
    companions: Sequence[Companion] = ()
    options: TrainingOptions = field(default_factory=TrainingOptions)

    def __post_init__(self) -> None:
        if self.soft_steps < 1 or self.fine_steps < 0:
            raise BadArgument(
                "a recipe takes 1 soft step or more and 0 fine ones or more, got "
                f"{self.soft_steps} and {self.fine_steps}"
            )

    def run(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        *,
        teacher: nn.Module | None = None,
        losses: DistillationLosses | None = None,
        score: Score | None = None,
    ) -> RecipeResult:
        """Train `model`, whose maps are attached, in place; it ends as a plain module.

        With a teacher its answers are learnt, by `losses`; without one the loader's labels. `score`
        is asked three times, without gradients, and changes nothing.

        Raises:
            BadArgument: no map is attached.
            As `fit` and `distill`.
        """
        if not attached(model):
            raise BadArgument(
                f"{type(model).__name__} has no weight map: attach those of a method first"
            )
        self._forget_earlier_run()
        learns = partial(self._train, model, loader, teacher, losses)
        asked: Callable[[nn.Module], float | None] = score or (lambda _: None)
        said = torch.no_grad()(asked)
        soft = learns("soft")
        soft_score = said(model)
        harden(model)
        hard_score = said(model)
        fine = learns("fine") if self.fine_steps else None
        shares = _density(model), _weight_bits(model)
        bake(model)
        return RecipeResult(soft, fine, *shares, soft_score, hard_score, said(model))

    def _forget_earlier_run(self) -> None:
        """A new run that stops before its second training goes on with that of no other run."""
        path = phase_options(self.options, "fine").checkpoint
        if path is not None and not self.options.resume:
            Path(path).unlink(missing_ok=True)

    def _train(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        teacher: nn.Module | None,
        losses: DistillationLosses | None,
        phase: Phase,
    ) -> TrainingResult:
        """One of the two trainings. Exact integers are for the last: decisions change them yet."""
        steps, options = self.fine_steps, phase_options(self.options, phase)
        if phase == "soft":
            steps = self.soft_steps
            companions = (*self.options.companions, *self.companions)
            exact_from = 1.0 if self.fine_steps else options.exact_from
            options = replace(options, companions=companions, exact_from=exact_from)
        if teacher is None:
            return fit(model, loader, steps=steps, options=options)
        return distill(model, teacher, loader, steps=steps, losses=losses, options=options)


def phase_options(options: TrainingOptions, phase: Phase) -> TrainingOptions:
    """The same options with files of their own for one of the two trainings."""
    return replace(
        options,
        checkpoint=None if options.checkpoint is None else Path(f"{options.checkpoint}.{phase}"),
        log=None if options.log is None else Path(options.log) / phase,
    )


def _density(model: nn.Module) -> float:
    """Of the weights that layers compute with, over layers that have maps."""
    layers = {id(each.layer): each.layer for each in attached(model)}.values()
    weights: list[Any] = [layer.weight for layer in layers]
    kept = sum(int(weight.count_nonzero()) for weight in weights)
    return kept / sum(int(weight.numel()) for weight in weights)


def _weight_bits(model: nn.Module) -> float:
    """What is stored, by the last map of each layer."""
    last = {each.name: each.stats() for each in attached(model)}.values()
    return sum(float(each.bits) for each in last) / sum(each.weights for each in last)
