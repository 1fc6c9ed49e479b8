# SPDX-License-Identifier: Apache-2.0
"""oneDNN's integer convolution as a peer, as PyTorch calls it (`pip install torch`).

The instruction set is chosen before the process starts, in ONEDNN_MAX_CPU_ISA; `implementation`
says what oneDNN then really runs. On AVX2 it multiplies in 16 bits and saturates: its answers are
not exact for weights of 8 bits, its time does not depend on them.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from thinmaps.graph.operators import Conv
from thinmaps.types import MapSpec

UInt8Array = np.ndarray[Any, np.dtype[np.uint8]]

warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*")
torch.backends.quantized.engine = "onednn"
torch.set_num_threads(1)


def convolution(
    node: Conv, pixels: UInt8Array, weight_scales: np.ndarray[Any, Any], x: MapSpec, y: MapSpec
) -> Callable[[], torch.Tensor]:
    """The same convolution with Relu on the same bytes, channels last; both zero points are 0."""
    channels = len(weight_scales)
    quantised = torch._make_per_channel_quantized_tensor(
        torch.from_numpy(node.weights),
        torch.from_numpy(weight_scales.astype(np.float64)),
        torch.zeros(channels, dtype=torch.int64),
        0,
    )
    bias = torch.from_numpy((node.bias * weight_scales * x.scale).astype(np.float32))
    window = node.window
    packed = torch.ops.quantized.conv2d_prepack(
        quantised, bias, window.stride, window.pads[:2], window.dilation, node.groups
    )
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # channels last, as it lies
    values = torch._make_per_tensor_quantized_tensor(planes, x.scale, 0)
    values = values.contiguous(memory_format=torch.channels_last)
    return lambda: torch.ops.quantized.conv2d_relu(values, packed, y.scale, 0)


def bytes_of(made: torch.Tensor) -> UInt8Array:
    """A result as `h w c`."""
    return made.int_repr()[0].permute(1, 2, 0).numpy()


def implementation(run: Callable[[], object]) -> str:
    """oneDNN's name of the kernel behind `run`, from its own log."""
    log = _standard_output(run)
    found = re.search(r"exec,cpu,convolution,([^,]+),", log)
    return found[1] if found else "none"


def _standard_output(run: Callable[[], object]) -> str:
    """What oneDNN, asked to be verbose, writes while `run` runs."""
    kept = os.dup(1)
    with tempfile.TemporaryFile("w+") as file:
        os.dup2(file.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                run()
            ctypes.CDLL(None).fflush(None)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        return file.read()
