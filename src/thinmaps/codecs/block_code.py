# SPDX-License-Identifier: Apache-2.0
"""Block code: blocks of pixels and channels to a few bits and back, both ways learned. Fixed rate.

Source
    Learned analysis and synthesis transforms around a quantiser: Balle et al., "End-to-end
    Optimized Image Compression", 2017, arXiv:1611.01704; for feature maps, with bits in place of
    codes, Gudovskiy et al., "DNN Feature Map Compression using Learned Representation over GF(2)",
    2018, arXiv:1808.05285. Ours: linear both ways, blocks of 2 x 2 pixels and a group of channels,
    a width of 0 to 8 bits for each component, integers throughout (transform.py).

It differs from `klt` in what is free: both matrices, where each component's codes begin
(`analysis_offset`) and which place among them restores nothing (`synthesis_centre`, in quarters of
a code). So a component of one bit may say which of two patterns a block has; zero points need not
come back exactly. Behind a ReLU the clamp at the zero point is the ReLU of what is restored.

`fit` does not learn: it gives the code that `klt` would fit, which training starts from
(`thinmaps.learn.surrogates.block_code`), so rate control never tries it by itself.

Size and payload are those of packed_blocks.py. The matrices belong to the plan, not to the payload:
two bytes per element and component of a group, and eight per component.

Cost: as many multiplications per element as a group has components, each way.

The native twin is block_code.cc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import UInt8Array, named_preset
from thinmaps.codecs.packed_blocks import PackedBlocks
from thinmaps.codecs.transform import QUARTERS, BlockTransform, Int32Array, Transform
from thinmaps.codecs.transform_fit import Weights, bases_of
from thinmaps.errors import BadArgument
from thinmaps.types import MapSpec

MOST_OFFSET = 1 << 23  # with a sum of 128 products of bytes it stays below 2**24


class Preset(NamedTuple):
    """Options of `fit` that go together, and whether time allows them: `recommended` ones take at
    most as long as the int8 convolutions between which the map lies, by `make bench-bits`."""

    rate: int
    group: int
    recommended: bool


# Named by how many times smaller than uint8 a map gets.
PRESETS = {
    "3x": Preset(42, 8, recommended=True),
    "4x": Preset(32, 8, recommended=True),
    "5x": Preset(25, 8, recommended=True),
}


def _zero() -> Int32Array:
    return np.zeros(1, np.int32)


@dataclass(frozen=True, eq=False)
class FreeTransform(BlockTransform):
    """A transform with an offset before the shift and a centre among the codes per component."""

    analysis_offset: NDArray[np.int32] = field(default_factory=_zero)
    synthesis_centre: NDArray[np.int32] = field(default_factory=_zero)

    @classmethod
    def starting_from(cls, transform: Transform) -> FreeTransform:
        """The same codes and the same values."""
        shared = {each.name: getattr(transform, each.name) for each in fields(BlockTransform)}
        return cls(**shared, analysis_offset=transform.offset, synthesis_centre=transform.centre)

    def _check_tables(self) -> None:
        super()._check_tables()
        count, farthest = self.components, QUARTERS * 255
        self._check_table("analysis_offset", np.int32, count, (-MOST_OFFSET, MOST_OFFSET))
        self._check_table("synthesis_centre", np.int32, count, (0, farthest))
        if np.any(self.synthesis_centre > QUARTERS * self.largest):
            raise BadArgument("synthesis_centre must lie among the codes of the component's width")

    @property
    def offset(self) -> Int32Array:
        """As the table has it."""
        return self.analysis_offset

    @property
    def centre(self) -> Int32Array:
        """As the table has it."""
        return self.synthesis_centre

    def lowered(self, by: Int32Array) -> Mapping[str, NDArray[Any]]:
        """Offset and centre, each in its own units."""
        offset = self.analysis_offset - (by << self.analysis_shift.astype(np.int32))
        return {
            "analysis_offset": offset.astype(np.int32),
            "synthesis_centre": (self.synthesis_centre - QUARTERS * by).astype(np.int32),
        }


@dataclass(frozen=True, eq=False)
class BlockCode(PackedBlocks):
    """Components of `transform`, each in the bits of its width."""

    id: ClassVar[str] = "block_code"
    settings: ClassVar[tuple[Mapping[str, int], ...]] = ({}, {"rate": 32, "group": 8})
    menu: ClassVar[tuple[Mapping[str, int], ...]] = ()

    transform: FreeTransform = field(default_factory=FreeTransform)

    @classmethod
    def fit(
        cls,
        spec: MapSpec,
        samples: UInt8Array,
        weights: Weights | None = None,
        preset: str = "",
        **options: Any,
    ) -> BlockCode:
        """The code that training starts from: components of what the output feels.

        Options: `rate` in sixteenths of a bit per element (1 to 128), `block` (1 or 2 pixels each
        way; where units have one row, blocks have one), `group` (channels of a block, 1 to 32),
        `unit_rows`, which is 2 where it is not given; or a `preset` of `PRESETS`, which gives the
        first and the third, for all channels. Samples are (n, rows, width, channels).
        `weights` are what a squared error costs: per channel (channels,), or a matrix per group
        over the elements of a block; without them all cost the same.
        """
        if preset:
            found = named_preset(PRESETS, preset, cls.id)
            options = {**options, "rate": found.rate, "group": found.group}
        bases = partial(bases_of, spec, samples, weights=weights)
        unit_rows, transform = cls.fitted(spec, bases, {"unit_rows": 2, **options})
        return cls(unit_rows, FreeTransform.starting_from(transform))

    @property
    def blocks(self) -> BlockTransform:
        """The transform."""
        return self.transform
