# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the exported file, as fast as it gets: the peer of a benchmark.

A peer proves something only if it is not crippled: every convolution that can be an integer one
must be a QLinearConv in the graph that ONNX Runtime really executes, else `BadModel` says which
are not.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime

from thinmaps.errors import BadModel
from thinmaps.graph.network import Network
from thinmaps.graph.operators import Conv

INTEGER_CONVOLUTIONS = frozenset({"QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul"})


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


def refuse_crippled(path: str | Path, network: Network) -> None:
    """Check the graph that ONNX Runtime executes for `path`, exported from `network`.

    Raises:
        BadModel: fewer integer convolutions than the network has convolutions between uint8 maps.
    """
    eligible = sum(
        isinstance(node.operator, Conv) and network.output_spec(node).dtype == "uint8"
        for node in network.nodes
    )
    with TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        open_peer(path, optimised_to=optimised)
        nodes = onnx.load(optimised).graph.node
    integer = sum(node.op_type in INTEGER_CONVOLUTIONS for node in nodes)
    if integer < eligible:
        left = [
            node.name for node in nodes if node.op_type in {"Conv", "FusedConv", "NhwcFusedConv"}
        ]
        raise BadModel(
            f"no fair comparison: ONNX Runtime computes {eligible - integer} of {eligible} "
            f"convolutions in float, first {left[0] if left else 'unnamed'!r}; its graph "
            "optimiser did not fuse the exported file on this machine"
        )
