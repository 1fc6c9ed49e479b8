# SPDX-License-Identifier: Apache-2.0
"""Names of what is written into an ONNX graph: each is given once."""

from __future__ import annotations

from collections.abc import Iterable


class FreshNames:
    """The names that are given, `reserved` ones to begin with.

    >>> names = FreshNames(["x"])
    >>> names.take("y"), names.take("x"), names.take("x")
    ('y', 'x_2', 'x_3')
    """

    def __init__(self, reserved: Iterable[str]) -> None:
        self._given = set(reserved)

    def take(self, hint: str) -> str:
        """A name that nothing has, `hint` where it is free."""
        name, count = hint, 1
        while name in self._given:
            count += 1
            name = f"{hint}_{count}"
        self._given.add(name)
        return name
