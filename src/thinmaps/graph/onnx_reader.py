# SPDX-License-Identifier: Apache-2.0
"""The one door in: an ONNX file becomes a `FloatNetwork`.

    read_model     file -> ModelProto, or one sentence why not
    onnx_codecs    functions that stand for codecs out, their configurations beside
    onnx_filters   functions that make filters out, their coefficients beside
    onnx_clean     batch 1, static shapes, folded constants
    onnx_qdq       quantisation nodes out, scales and integer weights beside (QDQ files)
    onnx_operators, onnx_pointwise, onnx_layout, onnx_resize
                   one small function per operator: ONNX node -> draft node
    onnx_split     which nodes are maps, which are float operators behind the last map
    onnx_fuse      pairs of nodes into one

Only `graph/onnx_*.py` know ONNX; nothing behind `FloatNetwork` does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import onnx.checker
from google.protobuf.message import DecodeError

from thinmaps.errors import BadArgument, BadModel
from thinmaps.graph.float_network import FloatConv, FloatMean, FloatNetwork, FloatNode
from thinmaps.graph.onnx_clean import clean
from thinmaps.graph.onnx_codecs import codecs_of_maps, without_codecs
from thinmaps.graph.onnx_draft import Draft
from thinmaps.graph.onnx_filters import with_made_filters
from thinmaps.graph.onnx_fuse import fuse
from thinmaps.graph.onnx_graph import parse
from thinmaps.graph.onnx_qdq import complete, unpack_constants
from thinmaps.graph.onnx_split import convert, last_maps, without_trailing


def read(
    path_or_model: str | Path | onnx.ModelProto, *, size: tuple[int, int] | None = None
) -> FloatNetwork:
    """Read an ONNX network, float or QDQ, as a `FloatNetwork` of batch 1 and static shapes.

    `size` is (height, width): it fixes dynamic sizes and overrides static ones.

    Raises:
        BadModel: the file cannot be read or does not make sense; the message names it, or the node.
        UnsupportedOperator: names all operators that we do not have.
    """
    if isinstance(path_or_model, onnx.ModelProto):
        return normalise(path_or_model, size)[0]
    model = read_model(path_or_model)
    try:
        return normalise(model, size)[0]
    except BadModel as error:
        raise type(error)(f"{path_or_model}: {error}") from None


def read_model(path: str | Path) -> onnx.ModelProto:
    """The model in a file, weights included; refuses, in one sentence, what is not a model."""
    path = Path(path)
    if not path.exists():
        raise BadModel(f"{path} does not exist; an ONNX file is needed")
    if path.is_dir():
        raise BadModel(f"{path} is a directory; an ONNX file is needed")
    if path.stat().st_size == 0:
        raise BadModel(f"{path} is empty (0 bytes); an ONNX file is needed")
    try:
        model = onnx.load(path)
    except DecodeError:
        raise BadModel(f"{path} is not an ONNX file, or a damaged one") from None
    except (onnx.checker.ValidationError, FileNotFoundError) as error:
        first = str(error).strip().splitlines()[0]
        raise BadModel(f"{path} keeps weights in another file that is missing: {first}") from None
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror or error}") from None
    if not model.graph.node:
        raise BadModel(f"{path} is not an ONNX network: it has no nodes")
    return model


def normalise(
    model: onnx.ModelProto, size: tuple[int, int] | None = None
) -> tuple[FloatNetwork, onnx.ModelProto]:
    """The network and a clean float model in which every map is a value of the same name.

    The model has static shapes; to collect ranges of a float network, add map names as its outputs
    and run it. (A QDQ network brings its ranges.)
    """
    if size is not None and min(size) < 1:
        raise BadArgument(f"a size needs a height and a width of at least 1, got {size}")
    bare, codecs = without_codecs(model)
    plain, coded = with_made_filters(bare)
    cleaned, notes = clean(plain, size)
    graph, stored = unpack_constants(parse(cleaned), coded)
    draft = Draft(graph, stored)
    network = _assemble(draft, notes)
    if codecs:
        held = {*network.inputs, *(node.output for node in network.nodes)} - {*network.outputs}
        network = replace(network, codecs=codecs_of_maps(codecs, draft, held))
    return network, cleaned


def _assemble(draft: Draft, notes: tuple[str, ...]) -> FloatNetwork:
    for name in draft.graph.inputs:
        draft.add_input(name)
    behind = convert(draft)
    kept = {draft.views[name].map for name in behind.reads if name in draft.views}
    nodes = fuse(draft.nodes, draft.shapes, kept | draft.quantisation.keys())
    if not any(isinstance(node.operator, FloatConv) for node in nodes):
        raise BadModel("the network has no convolution or fully connected layer in front")
    nodes = without_trailing(nodes, draft)
    tail, outputs = last_maps(nodes, draft)
    nodes = _alive(nodes, outputs)
    used = {name for node in nodes for name in (*node.inputs, node.output)}
    inputs = tuple(name for name in draft.graph.inputs if name in used)
    heads = _heads(nodes, outputs, draft)
    quantised = bool(draft.quantisation)
    return FloatNetwork(
        nodes=tuple(nodes),
        shapes={name: shape for name, shape in draft.shapes.items() if name in used},
        inputs=inputs,
        outputs=outputs,
        float_outputs=heads,
        tail=tail,
        quantisation=complete(nodes, draft, inputs) if quantised else None,
        kind="qdq" if quantised else "float",
        notes=notes,
    )


def _alive(nodes: list[FloatNode], outputs: tuple[str, ...]) -> list[FloatNode]:
    """The nodes that some output depends on."""
    needed = set(outputs)
    alive: list[FloatNode] = []
    for node in reversed(nodes):
        if node.output in needed:
            needed.update(node.inputs)
            alive.append(node)
    return alive[::-1]


def _heads(nodes: list[FloatNode], outputs: tuple[str, ...], draft: Draft) -> frozenset[str]:
    """Outputs that come as float32 straight from int32 sums.

    In a QDQ file these are the last layers that nothing quantises, of any size.
    """
    read = {name for node in nodes for name in node.inputs}
    return frozenset(
        node.output
        for node in nodes
        if node.output in set(outputs) - read
        and isinstance(node.operator, FloatConv | FloatMean)
        and (draft.shapes[node.output][:2] == (1, 1) or draft.quantisation)
        and node.output not in draft.quantisation
        and (node.low, node.high) == (float("-inf"), float("inf"))
    )
