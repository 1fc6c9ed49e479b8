# SPDX-License-Identifier: Apache-2.0
"""Channel DCT codec: frequencies along the channels, rounded, zeros as bits. Lossy, variable rate.

Source
    Shi et al., "Transform-Based Feature Map Compression for CNN Inference" (DCT-CM), ISCAS 2021,
    arXiv:2106.12850: channels rearranged into groups, a one-dimensional DCT along a
    group, a mask of frequencies that are dropped, a bitmap of zeros. Its group length, masks and
    quantiser are not public. Ours: all of these; integers throughout (transform.py); the mask by
    what the output feels; and an order of the channels in which neighbours resemble each other.

Rearrangement. A map of C x H x W becomes groups of `group` channels, in the order of the table
`order`; every group at every position is one vector, and the DCT-II of it has as many frequencies.
Of these the mask keeps some, the same at all positions; each is rounded to steps and has one byte,
its distance from zero modulo 256.

Payload of a unit, of the n frequencies that the mask keeps at all of its positions: group by group,
position by position, from the lowest frequency to the highest
    offset           bytes          holds
    0                1              form: 0 for presence bits, 1 for none
    form 0
    1                ceil(n / 8)    presence: bit i is set where byte i is not zero
    1 + ceil(n / 8)  the rest       the bytes that are not zero, in order
    form 1
    1                n              all bytes
whichever is shorter, form 1 where both are equal; spare bits are 0. What is restored does not
depend on the form.

Size: worst case 1 + n bytes, where n is the share of kept frequencies times the elements.
Cost: `group` multiplications per element each way.

What to expect. A step below range / 255 is raised to it, so that no frequency is clipped. On ReLU
maps the DCT destroys zeros, and a mask is felt at once: docs/codecs.md has the figures.

The native twin is channel_dct.cc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps import bits
from thinmaps.codecs.base import Codec, StandardOperator, UInt8Array
from thinmaps.codecs.channel_dct_fit import fit_dct, order_by_likeness
from thinmaps.codecs.transform import Transform
from thinmaps.errors import BadArgument, CorruptPayload
from thinmaps.types import MapSpec

WITH_BITMAP = 0
PLAIN = 1


def _first() -> NDArray[np.int32]:
    return np.zeros(1, np.int32)


@dataclass(frozen=True, eq=False)
class ChannelDct(Codec):
    """Frequencies of `transform` along the channels, which come in the order `order`."""

    id: ClassVar[str] = "channel_dct"
    rate: ClassVar[Literal["fixed", "variable"]] = "variable"
    unique: ClassVar[bool] = False
    settings: ClassVar[tuple[Mapping[str, int], ...]] = (
        {},
        {"step": 32, "keep": 75, "group": 16, "reorder": 1},
    )
    menu: ClassVar[tuple[Mapping[str, int], ...]] = ({"step": 64},)

    order: NDArray[np.int32] = field(default_factory=_first)
    transform: Transform = field(default_factory=Transform)

    @classmethod
    def fit(
        cls,
        spec: MapSpec,
        samples: UInt8Array,
        weights: NDArray[np.floating] | None = None,
        **options: Any,
    ) -> ChannelDct:
        """Steps, mask and order by the samples (n, rows, width, channels) and the weights.

        Options: `step` in sixteenths of a byte, `keep` in percent of all frequencies, `group` in
        channels (4, 8 or 16), `reorder` (1 lets channels that resemble each other share a group),
        `unit_rows`. `weights` (channels,) say how much the output feels a squared error in each
        channel: frequencies that are felt have smaller steps, and the mask keeps those of most felt
        energy.
        """
        chosen = cls.checked_options(options, step=64, keep=100, group=8, reorder=0, unit_rows=1)
        for name, allowed in (
            ("step", range(16, 255 * 16 + 1)),
            ("keep", range(1, 101)),
            ("group", (4, 8, 16)),
            ("reorder", (0, 1)),
        ):
            if type(chosen[name]) is not int or chosen[name] not in allowed:
                raise BadArgument(
                    f"{cls.id} needs {name} in {_said(allowed)}, got {chosen[name]!r}"
                )
        found = order_by_likeness(spec, samples) if chosen["reorder"] else np.arange(spec.channels)
        order = np.asarray(found, np.int32)
        felt = None if weights is None else np.asarray(weights)[order]
        transform = fit_dct(
            spec, samples[..., order], chosen["group"], felt, (chosen["step"], chosen["keep"])
        )
        return cls(chosen["unit_rows"], order, transform)

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = self.transform.synthesis_shift.size
        if self.order.dtype != np.int32 or not np.array_equal(
            np.sort(self.order), np.arange(channels)
        ):
            raise BadArgument(
                f"{self.id} needs order to be int32 with each of {channels} channels once, "
                f"got {self.order.dtype} {self.order.shape}"
            )
        if self.transform.pixels != 1 or self.transform.width.min() != 8:
            raise BadArgument(f"{self.id} needs blocks of one pixel and codes of 8 bits")

    @property
    def lossless(self) -> bool:
        """Never: frequencies are rounded."""
        return False

    def check_spec(self, spec: MapSpec) -> None:
        """Refuse maps of another number of channels."""
        super().check_spec(spec)
        self.transform.check_spec(spec, self.unit_rows, self.id)

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """The worst case, in which hardly a byte is zero."""
        return 1 + rows * spec.width * self.transform.components

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """The shorter of both forms."""
        self.check_rows(rows, spec)
        codes = self.transform.codes(rows[..., self.order], spec.zero_point)
        stream = self._by_group((codes - self.transform.zero_code).reshape(-1, codes.shape[-1]))
        present = stream != 0
        bitmap = bits.pack(present.astype(np.uint8), 1)
        if len(bitmap) + np.count_nonzero(present) < len(stream):
            return bytes([WITH_BITMAP]) + np.concatenate([bitmap, stream[present]]).tobytes()
        return bytes([PLAIN]) + stream.tobytes()

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """The rows; variable rate, so always whole ones."""
        self.checked_columns(spec, rows, column, columns)
        positions = rows * spec.width
        stream = self._stream(payload, positions * self.transform.components)
        codes = self._by_position(stream, positions) + self.transform.zero_code
        self.transform.check_codes(codes, spec.zero_point, self.id)
        values = self.transform.values(codes.reshape(rows, spec.width, -1), spec.zero_point)
        restored = np.empty_like(values)
        restored[..., self.order] = values
        return restored

    def standard_operators(self, spec: MapSpec) -> tuple[StandardOperator, ...]:
        """Those of the transform; the form of a payload changes no value."""
        self.check_spec(spec)
        return self.transform.standard_operators(spec, self.order)

    def native_integers(self, spec: MapSpec) -> NDArray[np.int32]:
        """The order, and the integers of the transform."""
        return np.concatenate([self.order, self.transform.native_integers(spec.zero_point)])

    def native_tables(self, spec: MapSpec) -> UInt8Array:
        """Those of the transform."""
        del spec
        return self.transform.native_tables()

    def _by_group(self, codes: UInt8Array) -> UInt8Array:
        """(positions, components) as a payload has them."""
        return np.concatenate([codes[:, g.components].ravel() for g in self.transform.groups()])

    def _by_position(self, stream: UInt8Array, positions: int) -> UInt8Array:
        """The reverse."""
        codes = np.empty((positions, self.transform.components), np.uint8)
        for group in self.transform.groups():
            count = len(group.analysis)
            codes[:, group.components] = stream[: positions * count].reshape(positions, count)
            stream = stream[positions * count :]
        return codes

    def _stream(self, payload: bytes, count: int) -> UInt8Array:
        """All bytes of a payload of either form, after every check but that of the codes."""
        form, rest = payload[:1], np.frombuffer(payload[1:], np.uint8)
        bitmap_bytes = bits.packed_bytes(count, 1)
        if form == bytes([PLAIN]):
            if len(rest) != count:
                raise CorruptPayload(f"{self.id} needs {count} bytes without bits, got {len(rest)}")
            if np.count_nonzero(rest == 0) > bitmap_bytes:
                raise CorruptPayload(f"{self.id} found zeros that presence bits had made shorter")
            return rest
        if form != bytes([WITH_BITMAP]) or len(rest) < bitmap_bytes:
            raise CorruptPayload(
                f"{self.id} needs form {WITH_BITMAP} and {bitmap_bytes} bytes of presence bits, or "
                f"form {PLAIN}; got form {form.hex() or 'none'} and {len(rest)} bytes"
            )
        bitmap, values = rest[:bitmap_bytes], rest[bitmap_bytes:]
        present = bits.unpack(bitmap, 1, count).astype(bool)
        announced = int(np.count_nonzero(present))
        if bits.has_spare_bits_set(bitmap, count) or len(values) != announced:
            raise CorruptPayload(
                f"{self.id} announces {announced} bytes that are not zero, got {len(values)}, or "
                f"has a spare bit set"
            )
        if np.any(values == 0) or len(rest) >= count:
            raise CorruptPayload(f"{self.id} found a zero, or bits that make nothing shorter")
        stream = np.zeros(count, np.uint8)
        stream[present] = values
        return stream


def _said(allowed: range | tuple[int, ...]) -> str:
    """A range of options in words."""
    if isinstance(allowed, range):
        return f"{allowed[0]}..{allowed[-1]}"
    return " or ".join(map(str, allowed))
