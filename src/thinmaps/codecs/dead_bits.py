# SPDX-License-Identifier: Apache-2.0
"""Stored bits that never change are taken out of a code, which restores what was seen as before.

No codec by itself: `DeadBits` watches maps that a `gf2`, `klt` or `block_code` encodes, and makes a
code of the same format that stores less. Ours. Constants move to where the format has a place for
them, in integers, so that the maps that were watched come back bit for bit; other maps may not.

    gf2     A stored bit of one value leaves the last layer that projects and the first that
            restores. A 1 added its weights to the sums there: thresholds get less by these. Where
            no layer restores, one that passes the planes on takes the constants.
    blocks  A component whose codes keep within 2**w values, its centre among them, begins its codes
            there (offset and centre get less by as much) and has width w. With w = 0 it restores
            nothing but zero points, and leaves both matrices.

What stays stored, because the format has no place for its constant
    gf2     a 1 whose weights of 3 x 3 add up differently in different pixels; the last bit of a
            group; and as every group stores as many, what a group has more than another
    blocks  codes between those seen and the centre: no bias per element would hold their constant

Rows and blocks are whole bytes. A code whose payload would not get smaller stays as it is, because
other maps would be bent for nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import UInt8Array
from thinmaps.codecs.bit_layers import EXACT, BitLayer
from thinmaps.codecs.gf2 import Gf2
from thinmaps.codecs.native import fastest
from thinmaps.codecs.packed_blocks import PackedBlocks
from thinmaps.codecs.transform import QUARTERS, BlockTransform
from thinmaps.types import MapSpec

Prunable = Gf2 | PackedBlocks

# Taps that restored pixels add up along an axis, by kernel: of 3 with stride 2 the middle one in
# even rows, the outer ones in odd rows, of which the last may lack the first tap.
ADDED_TAPS = {
    1: np.ones((1, 1), np.int32),
    3: np.array([[0, 1, 0], [1, 0, 1], [0, 0, 1]], np.int32),
}


class DeadBits:
    """Watches what `codec` stores; `pruned` is the code without what never changed."""

    def __init__(self, codec: Prunable) -> None:
        self.codec = codec
        self._lowest: UInt8Array | None = None
        self._highest: UInt8Array | None = None

    def watch(self, values: UInt8Array, spec: MapSpec) -> None:
        """Encode a map (h, w, c) of `spec`, unit by unit. Costs the encoding and a pass over it."""
        able = fastest(self.codec)
        for first in range(0, len(values), self.codec.unit_rows):
            rows = values[first : first + self.codec.unit_rows]
            found = self.codec.stored_numbers(able.encode_unit(rows, spec), spec, len(rows))
            low, high = found.min(axis=(0, 1)), found.max(axis=(0, 1))
            if self._lowest is not None and self._highest is not None:
                low, high = np.minimum(low, self._lowest), np.maximum(high, self._highest)
            self._lowest, self._highest = low, high

    def pruned(self, spec: MapSpec) -> tuple[Prunable, int]:
        """The code for maps of `spec`, and how many bits it has less, per stored pixel or block.

        The very codec and 0 where nothing was watched or no payload gets smaller.
        """
        if self._lowest is None or self._highest is None:
            return self.codec, 0
        made = _without(self.codec, self._lowest, self._highest)
        if made.max_bytes(spec) == self.codec.max_bytes(spec):
            return self.codec, 0
        return made, _stored_bits(self.codec) - _stored_bits(made)


def _stored_bits(codec: Prunable) -> int:
    return codec.stored if isinstance(codec, Gf2) else codec.block_bits


def _without(codec: Prunable, lowest: UInt8Array, highest: UInt8Array) -> Prunable:
    """The code for numbers in `lowest` to `highest`."""
    if isinstance(codec, Gf2):
        return _without_bits(codec, lowest == highest, highest > 0)
    changes: dict[str, Any] = {"transform": _narrowed(codec.blocks, lowest, highest)}
    return replace(codec, **changes)


def _without_bits(codec: Gf2, constant: NDArray[np.bool_], ones: NDArray[np.bool_]) -> Gf2:
    """Constant bits taken out, as many of every group."""
    first, last = codec.restore[0] if codec.restore else _passing(codec), codec.project[-1]
    shape = (codec.groups, first.group_outputs, first.group_inputs, first.kernel, first.kernel)
    weights, ones = first.weights.reshape(shape), ones.reshape(codec.groups, -1)
    added, is_even = _added(weights)
    taken = _equally_many(constant.reshape(ones.shape) & (~ones | is_even))
    folded = first.threshold - (added * (taken & ones)[:, None]).sum(axis=2).ravel()
    # Of at most `MOST_WORDS` words sums stay below 2**24 by far: out there no threshold is met.
    threshold = folded.clip(1 - EXACT, EXACT - 1).astype(np.int32)
    kept = ~taken
    left = [group[:, own] for group, own in zip(weights, kept, strict=True)]
    restore = BitLayer(codec.groups, np.concatenate(left), threshold)
    project = BitLayer(codec.groups, last.weights[kept.ravel()], last.threshold[kept.ravel()])
    return replace(
        codec,
        project=(*codec.project[:-1], project),
        restore=(restore, *codec.restore[1:]),
    )


def _passing(codec: Gf2) -> BitLayer:
    """A layer that passes stored bits on."""
    own = np.eye(codec.stored // codec.groups, dtype=np.int8)[..., None, None]
    return BitLayer(
        codec.groups, np.tile(own, (codec.groups, 1, 1, 1)), np.ones(codec.stored, np.int32)
    )


def _added(weights: NDArray[np.int8]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """What an input of 1 everywhere adds to outputs (groups, outputs, inputs), and of which inputs
    (groups, inputs) that is the same in every pixel of a map of any size."""
    taps = ADDED_TAPS[weights.shape[-1]]
    places: NDArray[np.int32] = taps @ weights.astype(np.int32) @ taps.T
    added = places[..., 0, 0]
    return added, (places == added[..., None, None]).all(axis=(1, 3, 4))


def _equally_many(dead: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The first of every group (groups, bits), as many as all have, and never all of its bits."""
    most = min(int(dead.sum(axis=1).min()), dead.shape[1] - 1)
    return np.asarray(dead & (dead.cumsum(axis=1) <= most))


def _narrowed(transform: BlockTransform, lowest: UInt8Array, highest: UInt8Array) -> BlockTransform:
    """Components of the widths that `lowest` to `highest` need; those of width 0 are left out."""
    bottom = np.minimum(lowest, transform.centre // QUARTERS)
    top = np.maximum(highest, -(-transform.centre // QUARTERS))
    width = np.ceil(np.log2(top - bottom + 1)).astype(np.int32)
    if not width.any():  # a block stores one bit at least
        width[0] = 1
    # The largest code stays the largest: what was clamped there is clamped to the same. An offset
    # stays within its limits: it and a sum below 2**22 came to more than is taken off.
    by = np.minimum(bottom, transform.largest + 1 - (1 << width))
    kept = width > 0
    groups = [(group, kept[group.components]) for group in transform.groups()]
    per_component = {
        "width": width.astype(np.uint8),
        "analysis_shift": transform.analysis_shift,
        **transform.lowered(by),
    }
    return replace(
        transform,
        counts=np.array([own.sum() for _, own in groups], np.int32),
        analysis=np.concatenate([group.analysis[own].ravel() for group, own in groups]),
        synthesis=np.concatenate([group.synthesis[:, own].ravel() for group, own in groups]),
        **{name: table[kept] for name, table in per_component.items()},
    )
