# SPDX-License-Identifier: Apache-2.0
"""Where learning starts: the identity, or bits that say where a pixel lies.

The identity keeps the highest planes, with windows of 3 x 3 and stride 2 of one pixel of four. The
other start, for such windows, spends the same stored bits of a channel and block of 2 x 2 pixels on
thresholds, found by Lloyd's rule (1957) on calibration maps:

    mean      all bits on the block's mean, which every pixel gets back
    pixels    one to three bits on each pixel, whose ranges share their lowest value

Each channel takes what restores it better. Both are exact in the codec's own arithmetic: a byte is
a sum of planes with powers of two as weights, so `T_i = [byte >= t_i]` is a layer's output; and
whatever plane b of the restored byte is in each range, v_0 to v_m, a threshold of a sum makes it:

    bit = [ sum over i of (b(v_i) - b(v_{i-1})) T_i  >=  1 - b(v_0) ]

No sum goes over channels: layers have as many groups as the map has channels. That is a sixteenth
of the authors' dense layers, with zeros in all other places, at the same stored bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.bit_layers import BitLayer
from thinmaps.codecs.gf2 import Gf2
from thinmaps.codecs.native import fastest
from thinmaps.types import MapSpec

Bytes = NDArray[np.uint8]

PLANES = 9
BLOCK = ((0, 0), (0, 1), (1, 0), (1, 1))  # its pixels; the window begins a pixel before
KINDS = ("mean", "pixels")
ROUNDS = 20
SAMPLES_TO_FIT = 48
SAMPLES_TO_CHOOSE = 12


def identity(spec: MapSpec, preset: str) -> Gf2:
    """The preset as it begins, as layers of one group per channel: the same code, sooner done."""
    one = replace(spec, channels=1)
    empty = np.zeros((0, *one.shape), np.uint8)
    made = Gf2.fit(one, empty, preset=preset, unit_rows=spec.height)
    project, restore = (
        tuple(
            BitLayer(
                spec.channels,
                np.tile(layer.weights, (spec.channels, 1, 1, 1)),
                np.tile(layer.threshold, spec.channels),
            )
            for layer in layers
        )
        for layers in (made.project, made.restore)
    )
    return replace(made, groups=spec.channels, project=project, restore=restore)


class Ranges(NamedTuple):
    """Bytes at which ranges begin, but for the first, and what each becomes."""

    thresholds: NDArray[np.float64]
    values: NDArray[np.int64]


def lloyd(samples: NDArray[np.number], count: int, lowest: int | None = None) -> Ranges:
    """`count` ranges with little squared error; the first becomes `lowest`, if that is given."""
    ordered = np.sort(samples.astype(np.float64).ravel())
    thresholds = np.quantile(ordered, np.linspace(0, 1, count + 1)[1:-1])
    centres = np.zeros(count)
    for _ in range(ROUNDS):
        place = np.searchsorted(thresholds, ordered, side="right")
        hits = np.bincount(place, minlength=count)
        sums = np.bincount(place, ordered, minlength=count)
        filled = np.append(thresholds, ordered[-1])
        centres = np.where(hits > 0, sums / np.maximum(hits, 1), filled)
        if lowest is not None:
            centres[0] = lowest
        thresholds = np.maximum.accumulate((centres[1:] + centres[:-1]) / 2)
    return Ranges(thresholds, np.rint(centres).astype(np.int64))


class _Channel:
    """The two layers of one channel, filled bit by bit."""

    def __init__(self, bits: int, lowest: int) -> None:
        self.project = np.zeros((bits, PLANES, 3, 3), np.int8)
        self.threshold = np.zeros(bits, np.int32)
        self.restore = np.zeros((PLANES, bits, 3, 3), np.int8)
        self.lowest = lowest
        self._bits = 0

    def watch(self, pixels: tuple[tuple[int, int], ...], ranges: Ranges) -> None:
        """The next bits compare the mean of `pixels` with thresholds; all of them get its range."""
        # Half of each plane's value: 127 bounds a weight, and the lowest plane says little.
        halves = np.array([0, *(1 << plane for plane in range(7)), 0], np.int8)
        for at, begin in enumerate(ranges.thresholds):
            step = planes_of(ranges.values[at + 1]) - planes_of(ranges.values[at])
            for row, column in pixels:
                self.project[self._bits, :, 1 + row, 1 + column] = halves
                self.restore[:, self._bits, 1 + row, 1 + column] = step
            self.threshold[self._bits] = np.ceil(begin * len(pixels) / 2)
            self._bits += 1

    @property
    def restore_threshold(self) -> NDArray[np.int32]:
        """Of each plane."""
        return (1 - planes_of(self.lowest)).astype(np.int32)


def planes_of(value: int | np.integer) -> NDArray[np.int8]:
    """The planes of a byte, lowest first.

    >>> planes_of(5).tolist()
    [1, 0, 1, 0, 0, 0, 0, 0, 0]
    """
    return (int(value) >> np.arange(PLANES) & 1).astype(np.int8)


def _channel(samples: Bytes, bits: int, kind: str) -> _Channel:
    """Layers for a channel's maps `(n, h, w)`, of even height and width."""
    if kind == "mean":
        n, h, w = samples.shape
        means = samples.reshape(n, h // 2, 2, w // 2, 2).mean(axis=(2, 4))
        found = lloyd(means, bits + 1)
        made = _Channel(bits, int(found.values[0]))
        made.watch(BLOCK, found)
        return made
    lowest = int(lloyd(samples, 1 + bits // len(BLOCK)).values[0])
    made = _Channel(bits, lowest)
    for at, (row, column) in enumerate(BLOCK):
        own = bits // len(BLOCK) + (at < bits % len(BLOCK))
        pixels = samples[:, row::2, column::2]
        made.watch(((row, column),), lloyd(pixels, 1 + own, lowest))
    return made


def _codec(spec: MapSpec, channels: list[_Channel]) -> Gf2:
    groups = spec.channels
    project = BitLayer(
        groups,
        np.concatenate([each.project for each in channels]),
        np.concatenate([each.threshold for each in channels]),
    )
    restore = BitLayer(
        groups,
        np.concatenate([each.restore for each in channels]),
        np.concatenate([each.restore_threshold for each in channels]),
    )
    return Gf2(spec.height, PLANES, groups, (project,), (restore,))


def _errors(codec: Gf2, spec: MapSpec, samples: Bytes) -> NDArray[np.float64]:
    """Squared error of each channel."""
    coder = fastest(codec)
    restored = np.stack(
        [coder.decode_unit(coder.encode_unit(x, spec), spec, spec.height) for x in samples]
    )
    return np.square(restored.astype(np.float64) - samples).sum(axis=(0, 1, 2))


def fitted(spec: MapSpec, samples: Bytes, bits: int, kinds: Sequence[str] = tuple(KINDS)) -> Gf2:
    """The codec for maps like `samples` (n, h, w, c), `bits` per channel and block."""
    to_fit, to_choose = samples[:SAMPLES_TO_FIT], samples[-SAMPLES_TO_CHOOSE:]
    made = {
        kind: [_channel(to_fit[..., c], bits, kind) for c in range(spec.channels)] for kind in kinds
    }
    errors = np.stack([_errors(_codec(spec, made[kind]), spec, to_choose) for kind in kinds])
    best = errors.argmin(axis=0)
    return _codec(spec, [made[kinds[kind]][c] for c, kind in enumerate(best)])
