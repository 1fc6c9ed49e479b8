# SPDX-License-Identifier: Apache-2.0
"""The search looks at every set, predicts what matrices say, and keeps what no other beats."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from winograd.sets import SETS

from thinmaps.errors import BadArgument
from thinmaps.winograd import Algorithm, Polynomial, arrays, search
from thinmaps.winograd.measured_error import relative_error
from thinmaps.winograd.pareto import POOL, Machine, _pieces, _predictions, _sets
from thinmaps.winograd.polynomial import gcd
from thinmaps.winograd.rational import transpose


def variance(algorithm: Algorithm) -> float:
    """mean_i sum_p (A^T_ip)^2 |G_p|^2 |B^T_p|^2, from the exact matrices."""
    at, g, bt = arrays(algorithm.matrices)
    return float((at**2 @ ((g**2).sum(axis=1) * (bt**2).sum(axis=1))).mean())


def operations(algorithm: Algorithm) -> int:
    """Terms of all rows of A and B^T, and those that are not of the commonest size."""
    rows = [[abs(x) for x in row if x] for row in (*transpose(algorithm.at), *algorithm.bt)]
    return sum(2 * len(row) - max(Counter(row).values()) for row in rows)


def test_every_set_is_looked_at_once_or_as_its_mirror_image() -> None:
    found = {frozenset(POOL[i] for i in chosen) for chosen in _sets(POOL, 3)}
    mirrored = {
        frozenset(
            Polynomial.of(c * (-1) ** j for j, c in enumerate(p.coefficients)).monic() for p in one
        )
        for one in found
    }
    wanted = {
        frozenset(chosen)
        for count in (1, 2, 3)
        for chosen in itertools.combinations(POOL, count)
        if sum(p.degree for p in chosen) == 3
        and all(gcd(p, q).degree == 0 for p, q in itertools.combinations(chosen, 2))
    }
    assert found | mirrored == wanted
    assert len(found) < 0.6 * len(wanted)


def test_predictions_are_what_the_matrices_say() -> None:
    pieces = [_pieces(p, 4, 3) for p in POOL]
    sets = list(_sets(POOL, 5))[::97]
    for prediction in _predictions(sets, pieces, 4, 3):
        algorithm = Algorithm(tuple(POOL[i] for i in prediction.chosen), 4, 3)
        assert prediction.products == algorithm.products
        assert prediction.variance == pytest.approx(variance(algorithm), rel=1e-9)
        assert prediction.operations == operations(algorithm)


def test_the_front_beats_the_standard_sets() -> None:
    machine = Machine()
    front = search(4, 3)
    assert [f.saving for f in front] == sorted((f.saving for f in front), reverse=True)
    assert [f.error for f in front] == sorted((f.error for f in front), reverse=True)
    for name in ("F4 lavin", "F4 half", "F4 fifths", "F4 quadratic"):
        algorithm = SETS[name].algorithm()
        saving, error = machine.saving(algorithm), relative_error(algorithm)
        assert any(f.saving >= saving and f.error <= error * 1.01 for f in front), name
    assert front == search(4, 3)


def test_next_to_lavins_points_others_have_two_thirds_of_the_error() -> None:
    lavin, other = (found for found in search(4, 3) if found.algorithm.products == 6)
    assert lavin.algorithm == SETS["F4 lavin"].algorithm()
    assert str(other.algorithm) == "F(4,3) x, x-3/2, x+3/2, x-2/3, x+2/3"
    assert other.error < 0.67 * lavin.error
    assert other.saving > 0.98 * lavin.saving


def test_dear_transforms_make_small_savings_smaller() -> None:
    lavin, quadratic = SETS["F4 lavin"].algorithm(), SETS["F4 quadratic"].algorithm()
    assert Machine(operation=0).saving(lavin) == 4
    many, few = Machine(512, 512), Machine(4, 4)
    # 12 additions and 7 products beside 10 additions and none: with few channels that decides.
    assert many.saving(lavin) > 1.3 * many.saving(quadratic)
    assert few.saving(quadratic) > few.saving(lavin)


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 1, -1), (1, 1, float("nan"))])
def test_machines_that_cannot_be_are_refused(arguments: tuple[int, int, float]) -> None:
    with pytest.raises(BadArgument, match="at least one input and output channel"):
        Machine(*arguments)


def test_a_pool_without_a_fitting_set_is_refused() -> None:
    with pytest.raises(BadArgument, match="degrees that add up to 5"):
        search(4, 3, pool=POOL[:4])
