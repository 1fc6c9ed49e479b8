# SPDX-License-Identifier: Apache-2.0
"""Which convolution is predicted to be faster, beside what was measured."""

from __future__ import annotations

import pytest

from thinmaps.errors import BadArgument
from thinmaps.winograd.choice import (
    DEFAULT_ALGORITHM,
    KERNELS,
    RATES,
    Convolved,
    direct_seconds,
    faster,
    fastest,
    kernel,
    seconds,
)

AVX512 = RATES["avx512"]

# Milliseconds with AVX-512 on one core of Zen 4: of F4x3Points, which costs what F4x3Thirds does,
# and of oneDNN with filters reordered before.
MEASURED = {
    Convolved(1, 56, 56, 64, 64): (0.740, 2.247),
    Convolved(1, 28, 28, 128, 128): (0.710, 2.166),
    Convolved(1, 14, 14, 256, 256): (1.056, 2.145),
    Convolved(1, 7, 7, 512, 512): (1.360, 2.286),
    Convolved(1, 14, 14, 64, 64): (0.056, 0.161),
    Convolved(1, 28, 28, 512, 512): (13.54, 32.518),
    Convolved(1, 56, 56, 256, 256): (13.94, 32.818),
    Convolved(1, 4, 4, 512, 512): (1.390, 0.701),
}


@pytest.mark.parametrize(("shape", "measured"), MEASURED.items(), ids=str)
def test_predictions_are_near_what_was_measured(
    shape: Convolved, measured: tuple[float, float]
) -> None:
    ours, direct = measured
    predicted = 1000 * (seconds(KERNELS[DEFAULT_ALGORITHM], shape, AVX512) - AVX512.call_seconds)
    assert predicted == pytest.approx(ours, rel=0.4)
    assert 1000 * direct_seconds(shape, AVX512) == pytest.approx(direct, rel=0.3)
    assert faster(KERNELS[DEFAULT_ALGORITHM], shape, AVX512) == (ours < direct)


def test_where_it_does_not_pay_nothing_is_chosen() -> None:
    assert fastest((Convolved(1, 3, 3, 512, 512),), AVX512) is None  # filters on few pixels
    assert fastest((Convolved(1, 224, 224, 3, 32),), AVX512) is None  # transforms of few channels
    assert fastest((Convolved(1, 8, 8, 8, 8),), AVX512) is None  # a call
    assert fastest((), AVX512) is None
    assert fastest((Convolved(1, 56, 56, 64, 64),), None) is None  # unknown rates


def test_a_larger_tile_pays_only_where_the_map_has_room_for_it() -> None:
    tiny, small = Convolved(64, 2, 2, 256, 256), Convolved(1, 28, 28, 64, 64)
    for shape, name in ((tiny, "F2x3"), (small, DEFAULT_ALGORITHM)):
        chosen = fastest((shape,), AVX512)
        assert chosen is not None
        assert chosen.name == name


def test_an_unknown_algorithm_is_named() -> None:
    with pytest.raises(BadArgument, match="no compiled Winograd algorithm 'F9x3'; there are F2x3"):
        kernel("F9x3")
