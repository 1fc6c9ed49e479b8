# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph, written line by line: every line makes one value under a name of its own.

Names are counted, so no value can meet another, whatever the maps of a network are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 8


class GraphWriter:
    """Collects nodes and constants; `model` closes the graph."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int]) -> str:
        """A float32 input of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return name

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """One node of one output; returns the output's name."""
        return self.add_several(op_type, inputs, 1, attributes)[0]

    def add_several(
        self, op_type: str, inputs: Sequence[str], outputs: int, attributes: Mapping[str, Any]
    ) -> list[str]:
        """One node of several outputs; returns their names."""
        stem = f"v{len(self._nodes)}"
        names = [f"{stem}_{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(op_type, list(inputs), names, **attributes))
        return names

    def real(self, values: ArrayLike) -> str:
        """A float32 constant."""
        return self._constant(np.asarray(values, np.float32))

    def integers(self, values: Sequence[int]) -> str:
        """An int64 constant of rank 1: axes, shapes, places."""
        return self._constant(np.asarray(values, np.int64))

    def per_channel(self, values: ArrayLike) -> str:
        """A float32 constant of 1 or `channels` values, to meet maps `n c h w`."""
        return self.real(np.reshape(values, (1, -1, 1, 1)))

    def reshaped(self, value: str, shape: Sequence[int]) -> str:
        """The value in another shape."""
        return self.add("Reshape", value, self.integers(shape))

    def cut(self, value: str, starts: Sequence[int], stops: Sequence[int]) -> str:
        """The box from `starts` to `stops` over channels, rows and columns."""
        return self.add(
            "Slice", value, self.integers(starts), self.integers(stops), self.integers([1, 2, 3])
        )

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """The graph with these values as its outputs."""
        graph = helper.make_graph(
            self._nodes,
            "thinmaps",
            self._inputs,
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def _constant(self, array: NDArray[Any]) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name
