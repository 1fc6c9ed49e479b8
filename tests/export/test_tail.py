# SPDX-License-Identifier: Apache-2.0
"""The tail's operators in the exported file give what they give in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from thinmaps.export.drawing import Drawing
from thinmaps.export.tail import draw_tail
from thinmaps.graph.float_network import Tail, TailNode
from thinmaps.graph.tail import OPERATORS, evaluate

SHAPE = (1, 4, 3, 5)
# Constants: a positive array of the input's shape, a matrix, one value per channel, indices.
CONSTANTS = {
    "positive": np.random.default_rng(1).uniform(0.5, 2, SHAPE).astype(np.float32),
    "matrix": np.random.default_rng(2).normal(0, 1, (5, 6)).astype(np.float32),
    "channel": np.random.default_rng(3).uniform(0.5, 2, 4).astype(np.float32),
    "slope": np.random.default_rng(4).uniform(0, 1, (4, 1, 1)).astype(np.float32),
    "mean": np.random.default_rng(5).normal(0, 1, (1, 4, 1, 1)).astype(np.float32),
    "indices": np.array([2, 0, 1, 1], np.int64),
}
REDUCE = {"axes": (1, 3), "keepdims": True}
SLICE = {"starts": (3, 4), "ends": (0, -(2**31) + 1), "axes": (1, 3), "steps": (-1, -2)}

# Operator -> constants behind the input, attributes. Every operator of the tail stands here.
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    **dict.fromkeys(
        ("Abs", "Ceil", "Exp", "Floor", "HardSwish", "Identity", "Neg", "Reciprocal", "Relu",
         "Sigmoid", "Softplus", "Tanh"),
        ((), {}),
    ),
    **dict.fromkeys(("Log", "Sqrt"), ((), {})),
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"), (("positive",), {})),
    **dict.fromkeys(
        ("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"),
        ((), REDUCE),
    ),
    **dict.fromkeys(("ArgMax", "ArgMin"), ((), {"axis": 1, "keepdims": False, "last": True})),
    **dict.fromkeys(("Softmax", "LogSoftmax"), ((), {"axes": (1, 2, 3)})),
    "BatchNormalization": (("channel",) * 4, {"epsilon": 1e-3}),
    "Cast": ((), {"dtype": "int64"}),
    "Clip": ((), {"low": -0.5, "high": None}),
    "Concat": (("positive",), {"axis": 1}),
    "Conv": (("mean",), {}),
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear"), ((), {"scale": 0.03125, "zero_point": 121})
    ),
    "Expand": ((), {"shape": (2, 4, 3, 5)}),
    "Gather": (("indices",), {"axis": 2}),
    "Gemm": (("matrix",), {"alpha": 0.5, "beta": 1.0, "flip_a": False, "flip_b": False}),
    "HardSigmoid": ((), {"alpha": 0.3, "beta": 0.4}),
    "LeakyRelu": ((), {"alpha": 0.2}),
    "MatMul": (("matrix",), {}),
    "PRelu": (("slope",), {}),
    "Reshape": ((), {"shape": (1, 60)}),
    "Slice": ((), SLICE),
    "Split": ((), {"axis": 1, "sizes": (1, 3)}),
    "TopK": ((), {"k": 2, "axis": 3, "largest": True}),
    "Transpose": ((), {"perm": (0, 2, 3, 1)}),
}  # fmt: skip


def run_there(tail: Tail, x: np.ndarray) -> list[np.ndarray]:
    drawing = Drawing({}, {"x", *tail.constants, *tail.outputs})
    draw_tail(drawing, tail)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    inputs = [helper.make_tensor_value_info("x", kind, x.shape)]
    model = drawing.model(inputs, tail.outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})


def judge(op_type: str, constants: tuple[str, ...], attributes: dict[str, Any]) -> None:
    shape = (3, 5) if op_type == "Gemm" else SHAPE
    x = np.random.default_rng(6).normal(0, 2, shape).astype(np.float32)
    if op_type in ("Log", "Sqrt", "Pow"):
        x = np.abs(x)
    if op_type == "DequantizeLinear":
        x = np.random.default_rng(7).integers(0, 256, shape).astype(np.uint8)
    outputs = ("y", "z") if op_type in ("Split", "TopK") else ("y",)
    node = TailNode(op_type, ("x", *constants), outputs, attributes)
    used = {name: CONSTANTS[name] for name in constants}
    theirs = run_there(Tail((node,), used, outputs), x)
    # Here x stands among the constants, there it is the graph's input.
    ours = evaluate(Tail((node,), used | {"x": x}, outputs), {})
    for made, name in zip(theirs, outputs, strict=True):
        # Elementary functions in float32 differ by a few units in the last place.
        np.testing.assert_allclose(made, ours[name], rtol=3e-6, atol=1e-6, strict=True)


@pytest.mark.parametrize("op_type", sorted(OPERATORS))
def test_an_operator_of_the_tail_is_drawn_as_it_is_computed(op_type: str) -> None:
    judge(op_type, *CASES[op_type])


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("Softmax", {"axes": (1,)}),
        ("LogSoftmax", {"axes": (3,)}),
        ("ReduceSum", {"axes": None, "keepdims": False}),
        ("ReduceSum", {"axes": (), "keepdims": True}),
        ("Clip", {"low": None, "high": 0.25}),
        ("ArgMax", {"axis": 3, "keepdims": True, "last": False}),
    ],
)
def test_other_forms_of_an_operator_are_drawn_too(op_type: str, attributes: Any) -> None:
    judge(op_type, (), attributes)
