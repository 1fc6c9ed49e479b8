# SPDX-License-Identifier: Apache-2.0
"""Programs compute their matrix exactly, with no more operations than the best known by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from winograd.sets import SETS, Published

from thinmaps.winograd import derive
from thinmaps.winograd.rational import matrix
from thinmaps.winograd.straight_line import schedule
from thinmaps.winograd.transforms import transforms

EACH_SET = pytest.mark.parametrize("published", SETS.values(), ids=SETS.keys())


@EACH_SET
def test_every_program_computes_its_matrix(published: Published) -> None:
    algorithm = published.algorithm()
    at, g, bt = algorithm.matrices
    programs = [transform.program for transform in transforms(algorithm)]
    assert [program.matrix() for program in programs] == [bt, g, at]


def test_lavins_counts_are_reached() -> None:
    # In two dimensions, per tile: 12 (6 + 6) = 144 data, 10 (6 + 4) = 100 inverse; F(2,3) 32 data.
    additions = [t.program.additions for t in transforms(SETS["F4 lavin"].algorithm())]
    assert additions == [12, 6, 10]
    assert [t.program.additions for t in transforms(derive(2, 3))] == [4, 3, 4]


def test_the_quadratic_set_needs_ten_additions_and_no_constants_on_data() -> None:
    data, _, results = transforms(derive(4, 3))
    assert (data.program.additions, data.program.multiplications) == (10, 0)
    assert (results.program.additions, results.program.multiplications) == (10, 0)


def test_sharing_and_its_transpose_are_both_tried() -> None:
    rows = matrix(np.vander([0, 1, -1, 2, -2, 3, -3], 7, increasing=True).tolist())
    plain = sum(sum(x != 0 for x in row) - 1 for row in rows)
    assert schedule(rows).additions < plain / 1.5


def test_sums_that_only_subtract_are_written_without_negation_where_signs_are_free() -> None:
    for published in SETS.values():
        data = transforms(published.algorithm())[0].program
        assert all(max(c for c, _ in s.terms) > 0 for s in data.statements), published


def test_one_row_is_one_sum() -> None:
    program = schedule(matrix([[Fraction(1, 3), Fraction(1, 3), Fraction(-1, 3)]]))
    assert (program.additions, program.multiplications) == (2, 1)
