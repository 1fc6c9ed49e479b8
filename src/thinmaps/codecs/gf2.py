# SPDX-License-Identifier: Apache-2.0
"""GF(2) codec: the bits of a map through learned layers of bits, fewer stored. Lossy, fixed rate.

Source
    Gudovskiy, Hodgkinson, Rigazio, "DNN Feature Map Compression using Learned Representation over
    GF(2)", 2018, arXiv:1808.05285: a map becomes bit planes (bit_planes.py), convolutions with
    binary outputs (bit_layers.py) project them to fewer bits, those are stored, and convolutions of
    the same kind restore the planes. `PRESETS` are the layouts of the authors' network files.
    Ours: integer weights and thresholds, groups, any number of layers and any sizes, coding units.

    bits = project[-1](.. project[0](planes of x)),  stored
    x'   = bytes of restore[-1](.. restore[0](bits))

A unit is projected and restored by itself: windows that reach over its border see bits that are not
set. Layers of 3 x 3 halve rows and columns, rounded up; restoring gives back the size.

Size, per unit of `rows` rows, for `stored` bits per pixel and `halvings` layers of stride 2
    bytes = ceil(rows / 2**halvings) * ceil(ceil(width / 2**halvings) * stored / 8)
All binary channels that are stored count, also those that the authors' file names do not count.

Payload: the stored pixels row by row, a row one stream of `stored` bits per pixel, spare bits zero.
Weights and thresholds belong to the plan, a byte per weight.

`fit` does not learn: it gives the identity, which keeps the highest planes that are not idle.
Training starts from it.

Cost: an addition per stored bit and bit of the window, each way; in the authors' layouts 2 to 8
times the work of the convolutions around the map. The native twin is gf2.cc.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinmaps import bits
from thinmaps.codecs.base import Codec, StandardOperator, UInt8Array, named_preset
from thinmaps.codecs.bit_layers import KERNELS, BitLayer, identity
from thinmaps.codecs.bit_planes import MOST_PLANES, bytes_of, check_planes, planes_of
from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec

MOST_LAYERS = 3  # on either side; bounds the native twin's stack


class Preset(NamedTuple):
    """A layout: planes of the map, planes' worth of bits that are stored, the kernels on both
    sides, and the layers of SqueezeNet 1.1 whose squeezed maps the authors' file treats.

    Not one is `recommended`: by `make bench-bits` each takes longer than the int8 convolutions
    between which such a map lies; docs/codecs.md has the factors."""

    planes: int
    keep: int
    kernel: int
    restores: bool
    maps: tuple[str, ...]
    recommended: bool = False


def _presets() -> dict[str, Preset]:
    """Every variant of the authors' files: fire2 ("CH"), or fire2 and fire3 ("CH2")."""
    found = {}
    for channels, maps in (("CH", ("fire2",)), ("CH2", ("fire2", "fire3"))):
        found[f"BIT8{channels}"] = Preset(9, 9, 1, False, maps)
        found[f"BIT6{channels}"] = Preset(9, 7, 1, True, maps)
        found[f"BIT4{channels}"] = Preset(9, 5, 1, True, maps)
        found[f"BIT8{channels}_3x3s2"] = Preset(9, 9, 3, True, maps)
        found[f"BIT6{channels}_3x3s2"] = Preset(9, 7, 3, True, maps)
    return found


PRESETS = _presets()


