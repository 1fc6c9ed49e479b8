# SPDX-License-Identifier: Apache-2.0
"""Writes the demo's networks as ONNX node by node: stable names, no metadata, no local paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

Signature = tuple[str, tuple[int, ...]]


def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """One node, named like its output."""
    return helper.make_node(operator, list(inputs), [output], name=output, **attributes)


def conv(
    output: str, source: str, tensors: Mapping[str, Any], prefix: str, layer: nn.Conv2d
) -> onnx.NodeProto:
    """A convolution with the geometry of `layer`, its tensors named `prefix.weight` and `.bias`."""
    assert f"{prefix}.weight" in tensors
    pad = int(layer.padding[0])
    return node(
        "Conv",
        [source, f"{prefix}.weight", f"{prefix}.bias"],
        output,
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        pads=[pad] * 4,
    )


def save(
    path: Path,
    name: str,
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, Any],
    source: Signature,
    result: Signature,
) -> None:
    """Check and write a float32 model, opset 18."""
    graph = helper.make_graph(
        list(nodes),
        name,
        [helper.make_tensor_value_info(source[0], TensorProto.FLOAT, source[1])],
        [helper.make_tensor_value_info(result[0], TensorProto.FLOAT, result[1])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in tensors.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9, producer_name="thinmaps")
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
