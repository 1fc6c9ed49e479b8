# SPDX-License-Identifier: Apache-2.0
"""What stands for a codec while a network learns: `surrogate_of(codec, spec)` finds it.

A subclass of `Surrogate` in a file of this folder stands for the codec with its `codec_id`, made of
`(codec, spec)`. Codecs without one get `StraightThrough`.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from thinmaps.learn.surrogates.base import StraightThrough, Surrogate

if TYPE_CHECKING:
    from thinmaps.codecs import Codec
    from thinmaps.types import MapSpec

__all__ = ["StraightThrough", "Surrogate", "surrogate_of"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def surrogate_of(codec: Codec, spec: MapSpec) -> Surrogate:
    """The module that stands for `codec` on a map of `spec`."""
    kind: Any = Surrogate.registered.get(codec.id, StraightThrough)
    made: Surrogate = kind(codec, spec)
    return made
