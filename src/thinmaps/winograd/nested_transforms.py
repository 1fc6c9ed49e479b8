# SPDX-License-Identifier: Apache-2.0
"""Transforms in two dimensions, with pairs of quadratics, as programs.

Two stages. The first is separable: residues along columns and rows, by matrices S_i of the factors.
The second takes each pair of factors by itself, from its residues to what is multiplied; it is
separable too, unless two quadratics pair. Its matrices are not made again but divided out of the
verified ones,

    rows = Q S        Q = rows S^T (S S^T)^-1

with S = S_i in one dimension and S_i x S_j for a pair, so that whatever scaled and signed the rows
is found in Q. Products go to outputs by the program of A, turned round.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from itertools import product as pairs

from thinmaps.winograd.algorithm import Algorithm, simplest
from thinmaps.winograd.composition import after, along, over, without_copies
from thinmaps.winograd.factors import Factor
from thinmaps.winograd.nested import nested, pair_products, rows_of_factors
from thinmaps.winograd.rational import Matrix, inverted, kronecker, product, transpose
from thinmaps.winograd.straight_line import Program, polished, schedule, transposed
from thinmaps.winograd.transforms import Transform


@cache
def nested_transforms(algorithm: Algorithm) -> tuple[Transform, Transform, Transform]:
    """Of inputs (N^2), of filters (r^2) and of products, all laid out row by row.

    >>> from thinmaps.winograd.algorithm import derive
    >>> [transform.program.additions for transform in nested_transforms(derive(4, 3))]
    [120, 50, 104]
    """
    at, g, bt = nested(algorithm)
    factors = algorithm.factors
    d_rows, g_rows, bt_rows = zip(*rows_of_factors(algorithm), strict=True)
    lifts = [tuple(map(simplest, transpose(f.lift))) for f in factors]
    data = _program(factors, lifts, bt_rows, bt)
    filters = _program(factors, [f.filter_residues for f in factors], g_rows, g)
    results = _program(factors, [f.signal_residues for f in factors], d_rows, transpose(at))
    return (
        Transform("input", "B^T d", "d", "v", _finished(data, bt)),
        Transform("filter", "G g", "g", "u", _finished(filters, g)),
        Transform("output", "A^T p", "p", "y", _finished(transposed(results), at)),
    )


def _finished(program: Program, matrix: Matrix) -> Program:
    done = polished(without_copies(program))
    assert done.matrix() == matrix, "a program must compute its matrix"
    return done


def _program(
    factors: Sequence[Factor], stages: Sequence[Matrix], shares: Sequence[Matrix], rows: Matrix
) -> Program:
    """Residues by `stages`, then all of `rows`; `shares` are those of one dimension by factor."""
    stage, ends = schedule(sum(stages, ())), list(accumulate(map(len, stages)))
    width = ends[-1]
    single = [schedule(_quotient(*both)) for both in zip(shares, stages, strict=True)]
    parts, first = [], 0
    for i, j in pairs(range(len(factors)), repeat=2):
        count = pair_products(factors[i], factors[j])
        program = along(single[i], single[j])
        if count < len(program.outputs):
            block = _quotient(rows[first : first + count], kronecker(stages[i], stages[j]))
            program = schedule(block)
        down, across = (range(ends[k] - len(stages[k]), ends[k]) for k in (i, j))
        parts.append((program, [y * width + x for y in down for x in across]))
        first += count
    return after(along(stage, stage), over(width * width, parts))


def _quotient(rows: Matrix, basis: Matrix) -> Matrix:
    """Q with rows = Q basis, for rows that `basis` spans and a basis of independent rows."""
    back = transpose(basis)
    return product(product(rows, back), inverted(product(basis, back)))
