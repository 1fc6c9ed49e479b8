# SPDX-License-Identifier: Apache-2.0
"""How many threads an engine has: never more than cores that its process may use."""

from __future__ import annotations

import os

from thinmaps.errors import BadArgument

MOST_THREADS = 256


def usable_cores() -> int:
    """Cores on which the system may run this process (its affinity mask, where there is one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def checked_threads(threads: int | None) -> int:
    """As many threads as asked for, None for as many as possible, at most as many as cores.

    More would only take cores from each other in the middle of a step.

    Raises:
        BadArgument: `threads` is not in 1..256.
    """
    if threads is None:
        return min(usable_cores(), MOST_THREADS)
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise BadArgument(
            f"an engine needs 1 to {MOST_THREADS} threads, or None for one per core, "
            f"got {threads!r}"
        )
    return min(threads, usable_cores())
