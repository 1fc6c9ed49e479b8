# SPDX-License-Identifier: Apache-2.0
"""Fast correlations derived from polynomials: y = A^T ((G g) . (B^T d)), exact, verified.

    m outputs y_i = sum_k g_k d_{i + k} of r taps, from N = m + r - 1 inputs, with as many products
    as the polynomials need: N where all are linear, one or more beyond where they are not.

The product of polynomials g d = C ((G g) . (D d)) that factors.py makes is bilinear in g and d.
Transposed with respect to d it is the correlation, with A^T = D^T and B^T = C^T. In two dimensions
the same matrices are applied to columns and rows: Y = A^T ((G g G^T) . (B^T X B)) A.

A product does not change when its row of B^T is multiplied by a number and its row of G divided by
it. G is applied once per filter, B^T to every picture: fractions go to G (`balanced`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm

import numpy as np
from numpy.typing import DTypeLike

from thinmaps.errors import BadArgument
from thinmaps.winograd.factors import POINTS, Factor, check_polynomials, factors_of, stacked
from thinmaps.winograd.identity import Triple, verify
from thinmaps.winograd.polynomial import Polynomial
from thinmaps.winograd.rational import Matrix, Row, transpose

MOST_INPUTS = 16


@dataclass(frozen=True)
class Algorithm:
    """A correlation of `taps` taps that makes `outputs` outputs at a time.

    >>> f23 = Algorithm((Polynomial.parse("x"), Polynomial.parse("x-1")), 2, 2)
    >>> f23.products, [[int(x) for x in row] for row in f23.bt]
    (3, [[1, -1, 0], [0, 1, 0], [0, -1, 1]])

    Raises:
        BadArgument: polynomials that are not coprime or whose degrees do not add up to
            outputs + taps - 2, or sizes out of range.
    """

    polynomials: tuple[Polynomial, ...]
    outputs: int
    taps: int

    def __post_init__(self) -> None:
        check_extent(self.outputs, self.taps)
        check_polynomials(self.polynomials, self.outputs, self.taps)

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """What each polynomial contributes, infinity last."""
        return factors_of(self.polynomials, self.outputs, self.taps)

    @cached_property
    def matrices(self) -> Triple:
        """A^T (m x mu), G (mu x r), B^T (mu x N), verified."""
        signal, g, result = stacked(self.factors)
        triple = Triple(transpose(signal), *balanced(g, transpose(result)))
        verify(triple)
        return triple

    @property
    def at(self) -> Matrix:
        """A^T, products to outputs."""
        return self.matrices.at

    @property
    def g(self) -> Matrix:
        """G, taps to products."""
        return self.matrices.g

    @property
    def bt(self) -> Matrix:
        """B^T, inputs to products."""
        return self.matrices.bt

    @property
    def inputs(self) -> int:
        """N."""
        return self.outputs + self.taps - 1

    @property
    def products(self) -> int:
        """mu, of numbers, in one dimension; squared in two."""
        return len(self.g)

    def __str__(self) -> str:
        names = ", ".join(map(str, self.polynomials)) or "infinity alone"
        return f"F({self.outputs},{self.taps}) {names}"


def derive(
    outputs: int = 4, taps: int = 3, polynomials: str | Iterable[str | Polynomial] | None = None
) -> Algorithm:
    """The algorithm of these polynomials, verified; by default those that keep constants small.

    `polynomials` may be one text with commas. Infinity is always a point, never written.

    >>> print(derive(4, 3), derive(4, 3).products)
    F(4,3) x, x-1, x+1, x^2+1 7
    >>> derive(2, 3, "x, x-1, x^2-1")
    Traceback (most recent call last):
        ...
    thinmaps.errors.BadArgument: winograd needs polynomials whose degrees add up to outputs + \
