# SPDX-License-Identifier: Apache-2.0
"""Filters from coefficients as a model-local ONNX function: a product with the codes, rounded.

Exact in float32, as no sum reaches 2^11. A runtime folds the call into the filters, or makes them
at every run; `graph/onnx_filters.py` takes it out when the file is read again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from thinmaps.export.drawing import OPSET, Drawing
from thinmaps.graph.filter_codes import LARGEST, FilterCoefficients
from thinmaps.graph.onnx_filters import DOMAIN

NAME = "coded_filters"


def draw_filters(drawing: Drawing, filters: FilterCoefficients, name: str) -> str:
    """The int8 tensor `k c 3 3` that the coefficients of layer `name` make."""
    function = _function()
    drawing.functions.setdefault(function.SerializeToString(deterministic=True), function)
    unit = np.exp2(-filters.shift.astype(np.float32))[:, None, None]
    inputs = [
        drawing.constant(filters.coefficients, f"{name}/coefficients"),
        drawing.constant(filters.table, f"{name}/codes"),
        drawing.constant(unit, f"{name}/unit"),
    ]
    return drawing.add(NAME, inputs, f"{name}/weights", domain=DOMAIN)


def _function() -> onnx.FunctionProto:
    """`filters = clamp(floor(coefficients codes unit + 1/2), -127, 127)`."""
    constants = {
        "half": np.float32(0.5),
        "low": np.float32(-LARGEST),
        "high": np.float32(LARGEST),
        "square": np.array([0, 0, 3, 3], np.int64),  # 0: as it is
    }
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))
        for name, value in constants.items()
    ]
    steps: tuple[tuple[str, list[str], str, dict[str, Any]], ...] = (
        ("Cast", ["coefficients"], "real", {"to": TensorProto.FLOAT}),
        ("Cast", ["codes"], "signs", {"to": TensorProto.FLOAT}),
        ("MatMul", ["real", "signs"], "sums", {}),
        ("Mul", ["sums", "unit"], "scaled", {}),
        ("Add", ["scaled", "half"], "raised", {}),
        ("Floor", ["raised"], "whole", {}),
        ("Clip", ["whole", "low", "high"], "bounded", {}),
        ("Cast", ["bounded"], "integers", {"to": TensorProto.INT8}),
        ("Reshape", ["integers", "square"], "filters", {}),
    )
    nodes += [helper.make_node(op, inputs, [out], **more) for op, inputs, out, more in steps]
    inputs, opsets = ["coefficients", "codes", "unit"], [helper.make_opsetid("", OPSET)]
    return helper.make_function(DOMAIN, NAME, inputs, ["filters"], nodes, opsets)
