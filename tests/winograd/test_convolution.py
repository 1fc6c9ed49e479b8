# SPDX-License-Identifier: Apache-2.0
"""Native Winograd convolutions beside the definition in float64, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from winograd.convolving import Case, defined, largest_error, made, output_shape, packed

from thinmaps import _core
from thinmaps.winograd import derive
from thinmaps.winograd.emit import NATIVE_SETS

NAMES = [name for name, *_ in _core.winograd_algorithms()]
EACH_ALGORITHM = pytest.mark.parametrize("algorithm", range(len(NAMES)), ids=NAMES)
EACH_ISA = pytest.mark.parametrize("isa", _core.isas())

# Promised for every algorithm, relative to the output's root mean square. Rounding errors of a sum
# grow with its length, which runs of 32 channels bound, and the largest of them with the outputs.
MOST_ERROR = 5e-5

CASES = {
    "a tile and more": Case((1, 13, 17, 64), 64),
    "one pixel is made": Case((1, 3, 3, 1), 1, (0, 0, 0, 0)),
    "one pixel, mostly padding": Case((1, 1, 1, 3), 2),
    "no padding": Case((1, 9, 6, 5), 7, (0, 0, 0, 0)),
    "asymmetric padding": Case((1, 5, 12, 33), 50, (2, 0, 1, 3)),
    "padding wider than a tile": Case((1, 2, 3, 4), 17, (9, 8, 7, 10)),
    "a channel past a vector": Case((1, 7, 8, 17), 65),
    "a channel short of a vector": Case((1, 8, 7, 15), 63),
    "three vectors, two pictures": Case((2, 6, 11, 40), 48),
    "blocks that end inside a picture": Case((3, 31, 29, 8), 16),
}


def test_what_is_compiled_is_what_is_derived() -> None:
    derived = [(name, m, derive(m, r, p).products) for name, m, r, p in NATIVE_SETS]
    assert _core.winograd_algorithms() == derived


@EACH_ISA
@EACH_ALGORITHM
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_algorithm_convolves_on_every_instruction_set(
    case: Case, algorithm: int, isa: str
) -> None:
    drawn = case.drawn()
    y = made(algorithm, isa, drawn, case.pads)
    assert largest_error(y, defined(*drawn, case.pads)) <= MOST_ERROR


@EACH_ALGORITHM
@pytest.mark.parametrize("case", [Case((1, 56, 56, 64), 64), Case((1, 20, 30, 512), 512)])
def test_errors_stay_small_for_many_outputs_and_many_channels(case: Case, algorithm: int) -> None:
    drawn = case.drawn()
    y = made(algorithm, "", drawn, case.pads)
    assert largest_error(y, defined(*drawn, case.pads)) <= MOST_ERROR


def test_the_points_that_the_search_found_err_less_than_the_usual_ones() -> None:
    drawn = (case := Case((1, 56, 56, 64), 64)).drawn()
    exact = defined(*drawn, case.pads)
    errors = {
        name: largest_error(made(NAMES.index(name), "", drawn, case.pads), exact)
        for name in ("F4x3Thirds", "F4x3Points")
    }
    assert 2 * errors["F4x3Thirds"] < errors["F4x3Points"]


@EACH_ISA
@EACH_ALGORITHM
def test_bias_and_relu_are_part_of_it(algorithm: int, isa: str) -> None:
    x, weights, bias = (case := Case((1, 11, 10, 12), 21)).drawn()
    plain = made(algorithm, isa, (x, weights, None), case.pads)
    biased = made(algorithm, isa, (x, weights, bias), case.pads, relu=True)
    np.testing.assert_array_equal(biased, np.maximum(plain + bias, 0), strict=True)
    assert 0 < np.mean(biased == 0) < 1


@EACH_ALGORITHM
def test_scratch_does_not_grow_with_the_map_and_fits_the_cache(algorithm: int) -> None:
    floats = _core.winograd_scratch_floats(algorithm, "", 64, 64)
    assert 4 * floats < 1 << 20


def arguments(**changed: Any) -> tuple[Any, ...]:
    """A run of F(4,3) on a small map, with something else in place of what it needs."""
    x, weights, bias = (case := Case((1, 6, 6, 8), 8)).drawn()
    right = {
        "algorithm": 1,
        "isa": "",
        "x": x,
        "filters": packed(1, "", weights),
        "bias": bias,
        "pads": case.pads,
        "relu": False,
        "scratch": np.empty(_core.winograd_scratch_floats(1, "", 8, 8), np.float32),
        "y": np.empty(output_shape(x, weights, case.pads), np.float32),
    }
    assert changed.keys() <= right.keys()
    return tuple({**right, **changed}.values())


@pytest.mark.parametrize(
    "changed",
    [
        {"x": np.zeros((1, 6, 6, 8), np.float64)},
        {"x": np.zeros((1, 8, 6, 6), np.float32).transpose(0, 2, 3, 1)},
        {"x": np.zeros((1, 6, 12, 8), np.float32)[:, :, ::2]},
        {"x": np.zeros((6, 6, 8), np.float32)},
        {"x": None},
        {"filters": None},
        {"scratch": None},
        {"y": None},
        {"y": np.zeros((1, 6, 6, 8), np.float64)},
        {"y": np.zeros((1, 6, 6, 16), np.float32)[..., ::2]},
        {"bias": np.zeros((2, 4), np.float32)},
        {"pads": (1, 1, 1)},
        {"pads": (1, 1, 1, 2**40)},
    ],
)
def test_arrays_of_another_kind_are_refused_and_never_converted(changed: dict[str, Any]) -> None:
    _core.winograd_convolve(*arguments())
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _core.winograd_convolve(*arguments(**changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"algorithm": -1}, "there is no algorithm -1"),
        ({"algorithm": len(NAMES)}, f"there is no algorithm {len(NAMES)}"),
        ({"isa": "sse9"}, "no instruction set 'sse9'"),
        ({"x": np.zeros((1, 6, 6, 0), np.float32)}, "channels are 1 to 65536, got 0"),
        ({"x": np.zeros((0, 6, 6, 8), np.float32)}, "are 1 to 2^24, got 0"),
        ({"x": np.zeros((1, 6, 6, 9), np.float32)}, "filters were transformed for other"),
        ({"x": np.zeros((2, 6, 6, 8), np.float32)}, "the output needs the pictures"),
        ({"y": np.zeros((1, 6, 7, 8), np.float32)}, "and 6x6 pixels"),
        ({"pads": (0, 0, 0, 0)}, "and 4x4 pixels"),
        ({"pads": (-1, 1, 1, 1)}, "pads are 0 to 2^24"),
        ({"pads": (2**31 - 1, 1, 1, 1)}, "pads are 0 to 2^24"),
        ({"filters": np.zeros(3, np.float32)}, "filters were transformed for other"),
        ({"bias": np.zeros(7, np.float32)}, "one bias is needed for each"),
        ({"scratch": np.zeros(3, np.float32)}, "scratch is smaller than"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("^", r"\^")):
        _core.winograd_convolve(*arguments(**changed))


def test_an_output_that_lies_on_its_input_is_refused() -> None:
    x = np.zeros((1, 6, 6, 8), np.float32)
    with pytest.raises(ValueError, match="the output lies on something that is read"):
        _core.winograd_convolve(*arguments(x=x, y=x))


def test_filters_of_another_kind_are_not_transformed() -> None:
    room = np.empty(_core.winograd_filter_floats(1, "", 8, 8), np.float32)
    with pytest.raises(ValueError, match="filters have 3x3 taps"):
        _core.winograd_pack(1, "", np.zeros((8, 8, 5, 3), np.float32), room)
    with pytest.raises(ValueError, match=f"need {room.size} floats, got 5"):
        _core.winograd_pack(1, "", np.zeros((8, 8, 3, 3), np.float32), room[:5].copy())
    with pytest.raises(TypeError, match="incompatible"):
        _core.winograd_pack(1, "", np.zeros((8, 8, 3, 3)), room)
