# SPDX-License-Identifier: Apache-2.0
"""Whether ONNX Runtime runs the exported file as fast as it could.

A peer proves something only if it is not crippled: every convolution that can be an integer one
must be a QLinearConv in the graph that ONNX Runtime really executes, else `BadModel` says which
are not.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from thinmaps.errors import BadModel
from thinmaps.graph.network import Network
from thinmaps.graph.operators import CodedConv, Conv
from thinmaps.measure.onnxruntime_peer import open_peer

INTEGER_CONVOLUTIONS = frozenset({"QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul"})


def refuse_crippled(path: str | Path, network: Network) -> None:
    """Check the graph that ONNX Runtime executes for `path`, exported from `network`.

    Raises:
        BadModel: fewer integer convolutions than the network has convolutions between uint8 maps.
    """
    eligible = sum(
        isinstance(node.operator, Conv | CodedConv) and network.output_spec(node).dtype == "uint8"
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
