# SPDX-License-Identifier: Apache-2.0
"""One map to bytes and back: every codec, its contract (`base.py`), and how to find one.

A codec is a file in this folder. One that lives elsewhere is found by the entry point group
`thinmaps.codecs` of the package that brings it: the entry's name is the id, its value the module.
Every module of the folder is imported here; entry points are looked up when they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import Codec, StandardOperator
from thinmaps.errors import BadArgument, UnknownCodec

__all__ = ["Codec", "Document", "StandardOperator", "from_json", "get", "ids", "to_json"]

ENTRY_POINT_GROUP = "thinmaps.codecs"

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


class Document(NamedTuple):
    """A codec as JSON values, and its tables apart: the .thin file stores those as tensors."""

    values: dict[str, Any]
    tables: dict[str, NDArray[Any]]


def ids() -> tuple[str, ...]:
    """Ids of every codec that is installed, sorted."""
    return tuple(sorted({*Codec.registered, *entry_points(group=ENTRY_POINT_GROUP).names}))


def get(codec_id: str) -> type[Codec]:
    """The codec of that id; `UnknownCodec` lists those that are installed."""
    if codec_id not in Codec.registered:
        for entry in entry_points(group=ENTRY_POINT_GROUP, name=codec_id):
            import_module(entry.module)
    if codec_id not in Codec.registered:
        raise UnknownCodec(f"no codec {codec_id!r}; installed: {', '.join(ids())}")
    return Codec.registered[codec_id]


def to_json(codec: Codec) -> Document:
    """Id and configuration as JSON values, tables as arrays."""
    return Document({"id": codec.id, **codec.configuration()}, codec.tables())


def from_json(values: Mapping[str, Any], tables: Mapping[str, NDArray[Any]]) -> Codec:
    """The codec that `to_json` wrote. Everything is checked: the values may come from a file."""
    fields = {name: value for name, value in values.items() if name != "id"}
    kind = get(str(values.get("id")))
    plain = kind()
    expected = (set(plain.configuration()), set(plain.tables()))
    if (set(fields), set(tables)) != expected:
        raise BadArgument(
            f"codec {kind.id} has the values {sorted(expected[0])} and the tables "
            f"{sorted(expected[1])}, got {sorted(fields)} and {sorted(tables)}"
        )
    arrays: dict[str, Any] = {name: np.array(table) for name, table in tables.items()}
    for array in arrays.values():
        array.flags.writeable = False
    return kind(**fields, **arrays)
