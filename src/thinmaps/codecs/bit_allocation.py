# SPDX-License-Identifier: Apache-2.0
"""Which channel gets how many bits, so that the outputs lose least for a given size.

Each channel has a price for every width: what it adds to the loss with 0, 1, 2.. bits per element,
times how much the output feels it. Of the lower convex hull of a channel's prices each segment
saves so much per bit; segments are taken in the order of what they save, over all channels, until
the budget is spent. This is the solution of the Lagrangian relaxation; it is exact wherever a
budget ends with a segment, and else off by less than one segment.

Source
    Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", IEEE
    Transactions on Acoustics, Speech, and Signal Processing, 1988. Ours: what is left over goes to
    the narrowest channels, so that a budget is spent and a channel that calibration never excited
    keeps some of it.

Cost: channels * widths, and a sort of as many segments.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadArgument

Float64Array = NDArray[np.float64]


def allocate(
    losses: Float64Array, elements: NDArray[np.int64], budget_bits: int
) -> NDArray[np.uint8]:
    """The width of every channel, uint8 `(channels,)`.

    Args:
        losses: `(channels, widths)`: the loss of a channel with 0, 1, .. widths - 1 bits for each
            of its elements. Channels of several maps may stand below each other.
        elements: `(channels,)`: how many elements share the width.
        budget_bits: the sum of width * elements is at most this.

    Raises:
        BadArgument: shapes that do not fit, a loss that is not finite, a negative budget.

    >>> losses = np.array([[64.0, 16, 4, 1], [1.0, 0.25, 0.1, 0]])
    >>> allocate(losses, np.array([1, 1]), 3).tolist()
    [3, 0]
    """
    return shares(losses, elements, budget_bits).astype(np.uint8)


def shares(losses: Float64Array, elements: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """`allocate` in any unit: `losses` may have more entries than a width has bits."""
    channels, widths = losses.shape
    if elements.shape != (channels,) or budget < 0 or not np.isfinite(losses).all():
        raise BadArgument(
            f"bits are allocated by finite losses (channels, widths), elements (channels,) and a "
            f"budget, got {losses.shape}, {elements.shape} and {budget}"
        )
    chosen = np.zeros(channels, np.int64)
    left = int(budget)
    blocked = np.zeros(channels, bool)
    for channel, start, stop in segments(losses, elements):
        needed = (stop - start) * int(elements[channel])
        # A segment may follow only on the one before it.
        blocked[channel] |= needed > left
        if not blocked[channel]:
            chosen[channel] = stop
            left -= needed
    return _spent(chosen, elements, left, widths - 1)


def segments(losses: Float64Array, elements: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(channel, from width, to width) of every hull segment that saves, the best first.

    Slopes of a hull never rise, and the sort is stable, so a channel's segments stay in order.
    """
    found: list[tuple[float, int, int, int]] = []
    for channel, prices in enumerate(losses):
        start = 0
        while start < len(prices) - 1:
            ahead = np.arange(start + 1, len(prices))
            saved = (prices[start] - prices[ahead]) / (ahead - start)
            best = int(saved.argmax())
            if saved[best] <= 0:
                break
            stop = start + 1 + best
            found.append((float(saved[best] / elements[channel]), channel, start, stop))
            start = stop
    found.sort(key=lambda segment: -segment[0])
    return [segment[1:] for segment in found]


def _spent(
    chosen: NDArray[np.int64], elements: NDArray[np.int64], left: int, widest: int
) -> NDArray[np.int64]:
    """What is left over, a bit at a time to the narrowest channel that it suffices for."""
    while True:
        open_to = np.flatnonzero((chosen < widest) & (elements <= left))
        if not open_to.size:
            return chosen
        channel = open_to[chosen[open_to].argmin()]
        chosen[channel] += 1
        left -= int(elements[channel])
