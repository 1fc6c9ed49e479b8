# SPDX-License-Identifier: Apache-2.0
"""What submodules of a student say of themselves, where they have the methods for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thinmaps.errors import BadArgument


def dead_bits(student: nn.Module) -> int | None:
    """Summed over the submodules that count theirs since the last time; None where none does."""
    counts = _asked(student, "dead_bits")
    _asked(student, "forget")
    return sum(int(torch.as_tensor(count).sum()) for count in counts) if counts else None


def symbols(student: nn.Module) -> list[Tensor]:
    """What submodules quantised in the last forward pass.

    Raises:
        BadArgument: no submodule hands out symbols.
    """
    found: list[Tensor] = _asked(student, "symbols")
    if not found:
        raise BadArgument(
            f"rate_weight needs codecs that hand out symbols(), {type(student).__name__} has none"
        )
    return found


def _asked(student: nn.Module, question: str) -> list[Any]:
    """The answers of submodules that have a method of that name, but of no part of such a one."""
    method = getattr(student, question, None)
    if callable(method):
        return [method()]
    return [answer for child in student.children() for answer in _asked(child, question)]
