# SPDX-License-Identifier: Apache-2.0
"""Strides and dilations are served by unit correlations, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps.errors import BadArgument
from thinmaps.winograd.sampling import correlate, phases


@pytest.mark.parametrize("length", [5, 16, 23])
@pytest.mark.parametrize("taps", [1, 2, 3, 5])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 1), (7, 1), (1, 2), (1, 3)])
def test_every_step_is_served(length: int, taps: int, stride: int, dilation: int) -> None:
    generator = np.random.default_rng(length)
    inputs, filters = generator.standard_normal(length), generator.standard_normal(taps)
    count = (length - dilation * (taps - 1) - 1) // stride + 1
    if count < 1:
        with pytest.raises(BadArgument, match="do not fit"):
            correlate(inputs, filters, stride=stride, dilation=dilation)
        return
    places = stride * np.arange(count)[:, None] + dilation * np.arange(taps)
    found = correlate(inputs, filters, stride=stride, dilation=dilation)
    np.testing.assert_allclose(found, inputs[places] @ filters, atol=1e-10)


def test_a_stride_splits_into_phases() -> None:
    found = phases(4, 3, 2)
    assert [(p.first, p.algorithm.taps, p.algorithm.products) for p in found] == [
        (0, 2, 5),
        (1, 1, 4),
    ]


@pytest.mark.parametrize(
    ("stride", "dilation", "named"),
    [(2, 2, "stride 2 together with dilation 2"), (0, 1, "stride of at"), (1, 0, "dilation of at")],
)
def test_what_is_not_served_is_refused(stride: int, dilation: int, named: str) -> None:
    with pytest.raises(BadArgument, match=named):
        correlate(np.zeros(9), np.zeros(3), stride=stride, dilation=dilation)
