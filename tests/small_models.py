# SPDX-License-Identifier: Apache-2.0
"""Small models that hold everything a .thin file can, and their bytes under edits."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_networks import PREPROCESSING, chain, every_operator

from thinmaps.codecs.narrow import Narrow
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.errors import BadFile
from thinmaps.file import Model, Provenance, encode, load
from thinmaps.file.container import pack, seal, unpack
from thinmaps.graph.float_network import Tail, TailNode
from thinmaps.plan.build import build

Document = dict[str, Any]
Arrays = dict[str, np.ndarray]


@cache
def small_model() -> Model:
    """A chain with two codecs, a tail, labels and provenance."""
    network = chain()
    narrow = Narrow(bits=5, step=np.full(8, 1 << 18, np.int32), zero_code=np.zeros(8, np.uint8))
    codecs = {"conv_1:0": narrow, "conv_2:0": ZeroBitmap()}
    plan = build(network, codecs=codecs, arena_bytes="smallest")
    head = network.outputs[0]
    nodes = (
        TailNode("Add", (head, "shift"), ("shifted",)),
        TailNode("Softmax", ("shifted",), ("probabilities",), {"axes": (1,)}),
    )
    tail = Tail(
        nodes, {"shift": np.float32([1, 2, 3, 4, 5, 6, 7])}, ("probabilities",), {head: (1, 7)}
    )
    return Model(
        plan,
        tail,
        PREPROCESSING,
        ("ant", "bee", "cat", "dog", "elk", "fox", "gnu"),
        Provenance("models/small.onnx", "0" * 64, "0.1.0", {"codec": "narrow", "arena": 65536}),
        ("a sentence for show",),
    )


@cache
def wide_model() -> Model:
    """Every operator, two inputs, two outputs, nothing else."""
    network = every_operator()
    shapes = {
        name: (1, network.maps[name].channels, *network.maps[name].shape[:2])
        for name in network.outputs
    }
    return Model(build(network, arena_bytes="smallest"), Tail((), {}, network.outputs, shapes))


def edited(model: Model, change: Callable[[Document, Arrays], None]) -> bytes:
    """The bytes of a model whose document or arrays were changed, with a right seal."""
    text, arrays = unpack(encode(model))
    document = json.loads(text)
    change(document, arrays)
    return pack(json.dumps(document), arrays)


def with_header(data: bytes, change: Callable[[Document], None], extra: bytes = b"") -> bytes:
    """A file's bytes with a changed header, and perhaps more bytes at the end, sealed."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return seal(len(encoded).to_bytes(8, "little") + encoded + data[8 + length :] + extra)


def refusal(path: Path, data: bytes) -> str:
    """The one sentence with which a file is refused; it names the file."""
    path.write_bytes(data)
    with pytest.raises(BadFile) as caught:
        load(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert len(sentence) < 600
    return sentence
