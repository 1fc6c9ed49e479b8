# SPDX-License-Identifier: Apache-2.0
"""Is it a convolution? Three matrices against the identity that makes them one, exactly.

    y = A^T ((G g) . (B^T d))   equals   y_i = sum_k g_k d_{i + k}   for all g and d
    if and only if   sum_p A^T[i, p] G[p, k] B^T[p, j] = (1 if j = i + k else 0)   for all i, k, j,

because both sides are bilinear. The sums are of integers after every row of G and of B^T, and
A^T as a whole, was multiplied by what its fractions need; nothing is sampled and nothing rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple

import numpy as np

from thinmaps.errors import BadArgument, BadShape
from thinmaps.winograd.rational import Matrix, Row


class Triple(NamedTuple):
    """The matrices of an algorithm: y = at ((g taps) . (bt inputs))."""

    at: Matrix  # (outputs, products)
    g: Matrix  # (products, taps)
    bt: Matrix  # (products, inputs)


def verify(triple: Triple) -> None:
    """Refuse what is not the correlation of one signal, naming the first identity that fails.

    >>> from thinmaps.winograd.rational import matrix
    >>> one = matrix([[1]])
    >>> verify(Triple(one, one, one))
    >>> verify(Triple(one, matrix([[2]]), one))
    Traceback (most recent call last):
        ...
    thinmaps.errors.BadArgument: no convolution: output 0, tap 0, input 0 must sum to 1, gives 2

    Raises:
        BadShape: the matrices do not fit each other.
        BadArgument: an identity fails.
    """
    outputs, taps, inputs = _shape(triple)
    if inputs != outputs + taps - 1:
        raise BadShape(
            f"a convolution of {outputs} outputs and {taps} taps reads {outputs + taps - 1} "
            f"inputs, B^T has {inputs} columns"
        )
    _compare(triple, lambda i, k: i + k, str, str, str)


def verify_2d(triple: Triple, outputs: int, taps: int) -> None:
    """The same for pictures laid out row by row; places are named as (row, column)."""
    inputs = outputs + taps - 1
    found, wanted = _shape(triple), (outputs**2, taps**2, inputs**2)
    if found != wanted:
        raise BadShape(f"outputs, taps and inputs must be {wanted}, the matrices have {found}")

    def place(side: int) -> Callable[[int], str]:
        return lambda index: str(divmod(index, side))

    def reads(i: int, k: int) -> int:
        (top, left), (down, right) = divmod(i, outputs), divmod(k, taps)
        return (top + down) * inputs + left + right

    _compare(triple, reads, place(outputs), place(taps), place(inputs))


def _shape(triple: Triple) -> tuple[int, int, int]:
    """Outputs, taps and inputs."""
    at, g, bt = triple
    widths = [{len(row) for row in part} for part in triple]
    if any(len(width) != 1 for width in widths) or widths[0] != {len(g)} or len(g) != len(bt):
        shapes = ", ".join(
            f"{len(part)} x {sorted(w)}" for part, w in zip(triple, widths, strict=True)
        )
        raise BadShape(f"A^T, G and B^T must share their products, got {shapes}")
    return len(at), len(g[0]), len(bt[0])


def _compare(
    triple: Triple,
    reads: Callable[[int, int], int],
    output_name: Callable[[int], str],
    tap_name: Callable[[int], str],
    input_name: Callable[[int], str],
) -> None:
    outputs, taps, _ = _shape(triple)
    sums, unit = _sums(triple)
    wanted = np.zeros_like(sums)
    for i in range(outputs):
        for k in range(taps):
            wanted[i, k, reads(i, k)] = unit
    wrong = np.argwhere(sums != wanted)
    if len(wrong):
        i, k, j = (int(index) for index in wrong[0])
        raise BadArgument(
            f"no convolution: output {output_name(i)}, tap {tap_name(k)}, input {input_name(j)} "
            f"must sum to {int(wanted[i, k, j] != 0)}, gives {Fraction(int(sums[i, k, j]), unit)}"
        )


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
