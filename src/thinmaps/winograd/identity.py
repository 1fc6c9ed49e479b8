# SPDX-License-Identifier: Apache-2.0
"""Is it a convolution? Three matrices against the identity that makes them one, exactly.

    y = A^T ((G g) . (B^T d))   equals   y_i = sum_k g_k d_{i + k}   for all g and d
    if and only if   sum_p A^T[i, p] G[p, k] B^T[p, j] = (1 if j = i + k else 0)   for all i, k, j,

because both sides are bilinear. The sums are of integers after every row of G and of B^T, and
A^T as a whole, was multiplied by what its fractions need; nothing is sampled and nothing rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import lcm
from operator import add
from typing import NamedTuple

import numpy as np

from thinmaps.errors import BadArgument, BadShape
from thinmaps.winograd.rational import Matrix, Row, matrix


class Triple(NamedTuple):
    """The matrices of an algorithm: y = at ((g taps) . (bt inputs))."""

    at: Matrix  # (outputs, products)
    g: Matrix  # (products, taps)
    bt: Matrix  # (products, inputs)


def verify(triple: Triple) -> None:
    """Refuse what is not the correlation of one signal, naming the first identity that fails.

    Entries may be whatever `Fraction` takes, floats too: they are taken for what they are.

    >>> verify(Triple([[1]], [[0.5]], [[2]]))
    >>> verify(Triple([[1]], [[2]], [[1]]))
    Traceback (most recent call last):
        ...
    thinmaps.errors.BadArgument: no convolution: output 0, tap 0, input 0 must sum to 1, gives 2

    Raises:
        BadShape: the matrices do not fit each other.
        BadArgument: an identity fails, or an entry is no number.
    """
    exact = _exact(triple)
    outputs, taps, inputs = _shape(exact)
    if inputs != outputs + taps - 1:
        raise BadShape(
            f"a convolution of {outputs} outputs and {taps} taps reads {outputs + taps - 1} "
            f"inputs, B^T has {inputs} columns"
        )
    _compare(exact, (outputs, taps, inputs), dimensions=1)


def verify_2d(triple: Triple, outputs: int, taps: int) -> None:
    """The same for pictures laid out row by row; places are named as (row, column)."""
    exact, sides = _exact(triple), (outputs, taps, outputs + taps - 1)
    found, wanted = _shape(exact), tuple(side**2 for side in sides)
    if found != wanted:
        raise BadShape(f"outputs, taps and inputs must be {wanted}, the matrices have {found}")
    _compare(exact, sides, dimensions=2)


def _exact(triple: Triple) -> Triple:
    try:
        return Triple(*(matrix(np.asarray(part, object).tolist()) for part in triple))
    except (TypeError, ValueError, OverflowError) as error:
        raise BadArgument(f"matrices of an algorithm need rows of numbers: {error}") from None


def _shape(triple: Triple) -> tuple[int, int, int]:
    """Outputs, taps and inputs."""
    at, g, bt = triple
    widths = [sorted({len(row) for row in part}) for part in triple]
    rectangles = all(len(width) == 1 and width[0] > 0 for width in widths)
    if not rectangles or [len(g), len(bt)] != widths[0] * 2:
        shapes = ", ".join(f"{len(p)} x {w}" for p, w in zip(triple, widths, strict=True))
        raise BadShape(f"A^T, G and B^T must share their products, got {shapes}")
    return len(at), len(g[0]), len(bt[0])


def _compare(triple: Triple, sides: tuple[int, int, int], dimensions: int) -> None:
    """Every sum with what it must be; `sides` are those of one dimension."""
    outputs, taps, inputs = ([*np.ndindex(*(side,) * dimensions)] for side in sides)
    sums, unit = _sums(triple)
    wanted = np.zeros_like(sums)
    for i, output in enumerate(outputs):
        for k, tap in enumerate(taps):
            wanted[i, k, inputs.index(tuple(map(add, output, tap)))] = unit
    for i, k, j in np.argwhere(sums != wanted):
        raise BadArgument(
            f"no convolution: output {_place(outputs[i])}, tap {_place(taps[k])}, input "
            f"{_place(inputs[j])} must sum to {int(wanted[i, k, j] != 0)}, "
            f"gives {Fraction(int(sums[i, k, j]), unit)}"
        )


def _place(index: tuple[int, ...]) -> str:
    return str(index[0] if len(index) == 1 else index)


def _sums(triple: Triple) -> tuple[np.ndarray, int]:
    """sum_p A^T[i, p] G[p, k] B^T[p, j] times a common unit, (outputs, taps, inputs)."""
    g_units, bt_units = _units(triple.g), _units(triple.bt)
    weights = [Fraction(1, x * y) for x, y in zip(g_units, bt_units, strict=True)]
    at = [[x * w for x, w in zip(row, weights, strict=True)] for row in triple.at]
    unit = lcm(*_units(at))
    left = _integers(at, [unit] * len(at))
    g, bt = _integers(triple.g, g_units), _integers(triple.bt, bt_units)
    return np.stack([(row * g.T) @ bt for row in left]), unit


def _units(rows: Iterable[Sequence[Fraction]]) -> list[int]:
    return [lcm(*(entry.denominator for entry in row)) for row in rows]


def _integers(rows: Sequence[Row] | list[list[Fraction]], units: Sequence[int]) -> np.ndarray:
    """Python's integers, which have no largest."""
    scaled = [[int(x * unit) for x in row] for row, unit in zip(rows, units, strict=True)]
    return np.array(scaled, object)
