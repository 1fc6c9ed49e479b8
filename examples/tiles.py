# SPDX-License-Identifier: Apache-2.0
"""The usual way to run a network on a picture that is too large for it: in tiles.

Every tile goes through the network alone, so at its border the network sees padding where the
picture goes on. What is made within `margin` pixels of such a border is thrown away, and the next
tile starts that much earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Span:
    """One axis of a tile: pixels `first .. first + side` go in, `keep .. stop` of these count."""

    first: int
    keep: int
    stop: int


def spans(extent: int, side: int, margin: int) -> Iterator[Span]:
    """Tiles of one side that cover `extent`; the last lies at the end and keeps what is left.

    >>> [(s.first, s.keep, s.stop) for s in spans(20, 10, 2)]
    [(0, 0, 8), (6, 8, 14), (10, 14, 20)]
    """
    kept = 0
    while kept < extent:
        first = min(max(kept - margin, 0), extent - side)
        stop = extent if first + side == extent else first + side - margin
        yield Span(first, kept, stop)
        kept = stop


@dataclass(frozen=True, eq=False)
class Tiled:
    """The picture that tiles make, how many tiles, and at which rows and columns they meet."""

    picture: Pixels
    tiles: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def run_tiled(run: Callable[[Pixels], Pixels], picture: Pixels, side: int, margin: int) -> Tiled:
    """`run` on square tiles of `picture`, put together."""
    height, width = picture.shape[:2]
    down, across = (list(spans(extent, side, margin)) for extent in (height, width))
    made = np.empty_like(picture)
    for y in down:
        for x in across:
            tile = picture[y.first : y.first + side, x.first : x.first + side]
            result = run(np.ascontiguousarray(tile))
            made[y.keep : y.stop, x.keep : x.stop] = result[
                y.keep - y.first : y.stop - y.first, x.keep - x.first : x.stop - x.first
            ]
    rows, columns = (tuple(s.keep for s in axis[1:]) for axis in (down, across))
    return Tiled(made, len(down) * len(across), rows, columns)


@dataclass(frozen=True)
class Seam:
    """Steps of 1/255 between a tiled picture and the whole one.

    Beside: the two pixels that meet at a seam. Away: at least `AWAY` pixels from every seam.
    """

    mean_beside: float
    mean_away: float
    largest: int
    differing_percent: float


AWAY = 16


def seam_of(tiled: Tiled, whole: Pixels) -> Seam:
    """How far the tiled picture is from the whole one, and where."""
    difference = np.abs(tiled.picture.astype(np.int16) - whole)
    beside, away = _near(tiled, whole, 1), ~_near(tiled, whole, AWAY)
    return Seam(
        mean_beside=float(difference[beside].mean()),
        mean_away=float(difference[away].mean()),
        largest=int(difference.max()),
        differing_percent=100 * float(difference.any(axis=2).mean()),
    )


def _near(tiled: Tiled, whole: Pixels, pixels: int) -> NDArray[np.bool_]:
    """Which pixels lie within so many of a seam, on either side."""
    near = np.zeros(whole.shape[:2], bool)
    for row in tiled.rows:
        near[max(row - pixels, 0) : row + pixels] = True
    for column in tiled.columns:
        near[:, max(column - pixels, 0) : column + pixels] = True
    return near
