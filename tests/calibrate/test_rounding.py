# SPDX-License-Identifier: Apache-2.0
"""Moments of patches, and weights that are rounded by them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from thinmaps.calibrate.moments import CHUNK, Moments, grid, patches, round_trip
from thinmaps.calibrate.rounding import round_columns, round_to_outputs
from thinmaps.graph.float_network import FloatConv, MapQuantisation
from thinmaps.graph.operators import Window

FINE = MapQuantisation(2.0**-5, 128)


def convolution(window, groups=1, filters=6, channels=4):
    rng = np.random.default_rng(4)
    weights = rng.normal(size=(filters, channels // groups, *window.kernel)).astype(np.float32)
    return FloatConv(window, groups, weights, np.zeros(filters, np.float32))


@pytest.mark.parametrize(
    "window",
    [
        Window((3, 3), pads=(1, 1, 1, 1)),
        Window((3, 2), (2, 1), pads=(0, 2, 1, 0)),
        Window((3, 3), (1, 2), (2, 2), (2, 2, 2, 2)),
    ],
)
def test_a_patch_times_a_filter_is_the_convolution(window):
    conv = convolution(window)
    x = np.random.default_rng(5).normal(size=(4, 9, 9)).astype(np.float32)
    node = helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        pads=window.pads,
        strides=window.stride,
        dilations=window.dilation,
    )
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xwy"]
    model = helper.make_model(
        helper.make_graph([node], "g", values[:2], values[2:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = session.run(None, {"x": x[None], "w": conv.weights})[0][0]
    rows, columns = (a.ravel() for a in np.indices(expected.shape[1:]))
    found = patches(x, window, rows, columns) @ conv.weights.reshape(6, -1).T
    np.testing.assert_allclose(found.T.reshape(expected.shape), expected, atol=1e-4)


def test_positions_lie_inside_and_visit_everything_in_time():
    seen = np.zeros((20, 13), int)
    for picture in range(200):
        rows, columns = grid((20, 13), picture)
        assert len(rows) <= 64
        seen[rows, columns] += 1
    assert seen.min() > 0
    assert grid((1, 1), 3)[0].tolist() == [0]


def test_moments_are_those_of_the_quantised_patches():
    conv = convolution(Window((1, 1)), groups=2)
    x = np.random.default_rng(6).normal(size=(4, 1, 1)).astype(np.float32)
    moments = Moments(conv)
    moments.add(x, FINE, (1, 1), 0)
    seen = round_trip(x, FINE).reshape(2, 2)
    np.testing.assert_allclose(moments.real_mean, x.reshape(2, 2))
    np.testing.assert_allclose(moments.mean, seen)
    np.testing.assert_allclose(moments.second[0], seen[:, :, None] * seen[:, None, :])


def output_error(filters, rounded, second):
    difference = filters - rounded
    return np.einsum("ki,ij,kj->k", difference, second, difference)


def test_rounding_by_moments_beats_rounding_to_nearest_on_correlated_inputs():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(4000, 8)) @ rng.normal(size=(8, 40)) + 1.0
    second = x.T @ x / len(x)
    filters = rng.uniform(-100, 100, size=(16, 40))
    rounded = round_columns(filters, second)
    assert (rounded == np.rint(rounded)).all()
    error = output_error(filters, rounded, second)
    nearest = output_error(filters, np.rint(filters), second)
    assert error.sum() < 0.3 * nearest.sum()


def test_rounding_by_moments_of_independent_inputs_is_rounding_to_nearest():
    filters = np.random.default_rng(8).uniform(-127, 127, size=(5, 9))
    np.testing.assert_array_equal(round_columns(filters, np.eye(9)), np.rint(filters))


def test_weights_that_are_zero_stay_zero_and_others_make_up_for_it():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(4000, 8)) @ rng.normal(size=(8, 40)) + 1.0
    second = x.T @ x / len(x)
    filters = rng.uniform(-100, 100, size=(16, 40))
    filters[rng.random(filters.shape) < 0.6] = 0
    rounded = round_columns(filters, second)
    assert (rounded[filters == 0] == 0).all()
    nearest = output_error(filters, np.rint(filters), second)
    assert output_error(filters, rounded, second).sum() < 0.9 * nearest.sum()


def test_weights_stay_in_their_bytes_and_dead_inputs_do_no_harm():
    conv = convolution(Window((1, 1)))
    moments = Moments(conv)
    moments.add(np.zeros((4, 3, 3), np.float32), FINE, (3, 3), 0)
    scale = np.abs(conv.weights).max(axis=(1, 2, 3)) / np.float32(127)
    rounded = round_to_outputs(conv, scale, moments)
    assert rounded.dtype == np.int8
    assert np.abs(rounded.astype(int)).max() == 127


def test_wide_filters_are_rounded_in_chunks():
    columns = CHUNK + 5
    rng = np.random.default_rng(9)
    conv = FloatConv(
        Window((1, 1)), 1, rng.normal(size=(2, columns, 1, 1)).astype(np.float32), np.zeros(2)
    )
    moments = Moments(conv)
    moments.add(rng.normal(size=(columns, 2, 2)).astype(np.float32), FINE, (2, 2), 0)
    scale = np.abs(conv.weights).max(axis=(1, 2, 3)) / np.float32(127)
    rounded = round_to_outputs(conv, scale, moments)
    assert [second.shape for second in moments.second] == [(1, CHUNK, CHUNK), (1, 5, 5)]
    exact = conv.weights / scale[:, None, None, None]
    assert np.abs(rounded - exact).mean() < 0.6
