# SPDX-License-Identifier: Apache-2.0
"""The order in which `rans` codes a unit, and the neighbours that it predicts an element from.

No codec by itself. A step is up to 64 elements that are decoded at once, so none of them may be
another one's neighbour. A unit's columns are cut into strips, `strips = min(8, 64 // channels)` but
at least 1, each `ceil(width / strips)` columns wide, the last ones narrower or empty. Steps go row
by row, and in a row by column of a strip: a step is that column in all strips, with all channels.
Pixels of more than 64 channels take several steps, 64 channels each.

Lane 0..63 of a step is the place in that sequence of strips and channels. Lanes take their turns in
the order in which 16-byte and 4-byte parts of four registers come together when they are packed:
turn `16a + 4b + c` is lane `16b + 4a + c`, for a, b, c in 0..3.

An element's neighbours are the same channel of the pixel to the left, inside its strip, and of the
one above, inside the unit. Where one is missing the other one takes its place; where both are, the
zero point does. The prediction is their mean, rounded up, from the bytes that a decoder has.

Source: interleaved states are Giesen's ("Interleaved entropy coders", 2014, arXiv:1402.3392).
Ours: strips, so that maps of few channels have a left neighbour too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import UInt8Array
from thinmaps.types import MapSpec

Int64Array = NDArray[np.int64]

LANES = 64
MOST_STRIPS = 8


def strips(channels: int) -> int:
    """Strips that a unit's columns are cut into."""
    return min(MOST_STRIPS, max(1, LANES // channels))


def turns() -> Int64Array:
    """The lane of each turn."""
    return np.arange(LANES).reshape(4, 4, 4).transpose(1, 0, 2).ravel()


def places(spec: MapSpec, rows: int) -> Int64Array:
    """(steps, LANES): which element of the unit has each turn; -1 where there is none."""
    channels, count = spec.channels, strips(spec.channels)
    strip_columns = -(-spec.width // count)
    column = np.arange(strip_columns)[:, None] + strip_columns * np.arange(count)
    pixel = np.where(column < spec.width, column, -1)
    element = np.where(
        pixel[..., None] < 0, -1, pixel[..., None] * channels + np.arange(channels)
    ).reshape(strip_columns, -1)
    missing = -element.shape[1] % LANES
    element = np.pad(element, ((0, 0), (0, missing)), constant_values=-1).reshape(-1, LANES)
    first = spec.row_bytes * np.arange(rows)[:, None, None]
    every_row = np.where(element < 0, -1, first + element)
    return every_row.reshape(-1, LANES)[:, turns()]


def neighbours(spec: MapSpec, rows: int) -> tuple[Int64Array, Int64Array]:
    """For each element of a unit its left and upper neighbour; their number where both miss."""
    elements = rows * spec.row_bytes
    element = np.arange(elements).reshape(rows, spec.width, spec.channels)
    strip_columns = -(-spec.width // strips(spec.channels))
    has_left = (np.arange(spec.width) % strip_columns > 0)[None, :, None]
    has_upper = (np.arange(rows) > 0)[:, None, None]
    left, upper = element - spec.channels, element - spec.row_bytes
    left, upper = np.where(has_left, left, upper), np.where(has_upper, upper, left)
    nothing = ~(has_left | has_upper)
    return np.where(nothing, elements, left).ravel(), np.where(nothing, elements, upper).ravel()


def mean(left: UInt8Array, upper: UInt8Array) -> UInt8Array:
    """The prediction from the bytes of both neighbours."""
    return ((left.astype(np.uint16) + upper + 1) >> 1).astype(np.uint8)


def predictions(values: UInt8Array, spec: MapSpec) -> UInt8Array:
    """The prediction of every element of a unit whose bytes (rows, width, channels) are known."""
    left, upper = neighbours(spec, len(values))
    known = np.append(values.ravel(), np.uint8(spec.zero_point))
    return mean(known[left], known[upper]).reshape(values.shape)
