# SPDX-License-Identifier: Apache-2.0
"""The three transforms of an algorithm as programs with names: what is printed and counted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from thinmaps.winograd.algorithm import Algorithm
from thinmaps.winograd.straight_line import Program, schedule


@dataclass(frozen=True)
class Transform:
    """One of the three: `symbol` names its inputs, `result` its outputs, `matrix` what it is."""

    name: str
    matrix: str
    symbol: str
    result: str
    program: Program

    @property
    def cost(self) -> str:
        """In words.

        >>> from thinmaps.winograd.algorithm import derive
        >>> transforms(derive(2, 3))[1].cost
        '3 additions, 2 multiplications'
        """
        additions, multiplications = self.program.additions, self.program.multiplications
        return f"{_counted(additions, 'addition')}, {_counted(multiplications, 'multiplication')}"

    def variable(self, v: int) -> str:
        """Inputs by their symbol, temporaries t0, t1, ... in order, outputs by theirs."""
        if v < self.program.inputs:
            return f"{self.symbol}{v}"
        if v in self.program.outputs:
            return f"{self.result}{self.program.outputs.index(v)}"
        made = range(self.program.inputs, v)
        return f"t{sum(w not in self.program.outputs for w in made)}"


@cache
def transforms(algorithm: Algorithm) -> tuple[Transform, Transform, Transform]:
    """Of inputs, of filters and of products, scheduled."""
    at, g, bt = algorithm.matrices
    return (
        Transform("input", "B^T d", "d", "v", schedule(bt)),
        Transform("filter", "G g", "g", "u", schedule(g)),
        Transform("output", "A^T p", "p", "y", schedule(at)),
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
