# SPDX-License-Identifier: Apache-2.0
"""The arena over the schedule as SVG: x is the step, y the byte address, a shape per buffer.

A buffer whose slots live and die at different times shows as the slanted shape that it is, and
what lies above and below shows how its neighbours fit into the slack. Times are rounded to
`COLUMNS` columns and slots to `BANDS` bands, outwards, so that the figure stays small for any plan;
where a ring's slots rest for moments too short to see, the gap is closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinmaps.measure.occupancy import Occupant, occupants
from thinmaps.measure.words import bytes_in_words, shortened
from thinmaps.plan.plan import Plan

COLUMNS = 900
BANDS = 48
MOST_RUNS = 400  # rectangles of one buffer, before short gaps are closed

WIDTH, HEIGHT = 1080, 440
LEFT, TOP, RIGHT, BOTTOM = 74, 12, 12, 40
LETTER_WIDTH, LETTER_HEIGHT = 6.5, 12.0
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

Bitmap = NDArray[np.bool_]


def arena_figure(plan: Plan) -> str:
    """An `<svg>` element without scripts or external resources."""
    found = occupants(plan)
    shapes = [_shape(plan, occupant, i / max(len(found), 1)) for i, occupant in enumerate(found)]
    return (
        f'<svg id="arena" class="arena" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="The arena over the schedule">'
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect class="stripe" width="2" height="6"/></pattern></defs>'
        f'<rect class="plot" x="{LEFT}" y="{TOP}" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}"/>'
        f"{''.join(_axes(plan))}{''.join(shapes)}{''.join(_segment_borders(plan))}"
        f"{''.join(_labels(plan, found))}</svg>"
    )


def _x(plan: Plan, step: float) -> float:
    return LEFT + PLOT_WIDTH * step / max(len(plan.steps), 1)


def _y(plan: Plan, address: float) -> float:
    return TOP + PLOT_HEIGHT * (1 - address / max(plan.arena_bytes, 1))


def _shape(plan: Plan, occupant: Occupant, along: float) -> str:
    """One buffer: a path of rectangles, coloured by its place along the network."""
    path = "".join(_rectangles(plan, occupant))
    hue = round(205 + 290 * along) % 360
    coded = any(plan.places[name].pixel_bytes == 0 for name in occupant.maps)
    hatch = f'<path class="hatch" d="{path}"/>' if coded else ""
    return (
        f'<g class="buffer" style="--hue:{hue}"><title>{escape(_title(occupant, coded))}</title>'
        f'<path d="{path}"/>{hatch}</g>'
    )


def _title(occupant: Occupant, coded: bool) -> str:
    """What hovering over a buffer says."""
    buffer, (first, last) = occupant.buffer, occupant.life
    what = ", ".join(occupant.maps) or buffer.name
    return (
        f"{what}{' (encoded)' if coded else ''}\n{buffer.slots} x {buffer.slot_bytes:,} bytes = "
        f"{bytes_in_words(buffer.bytes)} from address {buffer.offset:,}\n"
        f"steps {first:,} to {last:,}"
    )


def _rectangles(plan: Plan, occupant: Occupant) -> Iterator[str]:
    """The path's parts, one for each run of each band of slots; equal neighbours are one band."""
    bitmap = _closed(_bands(occupant, len(plan.steps)))
    bands, columns = bitmap.shape
    slots = occupant.buffer.slots
    band_bytes = occupant.buffer.slot_bytes * slots / bands
    column_steps = len(plan.steps) / columns
    first = 0
    for band in range(1, bands + 1):
        if band < bands and np.array_equal(bitmap[band], bitmap[first]):
            continue
        low = _y(plan, occupant.buffer.offset + first * band_bytes)
        high = _y(plan, occupant.buffer.offset + band * band_bytes)
        for start, stop in _runs(bitmap[first]):
            left, right = _x(plan, start * column_steps), _x(plan, stop * column_steps)
            yield f"M{left:.1f} {high:.1f}H{right:.1f}V{low:.1f}H{left:.1f}z"
        first = band


