# SPDX-License-Identifier: Apache-2.0
"""Sets of polynomials with published figures: what every test of this room is asked about."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from thinmaps.winograd import Algorithm, derive


class Published(NamedTuple):
    """A set, its products in two dimensions, and its amplification in one."""

    outputs: int
    polynomials: str
    products: int
    nested_products: int
    amplification: float

    def algorithm(self) -> Algorithm:
        """Of 3 taps, derived and verified once."""
        return _derived(self.outputs, self.polynomials)


@cache
def _derived(outputs: int, polynomials: str) -> Algorithm:
    return derive(outputs, 3, polynomials)


SETS = {
    "F2": Published(2, "x, x-1, x+1", 16, 16, 8),
    "F4 lavin": Published(4, "x, x-1, x+1, x-2, x+2", 36, 36, 48),
    "F4 half": Published(4, "x, x-1, x+1, x-2, x+1/2", 36, 36, 29.6),
    "F4 fifths": Published(4, "x, x-5/3, x+5/3, x-3/5, x+3/5", 36, 36, 21.7),
    "F4 quadratic": Published(4, "x, x-1, x+1, x^2+1", 49, 46, 15),
    "F5 quadratic": Published(5, "x, x-1, x+1, x^2+1, x-2", 64, 61, 28),
    "F6 usual": Published(6, "x, x-1, x+1, x-2, x+2, x-1/2, x+1/2", 64, 64, 67.7),
    "F6 integers": Published(6, "x, x-1, x+1, x-2, x+2, x-3, x+3", 64, 64, 687),
    "F6 quadratic": Published(6, "x, x-1, x+1, x^2+1, x-2, x+2", 81, 78, 45),
    "F6 quadratic half": Published(6, "x, x-1, x+1, x^2+1, x-2, x+1/2", 81, 78, 32),
    "F6 sixth roots": Published(6, "x, x-1, x+1, x^2-x+1, x^2+x+1", 100, 88, 32),
    "F6 quartic": Published(6, "x, x-1, x+1, x^4+1", 100, 100, 54),
    "F8 quadratic": Published(8, "x,x-1,x+1,x^2+1,x-2,x+2,x-1/2,x+1/2", 121, 118, 59),
}
