# SPDX-License-Identifier: Apache-2.0
"""Learning rates over a run: a linear warm-up, then half a cosine down to nothing.

Source
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017,
    arXiv:1608.03983, without restarts; the warm-up is common practice. A function of the step
    alone, so a run that goes on from a checkpoint needs no state of it.
"""

from __future__ import annotations

import math


def rate_factor(step: int, steps: int, warm_up: float) -> float:
    """What the learning rates are multiplied by at `step` (0 to `steps` - 1) of a run.

    `warm_up` is the share of the steps in which the factor climbs to 1. It is 0 at no step: the
    first and the last step learn too.

    >>> [round(rate_factor(step, 8, 0.25), 3) for step in range(8)]
    [0.5, 1.0, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067]
    """
    climb = math.ceil(warm_up * steps)
    if step < climb:
        return (step + 1) / climb
    return 0.5 + 0.5 * math.cos(math.pi * (step - climb) / (steps - climb))
