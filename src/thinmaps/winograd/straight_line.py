# SPDX-License-Identifier: Apache-2.0
"""A matrix times a vector as a short list of sums: what transforms are printed from.

Source
    Two-term common subexpressions, the most frequent first: Hartley, "Subexpression Sharing in
    Filters Using Canonic Signed Digit Multipliers" (1996), here with rational ratios. The
    transposed program: the transposition principle (Tellegen; Bordewijk). Ours: both are tried,
    and of equally frequent pairs the one that leaves most pairs to share.

Variables are numbered: the inputs first, then one per sum. What is counted is additions
(subtractions among them) and multiplications by constants other than +-1, of which those by powers
of two are exact in floats and shifts in integers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from thinmaps.winograd.rational import Matrix, Row, identity, transpose

# Pairs that are looked at to decide between equally frequent ones.
LOOKAHEAD_PAIRS = 10_000

Sum = dict[int, Fraction]  # variable -> coefficient, never 0
Pair = tuple[int, int, Fraction]  # u + ratio * v


@dataclass(frozen=True)
class Statement:
    """`scale * sum(coefficient * variable)`: how a sum is written with fewest multiplications."""

    scale: Fraction
    terms: tuple[tuple[Fraction, int], ...]

    @property
    def additions(self) -> int:
        """One less than terms."""
        return max(len(self.terms) - 1, 0)

    @property
    def constants(self) -> tuple[Fraction, ...]:
        """What something is multiplied by; only the scale has a sign."""
        factors = [self.scale, *(abs(c) for c, _ in self.terms)]
        return tuple(factor for factor in factors if factor != 1)


@dataclass(frozen=True)
class Program:
    """`sums[i]` makes variable `inputs + i`; the variables `outputs` are the result."""

    inputs: int
    sums: tuple[Sum, ...]
    outputs: tuple[int, ...]

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """The sums in order, factored."""
        return tuple(_factored(s) for s in self.sums)

    @property
    def additions(self) -> int:
        """Of the whole program."""
        return sum(s.additions for s in self.statements)

    @property
    def multiplications(self) -> int:
        """By constants other than +-1."""
        return sum(len(s.constants) for s in self.statements)

    def matrix(self) -> Matrix:
        """What it multiplies with: every variable as a row of numbers."""
        rows: list[Row] = list(identity(self.inputs))
        for terms in self.sums:
            columns = range(self.inputs)
            rows.append(
                tuple(sum((c * rows[v][j] for v, c in terms.items()), Fraction(0)) for j in columns)
            )
        return tuple(rows[v] for v in self.outputs)


def schedule(matrix: Matrix) -> Program:
    """The shortest program found for `matrix`, which no row or column of zeros may have.

    >>> from thinmaps.winograd.rational import matrix
    >>> butterfly = schedule(matrix([[1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4]]))
    >>> butterfly.additions, butterfly.multiplications
    (6, 3)
    """
    found = [_shared(matrix), transposed(_shared(transpose(matrix)))]
    best = min(map(polished, found), key=_cost)
    assert best.matrix() == matrix, "a program must compute its matrix"
    return best


def polished(program: Program) -> Program:
    """The same with fewer constants, lines and negations, in the order of the outputs."""
    return _in_reading_order(_without_negations(_inlined(_rescaled(program))))


def transposed(program: Program) -> Program:
    """The program of the transposed matrix: every arrow turned round, in the reverse order."""
    variables = program.inputs + len(program.sums)
    users: list[Sum] = [{} for _ in range(variables)]
    for place, terms in enumerate(program.sums):
        for v, c in terms.items():
            users[v][program.inputs + place] = c
    # Outputs become inputs, and what they were made of begins with them.
    known: dict[int, Sum] = {v: {i: Fraction(1)} for i, v in enumerate(program.outputs)}
    inputs, sums = len(program.outputs), []
    for v in reversed(range(variables)):
        if v in known:
            continue
        terms = joined([(c, known[t]) for t, c in users[v].items()])
        if len(terms) > 1 or v < program.inputs:
            sums.append(terms)
            known[v] = {inputs + len(sums) - 1: Fraction(1)}
        else:
            known[v] = terms
    outputs = tuple(next(iter(known[v])) for v in range(program.inputs))
    return Program(inputs, tuple(sums), outputs)


def renumbered(terms: Sum, number: Mapping[int, int] | Sequence[int]) -> Sum:
    """The same terms of other variables."""
    return {number[v]: c for v, c in terms.items()}


def _shared(matrix: Matrix) -> Program:
    """Take the most frequent pair out until none occurs twice, then pairs of equal constants."""
    inputs = len(matrix[0])
    rows: list[Sum] = [{j: x for j, x in enumerate(row) if x} for row in matrix]
    temporaries: list[Sum] = []
    while pair := _best_pair(rows) or _equal_constants(rows):
        rows = _taken_out(rows, pair, inputs + len(temporaries))
        u, v, ratio = pair
        temporaries.append({u: Fraction(1), v: ratio})
    first = inputs + len(temporaries)
    return Program(inputs, (*temporaries, *rows), tuple(range(first, first + len(rows))))


def _pairs(rows: Iterable[Sum]) -> Counter[Pair]:
    """How often each ratio of two variables occurs."""
    found: Counter[Pair] = Counter()
    for row in rows:
        entries = list(row.items())
        for place, (v, c) in enumerate(entries):
            found.update((u, v, c / b) for u, b in entries[:place])
    return found


def _best_pair(rows: list[Sum]) -> Pair | None:
    """The most frequent; of the first few the one behind which most can still be shared."""
    counts = _pairs(rows)
    most = max(counts.values(), default=0)
    if most < 2:
        return None
    tied = [pair for pair, count in counts.items() if count == most]
    tied = tied[: max(1, LOOKAHEAD_PAIRS // counts.total())]
    new = 1 + max(v for row in rows for v in row)
    return max(tied, key=lambda pair: _left_to_share(_taken_out(rows, pair, new)))


def _equal_constants(rows: Iterable[Sum]) -> Pair | None:
    """Two terms, beside others, with one constant: added first, they are multiplied once."""
    for row in rows:
        pairs = _pairs([row]) if len(row) > 2 and len({*map(abs, row.values())}) > 1 else {}
        for u, v, ratio in pairs:
            if abs(ratio) == 1 and abs(row[u]) != 1:
                return u, v, ratio
    return None


def _left_to_share(rows: list[Sum]) -> int:
    return sum(count - 1 for count in _pairs(rows).values())


def _taken_out(rows: Iterable[Sum], pair: Pair, variable: int) -> list[Sum]:
    """Rows with `variable` wherever they had the pair."""
    u, v, ratio = pair
    return [
        {**{w: c for w, c in row.items() if w not in (u, v)}, variable: row[u]}
        if u in row and row.get(v) == row[u] * ratio
        else row
        for row in rows
    ]


def joined(parts: Iterable[tuple[Fraction, Sum]]) -> Sum:
    """Multiples of sums, added; what cancels is gone."""
    total: Sum = {}
    for factor, terms in parts:
        for v, c in terms.items():
            total[v] = total.get(v, Fraction(0)) + factor * c
    return {v: c for v, c in total.items() if c}


def _factored(terms: Sum) -> Statement:
    """Written with the scale that leaves fewest constants; 1 unless another is better."""
    best = min((Fraction(1), *map(abs, terms.values())), key=lambda s: _constants(terms, s))
    if best != 1 and max(terms.values()) < 0:
        best = -best
    divided = [(c / best, v) for v, c in terms.items()]
    # A sum begins with a term that is added, where there is one: no negation.
    divided.sort(key=lambda term: term[0] < 0)
    return Statement(best, tuple(divided))


def _constants(terms: Sum, scale: Fraction) -> int:
    return (scale != 1) + sum(abs(c) != scale for c in terms.values())


def _rescaled(program: Program) -> Program:
    """Temporaries multiplied by whatever leaves fewest multiplications, until none is gained."""
    sums, improved = list(program.sums), True
    while improved:
        improved = False
        for place in range(len(sums)):
            scale = _best_scale(sums, place, program.inputs + place)
            if scale != 1 and program.inputs + place not in program.outputs:
                sums, improved = _divided(sums, place, program.inputs + place, scale), True
    return Program(program.inputs, tuple(sums), program.outputs)


def _best_scale(sums: Sequence[Sum], place: int, variable: int) -> Fraction:
    """Of the coefficients that a temporary has or is used with; 1 unless another is better."""
    near = _near(sums, place, variable)
    used = [1 / s[variable] for s in near[1:]]
    scales = [Fraction(1), *sorted({abs(c) for c in [*near[0].values(), *used]})]
    return min(scales, key=lambda scale: _burden(_divided(near, 0, variable, scale)))


def _near(sums: Sequence[Sum], place: int, variable: int) -> list[Sum]:
    """What changes with a temporary: its own sum, and those that read it."""
    return [sums[place], *(terms for terms in sums if variable in terms)]


def _divided(sums: Sequence[Sum], place: int, variable: int, scale: Fraction) -> list[Sum]:
    result = [{v: c * scale if v == variable else c for v, c in terms.items()} for terms in sums]
    result[place] = {v: c / scale for v, c in result[place].items()}
    return result


def _inlined(program: Program) -> Program:
    """Temporaries that a single sum reads become part of it, where that costs no multiplication."""
    sums = list(program.sums)
    for place, terms in enumerate(program.sums):
        variable = program.inputs + place
        readers = [i for i, s in enumerate(sums) if variable in s]
        if len(readers) != 1 or variable in program.outputs:
            continue
        rest = dict(sums[readers[0]])
        merged = joined([(rest.pop(variable), sums[place]), (Fraction(1), rest)])
        together = [sums[place], sums[readers[0]]]
        if len(merged) == len(terms) + len(rest) and _burden([merged]) <= _burden(together):
            sums[readers[0]] = merged
    return Program(program.inputs, tuple(sums), program.outputs)


def _without_negations(program: Program) -> Program:
    """Signs of temporaries such that as few sums as possible consist of subtractions alone."""
    sums, improved = list(program.sums), True
    while improved:
        improved = False
        for place in range(len(sums)):
            variable = program.inputs + place
            near = _near(sums, place, variable)
            flipped = _divided(near, 0, variable, Fraction(-1))
            if variable not in program.outputs and _negations(flipped) < _negations(near):
                sums, improved = _divided(sums, place, variable, Fraction(-1)), True
    return Program(program.inputs, tuple(sums), program.outputs)


def _in_reading_order(program: Program) -> Program:
    """Outputs in order, each temporary right before the first sum that needs it."""
    order: list[int] = []

    def visit(v: int) -> None:
        if v >= program.inputs and v not in order:
            for needed in sorted(program.sums[v - program.inputs]):
                visit(needed)
            order.append(v)

    for v in program.outputs:
        visit(v)
    number = {v: v for v in range(program.inputs)}
    number |= {v: program.inputs + place for place, v in enumerate(order)}
    sums = [program.sums[v - program.inputs] for v in order]
    renamed = tuple(renumbered(dict(sorted(terms.items())), number) for terms in sums)
    return Program(program.inputs, renamed, tuple(number[v] for v in program.outputs))


def _cost(program: Program) -> tuple[int, int, int, int]:
    """Additions, multiplications, and how readable it is."""
    return (program.additions, *_burden(program.sums), _negations(program.sums))


def _burden(sums: Iterable[Sum]) -> tuple[int, int]:
    """Multiplications, and the digits of what is multiplied with."""
    constants = [c for s in sums for c in _factored(s).constants]
    return len(constants), sum(abs(c.numerator) * c.denominator for c in constants)


def _negations(sums: Iterable[Sum]) -> int:
    return sum(all(c < 0 for c in terms.values()) for terms in sums)
