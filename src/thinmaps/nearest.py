# SPDX-License-Identifier: Apache-2.0
"""Names that are near one that does not exist, for the sentence that refuses it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def alike(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Up to `most` of the `known` names that `name` may have been meant to be, the likeliest first.

    >>> alike("con2", ["conv_1", "conv_2", "head"]), alike("con2", ["head"])
    (['conv_2', 'conv_1'], [])
    """
    return difflib.get_close_matches(name, list(known), most)


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The same, or where none is alike the least unlike ones.

    >>> nearest("con2", ["conv_1", "conv_2", "head"]), nearest("con2", ["relu", "head"], 1)
    (['conv_2', 'conv_1'], ['relu'])
    """
    names = list(known)
    return alike(name, names, most) or difflib.get_close_matches(name, names, most, cutoff=0)
