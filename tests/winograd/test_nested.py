# SPDX-License-Identifier: Apache-2.0
"""Two dimensions: exact for every set, with the products that pairs of quadratics leave."""

from __future__ import annotations

from fractions import Fraction

import pytest
from winograd.sets import SETS, Published

from thinmaps.errors import BadArgument, BadShape
from thinmaps.winograd import Triple, derive, verify_2d
from thinmaps.winograd.composition import along, without_copies
from thinmaps.winograd.nested import nested, nested_products
from thinmaps.winograd.nested_transforms import nested_transforms
from thinmaps.winograd.rational import kronecker, matrix
from thinmaps.winograd.straight_line import Program, schedule

EACH_SET = pytest.mark.parametrize("published", SETS.values(), ids=SETS.keys())
QUADRATIC = [name for name in SETS if "quadratic" in name or "roots" in name]


@EACH_SET
def test_pairs_of_quadratics_leave_the_published_products(published: Published) -> None:
    algorithm = published.algorithm()
    assert algorithm.products**2 == published.products
    assert nested_products(algorithm) == published.nested_products


@pytest.mark.parametrize("name", ["F4 quadratic", "F6 quadratic", "F6 sixth roots"])
def test_the_algorithm_with_pairs_is_a_convolution(name: str) -> None:
    published = SETS[name]
    found = nested(published.algorithm())
    verify_2d(found, published.outputs, 3)
    assert len(found.g) == len(found.bt) == len(found.at[0]) == published.nested_products


def test_without_pairs_rows_are_inside_columns() -> None:
    algorithm = derive(4, 3)
    found = nested(algorithm, paired=False)
    assert found.bt == kronecker(algorithm.bt, algorithm.bt)
    assert len(found.g) == 49


@pytest.mark.parametrize(
    ("polynomials", "products"),
    [
        ("x^2+1, x^2+4", 49 - 4 * 3),  # both are Q(i): all four pairs are two copies of it
        ("x^2+1, x^2-2", 49 - 2 * 3),  # Q(i) and Q(sqrt 2): each with itself only
        ("x^2-1, x^2+x+1", 49 - 2 * 3),  # a product of linear polynomials splits too
        ("x^2, x^2+1", 49 - 3),  # a double root does not
    ],
)
def test_which_quadratics_pair_is_decided_by_their_fields(polynomials: str, products: int) -> None:
    # Two quadratics and infinity: 7 products in one dimension, 49 in two.
    algorithm = derive(3, 3, polynomials)
    assert algorithm.products == 7
    assert nested_products(algorithm) == products
    assert len(nested(algorithm).g) == products


def test_one_tap_or_one_output_has_no_pairs() -> None:
    assert len(nested(derive(3, 1, "x^2+1")).g) == nested_products(derive(3, 1, "x^2+1")) == 9


def test_a_wrong_entry_is_refused_with_rows_and_columns_named() -> None:
    at, g, bt = nested(derive(2, 3))
    wrong = [list(row) for row in bt]
    wrong[0][6] += 1
    with pytest.raises(BadArgument, match=r"output \(0, 0\), tap \(0, 0\), input \(1, 2\)"):
        verify_2d(Triple(at, g, matrix(wrong)), 2, 3)
    with pytest.raises(BadShape, match=r"must be \(9, 4, 16\)"):
        verify_2d(nested(derive(2, 3)), 3, 2)


def test_with_pairs_transforms_cost_fewer_additions_too() -> None:
    # Rows inside columns, per tile: 10 (6 + 7), 5 (3 + 7) and 10 (7 + 4).
    programs = [t.program for t in nested_transforms(derive(4, 3))]
    assert [p.additions for p in programs] == [120, 50, 104]
    at, g, bt = nested(derive(4, 3))
    assert [p.matrix() for p in programs] == [bt, g, at]


def test_without_quadratics_two_dimensions_cost_what_is_published() -> None:
    # Lavin's F(4,3): 144 additions of data, 100 of results.
    data, _, results = nested_transforms(SETS["F4 lavin"].algorithm())
    assert (data.program.additions, results.program.additions) == (144, 100)


def test_programs_are_composed_along_both_directions() -> None:
    columns, rows = matrix([[1, 2], [3, -1], [0, 1]]), matrix([[1, 1, -1]])
    program = along(schedule(columns), schedule(rows))
    assert program.matrix() == kronecker(columns, rows)


def test_what_only_repeats_is_left_out() -> None:
    one = Fraction(1)
    program = Program(1, ({0: one}, {1: one, 0: 2 * one}, {2: one}), (3,))
    found = without_copies(program)
    assert found.sums[1] == {0: 3 * one}
    assert found.matrix() == program.matrix()
