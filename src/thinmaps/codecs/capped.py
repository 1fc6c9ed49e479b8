# SPDX-License-Identifier: Apache-2.0
"""Capped codec: blocks of one width, with coarser steps where a unit would pass its cap.

Source
    Coarser steps where the bits of a buffer run out are what video coders' rate control does. Ours:
    the cap holds for every unit by itself, so that what becomes of a map depends on that map's
    bytes and on nothing else: not on occupancy, schedule or threads.

A codec of variable rate reserves its worst case, and so never makes an arena smaller. This one
reserves a bound that most units keep, and says what happens to the others: each is encoded with the
first of `steps` whose payload fits, and the last of them always does. It counts as lossy.

Payload of a unit
    1 byte          k, which of `steps`
    the rest        what block_width.py writes with `steps[k]`

Size: with `raw` bytes of a unit as they are, and W(k) the worst case of `steps[k]`, the cap is
    1 + min(W(0), max(W(last), floor(raw * cap_share / 2**16)))
so a shorter last unit of a map has a smaller one.
Cost: that of block_width per step that is tried; one where nothing overflows.

What a unit is decoded to does not tell whether an earlier step would have fitted, so a decoder
takes every k: two payloads may restore the same rows.

Block_width is inside because its encoder stops wherever the room ends; those that ask for room for
their worst case first (rans, bitplane, zero_bitmap without steps) would never write the others.

The native twin is capped.cc.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import Codec, StandardOperator, UInt8Array
from thinmaps.codecs.block_width import BlockWidth
from thinmaps.codecs.native import fastest
from thinmaps.codecs.steps import IDENTITY, MOST, ONE, OPTION_ONE, Steps, fit_steps
from thinmaps.errors import BadArgument, CorruptPayload
from thinmaps.types import MapSpec

MOST_STEPS = 8
SHARE_ONE = 1 << 16  # a cap as long as the rows
COARSEST = MOST * OPTION_ONE // ONE


@dataclass(frozen=True, eq=False)
class Capped(Codec):
    """Units of at most a share of their raw bytes, with the first of `steps` that allows it."""

    id: ClassVar[str] = "capped"
    rate: ClassVar[Literal["fixed", "variable"]] = "variable"
    unique: ClassVar[bool] = False
    has_cap: ClassVar[bool] = True
    settings: ClassVar[tuple[Mapping[str, int], ...]] = ({}, {"step": 0, "permille": 500})
    menu: ClassVar[tuple[Mapping[str, int], ...]] = tuple(
        {"step": step, "permille": permille}
        for step in (18, 24, 32, 48, 64, 96)
        for permille in (900, 990)
    )

    steps: tuple[Steps, ...] = (IDENTITY,)
    cap_share: int = SHARE_ONE
    # Of the samples' units, in 1/65536: how many overflowed. Decoding does not need it.
    fitted_overflow: int | None = field(default=None, metadata={"optional": True})

    @classmethod
    def fit(
        cls,
        spec: MapSpec,
        samples: UInt8Array,
        weights: NDArray[np.floating] | None = None,
        **options: Any,
    ) -> Capped:
        """Options: `step` of most units, in sixteenths of a byte; `permille`; `unit_rows`.

        The cap is what `permille` units in a thousand of `samples` do not pass. Each further step
        is twice as coarse, until a worst case fits or there are 8. `weights` (channels,) shape them
        as `steps.fit_steps` says. Without samples the cap is the worst case, which nothing passes.
        Encodes the samples once.
        """
        settings = cls.checked_options(options, step=32, permille=990, unit_rows=1)
        permille, step, unit_rows = (settings[name] for name in ("permille", "step", "unit_rows"))
        if type(permille) is not int or not 1 <= permille <= 1000:
            raise BadArgument(f"{cls.id} needs permille to be an integer in 1..1000: {permille!r}")
        steps = [fit_steps(step, 8, spec.channels, weights) or IDENTITY]
        first = BlockWidth(unit_rows, steps[0])
        sizes = _sizes(first, spec, samples)
        share = _share_kept(sizes, spec, permille)
        rows = min(unit_rows, spec.height)
        cap = rows * spec.width * spec.channels * share // SHARE_ONE
        while (
            BlockWidth(unit_rows, steps[-1]).unit_bytes(spec, rows) > cap
            and len(steps) < MOST_STEPS
            and step < COARSEST
        ):
            step = min(max(2 * step, 2 * OPTION_ONE), COARSEST)
            steps.append(fit_steps(step, 8, spec.channels, weights) or IDENTITY)
        codec = cls(unit_rows, tuple(steps), share)
        if not sizes:
            return codec
        room = {rows: codec.unit_bytes(spec, rows) for rows in {rows for rows, _ in sizes}}
        passed = sum(1 + size > room[rows] for rows, size in sizes)
        return replace(codec, fitted_overflow=passed * SHARE_ONE // len(sizes))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.steps) <= MOST_STEPS:
            raise BadArgument(f"{self.id} needs 1 to {MOST_STEPS} steps, got {len(self.steps)}")
        if type(self.cap_share) is not int or not 0 <= self.cap_share <= 2 * SHARE_ONE:
            raise BadArgument(
                f"{self.id} needs cap_share to be an integer in 0..{2 * SHARE_ONE}, "
                f"got {self.cap_share!r}"
            )
        fitted = self.fitted_overflow
        if fitted is not None and (type(fitted) is not int or not 0 <= fitted <= SHARE_ONE):
            raise BadArgument(
                f"{self.id} needs fitted_overflow to be an integer in 0..{SHARE_ONE}, got "
                f"{fitted!r}"
            )
        for steps in self.steps:
            BlockWidth(self.unit_rows, steps)

    @property
    def foreseen_overflow(self) -> float | None:
        """As the samples had it; pictures unlike them have another."""
        return None if self.fitted_overflow is None else self.fitted_overflow / SHARE_ONE

    @property
    def lossless(self) -> bool:
        """Never: a unit that passes its cap is rounded."""
        return False

    def check_spec(self, spec: MapSpec) -> None:
        """Refuse maps of another number of channels than there are steps."""
        super().check_spec(spec)
        for steps in self.steps:
            steps.check_spec(spec, self.id)

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """The cap."""
        wanted = self._variant(0).unit_bytes(spec, rows)
        always = self._variant(-1).unit_bytes(spec, rows)
        share = rows * spec.width * spec.channels * self.cap_share // SHARE_ONE
        return 1 + min(wanted, max(always, share))

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """Which steps, and the blocks."""
        self.check_rows(rows, spec)
        cap = self.unit_bytes(spec, len(rows))
        for k in range(len(self.steps)):
            payload = bytes([k]) + self._variant(k).encode_unit(rows, spec)
            if len(payload) <= cap:
                return payload
        raise AssertionError("the cap holds the worst case of the last steps")

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """The rows; variable rate, so always whole ones."""
        self.checked_columns(spec, rows, column, columns)
        if not payload or payload[0] >= len(self.steps):
            raise CorruptPayload(
                f"{self.id} needs a first byte in 0..{len(self.steps) - 1}, got {payload[:1]!r}"
            )
        try:
            return self._variant(payload[0]).decode_unit(payload[1:], spec, rows)
        except CorruptPayload as error:
            raise CorruptPayload(f"{self.id} with steps {payload[0]}: {error}") from None

    def standard_operators(self, spec: MapSpec) -> tuple[StandardOperator, ...]:
        """None can say it: the step of a unit depends on the bytes of all of it."""
        del spec
        raise BadArgument(
            f"{self.id} cannot be exported to ONNX: which step a unit gets depends on its bytes; "
            f"use block_width with a step"
        )

    def native_integers(self, spec: MapSpec) -> NDArray[np.int32]:
        """How many steps there are."""
        del spec
        return np.array([len(self.steps)], np.int32)

    def native_tables(self, spec: MapSpec) -> UInt8Array:
        """Those of steps.h for each of the steps, all of one length."""
        return np.concatenate([steps.native_tables(spec) for steps in self.steps])

    def overflow_share(self, samples: UInt8Array, spec: MapSpec) -> float:
        """The share of units of whole maps (n, h, w, c) that the first steps do not bring in."""
        twin = fastest(self)
        tried = [twin.encode_unit(rows, spec)[0] for rows in _units(samples, self.unit_rows)]
        return sum(k > 0 for k in tried) / len(tried)

    def _variant(self, k: int) -> BlockWidth:
        return BlockWidth(self.unit_rows, self.steps[k])


def _units(samples: UInt8Array, unit_rows: int) -> Iterator[UInt8Array]:
    """The rows of every coding unit of `samples` (n, rows, width, channels)."""
    for values in samples:
        for first in range(0, len(values), unit_rows):
            yield values[first : first + unit_rows]


def _sizes(codec: BlockWidth, spec: MapSpec, samples: UInt8Array) -> list[tuple[int, int]]:
    """Rows and payload bytes of every unit of the samples."""
    twin = fastest(codec)
    units = _units(samples, codec.unit_rows)
    return [(len(rows), len(twin.encode_unit(rows, spec))) for rows in units]


def _share_kept(sizes: Sequence[tuple[int, int]], spec: MapSpec, permille: int) -> int:
    """The least share of raw bytes, in 1/65536, that `permille` of the units do not pass."""
    row_bytes = spec.width * spec.channels
    shares = sorted(-(-size * SHARE_ONE // (rows * row_bytes)) for rows, size in sizes)
    if not shares:
        return 2 * SHARE_ONE
    kept = -(-len(shares) * permille // 1000)
    return min(shares[kept - 1], 2 * SHARE_ONE)
