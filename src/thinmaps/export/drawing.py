# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph under construction, in which every map exists as bytes and as real values.

A map's bytes are one uint8 tensor `n c h w`; its real values are those bytes dequantised, drawn
once, when the first node asks for them. Names are made unique against all that are reserved, so
that a model file's own names never meet ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from thinmaps.graph.fresh_names import FreshNames
from thinmaps.types import MapSpec

OPSET = 19
IR_VERSION = 9


class Drawing:
    """Nodes, initialisers and functions so far."""

    def __init__(self, maps: Mapping[str, MapSpec], reserved: Iterable[str]) -> None:
        self.maps = maps
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self.functions: dict[bytes, onnx.FunctionProto] = {}
        self.metadata: dict[str, str] = {}
        self._names = FreshNames(reserved)
        self._bytes: dict[str, str] = {}
        self._reals: dict[str, str] = {}

    def fresh(self, hint: str) -> str:
        """A name that nothing has, `hint` where it is free."""
        return self._names.take(hint)

    def constant(self, value: NDArray[Any] | np.generic, hint: str) -> str:
        """An initialiser."""
        name = self.fresh(hint)
        self.name_constant(np.asarray(value), name)
        return name

    def name_constant(self, value: NDArray[Any], name: str) -> None:
        """An initialiser whose name is given already."""
        self.initialisers.append(numpy_helper.from_array(value, name))

    def add(
        self,
        op_type: str,
        inputs: Sequence[str],
        hint: str,
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
    ) -> str:
        """A node with one output, whose name is returned."""
        output = self.fresh(hint)
        self.place(op_type, inputs, [output], attributes, domain)
        return output

    def place(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
    ) -> None:
        """A node whose outputs are named already."""
        name = f"{op_type}_{len(self.nodes)}"
        node = helper.make_node(op_type, inputs, outputs, name, domain=domain, **(attributes or {}))
        self.nodes.append(node)

    def give_input(self, name: str) -> None:
        """Say that the graph has a float32 input of a map's name."""
        self._reals[name] = name

    def bytes_of(self, name: str) -> str:
        """The uint8 tensor of a map, as its readers see it."""
        return self._bytes[name]

    def give_bytes(self, name: str, tensor: str) -> None:
        """Say which uint8 tensor holds a map; a later call changes what is drawn after it."""
        self._bytes[name] = tensor
        self._reals.pop(name, None)

    def reals_of(self, name: str) -> str:
        """The float32 tensor of a map: what its node made, or its bytes dequantised."""
        if name not in self._reals:
            self._reals[name] = self.dequantised(self._bytes[name], self.maps[name], name)
        return self._reals[name]

    def give_reals(self, name: str, tensor: str) -> None:
        """Say which float32 tensor is a map's value: quantised, or as it is where that is asked."""
        if self.maps[name].dtype == "float32":
            self._reals[name] = tensor
        else:
            self.give_bytes(name, self.quantised(tensor, self.maps[name], name))

    def quantised(self, tensor: str, spec: MapSpec, hint: str) -> str:
        """`QuantizeLinear` with a map's scale and zero point."""
        return self.add("QuantizeLinear", [tensor, *self._scale(spec, hint)], f"{hint}/bytes")

    def dequantised(self, tensor: str, spec: MapSpec, hint: str) -> str:
        """`DequantizeLinear` with a map's scale and zero point."""
        return self.add("DequantizeLinear", [tensor, *self._scale(spec, hint)], f"{hint}/reals")

    def _scale(self, spec: MapSpec, hint: str) -> list[str]:
        scale, zero_point = np.float32(spec.scale), np.uint8(spec.zero_point)
        return [
            self.constant(scale, f"{hint}/scale"),
            self.constant(zero_point, f"{hint}/zero_point"),
        ]

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[str]
    ) -> onnx.ModelProto:
        """The finished model; the outputs' types are inferred."""
        graph = helper.make_graph(
            self.nodes,
            "thinmaps",
            inputs,
            [onnx.ValueInfoProto(name=name) for name in outputs],
            self.initialisers,
        )
        functions = list(self.functions.values())
        imports = [helper.make_opsetid("", OPSET)]
        imports += [helper.make_opsetid(name, 1) for name in sorted({f.domain for f in functions})]
        model = helper.make_model(
            graph,
            opset_imports=imports,
            ir_version=IR_VERSION,
            producer_name="thinmaps",
            functions=functions,
        )
        helper.set_model_props(model, self.metadata)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        del inferred.graph.value_info[:]
        onnx.checker.check_model(inferred)
        return inferred
