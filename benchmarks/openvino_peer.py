# SPDX-License-Identifier: Apache-2.0
"""OpenVINO as a peer, where it is installed: `pip install openvino`, and nncf for its own int8.

It lays out the memory of its maps while it compiles and touches it in the first inference, so a
live heap counted over one warm run says nothing about it. What counts instead is by how much the
process's resident memory grows over the first inference; as a script, this file counts that:

    python benchmarks/openvino_peer.py MODEL INPUT.npy
"""

from __future__ import annotations

import importlib.util
import resource
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np


def installed(package: str = "openvino") -> bool:
    """Whether a package is there."""
    return importlib.util.find_spec(package) is not None


def open_request(path: Path, values: np.ndarray[Any, Any], threads: int = 1) -> Any:
    """An inference request for `values`, one at a time, for the lowest latency."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1"}
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(values, shared_memory=True))
    return request


def outputs(request: Any) -> list[np.ndarray[Any, Any]]:
    """The real values of all outputs after one inference."""
    request.infer()
    return [np.array(tensor.data) for tensor in request.output_tensors]


def quantise_with_nncf(floats: Path, values: np.ndarray[Any, Any], target: Path) -> None:
    """Write the int8 network that OpenVINO's own quantiser makes of a float one."""
    import nncf
    import openvino

    network = openvino.Core().read_model(floats)
    with redirect_stdout(sys.stderr):  # where its progress belongs
        quantised = nncf.quantize(network, nncf.Dataset([values]), subset_size=1)
    openvino.save_model(quantised, target)


def resident_bytes() -> int:
    """Memory of this process that is resident now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def first_inference_bytes(path: Path, values: np.ndarray[Any, Any]) -> int:
    """Growth of resident memory over the first inference."""
    request = open_request(path, values)
    before = resident_bytes()
    request.infer()
    return resident_bytes() - before


if __name__ == "__main__":
    print(first_inference_bytes(Path(sys.argv[1]), np.load(sys.argv[2])))
