# SPDX-License-Identifier: Apache-2.0
"""What takes part in every step of a run beside objective and optimizer: schedules, constraints.

A step asks each companion in turn, in the order of `TrainingOptions.companions`:

    before(share)    before the forward pass: set what follows from the share of steps done
    parts()          after it: terms that join the loss, each already with its weight
    after(mean)      after the optimizer: take a step of its own, such as that of a multiplier
    watched()        numbers for the log

Its state is in the checkpoint, so that a run that goes on is the run that did not stop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Mean = Callable[[Tensor], Tensor]


class Companion:
    """Takes part in every step; this one does nothing. Subclasses say what they do."""

    def before(self, share: float) -> None:
        """`share` of the run's steps is done, 0 to 1."""

    def parts(self) -> dict[str, Tensor]:
        """Terms of the loss by name, scalars; their names differ from those of others."""
        return {}

    def after(self, mean: Mean) -> None:
        """The optimizer has stepped; `mean` is that of a tensor over all processes."""

    def watched(self) -> dict[str, float]:
        """What the log shall show, by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which it goes on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where `state` was taken."""
