# SPDX-License-Identifier: Apache-2.0
"""Numbers that follow the share of a run: a sharpness, a temperature, a target.

A `Schedule` is a companion that sets an attribute of some objects before each step. It is a
function of the share alone, so a run that goes on needs no state of it.

Source
    geometric annealing is common practice; "cubic" is the decay of Zhu and Gupta, 2017,
    arXiv:1710.01878: fast at first, slow at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from thinmaps.errors import BadArgument
from thinmaps.learn.companion import Companion

Shape = Literal["linear", "geometric", "cubic"]


@dataclass(frozen=True)
class Schedule(Companion):
    """From `start` to `end` between two shares of the run, constant before and after.

    Attributes:
        targets: the objects whose attribute is set.
        attribute: its name.
        start, end: values; of one sign and not 0 where the shape is geometric.
        until: the share of the run at which `end` is reached.
        since: the share at which `start` is left.
        shape: how it goes between.
    """

    targets: Sequence[Any]
    attribute: str
    start: float
    end: float
    until: float = 1.0
    since: float = 0.0
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        if not 0 <= self.since < self.until <= 1 or self.shape not in get_args(Shape):
            raise BadArgument(
                "a schedule goes from a share of the run to a later one, 0 to 1, in a shape of "
                f"{get_args(Shape)}, got {self.since} to {self.until} and {self.shape!r}"
            )
        if self.shape == "geometric" and not self.start * self.end > 0:
            raise BadArgument(
                f"a geometric schedule cannot go from {self.start} to {self.end}: it needs two "
                "numbers of one sign"
            )
        missing = [
            type(each).__name__ for each in self.targets if not hasattr(each, self.attribute)
        ]
        if missing:
            raise BadArgument(f"{missing[0]} has no {self.attribute!r} that a schedule could set")

    def value(self, share: float) -> float:
        """The number at this share of the run.

        >>> floor = Schedule([], "floor", start=6, end=40, until=0.6)
        >>> [floor.value(share) for share in (0.0, 0.3, 0.6, 1.0)]
        [6.0, 23.0, 40.0, 40.0]
        """
        done = min(max((share - self.since) / (self.until - self.since), 0.0), 1.0)
        if self.shape == "geometric":
            return float(self.start * (self.end / self.start) ** done)
        if self.shape == "cubic":
            done = 1 - (1 - done) ** 3
        return float(self.start + (self.end - self.start) * done)

    def before(self, share: float) -> None:
        """Set the attribute."""
        for each in self.targets:
            setattr(each, self.attribute, self.value(share))
