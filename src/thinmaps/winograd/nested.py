# SPDX-License-Identifier: Apache-2.0
"""Two dimensions: the algorithm of rows inside that of columns, with fewer products for quadratics.

    Y = A^T ((G g G^T) . (B^T X B)) A          mu^2 products for m^2 outputs of r^2 taps

A pair of quadratic factors p(x), q(y) asks for products in Q[x, y] / (p, q), and 3 x 3 = 9 of
numbers make one. Where both polynomials generate the same field K, that ring is no field but two
copies of K, and 3 + 3 = 6 suffice:

    Q[x, y] / (p, q) = K + K,   K = Q[t] / q(t),   y -> t,   x -> either root of p in K

With p = x^2 + b x + c and q = y^2 + e y + f that is so if D_p = b^2 - 4 c is s^2 D_q for a rational
s, D_q not zero; then x -> (-b +- s (2 t + e)) / 2. For p = q = x^2 + 1 these are t and -t, that is
(i, i) and (i, -i).

Source
    Complex points with 46 products for F(4,3): Meng and Brothers, "Efficient Winograd Convolution
    via Integer Arithmetic" (2019, arXiv:1901.01965). Ours: the form by fields, which serves any
    quadratics, also pairs of different ones (x^2+x+1 with x^2-x+1: 88 instead of 100).

Tiles, filters and results are laid out row by row, so that one matrix stands for both directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import isqrt

from thinmaps.winograd.algorithm import Algorithm, balanced
from thinmaps.winograd.factors import Factor, evaluation
from thinmaps.winograd.identity import Triple, verify_2d
from thinmaps.winograd.polynomial import Polynomial
from thinmaps.winograd.rational import (
    Matrix,
    below,
    identity,
    inverted,
    kronecker,
    product,
    transpose,
)

PAIRED_PRODUCTS = 6


def nested(algorithm: Algorithm, paired: bool = True) -> Triple:
    """A^T (m^2 x P), G (P x r^2), B^T (P x N^2), verified; without pairs P is mu^2.

    >>> from thinmaps.winograd.algorithm import derive
    >>> len(nested(derive(4, 3)).g), len(nested(derive(4, 3), paired=False).g)
    (46, 49)
    """
    found = _with_pairs(algorithm) if paired else _separate(algorithm.matrices)
    verify_2d(found, algorithm.outputs, algorithm.taps)
    return found


def nested_products(algorithm: Algorithm) -> int:
    """How many there are with pairs, without making the matrices.

    >>> from thinmaps.winograd.algorithm import derive
    >>> nested_products(derive(6, 3))
    78
    """
    return sum(pair_products(f, g) for f in algorithm.factors for g in algorithm.factors)


def pair_products(rows: Factor, columns: Factor) -> int:
    """That two factors need for each other."""
    separate = rows.products * columns.products
    return separate if _ratio_of_roots(rows, columns) is None else PAIRED_PRODUCTS


def _separate(triple: Triple) -> Triple:
    return Triple(*(kronecker(part, part) for part in triple))


def _with_pairs(algorithm: Algorithm) -> Triple:
    factors = list(zip(algorithm.factors, rows_of_factors(algorithm), strict=True))
    blocks = []
    for rows, outer in factors:
        for columns, inner in factors:
            ratio = _ratio_of_roots(rows, columns)
            separate = tuple(map(kronecker, outer, inner))
            blocks.append(separate if ratio is None else _paired(rows, columns, ratio))
    d, g, bt = (below(parts) for parts in zip(*blocks, strict=True))
    return Triple(transpose(d), g, bt)


def rows_of_factors(algorithm: Algorithm) -> Iterator[tuple[Matrix, Matrix, Matrix]]:
    """Rows of D, G and B^T that belong to each factor."""
    d, first = transpose(algorithm.at), 0
    for factor in algorithm.factors:
        own = slice(first, first + factor.products)
        yield d[own], algorithm.g[own], algorithm.bt[own]
        first = own.stop


def _paired(rows: Factor, columns: Factor, ratio: Fraction) -> tuple[Matrix, Matrix, Matrix]:
    """What two quadratics contribute to D, G and B^T by the two copies of their field."""
    split = _split(_quadratic(rows), _quadratic(columns), ratio)
    points = product(kronecker(identity(2), evaluation(2, 3)), split)
    twice = kronecker(identity(2), columns.interpolation)
    lift = kronecker(rows.lift, columns.lift)
    results = product(lift, product(inverted(split), twice))
    taps = kronecker(rows.filter_residues, columns.filter_residues)
    signal = kronecker(rows.signal_residues, columns.signal_residues)
    return product(points, signal), *balanced(product(points, taps), transpose(results))


def _ratio_of_roots(rows: Factor, columns: Factor) -> Fraction | None:
    """s with D_p = s^2 D_q, where both are quadratics that take three products and there is one."""
    degrees = [f.polynomial.degree if f.polynomial else 0 for f in (rows, columns)]
    if degrees != [2, 2] or (rows.products, columns.products) != (3, 3):
        return None
    above, beneath = (_discriminant(_quadratic(f)) for f in (rows, columns))
    return _root(above / beneath) if beneath else None


def _quadratic(factor: Factor) -> Polynomial:
    assert factor.polynomial is not None
    return factor.polynomial


def _discriminant(p: Polynomial) -> Fraction:
    c, b, _ = p.coefficients
    return b * b - 4 * c


def _root(square: Fraction) -> Fraction | None:
    """The rational square root, if there is one and it is not 0."""
    if square <= 0:
        return None
    root = Fraction(isqrt(square.numerator), isqrt(square.denominator))
    return root if root * root == square else None


def _split(p: Polynomial, q: Polynomial, ratio: Fraction) -> Matrix:
    """From the coefficients of 1, y, x, x y to those of 1, t in both copies of the field."""
    e, b = q.coefficients[1], p.coefficients[1]
    t = Polynomial.power(1)
    copies = []
    for s in (ratio, -ratio):
        x = Polynomial.of(((s * e - b) / 2, s))
        columns = [Polynomial.of((1,)), t, x, x * t]
        copies.append(transpose(tuple((column % q).padded(2) for column in columns)))
    return below(copies)
