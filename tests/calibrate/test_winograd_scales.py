# SPDX-License-Identifier: Apache-2.0
"""Convolutions by scaled tiles, calibrated: close to the direct ones, within all bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from thinmaps.calibrate.winograd_scales import is_eligible, whole_matrices, winograd_conv
from thinmaps.errors import BadArgument
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Conv, Lookup, Picture, Window
from thinmaps.graph.rules import check_operators
from thinmaps.run.arithmetic import compute
from thinmaps.run.interpret import WholeMap
from thinmaps.types import MapSpec
from thinmaps.winograd import Algorithm, derive, verify

SOURCE, OUTPUT = MapSpec(18, 17, 24, 0.125, 0), MapSpec(18, 17, 9, 0.125, 120)


def maps(count: int) -> list[np.ndarray]:
    """Smooth maps behind a Relu, channels of unlike ranges."""
    random = np.random.default_rng(5)
    noise = random.normal(size=(count, 20, 19, 24))
    smooth = noise[:, :-2, :-2] + noise[:, 1:-1, 1:-1] + noise[:, 2:, 2:] + 0.4
    bytes_ = np.rint(smooth * np.geomspace(4, 60, 24))
    return list(np.clip(bytes_, 0, 255).astype(np.uint8))


def conv() -> Conv:
    random = np.random.default_rng(6)
    weights = np.clip(np.rint(random.normal(0, 30, (9, 24, 3, 3))), -127, 127).astype(np.int8)
    weights[2] = 0
    bias = random.integers(-9000, 9000, 9, dtype=np.int32)
    multiplier = np.full(9, 2.0**-10.3, np.float32)
    multiplier[3] = 0
    return Conv(Window((3, 3), pads=(1, 1, 1, 1)), 1, weights, bias, multiplier, 3, 250)


def relative_error(algorithm: Algorithm) -> float:
    """Root mean square of what the output's bytes are off, of theirs; on maps not calibrated on."""
    direct, seen = conv(), maps(4)
    tiled = winograd_conv(direct, SOURCE, OUTPUT, seen[:2], algorithm)
    off = size = 0.0
    for x in seen[2:]:
        whole = [WholeMap(SOURCE, x)]
        made, exact = (
            compute(each, whole, OUTPUT, 0, 18).astype(np.float64) for each in (tiled, direct)
        )
        off += float(np.square(made - exact).sum())
        size += float(np.square(exact - OUTPUT.zero_point).sum())
    return float(np.sqrt(off / size))


def test_tiles_are_close_to_the_direct_convolution() -> None:
    errors = {
        name: relative_error(derive(*arguments))
        for name, arguments in {
            "F2": (2, 3),
            "F4 with x^2+1": (4, 3),
            "F4 of Lavin": (4, 3, "x, x-1, x+1, x-2, x+2"),
        }.items()
    }
    assert errors["F2"] < 0.035
    assert errors["F4 with x^2+1"] < 0.06
    # The reason for the quadratic: the usual points lose what bytes have.
    assert errors["F4 of Lavin"] > 2 * errors["F4 with x^2+1"]


def test_what_is_made_satisfies_every_bound() -> None:
    for polynomials in (None, "x, x-1, x+1, x-2, x+2"):
        tiled = winograd_conv(conv(), SOURCE, OUTPUT, maps(1), derive(4, 3, polynomials))
        table = np.zeros((24, 256), np.uint8)
        nodes = (
            Node("picture", Picture(table, (0,) * 24), ("x",), "a"),
            Node("tiles", tiled, ("a",), "b"),
            Node("end", Lookup(np.arange(256, dtype=np.uint8)[None]), ("b",), "c"),
        )
        sizes = {"x": MapSpec(18, 17, 24), "a": SOURCE, "b": OUTPUT, "c": OUTPUT}
        check_operators(Network(nodes, sizes, ("x",), ("c",)))


def test_matrices_of_fractions_become_whole_and_stay_a_convolution() -> None:
    algorithm = derive(4, 3, "x, x-1, x+1, x-2, x+1/2")
    whole = whole_matrices(algorithm)
    verify(whole)
    assert any(entry.denominator > 1 for row in algorithm.at for entry in row)
    assert all(entry.denominator == 1 for part in (whole.at, whole.bt) for r in part for entry in r)


def test_transforms_that_leave_sixteen_bits_are_refused() -> None:
    with pytest.raises(BadArgument, match="take polynomials with smaller constants"):
        winograd_conv(conv(), SOURCE, OUTPUT, maps(1), derive(6, 3))


@pytest.mark.parametrize(
    "window",
    [
        Window((3, 3), (2, 1)),
        Window((3, 3), dilation=(1, 2)),
        Window((1, 3)),
        Window((5, 5)),
    ],
)
def test_other_windows_groups_and_heads_are_not_eligible(window: Window) -> None:
    algorithm = derive(4, 3)
    assert is_eligible(conv(), SOURCE, OUTPUT, algorithm)
    assert not is_eligible(replace(conv(), window=window), SOURCE, OUTPUT, algorithm)
    assert not is_eligible(replace(conv(), groups=3), SOURCE, OUTPUT, algorithm)
    head = MapSpec(18, 17, 9, dtype="float32")
    assert not is_eligible(conv(), SOURCE, head, algorithm)
