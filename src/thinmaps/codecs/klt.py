# SPDX-License-Identifier: Apache-2.0
"""KLT codec: blocks of pixels and channels, rotated to where few bits say much. Lossy, fixed rate.

Source
    Chmiel et al., "Feature Map Transform Coding for Energy-Efficient CNN Inference", 2019,
    arXiv:1905.10830: principal components over channels, quantised. Ours: blocks of 2 x 2 pixels
    and a group of channels, components of what the output feels, a width of 0 to 8 bits for each
    (transform_fit.py), integers throughout (transform.py), a fixed rate instead of Huffman codes.

Size and payload are those of packed_blocks.py. The matrices belong to the plan, not to the payload:
two bytes per element and component of a group.

Cost: as many multiplications per element as a group has components, each way.

The native twin is klt.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, ClassVar

from thinmaps.codecs.base import UInt8Array
from thinmaps.codecs.packed_blocks import PackedBlocks
from thinmaps.codecs.transform import BlockTransform, Transform
from thinmaps.codecs.transform_fit import Weights, bases_of
from thinmaps.types import MapSpec


@dataclass(frozen=True, eq=False)
class Klt(PackedBlocks):
    """Components of `transform`, each in the bits of its width."""

    id: ClassVar[str] = "klt"
    settings: ClassVar[tuple[Mapping[str, int], ...]] = ({}, {"rate": 32, "block": 1})
    menu: ClassVar[tuple[Mapping[str, int], ...]] = tuple(
        {"rate": rate} for rate in (16, 24, 32, 40, 48, 56)
    )

    transform: Transform = field(default_factory=Transform)

    @classmethod
    def fit(
        cls,
        spec: MapSpec,
        samples: UInt8Array,
        weights: Weights | None = None,
        **options: Any,
    ) -> Klt:
        """The transform that loses least of what the output feels.

        Options: `rate` in sixteenths of a bit per element (1 to 128), `block` (1 or 2 pixels each
        way; where units have one row, blocks have one), `group` (channels of a block, 1 to 32),
        `unit_rows`. Samples are (n, rows, width, channels). `weights` are what a squared error
        costs: per channel (channels,), or a matrix per group over the elements of a block; without
        them all cost the same.
        """
        return cls.fitter(spec, samples, weights)(**options)

    @classmethod
    def fitter(
        cls, spec: MapSpec, samples: UInt8Array, weights: Weights | None = None
    ) -> Callable[..., Klt]:
        """As `fit`; all rates of one shape of blocks share its components, which take the time."""
        bases = cache(partial(bases_of, spec, samples, weights=weights))

        def fit(**options: Any) -> Klt:
            return cls(*cls.fitted(spec, bases, options))

        return fit

    @property
    def blocks(self) -> BlockTransform:
        """The transform."""
        return self.transform
