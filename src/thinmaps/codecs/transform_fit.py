# SPDX-License-Identifier: Apache-2.0
"""The transform that loses least on calibration pictures: basis, quantisers and bits.

Source
    The Karhunen-Loeve transform diagonalises the second moments, which is optimal for Gaussian
    sources at high rates (Goyal, "Theoretical Foundations of Transform Coding", IEEE Signal
    Processing Magazine, 2001); for feature maps Chmiel et al., "Feature Map Transform Coding for
    Energy-Efficient CNN Inference", 2019, arXiv:1905.10830, over channels. Ours: the metric of the
    outputs' sensitivity, blocks of pixels and channels, and moments about the zero point, which
    stays exact.

What int8 costs. On maps of ResNet-20 at 4 bits per element matrices of int8 lose 1 to 27 % more
mean squared error than exact ones, most where a map is smooth and little is lost at all; at 2 bits
2 % at most. The way back is the inverse: regression on the codes, tried, gained nothing.

Cost: of each group of n elements n**3 and samples * n**2 operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import UInt8Array
from thinmaps.codecs.bit_allocation import allocate, segments, shares
from thinmaps.codecs.transform import MOST_SHIFT, WIDEST, Transform
from thinmaps.errors import BadArgument, BadShape
from thinmaps.types import MapSpec

Float64Array = NDArray[np.float64]
# (channels,), or one matrix per group of channels over the elements of a block.
Weights = NDArray[np.floating] | Sequence[NDArray[np.floating]]

MOST_BLOCKS = 4096  # of the samples; more of them change little
# A direction that is not felt would have endless errors: the least is this share of the mean.
LEAST_FELT = 1e-3
# What the samples did not show in any direction is taken to be this share of the mean moment.
UNSEEN = 1e-3

REACH = 10.0  # of the histograms of components, in root mean squares
BINS = 1001
BIN = 2 * REACH / (BINS - 1)
STEPS_PER_WIDTH = 16
PLACES_OF_ZERO = 8


@dataclass(frozen=True)
class BlockShape:
    """What is transformed together."""

    rows: int = 1
    columns: int = 1
    channels: int = 16


@dataclass(frozen=True, eq=False)
class Basis:
    """One group: the directions in which its blocks have the most of what is felt.

    `forward` (elements, components) makes components of a block, `back` the reverse; `losses`
    (components, 9) is what a component of that many bits loses, `step` and `zero_code` its best
    quantiser.
    """

    forward: Float64Array
    back: Float64Array
    losses: Float64Array
    step: Float64Array
    zero_code: UInt8Array


def bases_of(
    spec: MapSpec, samples: UInt8Array, shape: BlockShape, weights: Weights | None
) -> list[Basis]:
    """The directions of each group of channels, by what the output feels.

    Args:
        spec: the map, of which channels and zero point count.
        samples: (n, rows, width, channels); without any, all directions are alike.
        shape: rows, columns and channels of a block.
        weights: what a squared error costs: per channel, or a matrix per group (`moments` of
            `calibrate/sensitivity.py`); None for all the same.

    Raises:
        BadArgument, BadShape: samples or weights that do not fit the map.
    """
    check_samples(spec, samples)
    felt = _metrics(spec.channels, shape, weights)
    blocks = blocks_of(samples, shape).astype(np.float64) - spec.zero_point
    if not len(blocks):
        blocks = np.zeros((1, *blocks.shape[1:]))
    found = []
    for place, metric in enumerate(felt):
        first = place * shape.channels
        part = blocks[..., first : first + shape.channels].reshape(len(blocks), -1)
        found.append(_basis(part, metric))
    return found


def transform_of(shape: BlockShape, bases: Sequence[Basis], bits: int) -> Transform:
    """The integers of all groups, of `bits` bits (1 or more) per block, where they save most."""
    losses = np.concatenate([basis.losses for basis in bases])
    width = allocate(losses, np.ones(len(losses), np.int64), bits)
    last = np.cumsum([len(basis.losses) for basis in bases])[:-1]
    return assembled(shape, bases, np.split(width, last))


def block_bytes_together(
    bases: Mapping[str, Sequence[Basis]], blocks: Mapping[str, int], mean_bytes: float
) -> dict[str, int]:
    """Bytes of a block of each map, of `mean_bytes` in the mean over all blocks of all maps.

    Bytes go to the maps where they save most of what the output feels. Errors are taken to be
    those of bases that were found with weights in one unit for all maps.

    Args:
        bases: of each map, by its name.
        blocks: how many of them each map has.
        mean_bytes: 1 or more.

    Raises:
        BadArgument: less than a byte.
    """
    if mean_bytes < 1:
        raise BadArgument(f"a block of a map has a byte at least, got a mean of {mean_bytes}")
    counts = np.array([blocks[name] for name in bases], np.int64)
    most = max(sum(len(basis.losses) for basis in each) for each in bases.values())
    curves = np.stack([_losses_by_bytes(each, most) for each in bases.values()])
    spare = int((mean_bytes - 1) * counts.sum())
    # Every block has its first byte before the shares of the others are found.
    more = shares(curves[:, 1:] * counts[:, None], counts, spare)
    return {name: 1 + int(added) for name, added in zip(bases, more, strict=True)}


def _losses_by_bytes(bases: Sequence[Basis], most: int) -> Float64Array:
    """What a block of a map loses with 0, 1, .. `most` bytes."""
    losses = np.concatenate([basis.losses for basis in bases])
    saved = [
        (float(losses[component, start] - losses[component, stop]), stop - start)
        for component, start, stop in segments(losses, np.ones(len(losses), np.int64))
    ]
    spent = np.cumsum([0, *(bits for _, bits in saved)])
    left = losses[:, 0].sum() - np.cumsum([0.0, *(gain for gain, _ in saved)])
    at = 8 * np.arange(most + 1)
    return np.asarray(np.interp(at, spent, left), np.float64)


def check_samples(spec: MapSpec, samples: UInt8Array) -> None:
    """Refuse samples that are not uint8 (n, rows, width, channels)."""
    if samples.dtype != np.uint8 or samples.ndim != 4 or samples.shape[-1] != spec.channels:
        raise BadShape(
            f"a transform is fitted on uint8 (n, rows, w, {spec.channels}), "
            f"got {samples.dtype} {samples.shape}"
        )


def blocks_of(samples: UInt8Array, shape: BlockShape) -> UInt8Array:
    """At most `MOST_BLOCKS` blocks (n, pixels, channels) of the samples, spread evenly."""
    _, high, wide, channels = samples.shape
    edges = ((0, 0), (0, -high % shape.rows), (0, -wide % shape.columns), (0, 0))
    padded = np.pad(samples, edges, mode="edge")
    down, across = padded.shape[1] // shape.rows, padded.shape[2] // shape.columns
    split = padded.reshape(-1, down, shape.rows, across, shape.columns, channels)
    blocks = split.transpose(0, 1, 3, 2, 4, 5).reshape(-1, shape.rows * shape.columns, channels)
    chosen = np.linspace(0, len(blocks) - 1, min(len(blocks), MOST_BLOCKS)).astype(np.int64)
    return np.asarray(blocks[chosen], np.uint8)


def _metrics(channels: int, shape: BlockShape, weights: Weights | None) -> list[Float64Array]:
    """A symmetric matrix per group, none of whose eigenvalues is next to 0."""
    pixels = shape.rows * shape.columns
    counts = [min(shape.channels, channels - f) for f in range(0, channels, shape.channels)]
    if weights is not None and np.ndim(weights[0]) == 2:
        found = [np.asarray(matrix, np.float64) for matrix in weights]
    else:
        diagonal = np.ones(channels) if weights is None else np.asarray(weights, np.float64)
        if diagonal.shape != (channels,) or not np.isfinite(diagonal).all() or diagonal.min() < 0:
            raise BadArgument(
                f"weights must be ({channels},), finite and not negative, or a matrix per group, "
                f"got {diagonal.shape}"
            )
        parts = np.split(diagonal, range(shape.channels, channels, shape.channels))
        found = [np.diag(np.tile(part, pixels)) for part in parts]
    needed = [(count * pixels, count * pixels) for count in counts]
    if [m.shape for m in found] != needed or not all(np.isfinite(m).all() for m in found):
        raise BadArgument(
            f"weights must be a finite matrix per group, of shapes {needed}, "
            f"got {[m.shape for m in found]}"
        )
    mean = float(sum(np.trace(matrix) for matrix in found)) / (channels * pixels)
    floor = LEAST_FELT * mean if mean > 0 else 1.0
    return [matrix + floor * np.eye(len(matrix)) for matrix in found]


def _basis(blocks: Float64Array, metric: Float64Array) -> Basis:
    """Directions of a group, the strongest first, with the quantisers of each."""
    eigenvalues, axes = np.linalg.eigh((metric + metric.T) / 2)
    roots = np.sqrt(np.maximum(eigenvalues, eigenvalues.max() * 1e-9))
    to_felt, from_felt = (axes * roots) @ axes.T, (axes / roots) @ axes.T
    moment = blocks.T @ blocks / len(blocks)
    moment += np.eye(len(moment)) * max(UNSEEN * np.trace(moment) / len(moment), 1e-3)
    strength, directions = np.linalg.eigh(to_felt @ moment @ to_felt)
    order = np.argsort(-strength, kind="stable")
    strength, directions = strength[order], directions[:, order]
    forward, back = to_felt @ directions, from_felt @ directions
    spread = np.sqrt(np.maximum(strength, strength.max() * 1e-12))
    losses, step, zero_code = _quantisers(blocks @ forward / spread)
    return Basis(forward, back, losses * spread[:, None] ** 2, step * spread[:, None], zero_code)


def _quantisers(components: Float64Array) -> tuple[Float64Array, Float64Array, UInt8Array]:
    """Mean squared error, step and zero code of each component (n, components), by width."""
    count = components.shape[1]
    place = np.rint((components / REACH + 1) * (BINS // 2)).clip(0, BINS - 1).astype(np.int64)
    place += np.arange(count) * BINS
    histograms = np.bincount(place.ravel(), minlength=count * BINS).reshape(count, BINS)
    shares = histograms / len(components)
    losses = np.zeros((count, WIDEST + 1))
    step = np.ones(losses.shape)
    zero_code = np.zeros(losses.shape, np.uint8)
    losses[:, 0] = shares @ _centres() ** 2
    for width in range(1, WIDEST + 1):
        steps, zero_codes, errors = _candidates(width)
        lost = shares @ errors
        best = lost.argmin(axis=1)
        losses[:, width] = lost[np.arange(count), best]
        step[:, width], zero_code[:, width] = steps[best], zero_codes[best]
    return losses, step, zero_code


def _centres() -> Float64Array:
    """The values that the bins of a histogram stand for, in root mean squares."""
    return np.linspace(-REACH, REACH, BINS)


@cache
def _candidates(width: int) -> tuple[Float64Array, UInt8Array, Float64Array]:
    """Steps and zero codes to choose from, and the squared error of each bin (bins, candidates)."""
    largest = (1 << width) - 1
    zeros = np.unique(np.rint(np.linspace(0, largest, PLACES_OF_ZERO + 1))).astype(np.int64)
    steps = np.geomspace(1.2, 2 * REACH, STEPS_PER_WIDTH) / largest
    step, zero = (grid.ravel() for grid in np.meshgrid(steps, zeros))
    x = _centres()[:, None]
    level = np.floor(x / step + 0.5).clip(-zero, largest - zero) * step
    # Within a bin values are spread, and within a step that is narrower than a bin.
    missed = np.where(step < BIN, np.maximum(np.abs(x - level) - BIN, 0), x - level)
    errors: Float64Array = missed**2 + np.minimum(step, BIN) ** 2 / 12
    return step.astype(np.float64), zero.astype(np.uint8), errors


def assembled(shape: BlockShape, bases: Sequence[Basis], widths: Sequence[UInt8Array]) -> Transform:
    """The integers of all groups; components of no bits are left out."""
    parts = [_integers(basis, width) for basis, width in zip(bases, widths, strict=True)]
    pixels = shape.rows * shape.columns
    synthesis, synthesis_shift = [], []
    for basis, part in zip(bases, parts, strict=True):
        matrix, shift = _way_back(basis, part, pixels)
        synthesis.append(matrix.ravel())
        synthesis_shift.append(shift)
    return Transform(
        rows=shape.rows,
        columns=shape.columns,
        group=shape.channels,
        counts=np.array([len(part.kept) for part in parts], np.int32),
        width=np.concatenate([part.width for part in parts]),
        zero_code=np.concatenate([part.zero_code for part in parts]),
        analysis=np.concatenate([part.matrix.ravel() for part in parts]),
        analysis_shift=np.concatenate([part.shift for part in parts]),
        synthesis=np.concatenate(synthesis),
        synthesis_shift=np.concatenate(synthesis_shift),
    )


@dataclass(frozen=True, eq=False)
class Analysis:
    """The way to the codes of one group: which components it keeps, and their integers."""

    kept: NDArray[np.int64]
    width: UInt8Array
    zero_code: UInt8Array
    matrix: NDArray[np.int8]  # (kept, elements)
    shift: UInt8Array


def _integers(basis: Basis, width: UInt8Array) -> Analysis:
    """Rows scaled so that a step is a power of two, as large as int8 allows."""
    kept = np.flatnonzero(width)
    rows = basis.forward[:, kept].T / basis.step[kept, width[kept]][:, None]
    shift = _shift(np.abs(rows).max(axis=1, initial=0))
    matrix = np.rint(rows * 2.0 ** shift[:, None]).clip(-127, 127).astype(np.int8)
    return Analysis(kept, width[kept], basis.zero_code[kept, width[kept]], matrix, shift)


def _way_back(basis: Basis, part: Analysis, pixels: int) -> tuple[NDArray[np.int8], UInt8Array]:
    """The matrix (elements, kept) that restores blocks from codes, and a shift per channel."""
    matrix = basis.back[:, part.kept] * basis.step[part.kept, part.width]
    channels = len(matrix) // pixels
    shift = _shift(np.abs(matrix).max(axis=1, initial=0).reshape(pixels, channels).max(axis=0))
    scaled = matrix * 2.0 ** np.tile(shift, pixels)[:, None]
    return np.rint(scaled).clip(-127, 127).astype(np.int8), shift


def _shift(largest: Float64Array) -> UInt8Array:
    """The shift that brings `largest` next to 127."""
    fitting = np.floor(np.log2(127 / np.maximum(largest, 2.0**-MOST_SHIFT)))
    return np.asarray(fitting.clip(0, MOST_SHIFT), np.uint8)
