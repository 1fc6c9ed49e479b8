# SPDX-License-Identifier: Apache-2.0
"""What the contract of a codec is asked about: every codec and setting, shapes and kinds of maps.

A codec that exists is in the contract; nobody keeps a list. The fitted tables come from a fixed
seed, so a case is the same in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinmaps import codecs
from thinmaps.codecs import Codec
from thinmaps.codecs.native import implementations
from thinmaps.file import document
from thinmaps.types import MapSpec

UInt8Array = NDArray[np.uint8]


class Setting(NamedTuple):
    """A codec and the options that it is fitted with."""

    codec_id: str
    options: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return "-".join([self.codec_id, *(f"{name}{value}" for name, value in self.options)])

    def fit(self, spec: MapSpec, unit_rows: int) -> Codec:
        """The codec for that map's channels, fitted on maps that look like activations."""
        return _fit(self, spec.channels, spec.zero_point, unit_rows)


@cache
def _fit(setting: Setting, channels: int, zero_point: int, unit_rows: int) -> Codec:
    spec = MapSpec(4, 16, channels, 1.0, zero_point)
    rng = np.random.default_rng(20)
    spread = rng.uniform(0.1, 60, size=channels)
    samples = rng.laplace(zero_point, spread, size=(2, 4, 16, channels)).clip(0, 255)
    kind = codecs.get(setting.codec_id)
    return kind.fit(spec, samples.astype(np.uint8), unit_rows=unit_rows, **dict(setting.options))


def written(codec: Codec) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The codec as the .thin file holds it: JSON values, and arrays by the names that they use."""
    arrays: dict[str, NDArray[Any]] = {}
    return document.write(codec, "codec", arrays), arrays


def read_back(values: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Codec:
    """The codec that was `written`, with every check of a file that comes from elsewhere."""
    unread = dict(arrays)
    codec = document.read(Codec, values, "codec", unread)
    assert not unread
    return codec


def settings() -> list[Setting]:
    """Every setting of every installed codec."""
    return [
        Setting(codec_id, tuple(options.items()))
        for codec_id in codecs.ids()
        for options in codecs.get(codec_id).settings
    ]


def implementation_names(setting: Setting) -> list[str]:
    """ "reference" and one native twin per instruction set that this machine runs."""
    return list(implementations(setting.fit(MapSpec(1, 1, 1), 1)))


# (height, width, channels): 1, odd, and one less, equal and one more than 8, 16, 64 and 256
# elements to a row; heights that leave a short last unit.
SHAPES = (
    (1, 1, 1),
    (2, 1, 7),
    (3, 2, 4),
    (4, 3, 3),
    (1, 15, 1),
    (3, 4, 4),
    (2, 1, 17),
    (5, 9, 7),
    (2, 8, 8),
    (3, 5, 13),
    (2, 15, 17),
    (1, 2, 128),
    (2, 1, 257),
    (1, 3, 300),
)
ZERO_POINTS = (0, 128)


def specs() -> Iterator[MapSpec]:
    """Every shape at every zero point."""
    for zero_point in ZERO_POINTS:
        for shape in SHAPES:
            yield MapSpec(*shape, 1.0, zero_point)


def fitted(setting: Setting) -> Iterator[tuple[Codec, MapSpec]]:
    """The setting at every spec, in units of 1, 2 and 3 rows where the map has as many."""
    for spec in specs():
        for unit_rows in range(1, min(3, spec.height) + 1):
            yield setting.fit(spec, unit_rows), spec


def maps(spec: MapSpec) -> dict[str, UInt8Array]:
    """One map of each kind."""
    rng = np.random.default_rng(spec.raw_bytes)
    dense = rng.integers(0, 256, spec.shape, np.uint8)
    kept = rng.random(spec.shape) < 0.3
    return {
        "zero": np.full(spec.shape, spec.zero_point, np.uint8),
        "dense": dense,
        "sparse": np.where(kept, dense, np.uint8(spec.zero_point)),
        "extremes": rng.choice(np.uint8([0, 255]), spec.shape),
        "ramp": np.arange(spec.raw_bytes, dtype=np.int64).reshape(spec.shape).astype(np.uint8),
    }


def costliest(codec: Codec, spec: MapSpec) -> UInt8Array:
    """A map that costs most, for a codec whose worst case none of `maps` is."""
    if codec.id != "bitplane":
        return maps(spec)["dense"]
    found = []
    for first in range(0, spec.height, codec.unit_rows):
        rows = min(codec.unit_rows, spec.height - first)
        elements = rows * spec.width * spec.channels
        candidates = [
            (_costly_planes(elements, zeros) + np.uint8(spec.zero_point))
            .reshape(spec.channels, rows, spec.width)
            .transpose(1, 2, 0)
            for zeros in range(min(8, (elements + 1) // 2) + 1)
        ]
        found.append(max(candidates, key=lambda unit: len(codec.encode_unit(unit, spec))))
    return np.concatenate(found)


def _costly_planes(elements: int, zeros: int) -> UInt8Array:
    """Elements whose planes all take 8 bits, between the first of which there are zeros."""
    stored = elements - zeros
    blocks = np.resize(np.uint8([200, 29, 199, 199, 199, 199, 199, 199]), stored)
    rest = stored % 8
    blocks[stored - rest :] = {1: [171], 2: [1, 171]}.get(rest, blocks[stored - rest :])
    return np.insert(blocks, np.arange(zeros), 0)


def units(codec: Codec, values: UInt8Array) -> list[UInt8Array]:
    """The rows of each coding unit, top to bottom."""
    return [values[row : row + codec.unit_rows] for row in range(0, len(values), codec.unit_rows)]
