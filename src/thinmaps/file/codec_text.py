# SPDX-License-Identifier: Apache-2.0
"""A codec's configuration as one line of text, for files that are not ours: ONNX metadata.

JSON as `document.py` writes it, with its arrays beside it in base64. Reading is as strict as for a
`.thin` file.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import Codec
from thinmaps.errors import BadFile
from thinmaps.file import document

_ROOT = "codec"
_DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32")


def to_text(codec: Codec) -> str:
    """The configuration; the same codec gives the same text."""
    arrays: dict[str, NDArray[Any]] = {}
    values = document.write(codec, _ROOT, arrays)
    packed = {name: _packed(array) for name, array in arrays.items()}
    return json.dumps({"codec": values, "arrays": packed}, sort_keys=True)


def from_text(text: str) -> Codec:
    """The codec of such a text.

    Raises:
        BadFile: it is none, or says something that no codec can be.
        UnknownCodec: no such codec is installed.
    """
    try:
        held = json.loads(text)
        arrays = {str(name): _unpacked(each) for name, each in held["arrays"].items()}
        values = held["codec"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as reason:
        raise BadFile(f"a codec's configuration cannot be read: {reason!r}") from None
    codec = document.read(Codec, values, _ROOT, arrays)
    if arrays:
        raise BadFile(f"a codec's configuration has an array {min(arrays)!r} that nothing uses")
    assert isinstance(codec, Codec)
    return codec


def _packed(array: NDArray[Any]) -> dict[str, Any]:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    text = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": array.dtype.name, "shape": list(array.shape), "bytes": text}


def _unpacked(held: dict[str, Any]) -> NDArray[Any]:
    if held["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {held['dtype']!r}")
    try:
        content = base64.b64decode(held["bytes"], validate=True)
    except binascii.Error as reason:
        raise ValueError(f"base64: {reason}") from None
    shape = [int(extent) for extent in held["shape"]]
    dtype = np.dtype(held["dtype"]).newbyteorder("<")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes for shape {shape}")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