@dataclass(frozen=True, eq=False)
class Gf2(Codec):
    """Layers of bits; by default one channel's eight planes, as they are.

    `project` has at least one layer; without `restore` the stored bits are the planes. `groups` of
    channels have their planes side by side, for layers with as many groups.
    """

    id: ClassVar[str] = "gf2"
    rate: ClassVar[Literal["fixed", "variable"]] = "fixed"
    unique: ClassVar[bool] = False
    settings: ClassVar[tuple[Mapping[str, int], ...]] = (
        {"keep": 2},
        {"keep": 1, "kernel": 3},
    )
    # Without training narrow loses less, so rate control does not try it by itself.
    menu: ClassVar[tuple[Mapping[str, int], ...]] = ()

    planes: int = 8
    groups: int = 1
    project: tuple[BitLayer, ...] = (BitLayer(),)
    restore: tuple[BitLayer, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_planes(self.planes, 0, self.id)
        for name, layers in (("project", self.project), ("restore", self.restore)):
            if len(layers) > MOST_LAYERS or (name == "project" and not layers):
                raise BadArgument(
                    f"{self.id} needs {int(name == 'project')} to {MOST_LAYERS} layers in {name}, "
                    f"got {len(layers)}"
                )
        self._check_bits()

    def _check_bits(self) -> None:
        layers = (*self.project, *self.restore)
        for before, after in itertools.pairwise(layers):
            if before.outputs != after.inputs:
                raise BadArgument(
                    f"{self.id} has a layer of {before.outputs} outputs in weights before one "
                    f"of {after.inputs} inputs"
                )
        if layers[-1].outputs != self.inputs:
            raise BadArgument(
                f"{self.id} projects weights of {self.inputs} bits and restores "
                f"{layers[-1].outputs}"
            )
        if self.inputs % self.planes:
            raise BadArgument(
                f"{self.id} needs weights for whole planes: {self.inputs} bits are not "
                f"{self.planes} planes of any number of channels"
            )
        wrong = sorted({layer.groups for layer in layers} - {self.groups})
        if wrong or type(self.groups) is not int:
            raise BadArgument(
                f"{self.id} has {self.groups!r} groups of channels and a layer of {wrong} groups"
            )
        if self.channels % self.groups:
            raise BadArgument(
                f"{self.id} needs groups of equally many channels: {self.channels} channels are "
                f"not divisible into {self.groups} groups"
            )
        if self.halvings != sum(layer.kernel == 3 for layer in self.restore):
            raise BadArgument(
                f"{self.id} needs as many weights of 3 x 3 that restore as project, {self.halvings}"
            )

    @classmethod
    def fit(cls, spec: MapSpec, samples: UInt8Array, preset: str = "", **options: Any) -> Gf2:
        """The identity: kept planes come back, dropped ones as those of the zero point.

        Options: `keep` (planes that are stored, the highest that are not idle; at most `planes`),
        `kernel` (1, or 3 with stride 2, which keeps every second pixel of every second row),
        `planes` (1 to 9), `unit_rows`; or a `preset` of `PRESETS`. Samples are not needed.
        """
        del samples
        chosen = cls.checked_options(options, keep=6, kernel=1, planes=8, unit_rows=1)
        restores = True
        if preset:
            layout = named_preset(PRESETS, preset, cls.id)
            chosen.update(keep=layout.keep, kernel=layout.kernel, planes=layout.planes)
            restores = layout.restores
        planes, kernel = chosen["planes"], chosen["kernel"]
        check_planes(planes, spec.zero_point, cls.id)
        for name, most in (("keep", planes), ("kernel", max(KERNELS))):
            if type(chosen[name]) is not int or not 1 <= chosen[name] <= most:
                raise BadArgument(
                    f"{cls.id} needs {name} to be an integer in 1..{most}, got {chosen[name]!r}"
                )
        kept = kept_planes(planes, chosen["keep"])
        source, back = _channels_of(kept, spec.channels), np.full(planes, -1)
        back[kept] = np.arange(len(kept))
        restored = _channels_of(back, spec.channels)
        project = identity(source, planes * spec.channels, kernel, restores=False)
        restore = identity(restored, len(source), kernel, restores=True)
        return cls(chosen["unit_rows"], planes, 1, (project,), (restore,) if restores else ())

    @property
    def lossless(self) -> bool:
        """Never, as far as this file looks."""
        return False

    @property
    def inputs(self) -> int:
        """Bits of a pixel of the map."""
        return self.project[0].inputs

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return self.inputs // self.planes

    @property
    def stored(self) -> int:
        """Bits of a stored pixel."""
        return self.project[-1].outputs

    @property
    def halvings(self) -> int:
        """Layers that halve rows and columns."""
        return sum(layer.kernel == 3 for layer in self.project)

    def check_spec(self, spec: MapSpec) -> None:
        """Refuse maps of another number of channels, or whose zero point has more planes."""
        super().check_spec(spec)
        check_planes(self.planes, spec.zero_point, self.id)
        if spec.channels != self.channels:
            raise BadShape(
                f"{self.id} has layers for {self.channels} channels of {self.planes} planes, "
                f"the map has {spec.channels} channels"
            )

    def stored_shape(self, rows: int, width: int) -> tuple[int, int]:
        """Rows and columns of stored pixels."""
        for layer in self.project:
            rows, width = layer.projected(rows), layer.projected(width)
        return rows, width

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """Whole bytes for every row of stored pixels."""
        high, wide = self.stored_shape(rows, spec.width)
        return high * bits.packed_bytes(wide, self.stored)

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """The projected bits, packed."""
        self.check_rows(rows, spec)
        found = planes_of(rows, spec.zero_point, self.planes, self.groups)
        for layer in self.project:
            found = layer.project(found)
        return np.packbits(found.reshape(len(found), -1), axis=1, bitorder="little").tobytes()

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """What the stored bits restore, or the asked column range of it."""
        first, stop = self.checked_columns(spec, rows, column, columns)
        self.check_length(payload, spec, rows)
        found = self.restored(self.stored_numbers(payload, spec, rows), rows, spec.width)
        return bytes_of(found, spec.zero_point, self.planes, self.groups)[:, first:stop]

    def stored_numbers(self, payload: bytes, spec: MapSpec, rows: int) -> UInt8Array:
        """The bits of every stored pixel (high, wide, stored) in a unit's payload."""
        high, wide = self.stored_shape(rows, spec.width)
        packed = np.frombuffer(payload, np.uint8).reshape(high, -1)
        if bits.has_spare_bits_set(packed, wide * self.stored):
            raise CorruptPayload(f"{self.id} found a spare bit set behind a row")
        stream = np.unpackbits(packed, axis=1, count=wide * self.stored, bitorder="little")
        return stream.reshape(high, wide, self.stored)

    def restored(self, stored: UInt8Array, rows: int, width: int) -> UInt8Array:
        """Stored bits (high, wide, stored) -> bits of the map (rows, width, inputs)."""
        sizes = [(rows, width)]
        for layer in self.project:
            if layer.kernel == 3:
                sizes.append((layer.projected(sizes[-1][0]), layer.projected(sizes[-1][1])))
        for layer in self.restore:
            if layer.kernel == 3:
                sizes.pop()
            stored = layer.restore(stored, *sizes[-1])
        return stored

    def standard_operators(self, spec: MapSpec) -> tuple[StandardOperator, ...]:
        """Planes, layers and bytes as convolutions in float32.

        Raises:
            BadArgument: units end where windows of 3 x 3 go on.
        """
        self.check_spec(spec)
        if self.halvings and self.unit_rows < spec.height:
            raise BadArgument(
                f"{self.id} with windows of 3 x 3 is exported to ONNX in whole maps only: make "
                f"unit_rows the height, {spec.height}, instead of {self.unit_rows}"
            )
        whole = (spec.height, spec.width)
        operators = [*self._planes_in(spec.zero_point)]
        for layer in self.project:
            operators += layer.standard_operators(transposed=False)
        for layer in self.restore:
            operators += layer.standard_operators(transposed=True)
        operators += self._planes_out(spec.zero_point)
        return (*operators, StandardOperator("Crop", (), whole)) if self.halvings else (*operators,)

    def _plane_of_bit(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Channel and plane of every bit of the map."""
        shape = (self.groups, self.planes, self.channels // self.groups)
        group, plane, channel = (axis.ravel() for axis in np.indices(shape))
        return group * shape[2] + channel, plane

    def _planes_in(self, zero_point: int) -> tuple[StandardOperator, ...]:
        """bit_b = floor(x / 2**b) - 2 * floor(x / 2**(b + 1)), or 1 less that."""
        channel, plane = self._plane_of_bit()
        inputs = np.arange(self.inputs)
        scaled = np.zeros((2 * self.inputs, self.channels), np.float32)
        scaled[inputs, channel] = 0.5**plane
        scaled[self.inputs + inputs, channel] = 0.5 ** (plane + 1)
        flipped = (zero_point >> plane & 1).astype(np.float32)
        sign = np.diag(1 - 2 * flipped).astype(np.float32)
        difference = np.concatenate([sign, -2 * sign], axis=1)
        return (
            StandardOperator("Min", (np.float32(min(255, (1 << self.planes) - 1)),)),
            StandardOperator("Conv", (scaled[..., None, None],)),
            StandardOperator("Floor"),
            StandardOperator("Conv", (difference[..., None, None],)),
            StandardOperator("Add", (flipped,)),
        )

    def _planes_out(self, zero_point: int) -> tuple[StandardOperator, ...]:
        """The sum of the planes' values."""
        channel, plane = self._plane_of_bit()
        value = (1 << plane) * np.where(zero_point >> plane & 1, -1, 1)
        weights = np.zeros((self.channels, self.inputs), np.float32)
        weights[channel, np.arange(self.inputs)] = value
        return (
            StandardOperator("Conv", (weights[..., None, None],)),
            StandardOperator("Add", (np.float32(zero_point),)),
            StandardOperator("Clip", (np.float32(0), np.float32(255))),
        )

    def native_integers(self, spec: MapSpec) -> NDArray[np.int32]:
        """Planes, groups, layers that project and that restore, then each layer's own."""
        del spec
        layers = (*self.project, *self.restore)
        head = np.array([self.planes, self.groups, len(self.project), len(self.restore)], np.int32)
        return np.concatenate([head, *(layer.native_integers() for layer in layers)])

    def native_tables(self, spec: MapSpec) -> UInt8Array:
        """The masks of every layer, one after the other."""
        del spec
        return np.concatenate([layer.native_tables for layer in (*self.project, *self.restore)])


def kept_planes(planes: int, keep: int) -> NDArray[np.int64]:
    """The planes that `keep` stored ones hold: the highest that bytes use, the idle one last.

    >>> kept_planes(9, 7).tolist(), kept_planes(9, 9).tolist(), kept_planes(8, 2).tolist()
    ([1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7, 8], [6, 7])
    """
    used = min(planes, MOST_PLANES - 1)
    order = [*range(used - 1, -1, -1), *range(used, planes)]
    return np.sort(np.array(order[:keep], np.int64))


def _channels_of(planes: NDArray[np.int64], channels: int) -> NDArray[np.int64]:
    """Bits of all channels for each plane; -1 for plane -1."""
    places = planes[:, None] * channels + np.arange(channels)
    return np.where(planes[:, None] < 0, -1, places).ravel()
