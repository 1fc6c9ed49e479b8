# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime as a peer, as fast as it gets. Imports nothing else, so that a process that counts
its memory holds nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from thinmaps.errors import BadModel

Array = NDArray[Any]


def peer_name() -> str:
    """The peer's name and version."""
    return f"ONNX Runtime {onnxruntime.__version__}"


def open_peer(
    path: str | Path,
    *,
    keep_arena: bool = True,
    optimised_to: Path | None = None,
    threads: int = 1,
) -> Any:
    """A session with all optimisations; `optimised_to` saves what it executes.

    Without `keep_arena` every map is allocated when it is made and freed behind its last reader:
    the least memory that ONNX Runtime can do with.

    Raises:
        BadModel: ONNX Runtime refuses the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_cpu_mem_arena = options.enable_mem_pattern = keep_arena
    if optimised_to is not None:
        options.optimized_model_filepath = str(optimised_to)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as reason:  # ONNX Runtime's errors share no base but Exception
        first_line = str(reason).splitlines()[0]
        raise BadModel(f"ONNX Runtime cannot run {str(path)!r}: {first_line}") from None


def outputs(session: Any, values: Array) -> list[Array]:
    """All outputs for one input."""
    found: list[Array] = session.run(None, {session.get_inputs()[0].name: values})
    return found


def run_of(session: Any, values: Array) -> Callable[[], object]:
    """One inference, from `values` into buffers made before.

    Raises:
        BadModel: an output has no static shape.
    """
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, values)
    kept = [values]  # the binding holds addresses only
    for entry in session.get_outputs():
        if not all(isinstance(side, int) for side in entry.shape):
            raise BadModel(f"output {entry.name!r} needs a static shape, has {entry.shape}")
        kept.append(np.empty(entry.shape, np.float32))
        place = kept[-1].ctypes.data
        binding.bind_output(entry.name, "cpu", 0, np.float32, entry.shape, place)
    return lambda: (session.run_with_iobinding(binding), kept)