taps - 2 = 3, got 4 from x, x-1, x^2-1
    """
    check_extent(outputs, taps)
    given = default_polynomials(outputs, taps) if polynomials is None else polynomials
    texts = given.split(",") if isinstance(given, str) else given
    parsed = tuple(p if isinstance(p, Polynomial) else Polynomial.parse(p) for p in texts)
    found = Algorithm(parsed, outputs, taps)
    _ = found.matrices  # derived and verified here, not where they are first used
    return found


def check_extent(outputs: int, taps: int) -> None:
    """Refuse sizes for which there is nothing to compute, or more than anybody waits for."""
    for name, value in (("outputs", outputs), ("taps", taps)):
        if type(value) is not int or value < 1:
            raise BadArgument(f"winograd needs {name} of at least 1, got {value!r}")
    if outputs + taps - 1 > MOST_INPUTS:
        raise BadArgument(
            f"winograd needs outputs + taps - 1 of at most {MOST_INPUTS}, "
            f"got {outputs} + {taps} - 1 = {outputs + taps - 1}"
        )


def default_polynomials(outputs: int, taps: int) -> tuple[Polynomial, ...]:
    """x, x-1, x+1, then x^2+1 where two degrees are left, then points of growing height."""
    degrees = outputs + taps - 2
    first = ["x", "x-1", "x+1"][:degrees]
    if degrees >= 5:
        first.append("x^2+1")
    chosen = [Polynomial.parse(text) for text in first]
    missing = degrees - sum(p.degree for p in chosen)
    points = POINTS[len(first[:3]) :][:missing]
    return (*chosen, *(Polynomial.of((-point, 1)) for point in points))


def arrays(triple: Triple, dtype: DTypeLike = np.float64) -> tuple[np.ndarray, ...]:
    """A^T, G and B^T as NumPy arrays, every entry rounded once."""
    exact = ([[float(x) for x in row] for row in part] for part in triple)
    return tuple(np.array(rows).astype(dtype) for rows in exact)


def balanced(g: Matrix, bt: Matrix) -> tuple[Matrix, Matrix]:
    """Rows of B^T as simple as any multiple of them, rows of G divided by as much."""
    pairs = [_balanced_rows(*rows) for rows in zip(g, bt, strict=True)]
    return tuple(g for g, _ in pairs), tuple(bt for _, bt in pairs)


def simplest(row: Row) -> Row:
    """The multiple with fewest constants beside 0 and +-1, none of them worse than needed."""
    return min((tuple(x * scale for x in row) for scale in _scales(row)), key=_complexity)


def _balanced_rows(g: Row, bt: Row) -> tuple[Row, Row]:
    scaled = simplest(bt)
    ratio = next(s / x for s, x in zip(scaled, bt, strict=True) if x)
    divided = tuple(x / ratio for x in g)
    if _sign(scaled, divided) < 0:
        return tuple(-x for x in divided), tuple(-x for x in scaled)
    return divided, scaled


def _sign(bt: Row, g: Row) -> int:
    """Of most entries of B^T's row; if neither has most, of G's; if neither, of B^T's first."""
    balances = (sum((x > 0) - (x < 0) for x in row) for row in (bt, g))
    first = next(x for x in bt if x)
    return next((balance for balance in balances if balance), 1 if first > 0 else -1)


def _scales(row: Row) -> list[Fraction]:
    """What turns the row into integers without a common factor, or one of its sizes into 1."""
    entries = [x for x in row if x]
    integers = lcm(*(x.denominator for x in entries))
    common = np.gcd.reduce([int(x * integers) for x in entries])
    return [Fraction(integers, int(common)), *(1 / abs(x) for x in entries)]


def _complexity(row: Row) -> tuple[int, int, int, int, Fraction]:
    """Constants that are not 0 or +-1; of these no powers of two, no floats, no integers."""
    sizes = [abs(x) for x in row if x]
    return (
        sum(x != 1 for x in sizes),
        sum(not is_power_of_two(x) for x in sizes),
        sum(not is_power_of_two(Fraction(x.denominator)) for x in sizes),
        sum(x.denominator > 1 for x in sizes),
        max(sizes),
    )


def is_power_of_two(number: Fraction) -> bool:
    """2**k for an integer k, of either sign: a shift, or a product without rounding.

    >>> [is_power_of_two(Fraction(x)) for x in ("-1/4", "3", "0")]
    [True, False, False]
    """
    top, bottom = abs(number.numerator), number.denominator
    return top > 0 and top & (top - 1) == 0 and bottom & (bottom - 1) == 0
