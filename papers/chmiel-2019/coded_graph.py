# SPDX-License-Identifier: Apache-2.0
"""An ONNX network in which maps are rotated, rounded and rotated back where they are made.

Per map `t` (n, c, h, w), a basis `u` whose columns are components, and `count` levels:

    p = u^T (t - mean)      codes = round(p / step) + zero      t' = u ((codes - zero) step) + mean

What follows reads `t'`; the codes become outputs of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FloatArray = NDArray[np.float32]
RECTIFIERS = ("Relu", "Clip")
MAP_AXES = np.array([0, 2, 3], np.int64)


@dataclass(frozen=True, eq=False)
class Basis:
    """Mean (c,) and orthonormal directions (c, c) of a map, the strongest first."""

    mean: FloatArray
    directions: FloatArray


@dataclass(frozen=True)
class Quantiser:
    """One step for all components, and the code of 0; codes are clipped to 0..largest."""

    step: float
    zero: int
    largest: int


def rectified(model: onnx.ModelProto) -> list[str]:
    """Maps in front of a ReLU or ReLU6."""
    return [node.input[0] for node in model.graph.node if node.op_type in RECTIFIERS]


def stored(model: onnx.ModelProto) -> list[str]:
    """Outputs of convolutions and sums; a sum instead of the convolution in front of it."""
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    made = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Add")]
    return [name for name in made if readers[name] != ["Add"]]


def of_any_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that takes several pictures at once."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "pictures"
    shapes = {node.input[1] for node in copy.graph.node if node.op_type == "Reshape"}
    for tensor in copy.graph.initializer:
        if tensor.name in shapes:
            shape = numpy_helper.to_array(tensor).copy()
            shape[0] = -1
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    return copy


class CodedGraph:
    """Puts codecs into a copy of a model, and runs it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = of_any_batch(model)
        self.graph = self.model.graph
        self.codes: dict[str, str] = {}
        self.added = 0

    def code_by_batch(self, name: str, basis: Basis, levels: int) -> None:
        """As the paper's program: mean, range and the mean's correction are those of the batch."""
        self._rename_readers(name)
        mean = self._add("ReduceMean", name, self._constant(MAP_AXES))
        projected = self._rotate(self._add("Sub", name, mean), basis.directions.T)
        low, high = self._add("ReduceMin", projected), self._add("ReduceMax", projected)
        step = self._add("Div", self._add("Sub", high, low), self._real(levels - 2))
        distance = self._add("Div", self._add("Sub", projected, low), step)
        codes = self._code(name, self._add("Round", distance))
        values = self._add("Add", self._add("Mul", codes, step), low)
        restored = self._rotate(values, basis.directions)
        shifted = self._add("ReduceMean", restored, self._constant(MAP_AXES))
        centred = self._add("Sub", restored, shifted)
        self._add("Add", centred, mean, output=_after(name))

    def code(self, name: str, basis: Basis, quantiser: Quantiser) -> None:
        """With a mean and a range that are known beforehand."""
        self._rename_readers(name)
        mean = self._constant(basis.mean[:, None, None])
        projected = self._rotate(self._add("Sub", name, mean), basis.directions.T)
        steps = self._add("Div", projected, self._real(quantiser.step))
        shifted = self._add("Add", self._add("Round", steps), self._real(quantiser.zero))
        codes = self._code(
            name, self._add("Clip", shifted, self._real(0), self._real(quantiser.largest))
        )
        centred = self._add("Sub", codes, self._real(quantiser.zero))
        values = self._add("Mul", centred, self._real(quantiser.step))
        restored = self._rotate(values, basis.directions)
        self._add("Add", restored, mean, output=_after(name))

    def session(self) -> Session:
        """The network as it stands."""
        return Session(self.model, self.codes)

    def _rename_readers(self, name: str) -> None:
        for node in self.graph.node:
            for place, read in enumerate(node.input):
                if read == name:
                    node.input[place] = _after(name)

    def _code(self, name: str, codes: str) -> str:
        """Remember codes as an output."""
        self.codes[name] = self._add("Cast", codes, to=TensorProto.UINT16)
        return codes

    def _rotate(self, source: str, matrix: FloatArray) -> str:
        return self._add("Conv", source, self._constant(matrix[:, :, None, None]))

    def _real(self, value: float) -> str:
        return self._constant(np.float32(value))

    def _constant(self, values: NDArray[Any] | np.generic) -> str:
        self.added += 1
        name = f"coded_constant_{self.added}"
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def _add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        self.added += 1
        output = output or f"coded_{self.added}"
        # A mean keeps its axes; the extremes of a whole tensor are scalars.
        if operator.startswith("Reduce"):
            attributes["keepdims"] = int(operator == "ReduceMean")
        self.graph.node.append(helper.make_node(operator, inputs, [output], **attributes))
        return output


class Session:
    """Runs batches (n, c, h, w); one thread, so that a machine gives the same codes again."""

    def __init__(self, model: onnx.ModelProto, others: Mapping[str, str]) -> None:
        """`others` are values to hand out beside the answers, by the names they get."""
        ordered = onnx.ModelProto()
        ordered.CopyFrom(model)
        _sort(ordered.graph)
        wanted = [helper.make_empty_tensor_value_info(name) for name in others.values()]
        ordered.graph.output.extend(wanted)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            ordered.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._answer = model.graph.output[0].name
        self._others = dict(others)

    def __call__(self, batch: FloatArray) -> tuple[FloatArray, dict[str, NDArray[Any]]]:
        """Answers, and the other values."""
        wanted = [self._answer, *self._others.values()]
        answer, *found = self._session.run(wanted, {self._input: batch})
        return answer, dict(zip(self._others, found, strict=True))


def _after(name: str) -> str:
    return f"{name}_restored"


def _sort(graph: onnx.GraphProto) -> None:
    """Nodes behind those that make what they read."""
    made = {value.name for value in (*graph.input, *graph.initializer)} | {""}
    waiting, ordered = list(graph.node), onnx.GraphProto()
    while waiting:
        ready = [node for node in waiting if set(node.input) <= made]
        assert ready, "the graph has a cycle"
        ordered.node.extend(ready)
        made |= {name for node in ready for name in node.output}
        waiting = [node for node in waiting if not set(node.output) <= made]
    del graph.node[:]
    graph.node.extend(ordered.node)


class Moments:
    """Sums over vectors of a map, for its principal components."""

    def __init__(self) -> None:
        self.products: Any = 0.0
        self.sums: Any = 0.0
        self.count = 0

    def add(self, vectors: FloatArray) -> None:
        """Vectors (c, n); products of one picture are float32."""
        self.products = self.products + (vectors @ vectors.T).astype(np.float64)
        self.sums = self.sums + vectors.sum(axis=1, dtype=np.float64)
        self.count += vectors.shape[1]

    def basis(self) -> Basis:
        """Eigenvectors of the covariance."""
        mean = self.sums / self.count
        _, directions = np.linalg.eigh(self.products / self.count - np.outer(mean, mean))
        return Basis(mean.astype(np.float32), directions[:, ::-1].astype(np.float32))


def names_of(values: Sequence[str]) -> dict[str, str]:
    """Values under their own names, as `Session` takes them."""
    return {name: name for name in values}
