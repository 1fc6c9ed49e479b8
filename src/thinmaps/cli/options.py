# SPDX-License-Identifier: Apache-2.0
"""Texts of the command line to values: sizes, bytes, lists of numbers, codec requests."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from thinmaps.errors import BadArgument
from thinmaps.types import Preprocessing

Order = Literal["rgb", "bgr"]
Fit = Literal["crop", "stretch", "none"]

# More digits than any machine has bytes, and few enough for a float and an int.
_MOST_DIGITS = 18

_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "kb": 1000, "mb": 1_000_000}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
_OPTION = r"(?:[a-z_]+=)?-?\d+"
_ID = re.compile(rf"(?P<id>[a-z0-9_]+(?::{_OPTION}(?:,{_OPTION})*)?)")
_EDGE_AND_ID = re.compile(rf"(?P<edge>.+?)={_ID.pattern}")
_SIZE = re.compile(r"(\d+)x(\d+)")


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    >>> numbers("0.5,1", "--mean")
    (0.5, 1.0)
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise BadArgument(f"{option} needs numbers such as 0.5,0.5,0.5, got {text!r}")
    return values


def size(text: str | None) -> tuple[int, int] | None:
    """`HxW` in pixels.

    >>> size("224x320")
    (224, 320)
    """
    if text is None:
        return None
    found = _SIZE.fullmatch(text)
    if not found or 0 in (int(found[1]), int(found[2])):
        raise BadArgument(f"--size needs HEIGHTxWIDTH such as 224x224, got {text!r}")
    return (int(found[1]), int(found[2]))


def arena(text: str | None) -> int | Literal["smallest"] | None:
    """Bytes with a unit, or `smallest`.

    >>> arena("64KiB"), arena("smallest")
    (65536, 'smallest')
    """
    return "smallest" if text == "smallest" else byte_count(text)


def winograd(text: str | None) -> float | Literal["exact"] | None:
    """A relative error, or `exact`.

    >>> winograd("0.05"), winograd("exact")
    (0.05, 'exact')
    """
    if text is None:
        return None
    if text == "exact":
        return "exact"
    try:
        return float(text)
    except ValueError:
        raise BadArgument(
            f"--winograd needs exact, or a relative error such as 0.05, got {text!r}"
        ) from None


def byte_count(text: str | None, option: str = "--arena") -> int | None:
    """Bytes with a unit.

    >>> [byte_count(text) for text in ("64KiB", "1.5 MiB", "70000")]
    [65536, 1572864, 70000]
    """
    if text is None:
        return None
    found = _BYTES.fullmatch(text.strip())
    if not found or found[2].lower() not in _UNITS or len(found[1]) > _MOST_DIGITS:
        raise BadArgument(f"{option} needs bytes such as 64KiB or 1.5MiB, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def codec(requests: Sequence[str]) -> str | dict[str, str] | None:
    """One `ID` for all held maps, or `EDGE=ID` for each edge named.

    An edge's name may hold `=` and `:`, an id only `:` and, after it, numbers.

    >>> codec(["relu_1=narrow:4", "cat=zero_bitmap"])
    {'relu_1': 'narrow:4', 'cat': 'zero_bitmap'}
    >>> codec(["narrow:bits=4"])
    'narrow:bits=4'
    >>> codec(["relu:0=narrow:bits=4,unit_rows=2"])
    {'relu:0': 'narrow:bits=4,unit_rows=2'}
    """
    pairs = [_edge_and_id(request) for request in requests]
    if not pairs:
        return None
    if all(edge is None for edge, _ in pairs):
        if len(pairs) > 1:
            raise BadArgument(f"--codec takes one codec for all maps, got {', '.join(requests)}")
        return pairs[0][1]
    if any(edge is None for edge, _ in pairs):
        raise BadArgument(f"--codec is EDGE=ID for each, or one ID, got {', '.join(requests)}")
    edges = [str(edge) for edge, _ in pairs]
    if twice := sorted({edge for edge in edges if edges.count(edge) > 1}):
        raise BadArgument(f"--codec takes one codec for a map, got several for {', '.join(twice)}")
    return {str(edge): chosen for edge, chosen in pairs}


def _edge_and_id(request: str) -> tuple[str | None, str]:
    """What is an id with its options is no edge; else the first `=` before an id counts."""
    found = _ID.fullmatch(request) or _EDGE_AND_ID.fullmatch(request)
    if not found:
        raise BadArgument(f"--codec needs EDGE=ID or ID, such as cat=narrow:4, got {request!r}")
    return found.groupdict().get("edge"), found["id"]


def preprocessing(
    mean: str | None, std: str | None, order: Order | None, fit: Fit | None
) -> Preprocessing | None:
    """Preprocessing as asked, ImageNet's where nothing is said; None if nothing is said at all.

    A single mean or std holds for every channel of the other.

    >>> preprocessing("0.5", "1,1,1", None, None).mean
    (0.5, 0.5, 0.5)
    """
    if not any((mean, std, order, fit)):
        return None
    usual = Preprocessing()
    means = usual.mean if mean is None else numbers(mean, "--mean")
    stds = usual.std if std is None else numbers(std, "--std")
    if len(stds) == 1:
        stds *= len(means)
    if len(means) == 1:
        means *= len(stds)
    return Preprocessing(means, stds, order or usual.order, fit or usual.fit)


def at_most_one(switches: dict[str, bool]) -> None:
    """Refuse switches that exclude each other.

    >>> at_most_one({"--c": True, "--json": False})
    """
    chosen = [name for name, given in switches.items() if given]
    if len(chosen) > 1:
        raise BadArgument(f"{' and '.join(chosen)} exclude each other")
