# SPDX-License-Identifier: Apache-2.0
"""The allocations over all maps that no other beats: bytes against error, by one multiplier.

Minimising `sum error + multiplier * sum bytes` splits into maps, and each map's best choices for
some multiplier are the lower convex hull of its (bytes, error) points. Walking all hulls at once,
always taking the step that adds least error per byte it saves, visits every allocation that is
optimal for some multiplier, from the least error down to the fewest bytes.

Source
    Everett, "Generalized Lagrange multiplier method", 1963, doi:10.1287/opre.11.3.399; on
    independent coding units Shoham and Gersho, 1988, doi:10.1109/29.90373.

Cost: sorting; n choices in all take n log n.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from thinmaps.allocate.choices import Choice

Size = Callable[[Choice], float]


@dataclass(frozen=True, eq=False)
class Allocation:
    """A choice per map, with the sums over all maps."""

    chosen: Mapping[str, Choice]
    mean_bytes: float
    error: float


def mean_bytes(choice: Choice) -> float:
    """The bytes that count where maps are moved; an arena counts `worst_bytes`."""
    return choice.mean_bytes


def hull(choices: Sequence[Choice], size: Size = mean_bytes) -> list[Choice]:
    """The lower convex hull by (bytes, error), from the least error to the fewest bytes."""
    found: list[Choice] = []
    for choice in sorted(choices, key=lambda each: (each.error, size(each))):
        if found and size(choice) >= size(found[-1]):
            continue  # no fewer bytes at no less error
        while len(found) > 1 and (
            _slope(found[-2], choice, size) <= _slope(found[-2], found[-1], size)
        ):
            found.pop()
        found.append(choice)
    return found


def _slope(before: Choice, after: Choice, size: Size = mean_bytes) -> float:
    """Error added per byte saved."""
    return (after.error - before.error) / (size(before) - size(after))


def front(choices: Mapping[str, Sequence[Choice]]) -> list[Allocation]:
    """Every allocation that is optimal for some multiplier, the least error first.

    >>> from thinmaps.allocate.choices import Choice
    >>> a = [Choice(None, "raw", 8, 8, 0.0), Choice(None, "half", 4, 4, 2.0)]
    >>> b = [Choice(None, "raw", 8, 8, 0.0), Choice(None, "half", 4, 4, 1.0)]
    >>> [(each.mean_bytes, each.error) for each in front({"a": a, "b": b})]
    [(16, 0.0), (12, 1.0), (8, 3.0)]
    """
    hulls = {name: hull(each) for name, each in choices.items()}
    chosen = {name: each[0] for name, each in hulls.items()}
    moves = [
        (_slope(before, after), name, before, after)
        for name, each in hulls.items()
        for before, after in itertools.pairwise(each)
    ]
    moves.sort(key=lambda move: move[:2])
    found = [_allocation(chosen)]
    for _, name, _, after in moves:
        chosen = {**chosen, name: after}
        found.append(_allocation(chosen))
    return found


def _allocation(chosen: Mapping[str, Choice]) -> Allocation:
    each = chosen.values()
    return Allocation(chosen, sum(c.mean_bytes for c in each), sum(c.error for c in each))
