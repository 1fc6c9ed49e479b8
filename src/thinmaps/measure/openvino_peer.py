# SPDX-License-Identifier: Apache-2.0
"""OpenVINO as a peer, where it is installed: `pip install openvino`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import MissingExtra

Array = NDArray[Any]


def installed(package: str = "openvino") -> bool:
    """Whether a package is there."""
    return importlib.util.find_spec(package) is not None


def open_request(path: Path, threads: int = 1) -> Any:
    """A request for one inference at a time, compiled for the lowest latency.

    Raises:
        MissingExtra: OpenVINO is not installed.
    """
    core = load().Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1"}
    return core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()


def outputs(request: Any, values: Array) -> list[Array]:
    """The real values of all outputs for one input."""
    run_of(request, values)()
    return [np.array(tensor.data) for tensor in request.output_tensors]


def run_of(request: Any, values: Array) -> Callable[[], object]:
    """One inference, from `values` into the request's own buffers."""
    request.set_input_tensor(load().Tensor(values, shared_memory=True))
    return lambda: (request.infer(), values)


def load() -> Any:
    """The package, which takes a second.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import openvino
    except ImportError as absent:
        raise MissingExtra(f"this peer is not here ({absent}): pip install openvino") from None
    return openvino
