# SPDX-License-Identifier: Apache-2.0
"""Equalised channels: the same function, with maps that use their range."""

from __future__ import annotations

import numpy as np
import pytest

from thinmaps.calibrate.equalise import SMALLEST_FACTOR, channel_factors, equalised
from thinmaps.graph.float_network import (
    FloatAdd,
    FloatConcat,
    FloatConv,
    FloatMul,
    FloatNetwork,
    FloatNode,
    FloatPad,
    ScalarFunction,
    Tail,
)
from thinmaps.graph.operators import DepthToSpace, MaxPool, Slice, Window

INFINITY = float("inf")


def conv(filters, channels, groups=1, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(filters, channels // groups, 1, 1)).astype(np.float32)
    return FloatConv(Window((1, 1)), groups, weights, rng.normal(size=filters).astype(np.float32))


def between(middle, *, channels=4, made=None, inputs=("a",), low=-INFINITY, high=INFINITY):
    """x -> conv -> a -> `middle` -> b -> conv -> y; `a2` is a second convolution of x."""
    made = channels if made is None else made
    nodes = (
        FloatNode("first", conv(channels, 3, seed=1), ("x",), "a", low, high),
        FloatNode("other", conv(channels, 3, seed=2), ("x",), "a2"),
        FloatNode("middle", middle, inputs, "b"),
        FloatNode("last", conv(2, made, seed=3), ("b",), "y"),
    )
    shapes = {
        "x": (2, 2, 3),
        "a": (2, 2, channels),
        "a2": (2, 2, channels),
        "b": (2, 2, made),
        "y": (2, 2, 2),
    }
    return FloatNetwork(nodes, shapes, ("x",), ("y",), frozenset(), Tail((), {}, ("y",)))


def factors_of(network, **magnitudes):
    everything = {name: np.ones(shape[2]) for name, shape in network.shapes.items()}
    return channel_factors(network, {**everything, **magnitudes})


SMALL_FIRST = np.array([0.01, 1.0, 1.0, 1.0])


def test_channels_are_divided_by_the_root_of_their_share():
    found = factors_of(between(MaxPool(Window((1, 1)))), b=SMALL_FIRST)
    np.testing.assert_allclose(found["b"], [0.1, 1, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(found["a"], found["b"])


@pytest.mark.parametrize("name", ["x", "y"])
def test_inputs_and_outputs_are_never_scaled(name):
    network = between(MaxPool(Window((1, 1))))
    found = factors_of(network, **{name: np.linspace(0.1, 1, network.shapes[name][2])})
    assert (found[name] == 1).all()


@pytest.mark.parametrize(
    "middle",
    [FloatMul(), ScalarFunction((("silu", ()),)), FloatPad(0, 0, 0, 1.0)],
    ids=lambda m: type(m).__name__,
)
def test_maps_of_nodes_that_depend_on_the_scale_are_not_scaled(middle):
    inputs = ("a", "a2") if isinstance(middle, FloatMul) else ("a",)
    found = factors_of(between(middle, inputs=inputs), a=SMALL_FIRST, b=SMALL_FIRST)
    assert (found["a"] == 1).all()
    assert (found["b"] == 1).all()


def test_a_clip_with_a_bound_fixes_its_map_and_a_relu_does_not():
    pool = MaxPool(Window((1, 1)))
    clipped = factors_of(between(pool, low=0.0, high=6.0), b=SMALL_FIRST)
    assert (clipped["a"] == 1).all()
    rectified = factors_of(between(pool, low=0.0), b=SMALL_FIRST)
    assert rectified["a"][0] < 1


def test_a_sum_ties_its_inputs():
    found = factors_of(between(FloatAdd(), inputs=("a", "a2")), b=SMALL_FIRST)
    np.testing.assert_array_equal(found["a"], found["a2"])
    np.testing.assert_array_equal(found["a"], found["b"])


def test_a_tied_channel_takes_the_largest_share_of_all_its_maps():
    network = between(ScalarFunction((("prelu", (np.full(4, 0.5, np.float32),)),)))
    found = factors_of(network, a=np.array([0.25, 1, 1, 1]), b=SMALL_FIRST)
    assert found["b"][0] == pytest.approx(0.5)


def test_channels_keep_their_factors_through_concat_slice_pad_and_depth_to_space():
    network = between(FloatConcat(), made=8, inputs=("a", "a2"))
    found = factors_of(network, b=np.array([0.01, 0.04, 0.16, 0.16, 0.25, 0.25, 0.36, 1.0]))
    np.testing.assert_array_equal(np.append(found["a"], found["a2"]), found["b"])
    # The first part reaches 0.16 of the second: all of that, and within a part the root.
    np.testing.assert_allclose(found["a"], [0.04, 0.08, 0.16, 0.16], rtol=1e-6)
    np.testing.assert_allclose(found["a2"], [0.5, 0.5, 0.6, 1.0], rtol=1e-6)
    sliced = factors_of(between(Slice(channel=1), made=2), b=np.array([0.25, 1]))
    assert sliced["a"].tolist() == [1, 0.5, 1, 1]
    padded = factors_of(between(FloatPad(0, 0, 1, 0.0), made=6), b=np.array([0, 0.25, 1, 1, 1, 0]))
    assert padded["a"].tolist() == [0.5, 1, 1, 1]
    for mode in ("DCR", "CRD"):
        mixed = factors_of(between(DepthToSpace(2, mode), made=1), b=np.array([1.0]))
        assert mixed["a"].tolist() == [1, 1, 1, 1]


def test_dead_channels_keep_factor_1_and_tiny_ones_are_bounded():
    found = factors_of(between(MaxPool(Window((1, 1)))), b=np.array([0.0, 1e-9, 1.0, 1.0]))
    assert found["b"].tolist() == [1.0, SMALLEST_FACTOR, 1.0, 1.0]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_equalised_network_computes_the_same(groups):
    first, last = conv(4, 3, seed=1), conv(4, 4, groups, seed=3)
    nodes = (
        FloatNode("first", first, ("x",), "a", 0.0),
        FloatNode("last", last, ("a",), "y"),
    )
    shapes = {"x": (1, 1, 3), "a": (1, 1, 4), "y": (1, 1, 4)}
    network = FloatNetwork(nodes, shapes, ("x",), ("y",), frozenset(), Tail((), {}, ("y",)))
    found = factors_of(network, a=SMALL_FIRST)
    changed = equalised(network, found)
    x = np.float32([0.3, -0.7, 1.1])
    np.testing.assert_allclose(run(changed, x), run(network, x), rtol=1e-5)
    middle = run(network, x, nodes=1) / found["a"]
    np.testing.assert_allclose(run(changed, x, nodes=1), middle, rtol=1e-5)


def run(network, x, nodes=None):
    """1x1 convolutions on one pixel, each with its clamp."""
    for node in network.nodes[:nodes]:
        filters = node.operator.weights.reshape(
            node.operator.groups, -1, node.operator.weights.shape[1]
        )
        sums = np.einsum("gkc,gc->gk", filters, x.reshape(len(filters), -1)).ravel()
        x = np.clip(sums + node.operator.bias, node.low, node.high)
    return x
