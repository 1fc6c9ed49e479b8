# SPDX-License-Identifier: Apache-2.0
"""Programs made of programs: one behind another, one over many parts, one along both directions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from thinmaps.winograd.straight_line import Program, Sum, joined, renumbered


def after(first: Program, second: Program) -> Program:
    """`second` takes the outputs of `first`."""
    sums = list(first.sums)
    outputs = _appended(sums, first.inputs, second, first.outputs)
    return Program(first.inputs, tuple(sums), outputs)


def over(inputs: int, parts: Iterable[tuple[Program, Sequence[int]]]) -> Program:
    """Programs side by side, each with the inputs it takes; their outputs follow each other."""
    sums: list[Sum] = []
    outputs: list[int] = []
    for program, places in parts:
        outputs += _appended(sums, inputs, program, places)
    return Program(inputs, tuple(sums), tuple(outputs))


def along(columns: Program, rows: Program) -> Program:
    """One along the columns of a picture, row by row, the other along the rows of what that makes.

    >>> from thinmaps.winograd.straight_line import schedule
    >>> from thinmaps.winograd.rational import kronecker, matrix
    >>> difference, sums = matrix([[1, -1]]), matrix([[1, 1, 0], [0, 1, 1]])
    >>> along(schedule(difference), schedule(sums)).matrix() == kronecker(difference, sums)
    True
    """
    width, height = rows.inputs, len(columns.outputs)
    elements = columns.inputs * width
    down = over(elements, ((columns, range(j, elements, width)) for j in range(width)))
    elements = height * width
    across = over(elements, ((rows, range(i, elements, height)) for i in range(height)))
    return after(down, across)


def without_copies(program: Program) -> Program:
    """What only repeats another variable, and is no result, is that variable."""
    same: dict[int, int] = {}
    sums: list[Sum] = []
    for variable, terms in enumerate(program.sums, program.inputs):
        known = joined((c, {same.get(v, v): Fraction(1)}) for v, c in terms.items())
        sums.append(known)
        if variable not in program.outputs and list(known.values()) == [Fraction(1)]:
            same[variable] = next(iter(known))
    return Program(program.inputs, tuple(sums), program.outputs)


def _appended(
    sums: list[Sum], inputs: int, program: Program, places: Sequence[int]
) -> tuple[int, ...]:
    """Add the sums of `program`, whose inputs are the variables `places`; its outputs."""
    first = inputs + len(sums)
    number = [*places, *range(first, first + len(program.sums))]
    sums += [renumbered(terms, number) for terms in program.sums]
    return tuple(number[v] for v in program.outputs)
