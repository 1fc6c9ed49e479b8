# SPDX-License-Identifier: Apache-2.0
"""From polynomials to matrices: the first two of the generators that end in a convolution.

Source
    Winograd, "Arithmetic Complexity of Computations" (SIAM, 1980): products of polynomials by the
    Chinese remainder theorem. Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks"
    (2016): the point at infinity, and transposition. The order of the generators (polynomials,
    first, second and third matrices, convolution) is that of US 2018/0349317 A1, whose text names
    them but does not give their entries; the entries here follow from the theorem.

For r taps and m outputs let N = m + r - 1, and m_0, m_1, ... be coprime polynomials of degrees n_i
that add up to N - 1, M their product. Then for g and d of degrees r - 1 and m - 1

    g d = (g d mod M) + g_{r-1} d_{m-1} M                       the last term: infinity
    g d mod M = sum_i (((g mod m_i) (d mod m_i)) mod m_i) e_i   mod M,
    e_i = (M / m_i) ((M / m_i)^-1 mod m_i)

The product of two residues, of a and c coefficients, is made of a + c - 1 products of numbers by
Toom and Cook: evaluate both at as many points, multiply, interpolate.

First matrices     X_i    column j is x^j mod m_i, the residues
Second matrices    P_i    evaluation of a residue at the points;   W_i  interpolation
                   R_i    column j is x^j mod m_i, for the product of two residues
                   E_i    column j is x^j e_i mod M
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import NamedTuple

from thinmaps.errors import BadArgument
from thinmaps.winograd.polynomial import ONE, Polynomial, gcd, inverse
from thinmaps.winograd.rational import (
    Matrix,
    beside,
    identity,
    inverted,
    matrix,
    product,
    transpose,
)

MOST_SHOWN = 8  # polynomials in a message

# Small in size before many: where residues are evaluated, infinity behind the last; and where
# polynomials are not given, which linear ones are taken.
POINTS = tuple(
    sign * Fraction(top, bottom)
    for top, bottom in ((0, 1), (1, 1), (2, 1), (1, 2), (4, 1), (1, 4), (3, 1), (1, 3))
    for sign in (1, -1)[: top + 1]
)


@dataclass(frozen=True)
class Factor:
    """What one polynomial (None: infinity) contributes to an algorithm.

    `filter_residues` (a x r) and `signal_residues` (c x m) take coefficients to residues,
    `filter_points` (mu x a) and `signal_points` (mu x c) residues to the factors of mu products,
    `interpolation` (n x mu) products to the residue of the result, `lift` (N x n) that to its
    share of the result's N coefficients.
    """

    polynomial: Polynomial | None
    filter_residues: Matrix
    signal_residues: Matrix
    filter_points: Matrix
    signal_points: Matrix
    interpolation: Matrix
    lift: Matrix

    @property
    def products(self) -> int:
        """mu, of numbers."""
        return len(self.filter_points)


def check_polynomials(polynomials: Sequence[Polynomial], outputs: int, taps: int) -> None:
    """Refuse constants, degrees that do not add up to N - 1, and pairs that share a factor."""
    for polynomial in polynomials:
        if polynomial.degree < 1:
            raise BadArgument(f"winograd needs polynomials in x, got the constant {polynomial}")
    degrees, needed = sum(p.degree for p in polynomials), outputs + taps - 2
    if degrees != needed:
        shown = [*map(str, polynomials[:MOST_SHOWN]), *["..."] * (len(polynomials) > MOST_SHOWN)]
        raise BadArgument(
            f"winograd needs polynomials whose degrees add up to outputs + taps - 2 = {needed}, "
            f"got {degrees} from {', '.join(shown) or 'none'}"
        )
    for place, q in enumerate(polynomials):
        for p in polynomials[:place]:
            if (shared := gcd(p, q)).degree > 0:
                raise BadArgument(
                    f"winograd needs coprime polynomials, but {p} and {q} share {shared}"
                )


def factors_of(polynomials: Sequence[Polynomial], outputs: int, taps: int) -> tuple[Factor, ...]:
    """The matrices of every polynomial, and of infinity behind them."""
    monic = [p.monic() for p in polynomials]
    modulus = prod(monic, start=ONE)
    finite = [_factor(p, modulus, outputs, taps) for p in monic]
    return (*finite, _infinity(modulus, outputs, taps))


def residues(polynomial: Polynomial, coefficients: int, rows: int) -> Matrix:
    """X: column j is x^j modulo `polynomial`, cut to `rows` (the others are zero)."""
    columns = [Polynomial.power(j) % polynomial for j in range(coefficients)]
    return transpose(tuple(column.padded(rows)[:rows] for column in columns))


def evaluation(coefficients: int, products: int) -> Matrix:
    """P: a polynomial of so many coefficients at `products` points, infinity among them.

    >>> [[int(x) for x in row] for row in evaluation(2, 3)]
    [[1, 0], [1, 1], [0, 1]]
    """
    finite = [[p**j for j in range(coefficients)] for p in POINTS[: products - 1]]
    return matrix([*finite, identity(coefficients)[-1]])


class ResidueProduct(NamedTuple):
    """How residues modulo one polynomial are multiplied: the matrices of `Factor` but `lift`."""

    filter_residues: Matrix
    signal_residues: Matrix
    filter_points: Matrix
    signal_points: Matrix
    interpolation: Matrix

    @classmethod
    def of(cls, polynomial: Polynomial, outputs: int, taps: int) -> ResidueProduct:
        """By Toom and Cook."""
        order = polynomial.degree
        a, c = min(order, taps), min(order, outputs)
        products = a + c - 1
        interpolated = inverted(evaluation(products, products))
        return cls(
            filter_residues=residues(polynomial, taps, a),
            signal_residues=residues(polynomial, outputs, c),
            filter_points=evaluation(a, products),
            signal_points=evaluation(c, products),
            interpolation=product(residues(polynomial, products, order), interpolated),
        )


def _factor(polynomial: Polynomial, modulus: Polynomial, outputs: int, taps: int) -> Factor:
    order, inputs = polynomial.degree, outputs + taps - 1
    cofactor = modulus // polynomial
    unit = cofactor * inverse(cofactor, polynomial)
    lifted = [(Polynomial.power(j) * unit % modulus).padded(inputs) for j in range(order)]
    multiplied = ResidueProduct.of(polynomial, outputs, taps)
    return Factor(polynomial, *multiplied, lift=transpose(tuple(lifted)))


def _infinity(modulus: Polynomial, outputs: int, taps: int) -> Factor:
    one = identity(1)
    return Factor(
        None,
        filter_residues=identity(taps)[-1:],
        signal_residues=identity(outputs)[-1:],
        filter_points=one,
        signal_points=one,
        interpolation=one,
        lift=transpose((modulus.padded(outputs + taps - 1),)),
    )


def stacked(factors: Sequence[Factor]) -> tuple[Matrix, Matrix, Matrix]:
    """The third matrices: D (mu x m), G (mu x r), C (N x mu) with g * d = C ((G g) . (D d))."""
    filters = [product(f.filter_points, f.filter_residues) for f in factors]
    signals = [product(f.signal_points, f.signal_residues) for f in factors]
    results = [product(f.lift, f.interpolation) for f in factors]
    return sum(signals, ()), sum(filters, ()), beside(results)
