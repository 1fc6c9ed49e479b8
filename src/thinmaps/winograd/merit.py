# SPDX-License-Identifier: Apache-2.0
"""Figures of merit: what an algorithm saves, what its transforms cost, what it does to errors."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import lcm

import numpy as np

from thinmaps.winograd.algorithm import Algorithm, arrays, is_power_of_two
from thinmaps.winograd.nested import nested_products
from thinmaps.winograd.rational import Matrix, Row
from thinmaps.winograd.transforms import transforms


@dataclass(frozen=True)
class Merit:
    """In one dimension where nothing else is said.

    `additions` and `multiplications` are those of the scheduled transforms of inputs, filters and
    products. `constants` counts entries of B^T and A^T that are neither 0 nor +-1, `odd_constants`
    those among them that are no power of two. `growth_bits` is what inputs and filters can gain
    when their transforms are in integers. `saving` is direct multiplications per
    product in two dimensions, `nested_products` those with pairs of quadratics.
    """

    products: int
    products_2d: int
    nested_products: int
    saving: float
    additions: tuple[int, int, int]
    multiplications: tuple[int, int, int]
    constants: int
    odd_constants: int
    amplification: float
    growth_bits: tuple[int, int]

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return asdict(self)


def merit(algorithm: Algorithm) -> Merit:
    """All figures; what costs time is scheduling, a second for 12 products.

    >>> from thinmaps.winograd.algorithm import derive
    >>> found = merit(derive(4, 3))
    >>> found.products_2d, found.nested_products, round(found.saving, 2), found.additions
    (49, 46, 3.13, (10, 5, 10))
    """
    data, filters, results = (transform.program for transform in transforms(algorithm))
    constants = [x for part in (algorithm.bt, algorithm.at) for row in part for x in row]
    constants = [x for x in constants if abs(x) not in (0, 1)]
    paired = nested_products(algorithm)
    return Merit(
        products=algorithm.products,
        products_2d=algorithm.products**2,
        nested_products=paired,
        saving=(algorithm.outputs * algorithm.taps) ** 2 / paired,
        additions=(data.additions, filters.additions, results.additions),
        multiplications=(data.multiplications, filters.multiplications, results.multiplications),
        constants=len(constants),
        odd_constants=sum(not is_power_of_two(x) for x in constants),
        amplification=amplification(algorithm),
        growth_bits=(_growth_bits(algorithm.bt), _growth_bits(algorithm.g)),
    )


def amplification(algorithm: Algorithm) -> float:
    """max_i |A^T|_i (|G| 1 . |B^T| 1): what errors of products can grow to, in one dimension.

    It does not depend on how rows are scaled; in two dimensions it is squared.
    """
    at, g, bt = (np.abs(part) for part in arrays(algorithm.matrices))
    return float((at @ (g.sum(axis=1) * bt.sum(axis=1))).max())


def error_bound(algorithm: Algorithm, roundoff: float = 2.0**-24) -> float:
    """The largest |computed - exact| of an output in one dimension, for |g|, |d| at most 1.

    A sum of t rounded products is off by at most t roundoffs of its absolute sum (Higham, Accuracy
    and Stability of Numerical Algorithms, 3.1); entries of G are rounded once more. So
    n = t_G + 1 + t_B + 1 + t_A roundings, and the bound is n u / (1 - n u) times the amplification.
    Scheduled sums round no oftener along any path.
    """
    longest = [max(sum(x != 0 for x in row) for row in part) for part in algorithm.matrices]
    roundings = (sum(longest) + 2 + 2) * roundoff  # entries of A^T and B^T may be rounded as well
    return roundings / (1 - roundings) * amplification(algorithm)


def _growth_bits(rows: Matrix) -> int:
    """Bits that the largest absolute row sum adds when every row is in integers."""
    return max((_integer_sum(row) - 1).bit_length() for row in rows)


def _integer_sum(row: Row) -> int:
    unit = lcm(*(x.denominator for x in row))
    return sum(abs(int(x * unit)) for x in row)
