# SPDX-License-Identifier: Apache-2.0
"""Tables of transforms at random, for the codecs that hold one."""

from __future__ import annotations

import numpy as np

from thinmaps.codecs.transform import Transform

Shape = tuple[int, int, int, int]  # rows, columns and channels of a block, channels of the map


def drawn_transform(rng: np.random.Generator, shape: Shape, most: int = 128) -> Transform:
    """The limits of each table are among its numbers; groups have `most` components at most."""
    rows, columns, group, channels = shape
    groups = -(-channels // group)
    elements = np.minimum(group, channels - group * np.arange(groups)) * rows * columns
    counts = rng.integers(1, most + 1, groups).astype(np.int32)
    counts[rng.integers(groups)] = rng.choice([0, most]) if groups > 1 else most
    components, products = int(counts.sum()), int(counts @ elements)
    width = rng.integers(1, 9, components).astype(np.uint8)
    largest = (1 << width.astype(np.int32)) - 1
    zero_code = np.where(rng.random(components) < 0.3, largest, rng.integers(0, largest + 1))
    entries = [rng.choice(np.int8([-128, 127, 0, 1]), products) for _ in range(2)]
    tables = [rng.integers(0, 16, size).astype(np.uint8) for size in (components, channels)]
    return Transform(
        rows=rows,
        columns=columns,
        group=group,
        counts=counts,
        width=width,
        zero_code=zero_code.astype(np.uint8),
        analysis=entries[0],
        analysis_shift=tables[0],
        synthesis=entries[1],
        synthesis_shift=tables[1],
    )
