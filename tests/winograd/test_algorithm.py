# SPDX-License-Identifier: Apache-2.0
"""Polynomials in, convolutions out: exact for every set, refused with the reason elsewhere."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from winograd.sets import SETS, Published

from thinmaps.errors import BadArgument, BadShape
from thinmaps.winograd import Polynomial, Triple, arrays, derive, verify
from thinmaps.winograd.polynomial import gcd, inverse
from thinmaps.winograd.rational import matrix, transpose

EACH_SET = pytest.mark.parametrize("published", SETS.values(), ids=SETS.keys())


def correlate(triple: Triple, taps: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """As the matrices say, in float64."""
    at, g, bt = arrays(triple)
    return np.asarray(at @ ((g @ taps) * (bt @ inputs)))


def corrupted(triple: Triple, part: str, row: int, column: int) -> Triple:
    """One entry of one matrix, one larger."""
    rows = [list(entries) for entries in getattr(triple, part)]
    rows[row][column] += 1
    return triple._replace(**{part: matrix(rows)})


@EACH_SET
def test_every_published_set_is_a_convolution(published: Published) -> None:
    algorithm = published.algorithm()
    verify(algorithm.matrices)
    assert algorithm.products**2 == published.products
    generator = np.random.default_rng(1)
    taps, inputs = generator.standard_normal(3), generator.standard_normal(algorithm.inputs)
    direct = np.correlate(inputs, taps)
    np.testing.assert_allclose(correlate(algorithm.matrices, taps, inputs), direct, atol=1e-9)


@pytest.mark.parametrize("taps", range(1, 6))
@pytest.mark.parametrize("outputs", range(1, 6))
def test_the_default_polynomials_serve_every_extent(outputs: int, taps: int) -> None:
    algorithm = derive(outputs, taps)
    assert (len(algorithm.at), len(algorithm.g[0])) == (outputs, taps)
    assert len(algorithm.bt[0]) == algorithm.inputs == outputs + taps - 1


@pytest.mark.parametrize(
    ("outputs", "taps", "polynomials"),
    [
        (1, 5, "x^4+1"),
        (5, 1, "x^4+1"),
        (2, 4, "x^2+2, 3x^2-1"),
        (3, 3, "x^3-2, x"),
        (3, 5, "x^6+1"),
    ],
)
def test_factors_of_any_degree_are_served(outputs: int, taps: int, polynomials: str) -> None:
    verify(derive(outputs, taps, polynomials).matrices)


def test_the_quadratic_set_adds_and_subtracts_only() -> None:
    algorithm = derive(4, 3)
    entries = {abs(x) for rows in (algorithm.at, algorithm.bt) for row in rows for x in row}
    assert entries == {Fraction(0), Fraction(1)}


def test_fractions_are_in_g_where_a_row_has_no_simpler_multiple() -> None:
    lavin, usual = SETS["F4 lavin"].algorithm(), SETS["F6 usual"].algorithm()
    assert lavin.bt[0] == (4, 0, -5, 0, 1, 0)
    assert all(x.denominator == 1 for row in lavin.bt for x in row)
    # 21/4 twice, not 4, 21, 21 and 4.
    assert usual.bt[0] == matrix([[1, 0, "-21/4", 0, "21/4", 0, -1, 0]])[0]


@EACH_SET
def test_signs_are_such_that_rows_begin_by_adding(published: Published) -> None:
    algorithm = published.algorithm()
    for row in algorithm.bt:
        assert sum(x > 0 for x in row) >= sum(x < 0 for x in row)


@EACH_SET
@pytest.mark.parametrize("part", ["at", "g", "bt"])
def test_a_corrupted_matrix_is_refused_with_the_identity_that_fails(
    published: Published, part: str
) -> None:
    wrong = corrupted(published.algorithm().matrices, part, 1, 2)
    with pytest.raises(BadArgument, match=r"output \d+, tap \d+, input \d+ must sum to [01]"):
        verify(wrong)


def test_the_failing_identity_is_the_first_one() -> None:
    # Output 0 has product 3 of F(2,3) where it must not: y_0 = ... + g_2 (d_3 - d_1).
    wrong = corrupted(derive(2, 3).matrices, "at", 0, 3)
    with pytest.raises(BadArgument, match="output 0, tap 2, input 1 must sum to 0, gives -1"):
        verify(wrong)


def test_matrices_that_do_not_fit_are_refused() -> None:
    at, g, bt = derive(4, 3).matrices
    with pytest.raises(BadShape, match="share their products"):
        verify(Triple(at, g[:-1], bt))
    with pytest.raises(BadShape, match="reads 6 inputs, B\\^T has 5"):
        verify(Triple(at, g, transpose(transpose(bt)[:-1])))


@pytest.mark.parametrize(
    ("outputs", "taps", "polynomials", "named"),
    [
        (4, 3, "x, x-1, x^2-1, x+2", "x-1 and x^2-1 share x-1"),
        (2, 3, "x, x, x-1", "x and x share x"),
        (4, 3, "x, x-1, x+1", "outputs + taps - 2 = 5, got 3"),
        (4, 3, "x, x-1, x+1, x^2+1, 7", "the constant 7"),
        (4, 3, "x, y", "got ' y'"),
        (4, 3, "", "got ''"),
        (4, 3, "x, x^99", "degrees up to 15"),
        (4, 3, "x, 1/0", "divide by zero"),
        (4, 3, "x, x--1", "got ' x--1'"),
        (0, 3, None, "outputs of at least 1, got 0"),
        (4, -1, None, "taps of at least 1, got -1"),
        (15, 3, None, "at most 16, got 15 + 3 - 1 = 17"),
    ],
)
def test_what_makes_no_algorithm_is_refused_by_name(
    outputs: int, taps: int, polynomials: str | None, named: str
) -> None:
    with pytest.raises(BadArgument) as refusal:
        derive(outputs, taps, polynomials)
    assert named in str(refusal.value)


def test_foreign_matrices_are_taken_for_what_they_are() -> None:
    at, g, bt = arrays(derive(2, 3).matrices)
    verify(Triple(at, g, bt))
    verify(Triple(at.tolist(), g.astype(str).tolist(), bt.astype(int)))
    # 1/6 is no float: what is nearly a convolution is none.
    with pytest.raises(BadArgument, match="must sum to 0, gives -5/72057594037927936"):
        verify(Triple(*arrays(SETS["F4 lavin"].algorithm().matrices)))


@pytest.mark.parametrize("part", [[[float("nan")]], [["one"]], [[None]], [1], 1])
def test_matrices_of_no_numbers_are_refused(part: object) -> None:
    with pytest.raises(BadArgument, match="need rows of numbers"):
        verify(Triple([[1]], part, [[1]]))  # type: ignore[arg-type]


@pytest.mark.parametrize("part", [[], [[]], [[1], [1]], [[1], [1, 2]]])
def test_matrices_that_are_no_rectangles_are_refused(part: list[list[int]]) -> None:
    with pytest.raises(BadShape, match=r"share their products, got 1 x \[1\], \d x \["):
        verify(Triple([[1]], part, part))  # type: ignore[arg-type]


def test_messages_stay_short() -> None:
    for polynomials in ("z" * 10_000, "x," * 5000 + "x"):
        with pytest.raises(BadArgument) as refusal:
            derive(4, 3, polynomials)
        assert len(str(refusal.value)) < 200


def test_polynomials_read_what_they_print() -> None:
    for text in ("x", "x-1", "-x^3+5/2*x-1/3", "7", "x^2+1"):
        assert str(Polynomial.parse(text)) == text
    assert Polynomial.parse("2x**2 - 0.5x + x") == Polynomial.parse("2*x^2+1/2*x")


def test_divisors_and_inverses_are_exact() -> None:
    p, q = (Polynomial.parse(text) for text in ("x^3-3*x+1", "x^2+1"))
    shared = Polynomial.parse("x-2/3")
    assert gcd(p * shared, q * shared) == shared
    assert p * inverse(p, q) % q == Polynomial.parse("1")
