# SPDX-License-Identifier: Apache-2.0
"""The float network, run by ONNX Runtime with every map that calibration asks for as an output.

One thread, so that the same pictures give the same ranges on every machine of one kind, and one
picture at a time, so that memory holds the maps of one picture only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray

from thinmaps.calibrate.picture_set import network_values
from thinmaps.errors import BadModel
from thinmaps.graph.float_network import FloatArray, FloatNetwork
from thinmaps.graph.quantise import real_values
from thinmaps.types import Preprocessing


class FloatMaps:
    """Runs a normalised float model and hands out maps as float32 `(c, h, w)`."""

    def __init__(
        self,
        model: onnx.ModelProto,
        network: FloatNetwork,
        names: Iterable[str],
        preprocessing: Preprocessing | None,
    ) -> None:
        """`names` are the maps to hand out; the network's input is always among them.

        Raises:
            BadModel: the network has several inputs, which no picture can feed.
        """
        if len(network.inputs) != 1:
            raise BadModel(f"calibration feeds networks of one input, got {list(network.inputs)}")
        self.input = network.inputs[0]
        self.shapes = network.shapes
        self.names = [name for name in dict.fromkeys(names) if name != self.input]
        self.preprocessing = preprocessing
        # A network may have no map but its input that is asked for: then there is nothing to run.
        self.session = session_of(model, self.names) if self.names else None

    def of(self, name: str, picture: NDArray[Any]) -> dict[str, FloatArray]:
        """All maps for one picture of a `PictureSet`, by name."""
        fitted = network_values(name, picture, self.shapes[self.input], self.preprocessing)
        values = real_values(fitted, self.preprocessing)
        arrays = self.session.run(self.names, {self.input: values[None]}) if self.session else []
        found = {self.input: values}
        for key, array in zip(self.names, arrays, strict=True):
            height, width, channels = self.shapes[key]
            found[key] = array.reshape(channels, height, width)
        return found


def session_of(model: onnx.ModelProto, names: list[str]) -> Any:
    """A session of one thread whose outputs are the named values."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
