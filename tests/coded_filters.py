# SPDX-License-Identifier: Apache-2.0
"""Convolutions whose filters are made of coefficients, for tests."""

from __future__ import annotations

import numpy as np

from thinmaps.graph import operators as op
from thinmaps.graph.filter_codes import FilterCoefficients, Reduction, greedy_order, kernel_codes


def coded_conv(
    random: np.random.Generator,
    channels: tuple[int, int],
    window: op.Window,
    *,
    codes: int,
    groups: int = 1,
    reduction: Reduction = "crop",
) -> op.CodedConv:
    """Random coefficients (inputs, outputs in `channels`), results over the range of a byte."""
    inputs, outputs = channels
    filters = FilterCoefficients(
        reduction,
        tuple(greedy_order(kernel_codes(reduction))[:codes]),
        random.integers(-128, 128, (outputs, inputs // groups, codes), dtype=np.int8),
        random.integers(0, 5, outputs, dtype=np.uint8),
    )
    bias = random.integers(-5000, 5000, outputs, dtype=np.int32)
    multiplier = (2.0 ** random.integers(-13, -9, outputs)).astype(np.float32)
    return op.CodedConv(window, groups, filters, bias, multiplier)
