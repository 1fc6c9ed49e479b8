# SPDX-License-Identifier: Apache-2.0
"""`fit`: a network learns from labelled pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from thinmaps.errors import BadData
from thinmaps.learn.batches import Batch
from thinmaps.learn.options import TrainingOptions
from thinmaps.learn.training import Forward, TrainingResult, TrainingRun

Loss = Callable[[Any, Any], Tensor]


def fit(
    student: nn.Module,
    loader: Iterable[Any],
    *,
    steps: int = 300,
    loss: Loss = functional.cross_entropy,
    options: TrainingOptions | None = None,
) -> TrainingResult:
    """Train `student`, in place, on batches of (pictures, labels).

    `loss(outputs, labels)` is a scalar, of the student's outputs as it puts them out and the labels
    as the loader hands them out, both on the run's device. The student ends there, in the mode it
    came in, with its averaged weights.

    Raises:
        BadData: the loader hands out no labels, or is empty.
        BadArgument, BadFile, BadModel, TrainingDiverged: as `TrainingRun`.
    """
    mode = student.training
    try:
        run = TrainingRun(student, loader, steps, options or TrainingOptions())
        return run.finish(_Labels(loss))
    finally:
        student.train(mode)


@dataclass(frozen=True)
class _Labels:
    """The objective of `fit`."""

    loss: Loss

    def parts(self, forward: Forward, batch: Batch, share: float) -> dict[str, Tensor]:
        """One part, `labels`."""
        if batch.labels is None:
            raise BadData(
                "fit needs batches of (pictures, labels), the loader hands out pictures "
                f"{tuple(batch.pictures.shape)} alone; distill learns from a teacher without labels"
            )
        return {"labels": self.loss(forward(batch.pictures), batch.labels)}
