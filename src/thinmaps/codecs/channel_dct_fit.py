# SPDX-License-Identifier: Apache-2.0
"""The matrices of `channel_dct`: the DCT, its steps, which frequencies stay, and a channel order.

Source
    Ahmed, Natarajan and Rao, "Discrete Cosine Transform", IEEE Transactions on Computers, 1974.
    Ours: everything that is chosen here on calibration pictures.

Cost: channels**2 * samples for an order, one transform of the samples for a mask.
"""

from __future__ import annotations

from itertools import starmap

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import UInt8Array
from thinmaps.codecs.steps import ONE, fit_steps
from thinmaps.codecs.transform import WIDEST, Transform
from thinmaps.codecs.transform_fit import (
    Basis,
    BlockShape,
    Float64Array,
    assembled,
    blocks_of,
    check_samples,
)
from thinmaps.types import MapSpec

LARGEST = 255


def dct_matrix(length: int) -> Float64Array:
    """The orthonormal DCT-II: frequency k of x is row k times x.

    >>> dct_matrix(2).round(3).tolist()
    [[0.707, 0.707], [0.707, -0.707]]
    """
    k, i = np.arange(length)[:, None], np.arange(length)
    rows = np.cos(np.pi * k * (2 * i + 1) / (2 * length)) * np.sqrt(2 / length)
    rows[0] /= np.sqrt(2)
    return np.asarray(rows, np.float64)


def fit_dct(
    spec: MapSpec,
    samples: UInt8Array,
    group: int,
    weights: NDArray[np.floating] | None,
    step_and_keep: tuple[int, int],
) -> Transform:
    """DCTs of `group` channels side by side, of which `keep` percent of the frequencies stay.

    A step, in sixteenths of a byte, is that of the geometric mean of all frequencies, as
    `fit_steps` says. What stays has most felt energy.
    """
    check_samples(spec, samples)
    step, keep = step_and_keep
    blocks = blocks_of(samples, BlockShape(1, 1, group))[:, 0].astype(np.float64)
    blocks -= spec.zero_point
    starts = range(0, spec.channels, group)
    matrices = [dct_matrix(min(group, spec.channels - first)) for first in starts]
    one_each = np.ones(spec.channels)
    felt = _along(matrices, one_each if weights is None else weights.astype(np.float64))
    steps = fit_steps(step, WIDEST, spec.channels, None if weights is None else felt)
    assert steps is not None, "step is not 0"
    in_bytes = np.broadcast_to(steps.step / ONE, spec.channels)
    parts = [slice(first, first + len(m)) for first, m in zip(starts, matrices, strict=True)]
    energies = [
        felt[part] * np.square(blocks[:, part] @ matrix.T).sum(axis=0)
        for part, matrix in zip(parts, matrices, strict=True)
    ]
    kept = np.zeros(spec.channels, np.uint8)
    count = max(1, round(spec.channels * keep / 100))
    kept[np.argsort(-np.concatenate(energies), kind="stable")[:count]] = WIDEST
    bases = list(
        starmap(
            lambda matrix, part: _basis(matrix, in_bytes[part], spec.zero_point),
            zip(matrices, parts, strict=True),
        )
    )
    return assembled(BlockShape(1, 1, group), bases, [kept[part] for part in parts])


def _along(matrices: list[Float64Array], weights: Float64Array) -> Float64Array:
    """What a squared error of each frequency costs, from what it costs in each channel."""
    first, found = 0, []
    for matrix in matrices:
        found.append(np.square(matrix) @ weights[first : first + len(matrix)])
        first += len(matrix)
    return np.concatenate(found)


def _basis(matrix: Float64Array, step: Float64Array, zero_point: int) -> Basis:
    """The DCT with steps that 8 bits suffice for, and zero where the range asks for it."""
    up, down = np.maximum(matrix, 0).sum(axis=1), -np.minimum(matrix, 0).sum(axis=1)
    below = up * zero_point + down * (255 - zero_point)
    span = 255 * (up + down)
    wide_enough = np.maximum(step, span / LARGEST)
    zero_code = np.rint(below / span * LARGEST).astype(np.uint8)
    by_width = (len(matrix), WIDEST + 1)
    return Basis(
        matrix.T,
        matrix.T,
        np.zeros(by_width),
        np.broadcast_to(wide_enough[:, None], by_width),
        np.broadcast_to(zero_code[:, None], by_width),
    )


def order_by_likeness(spec: MapSpec, samples: UInt8Array) -> NDArray[np.int64]:
    """Channels one after the other, each the one most like the one before it.

    Alike is what has the largest cosine over all positions, about the zero point. Greedy, from the
    channel of most energy: the best order is a travelling salesman's.
    """
    check_samples(spec, samples)
    blocks = blocks_of(samples, BlockShape())[:, 0].astype(np.float64) - spec.zero_point
    lengths = np.sqrt(np.square(blocks).sum(axis=0))
    alike = blocks.T @ blocks / np.maximum(np.outer(lengths, lengths), 1e-9)
    order = [int(lengths.argmax())]
    free = np.ones(spec.channels, bool)
    for _ in range(spec.channels - 1):
        free[order[-1]] = False
        order.append(int(np.where(free, alike[order[-1]], -2.0).argmax()))
    return np.array(order, np.int64)