def _bands(occupant: Occupant, steps: int) -> Bitmap:
    """Which band of slots is in use in which column."""
    columns, bands = min(COLUMNS, steps), min(BANDS, occupant.buffer.slots)
    changes = np.zeros((bands, columns + 1), np.int64)
    band = occupant.slots * bands // occupant.buffer.slots
    np.add.at(changes, (band, occupant.births * columns // steps), 1)
    np.add.at(changes, (band, occupant.deaths * columns // steps + 1), -1)
    return np.asarray(np.cumsum(changes, axis=1)[:, :-1] > 0)


def _closed(bitmap: Bitmap) -> Bitmap:
    """The bitmap with short gaps closed, as few as needed to stay below `MOST_RUNS` runs."""
    gap = 1
    while sum(1 for row in bitmap for _ in _runs(row)) > MOST_RUNS:
        gap *= 2
        bitmap = np.array([_close_gaps(row, gap) for row in bitmap])
    return bitmap


def _close_gaps(row: Bitmap, gap: int) -> Bitmap:
    """The row with gaps of up to `gap` columns filled."""
    closed = row.copy()
    runs = list(_runs(row))
    for (_, stop), (start, _) in pairwise(runs):
        if start - stop <= gap:
            closed[stop:start] = True
    return closed


def _runs(row: Bitmap) -> Iterator[tuple[int, int]]:
    """First and behind-last column of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], row.astype(np.int8), [0]))))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


class _Rectangle(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Rectangle) -> bool:
        """Whether the two share a point."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def _labels(plan: Plan, found: tuple[Occupant, ...]) -> Iterator[str]:
    """Names of buffers, the largest first, where there is room and no other name."""
    taken: list[_Rectangle] = []
    outlines = [(_outline(plan, occupant), occupant) for occupant in found]
    for box, occupant in sorted(outlines, key=lambda pair: -_area(pair[0])):
        name = occupant.maps[-1] if occupant.maps else occupant.buffer.name
        text = shortened(name, min(int((box.right - box.left) / LETTER_WIDTH), 28))
        x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
        half = len(text) * LETTER_WIDTH / 2
        label = _Rectangle(x - half, y - LETTER_HEIGHT / 2, x + half, y + LETTER_HEIGHT / 2)
        if len(text) < min(len(name), 5) or box.bottom - box.top < LETTER_HEIGHT:
            continue
        if not any(label.meets(other) for other in taken):
            taken.append(label)
            yield f'<text class="name" x="{x:.1f}" y="{y + 3.5:.1f}">{escape(text)}</text>'


def _outline(plan: Plan, occupant: Occupant) -> _Rectangle:
    """The rectangle around a buffer's shape."""
    first, last = occupant.life
    start = occupant.buffer.offset
    end = start + occupant.buffer.bytes
    return _Rectangle(_x(plan, first), _y(plan, end), _x(plan, last + 1), _y(plan, start))


def _area(box: _Rectangle) -> float:
    return (box.right - box.left) * (box.bottom - box.top)


def _segment_borders(plan: Plan) -> Iterator[str]:
    """A line where the schedule goes from one segment to the next, unless every node is one."""
    of_step = [plan.segments[step.node] for step in plan.steps]
    borders = [i for i, (a, b) in enumerate(pairwise(of_step), 1) if a != b]
    if len(borders) <= len(plan.network.nodes) // 2:
        for border in borders:
            x = _x(plan, border)
            yield f'<path class="segment" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'


def _axes(plan: Plan) -> Iterator[str]:
    """Addresses at the left, steps below."""
    for address in _ticks(plan.arena_bytes, 1024):
        y = _y(plan, address)
        words = bytes_in_words(address)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text class="tick y" x="{LEFT - 8}" y="{y + 4:.1f}">{words}</text>'
    for step in _ticks(len(plan.steps), 1):
        x = _x(plan, step)
        yield f'<text class="tick x" x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}">{step:,}</text>'
    middle = LEFT + PLOT_WIDTH / 2
    yield f'<text class="tick x" x="{middle}" y="{HEIGHT - 5}">step of the schedule</text>'


def _ticks(stop: int, unit: int) -> list[int]:
    """About five round multiples of `unit` from 0 to `stop`.

    >>> _ticks(230, 1)
    [0, 50, 100, 150, 200]
    """
    rough = max(stop / unit / 5, 1)
    power = 10 ** int(np.log10(rough))
    distance = next(power * f for f in (1, 2, 5, 10) if power * f >= rough)
    return list(range(0, stop + 1, distance * unit))
