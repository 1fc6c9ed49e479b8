# SPDX-License-Identifier: Apache-2.0
"""One map to bytes and back: every codec, its contract (`base.py`), and how to find one.

A codec is a file in this folder. One that lives elsewhere is found by the entry point group
`thinmaps.codecs` of the package that brings it: the entry's name is the id, its value the module.
Every module of the folder is imported here; entry points are looked up when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from thinmaps.codecs.base import Codec, StandardOperator
from thinmaps.errors import UnknownCodec

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = ["Codec", "StandardOperator", "get", "ids"]

ENTRY_POINT_GROUP = "thinmaps.codecs"

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def _entry_points() -> EntryPoints:
    """Of other packages. The import costs 3 MiB of memory, which running our own codecs spares."""
    from importlib.metadata import entry_points

    return entry_points(group=ENTRY_POINT_GROUP)


def ids() -> tuple[str, ...]:
    """Ids of every codec that is installed, sorted."""
    return tuple(sorted({*Codec.registered, *_entry_points().names}))


def get(codec_id: str) -> type[Codec]:
    """The codec of that id; `UnknownCodec` lists those that are installed."""
    if codec_id not in Codec.registered:
        for entry in _entry_points().select(name=codec_id):
            import_module(entry.module)
    if codec_id not in Codec.registered:
        raise UnknownCodec(f"no codec {codec_id!r}; installed: {', '.join(ids())}")
    return Codec.registered[codec_id]
