# SPDX-License-Identifier: Apache-2.0
"""The contract of a codec: rows of one map to bytes and back, one coding unit at a time.

A codec is one Python file: a frozen dataclass that derives from `Codec` and carries as `id` its
file's stem. Its fields, all with defaults, are everything that decoding needs; by their annotations
alone (`int`, `NDArray[np.int32]`, a dataclass of these, or None) the .thin file stores them as JSON
values and tensors.
`codecs/__init__.py` finds the file. The NumPy reference in it is the specification. A native twin
`<id>.cc` beside it makes it fast, and must give the same bytes; `tests/contracts/test_codecs.py`
asks everything this page promises of every codec that exists.

    unit              `unit_rows` rows, the last one of a map may be shorter; context, state and
                      padding stop at its border
    unit_bytes(...)   the largest payload of a unit; for fixed rate every payload has that length
    encode_unit       uint8 (rows, width, channels) -> bytes
    decode_unit       bytes -> uint8 (rows, columns, channels); whatever no encoder writes (another
                      length, a set spare bit, an unused code) is `CorruptPayload`

Fixed-rate codecs also decode a column range of a unit without the rest. A codec costs what its
file says; this one only refuses what does not fit.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec, Packed

UInt8Array = NDArray[np.uint8]


# A unit may be a whole map, but its sizes stay far from where 32-bit numbers end.
MOST_UNIT_ROWS = 1 << 16


class StandardOperator(NamedTuple):
    """One ONNX operator on float32: its name, and operands `()` or `(channels,)`.

    Most are elementwise. `Gather` has one operand, (256, channels) or (256, 1): byte x of channel c
    becomes `[x, c]`. `Conv` and `ConvTranspose` have one operand, (components, channels, rows,
    columns), and step by their kernel: the one turns blocks of so many pixels into one pixel of
    components, the other the reverse. With `sizes` they step by the first of it and pad by the
    second, the transpose by one less at the far ends. `Pad` repeats the last row and column `sizes`
    times, `Crop` keeps the first `sizes` rows and columns.
    """

    name: Literal[
        "Mul",
        "Add",
        "Floor",
        "Clip",
        "Min",
        "Max",
        "Gather",
        "Conv",
        "ConvTranspose",
        "Pad",
        "Crop",
    ]
    operands: tuple[NDArray[np.float32] | np.float32, ...] = ()
    sizes: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Codec(ABC):
    """Encoder and decoder of a map's rows. Abstract; every codec is final.

    What several codecs have in common may be an abstract class between (`abstract=True`).

    `unique` says that different payloads restore different rows. A transform cannot promise that:
    what a code adds may be clamped.

    `has_cap` says that a chosen cap bounds a codec of variable rate, not what the worst map needs,
    so that it saves arena as a fixed rate does.

    `settings` are the options of `fit` that the contract test asks about; `menu` are those that
    rate control tries, the same where a codec does not say otherwise.
    """

    id: ClassVar[str]
    rate: ClassVar[Literal["fixed", "variable"]]
    unique: ClassVar[bool] = True
    has_cap: ClassVar[bool] = False
    encode_halo_rows: ClassVar[int] = 0
    decode_halo_units: ClassVar[int] = 0
    settings: ClassVar[tuple[Mapping[str, int], ...]] = ({},)
    menu: ClassVar[tuple[Mapping[str, int], ...]]
    registered: ClassVar[dict[str, type[Codec]]] = {}

    unit_rows: int = 1

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        super().__init_subclass__()
        if abstract:
            return
        stem = cls.__module__.rpartition(".")[2]
        if any(base in Codec.registered.values() for base in cls.__bases__):
            raise BadArgument(
                f"{cls.__name__} derives from a codec, but codecs are final: derive from Codec "
                f"and hold the other codec in a field"
            )
        if cls.id != stem:
            raise BadArgument(f"codec id {cls.id!r} must be its file's stem, which is {stem!r}")
        if other := Codec.registered.get(cls.id):
            raise BadArgument(
                f"two codecs have the id {cls.id!r}: {other.__module__} and {cls.__module__} "
                f"(a dataclass with slots=True is made twice; leave slots out)"
            )
        if "menu" not in cls.__dict__:
            cls.menu = cls.settings
        Codec.registered[cls.id] = cls

    def __post_init__(self) -> None:
        if type(self.unit_rows) is not int or not 1 <= self.unit_rows <= MOST_UNIT_ROWS:
            raise BadArgument(
                f"{self.id} needs unit_rows to be an integer in 1..{MOST_UNIT_ROWS}, "
                f"got {self.unit_rows!r}"
            )

    @property
    def lossless(self) -> bool:
        """Whether every map comes back unchanged; it may depend on the configuration."""
        return True

    @property
    def foreseen_overflow(self) -> float | None:
        """Share of units that calibration saw pass the cap; None without a cap or if not known."""
        return None

    @abstractmethod
    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """Largest payload of a unit of `rows` rows; exact for fixed rate."""

    @abstractmethod
    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """Payload of one unit."""

    @abstractmethod
    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """Rows of one unit; with `column` and `columns` only that range (fixed rate)."""

    @classmethod
    @abstractmethod
    def fit(cls, spec: MapSpec, samples: UInt8Array, **options: Any) -> Codec:
        """A codec for maps like `samples` (n, rows, width, channels), drawn from calibration.

        Raises:
            BadArgument: an option that this codec does not have, or a value outside its range.
        """

    @classmethod
    def fitter(
        cls, spec: MapSpec, samples: UInt8Array, weights: Any = None
    ) -> Callable[..., Codec]:
        """`fit` for one map, to be called with the options of each codec that is wanted.

        A codec whose fit finds something that holds for all options finds it once, in the first
        call. `weights`, what a squared error costs, go to the codecs that take them. Nothing is
        refused before the calls.
        """
        if "weights" in inspect.signature(cls.fit).parameters:
            return partial(cls.fit, spec, samples, weights=weights)
        return partial(cls.fit, spec, samples)

    def standard_operators(self, spec: MapSpec) -> tuple[StandardOperator, ...]:
        """`decode(encode(x))` as ONNX operators on bytes in float32, for the export.

        Empty for lossless codecs. Every value on the way stays below 2**24, where float32 is exact.
        """
        del spec
        if self.lossless:
            return ()
        raise BadArgument(
            f"{self.id} cannot be exported to ONNX: it does not define standard_operators"
        )

    def native_integers(self, spec: MapSpec) -> NDArray[np.int32]:
        """Configuration that the native twin needs beyond the spec, as int32 values."""
        del spec
        return np.zeros(0, np.int32)

    def native_tables(self, spec: MapSpec) -> UInt8Array:
        """Tables that the native twin needs, as bytes."""
        del spec
        return np.zeros(0, np.uint8)

    def unit_count(self, spec: MapSpec) -> int:
        """Coding units of a map."""
        return -(-spec.height // self.unit_rows)

    def rows_of_unit(self, spec: MapSpec, unit: int) -> int:
        """Rows of unit `unit`; only the last may have fewer than `unit_rows`."""
        return min(self.unit_rows, spec.height - unit * self.unit_rows)

    def max_bytes(self, spec: MapSpec) -> int:
        """Largest size of an encoded map; exact for fixed rate."""
        whole, rest = divmod(spec.height, self.unit_rows)
        last = self.unit_bytes(spec, rest) if rest else 0
        return last + (whole * self.unit_bytes(spec, self.unit_rows) if whole else 0)

    def encode(self, values: UInt8Array, spec: MapSpec) -> Packed:
        """Encode a whole map, by the reference."""
        if values.dtype != np.uint8 or values.shape != spec.shape:
            raise BadShape(
                f"{self.id} needs uint8 (h, w, c) = {spec.shape}, got {values.dtype} {values.shape}"
            )
        units = [
            self.encode_unit(values[first : first + self.unit_rows], spec)
            for first in range(0, spec.height, self.unit_rows)
        ]
        return Packed(self.id, spec, tuple(units))

    def decode(self, packed: Packed) -> UInt8Array:
        """Decode a whole map, by the reference."""
        spec = packed.spec
        if packed.codec_id != self.id:
            raise BadArgument(f"{self.id} was given a map that {packed.codec_id} encoded")
        if len(packed.units) != self.unit_count(spec):
            raise CorruptPayload(
                f"{self.id} needs {self.unit_count(spec)} units for {spec.height} rows, "
                f"got {len(packed.units)}"
            )
        rows = [
            self.decode_unit(payload, spec, self.rows_of_unit(spec, unit))
            for unit, payload in enumerate(packed.units)
        ]
        return np.concatenate(rows)

    # What follows is for the codecs themselves: the checks that every one of them makes.

    @classmethod
    def checked_options(cls, options: Mapping[str, Any], **defaults: int) -> dict[str, Any]:
        """`defaults` overridden by `options`; `BadArgument` names an option that has no default."""
        if unknown := sorted(options.keys() - defaults.keys()):
            allowed = ", ".join(f"{name} (default {value})" for name, value in defaults.items())
            raise BadArgument(f"{cls.id} has no option {unknown[0]!r}; its options: {allowed}")
        return {**defaults, **options}

    @classmethod
    def check_samples(cls, spec: MapSpec, samples: UInt8Array) -> None:
        """Refuse samples to fit on that are not uint8 (n, rows, width, channels)."""
        if samples.dtype != np.uint8 or samples.ndim != 4 or samples.shape[-1] != spec.channels:
            raise BadShape(
                f"{cls.id} fits on uint8 (n, rows, w, {spec.channels}), "
                f"got {samples.dtype} {samples.shape}"
            )

    def check_spec(self, spec: MapSpec) -> None:
        """Refuse a map that this codec cannot hold; codecs with tables per channel check more."""
        if spec.dtype != "uint8":
            raise BadShape(f"{self.id} needs a uint8 map, got {spec.dtype}")

    def check_rows(self, rows: UInt8Array, spec: MapSpec) -> None:
        """Refuse rows to encode that are not uint8 (1 to unit_rows, width, channels)."""
        self.check_spec(spec)
        shaped = rows.ndim == 3 and rows.shape[1:] == (spec.width, spec.channels)
        if rows.dtype != np.uint8 or not shaped or not 1 <= len(rows) <= self.unit_rows:
            raise BadShape(
                f"{self.id} needs uint8 (rows, w, c) = (1 to {self.unit_rows}, {spec.width}, "
                f"{spec.channels}), got {rows.dtype} {rows.shape}"
            )

    def checked_columns(
        self, spec: MapSpec, rows: int, column: int, columns: int | None
    ) -> tuple[int, int]:
        """First and past-the-last column to decode; refuses ranges outside of the unit."""
        self.check_spec(spec)
        stop = spec.width if columns is None else column + columns
        if not 1 <= rows <= self.unit_rows or not 0 <= column < stop <= spec.width:
            raise BadShape(
                f"{self.id} decodes 1 to {self.unit_rows} rows of columns 0 to {spec.width}, "
                f"was asked for {rows} rows of columns {column} to {stop}"
            )
        if self.rate == "variable" and (column, stop) != (0, spec.width):
            raise BadShape(
                f"{self.id} has a variable rate and decodes whole units only, "
                f"was asked for columns {column} to {stop} of {spec.width}"
            )
        return column, stop

    def check_length(self, payload: bytes, spec: MapSpec, rows: int) -> None:
        """Refuse a fixed-rate payload of another length than `unit_bytes`."""
        needed = self.unit_bytes(spec, rows)
        if len(payload) != needed:
            raise CorruptPayload(
                f"{self.id} needs {needed} bytes for {rows} rows of {spec.width}x{spec.channels}, "
                f"got {len(payload)}"
            )


P = TypeVar("P")


def named_preset(presets: Mapping[str, P], name: str, codec_id: str) -> P:
    """The preset of that name.

    Raises:
        BadArgument: there is none; the message has those that there are.
    """
    if name not in presets:
        known = ", ".join(presets)
        raise BadArgument(f"{codec_id} has no preset {name!r}; its presets: {known}")
    return presets[name]


def check_codes(
    codes: UInt8Array, low: UInt8Array, high: UInt8Array, codec_id: str, axis: str
) -> None:
    """Refuse codes outside of the bounds of their last axis, naming the first.

    `codes` are (..., n), `low` and `high` (n,); `axis` says what the n are.
    """
    wrong = (codes < low) | (codes > high)
    if wrong.any():
        at = int(np.argwhere(wrong)[0, -1])
        raise CorruptPayload(
            f"{codec_id} has codes {low[at]} to {high[at]} in {axis} {at}, found {codes[wrong][0]}"
        )
