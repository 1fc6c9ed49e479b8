# SPDX-License-Identifier: Apache-2.0
"""Which polynomials? All sets of a pool, and of them those that no other beats in saving and error.

Every set whose degrees fit is looked at, mirror images (x -> -x) once. Looking is cheap: residues
of all monomials modulo all polynomials of a set make a square matrix whose inverse holds the
lifts of the Chinese remainder theorem, so that thousands of sets are one batched inverse in floats.
What is predicted from it,

    mean_i sum_p (A^T_ip)^2 |G_p|^2 |B^T_p|^2,

is the variance that independent errors of the products leave in an output; like the amplification
it does not depend on how rows are scaled. For operations stand terms and constants of A^T and B^T.
The best sets of both, for every number of products, are then derived, scheduled and measured.

The saving weighs what a machine does per output, with C input and K output channels:

    m^2 r^2 / (mu^2 + w (operations_in (N + mu) / K + operations_out (mu + m) / C))

where an operation of a transform costs as much as w products. Filters are transformed once, at no
cost. Everything is deterministic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadArgument
from thinmaps.winograd.algorithm import Algorithm, check_extent
from thinmaps.winograd.factors import ResidueProduct, residues
from thinmaps.winograd.measured_error import relative_error
from thinmaps.winograd.polynomial import Polynomial, gcd
from thinmaps.winograd.rational import Matrix, product
from thinmaps.winograd.transforms import transforms

Set = tuple[int, ...]  # places in the pool, ascending
Float64Array = NDArray[np.float64]
Progress = Callable[[str, int, int], None]

_POINTS = ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "3/2", "-3/2", "2/3", "-2/3", "4", "-4")
_OTHERS = ("x^2+1", "x^2-x+1", "x^2+x+1", "x^2+2", "x^2+1/2", "x^4+1")
POOL = (
    *(Polynomial.of((-Fraction(point), 1)) for point in _POINTS),
    *(Polynomial.parse(text) for text in _OTHERS),
)
# Sets of one number of products that are derived and measured.
FINALISTS = 5
BATCH = 1000  # sets that are predicted at once
NOTHING = 1e-9  # what rounding leaves of a zero


@dataclass(frozen=True)
class Machine:
    """What transforms cost: channels that share them, and products that an operation is worth."""

    input_channels: int = 64
    output_channels: int = 64
    operation: float = 1.0

    def __post_init__(self) -> None:
        if min(self.input_channels, self.output_channels) < 1 or not 0 <= self.operation < 1e6:
            raise BadArgument(
                "a machine needs at least one input and output channel and an operation that "
                f"costs 0 products or more, got {self}"
            )

    def saving(self, algorithm: Algorithm) -> float:
        """Direct multiplications per cost of the algorithm, in two dimensions."""
        mu, m = algorithm.products, algorithm.outputs
        data, _, results = (t.program for t in transforms(algorithm))
        reading = (data.additions + data.multiplications) * (algorithm.inputs + mu)
        writing = (results.additions + results.multiplications) * (mu + m)
        shared = reading / self.output_channels + writing / self.input_channels
        return (m * algorithm.taps) ** 2 / (mu**2 + self.operation * shared)


class Found(NamedTuple):
    """A set that no other beats in both: `error` is relative to direct convolution."""

    algorithm: Algorithm
    saving: float
    error: float

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "polynomials": [str(p) for p in self.algorithm.polynomials],
            "products_2d": self.algorithm.products**2,
            "saving": self.saving,
            "error": self.error if isfinite(self.error) else None,
        }


class Front(tuple[Found, ...]):
    """From the largest saving to the smallest error."""

    def to_json(self) -> list[dict[str, object]]:
        """For `--json`."""
        return [found.to_json() for found in self]

    def __str__(self) -> str:
        lines = ["products  saving    error  polynomials, infinity"]
        for algorithm, saving, error in self:
            names = ", ".join(map(str, algorithm.polynomials))
            lines.append(f"{algorithm.products**2:8}  {saving:6.2f}  {error:7.2f}  {names}")
        return "\n".join(lines)


class _Prediction(NamedTuple):
    """Of one set, without deriving it."""

    chosen: Set
    products: int
    variance: float
    operations: int


def search(
    outputs: int,
    taps: int,
    number_format: str = "float32",
    machine: Machine | None = None,
    pool: Sequence[Polynomial] = POOL,
    progress: Progress | None = None,
) -> Front:
    """What no other set beats; takes seconds.

    >>> [str(found.algorithm) for found in search(2, 3)]
    ['F(2,3) x, x-1, x+1']

    Raises:
        BadArgument: no set of the pool has the degrees that the sizes need.
    """
    check_extent(outputs, taps)
    sets = list(_sets(pool, outputs + taps - 2))
    if not sets:
        raise BadArgument(
            f"no coprime polynomials of the pool have degrees that add up to {outputs + taps - 2}"
        )
    used = machine or Machine()
    pieces = [_pieces(p, outputs, taps) for p in pool]
    finalists = _finalists(_predictions(sets, pieces, outputs, taps))
    measured = []
    for place, chosen in enumerate(finalists):
        algorithm = Algorithm(tuple(pool[i] for i in chosen), outputs, taps)
        error = relative_error(algorithm, number_format)
        measured.append(Found(algorithm, used.saving(algorithm), error))
        if progress is not None:
            progress("measuring algorithms", place + 1, len(finalists))
    return _front(measured)


def _front(measured: Iterable[Found]) -> Front:
    front: list[Found] = []
    for found in sorted(measured, key=lambda f: (-f.saving, f.error, str(f.algorithm))):
        if not front or found.error < front[-1].error:
            front.append(found)
    return Front(front)


def _sets(pool: Sequence[Polynomial], degrees: int) -> Iterator[Set]:
    """Coprime ones whose degrees add up, each with its mirror image once."""
    places = {p: place for place, p in enumerate(pool)}
    mirrored = [places.get(_mirrored(p)) for p in pool]
    coprime = [[gcd(p, q).degree == 0 for q in pool] for p in pool]

    def subsets(rest: Sequence[int], missing: int) -> Iterator[Set]:
        if missing == 0:
            yield ()
        for place, i in enumerate(rest):
            if pool[i].degree <= missing:
                fitting = [j for j in rest[place + 1 :] if coprime[i][j]]
                for others in subsets(fitting, missing - pool[i].degree):
                    yield (i, *others)

    for chosen in subsets(range(len(pool)), degrees):
        image = [j for i in chosen if (j := mirrored[i]) is not None]
        if len(image) < len(chosen) or chosen <= tuple(sorted(image)):
            yield chosen


def _mirrored(p: Polynomial) -> Polynomial:
    return Polynomial.of(c * (-1) ** j for j, c in enumerate(p.coefficients)).monic()


class _Pieces(NamedTuple):
    """What a factor contributes to A, G and, with the inverse of all residues, to B."""

    signals: Float64Array  # (mu, m)
    filters: Float64Array  # (mu, r)
    residues: Float64Array  # (n, N): the last column is that of x^(N - 1), for infinity
    interpolation: Float64Array  # (n, mu)


def _pieces(p: Polynomial, outputs: int, taps: int) -> _Pieces:
    found = ResidueProduct.of(p, outputs, taps)
    return _Pieces(
        _floats(product(found.signal_points, found.signal_residues)),
        _floats(product(found.filter_points, found.filter_residues)),
        _floats(residues(p, outputs + taps - 1, p.degree)),
        _floats(found.interpolation),
    )


def _floats(rows: Matrix) -> Float64Array:
    return np.array(rows, np.float64)


def _predictions(
    sets: Iterable[Set], pieces: Sequence[_Pieces], outputs: int, taps: int
) -> Iterator[_Prediction]:
    for batch in _batches(sets, pieces):
        own = [[pieces[i] for i in chosen] for chosen in batch]
        products = 1 + sum(len(piece.filters) for piece in own[0])
        variances, operations = _predicted(own, outputs, taps)
        for chosen, variance, count in zip(batch, variances, operations, strict=True):
            yield _Prediction(chosen, products, float(variance), int(count))


def _batches(sets: Iterable[Set], pieces: Sequence[_Pieces]) -> Iterator[list[Set]]:
    """Sets with polynomials of the same degrees, in which all shapes agree."""
    kinds: dict[tuple[int, ...], list[Set]] = defaultdict(list)
    for chosen in sets:
        kinds[tuple(len(pieces[i].residues) for i in chosen)].append(chosen)
    for kind in kinds.values():
        yield from (kind[first : first + BATCH] for first in range(0, len(kind), BATCH))


def _predicted(
    pieces: list[list[_Pieces]], outputs: int, taps: int
) -> tuple[Float64Array, NDArray[np.int64]]:
    """Variances, and what stands for the operations of A^T and B^T, of a batch."""
    last_output, last_tap = (np.eye(1, length, length - 1) for length in (outputs, taps))
    signals = np.stack([np.vstack([*(p.signals for p in own), last_output]) for own in pieces])
    filters = np.stack([np.vstack([*(p.filters for p in own), last_tap]) for own in pieces])
    results = _results(pieces, outputs + taps - 1)
    weights = (filters**2).sum(axis=2) * (results**2).sum(axis=1)
    variances = np.einsum("bpi,bp->b", signals**2, weights) / outputs
    return variances, _operations(signals.transpose(0, 2, 1)) + _operations(results)


def _operations(columns: Float64Array) -> NDArray[np.int64]:
    """Terms, and constants beside 0 and +-1 if every column is divided by its commonest size."""
    sizes = np.abs(columns)
    alike = np.isclose(sizes[:, :, None], sizes[:, None], rtol=NOTHING, atol=NOTHING)
    present = sizes > NOTHING
    commonest = (alike & present[:, None]).sum(axis=2).max(axis=1, where=present, initial=0)
    return np.asarray((2 * present.sum(axis=1) - commonest).sum(axis=1), np.int64)


def _results(pieces: list[list[_Pieces]], inputs: int) -> Float64Array:
    """C (batch, N, mu): lifts times interpolations, and the coefficients of M for infinity."""
    none = np.zeros((0, inputs))
    whole = np.stack([np.vstack([none, *(p.residues for p in own)]) for own in pieces])
    lifts = np.linalg.inv(whole[:, :, :-1])
    infinity = np.zeros((len(pieces), inputs, 1))
    infinity[:, :-1] = -lifts @ whole[:, :, -1:]
    infinity[:, -1] = 1
    columns, first = [], 0
    for factors in zip(*pieces, strict=True):
        interpolations = np.stack([p.interpolation for p in factors])
        own = slice(first, first + interpolations.shape[1])
        columns.append(np.pad(lifts[:, :, own] @ interpolations, ((0, 0), (0, 1), (0, 0))))
        first = own.stop
    return np.concatenate([*columns, infinity], axis=2)


def _finalists(predictions: Iterable[_Prediction]) -> list[Set]:
    """For every number of products the sets that no other beats in variance and operations."""
    classes: dict[int, list[_Prediction]] = defaultdict(list)
    for prediction in predictions:
        classes[prediction.products].append(prediction)
    chosen: list[Set] = []
    for members in classes.values():
        least, kept = float("inf"), []
        for member in sorted(members, key=lambda p: (p.variance, p.operations)):
            if member.operations < least:
                least = member.operations
                kept.append(member.chosen)
        chosen += kept[:FINALISTS]
    return chosen
