# SPDX-License-Identifier: Apache-2.0
"""Codecs in an ONNX file: functions of the domain `thinmaps.codecs`, configurations in metadata.

The export draws a codec as a function, so that any runtime gives its numbers. Coming back, the
function is taken out, and the map behind it keeps the codec's configuration: one metadata entry
`thinmaps.codec/<tensor>` per map, named by the uint8 tensor that the codec holds. What the text
says is not for this room; `file/codec_text.py` reads it.
"""

from __future__ import annotations

import onnx

from thinmaps.errors import BadModel
from thinmaps.graph.onnx_draft import Draft

DOMAIN = "thinmaps.codecs"
METADATA = "thinmaps.codec/"


def without_codecs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model with the maps as they are, and the configuration behind each tensor's name.

    Raises:
        BadModel: a codec's function stands in the file without its configuration.
    """
    texts = {
        entry.key.removeprefix(METADATA): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(METADATA)
    }
    if not any(function.domain == DOMAIN for function in model.functions):
        return model, texts
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for node in bare.graph.node:
        if node.domain == DOMAIN:
            if node.input[0] not in texts:
                raise BadModel(
                    f"node {node.name!r} is the codec {node.op_type!r}, whose configuration the "
                    "file's metadata lack; export it again"
                )
            node.domain, node.op_type = "", "Identity"
    kept = [function for function in bare.functions if function.domain != DOMAIN]
    imports = [each for each in bare.opset_import if each.domain != DOMAIN]
    del bare.functions[:], bare.opset_import[:]
    bare.functions.extend(kept)
    bare.opset_import.extend(imports)
    return bare, texts


def codecs_of_maps(texts: dict[str, str], draft: Draft, maps: set[str]) -> dict[str, str]:
    """Configurations by the names of the maps that hold those tensors.

    Raises:
        BadModel: a configuration is for a tensor that is no map between nodes.
    """
    found: dict[str, str] = {}
    for tensor, text in texts.items():
        view = draft.views.get(tensor)
        if view is None or view.map not in maps:
            raise BadModel(f"the file has a codec for tensor {tensor!r}, which is no map of it")
        found[view.map] = text
    return found
