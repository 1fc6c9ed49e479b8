# SPDX-License-Identifier: Apache-2.0
"""Small matrices of rationals, exact. Rows are tuples; shapes are the caller's care."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

Row = tuple[Fraction, ...]
Matrix = tuple[Row, ...]


def matrix(rows: Iterable[Iterable[Fraction | int | str]]) -> Matrix:
    """Exact, from whatever `Fraction` takes.

    >>> matrix([["1/2", 0]])
    ((Fraction(1, 2), Fraction(0, 1)),)
    """
    return tuple(tuple(Fraction(entry) for entry in row) for row in rows)


def identity(order: int) -> Matrix:
    """Ones on the diagonal."""
    return matrix([[int(i == j) for j in range(order)] for i in range(order)])


def transpose(a: Matrix) -> Matrix:
    """Rows become columns."""
    return tuple(zip(*a, strict=True))


def product(a: Matrix, b: Matrix) -> Matrix:
    """The matrix product; zeros, of which there are many, cost nothing."""
    columns = transpose(b)
    return tuple(tuple(_inner(row, column) for column in columns) for row in a)


def _inner(row: Row, column: Row) -> Fraction:
    return sum((x * y for x, y in zip(row, column, strict=True) if x and y), Fraction(0))


def kronecker(a: Matrix, b: Matrix) -> Matrix:
    """Every entry of `a` times the whole of `b`: applied to pictures laid out row by row."""
    return tuple(tuple(x * y for x in upper for y in lower) for upper in a for lower in b)


def beside(blocks: Sequence[Matrix]) -> Matrix:
    """Blocks of equal height, from left to right."""
    return tuple(sum(rows, ()) for rows in zip(*blocks, strict=True))


def below(blocks: Sequence[Matrix]) -> Matrix:
    """Blocks of equal width, from top to bottom."""
    return tuple(row for block in blocks for row in block)


def inverted(a: Matrix) -> Matrix:
    """The inverse of a regular matrix, by Gauss and Jordan.

    >>> inverted(matrix([[2, 1], [0, 1]]))[0]
    (Fraction(1, 2), Fraction(-1, 2))
    """
    order = len(a)
    rows = [list(row) for row in beside((a, identity(order)))]
    for column in range(order):
        pivot = next(i for i in range(column, order) if rows[i][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [entry / rows[column][column] for entry in rows[column]]
        for i in range(order):
            if i != column and (factor := rows[i][column]):
                rows[i] = [x - factor * y for x, y in zip(rows[i], rows[column], strict=True)]
    return tuple(tuple(row[order:]) for row in rows)
