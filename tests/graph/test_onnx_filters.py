# SPDX-License-Identifier: Apache-2.0
"""Coefficients of filters travel through ONNX: drawn as a function, taken out when read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from coded_filters import coded_conv
from one_operator import network_of, pixels_for
from onnx import numpy_helper

from thinmaps.errors import BadModel
from thinmaps.export.onnx_qdq import to_onnx
from thinmaps.graph import operators as op
from thinmaps.graph.network import Network
from thinmaps.graph.onnx_filters import DOMAIN
from thinmaps.graph.onnx_reader import read
from thinmaps.graph.quantise import quantise
from thinmaps.run.interpret import run_network
from thinmaps.types import MapSpec

WINDOW = op.Window((3, 3), (1, 2), pads=(1, 1, 1, 1))


def network(codes: int = 4, reduction: str = "crop") -> Network:
    """One coded layer between tables."""
    random = np.random.default_rng(codes)
    conv = coded_conv(random, (8, 12), WINDOW, codes=codes, reduction=reduction)  # type: ignore[arg-type]
    source = MapSpec(6, 8, 8, 0.5, 20)
    return network_of(conv, (source,), MapSpec(6, 4, 12, 0.25, 128))


def coded(of: Network) -> op.CodedConv:
    found = [node.operator for node in of.nodes if isinstance(node.operator, op.CodedConv)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("reduction", ["crop", "average"])
@pytest.mark.parametrize("codes", [1, 4, 9])
def test_coefficients_come_back_as_they_went(codes: int, reduction: str) -> None:
    given = network(codes, reduction)
    drawn = to_onnx(given)
    stored = [numpy_helper.to_array(tensor) for tensor in drawn.graph.initializer]
    assert not any(array.shape == (12, 8, 3, 3) for array in stored), "no filter is stored"
    back = coded(quantise(read(drawn)))
    before = coded(given)
    np.testing.assert_array_equal(back.filters.coefficients, before.filters.coefficients)
    np.testing.assert_array_equal(back.filters.table, before.filters.table)
    np.testing.assert_array_equal(back.filters.shift, before.filters.shift, strict=True)
    np.testing.assert_array_equal(back.bias, before.bias, strict=True)
    np.testing.assert_array_equal(back.multiplier, before.multiplier, strict=True)


@pytest.mark.parametrize("reduction", ["crop", "average"])
def test_a_runtime_makes_the_same_filters(reduction: str) -> None:
    given = network(7, reduction)
    drawn = to_onnx(given)
    call = next(node for node in drawn.graph.node if node.domain == DOMAIN)
    drawn.graph.output.append(onnx.ValueInfoProto(name=call.output[0]))
    made = ort.InferenceSession(drawn.SerializeToString()).run(
        [call.output[0]], {"pixels0": np.zeros((1, 8, 6, 8), np.float32)}
    )[0]
    np.testing.assert_array_equal(made, coded(given).weights, strict=True)


def test_a_reader_without_our_function_still_gets_the_filters() -> None:
    """Inlined, the call folds to constants: an ordinary layer of the same answers."""
    given = network()
    plain = quantise(read(onnx.inliner.inline_local_functions(to_onnx(given))))
    (conv,) = (node.operator for node in plain.nodes if isinstance(node.operator, op.Conv))
    np.testing.assert_array_equal(conv.weights, coded(given).weights, strict=True)
    values = pixels_for(given, 0)
    assert run_network(given, values).keys()


def replaced(index: int, change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """The file with one constant of the call changed."""
    drawn = to_onnx(network())
    call = next(node for node in drawn.graph.node if node.domain == DOMAIN)
    tensor = next(t for t in drawn.graph.initializer if t.name == call.input[index])
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    return drawn


@pytest.mark.parametrize(
    "drawn",
    [
        replaced(0, lambda a: a[:, :, :3].copy()),
        replaced(0, lambda a: a.astype(np.int16)),
        replaced(0, lambda a: a.reshape(-1)),
        replaced(1, lambda a: 2 * a),
        replaced(1, lambda a: a[:, :8].copy()),
        replaced(2, lambda a: 0.3 * a),
        replaced(2, lambda a: a.reshape(-1)),
    ],
)
def test_constants_that_make_no_filters_are_refused(drawn: onnx.ModelProto) -> None:
    with pytest.raises(BadModel, match="makes filters of codes; it needs int8 coefficients"):
        read(drawn)


def test_coefficients_that_are_computed_are_refused() -> None:
    drawn = to_onnx(network())
    call = next(node for node in drawn.graph.node if node.domain == DOMAIN)
    call.input[0] = "pixels0"
    with pytest.raises(BadModel, match="it needs three constants, got \\['pixels0'"):
        read(drawn)
