# SPDX-License-Identifier: Apache-2.0
"""A .thin file's bytes: named arrays and one text, in safetensors' layout, with a seal.

Source
    The safetensors format (Hugging Face; `safetensors` on GitHub, README "Format"): 8 bytes of
    header length, a JSON header, then the arrays' bytes. Ours adds to that format: two metadata
    entries at a fixed place, an order of the arrays, and no freedom in anything else, so that
    equal content has equal bytes. Any safetensors reader opens the file.

Layout
    offset          bytes  holds
    0               8      n, the header's length, little endian
    8               n      {"__metadata__":{"sha256":"<64 digits>","thinmaps":"<text>"}, arrays...}
                           padded with spaces to a multiple of 8
    8 + n           rest   the arrays, widest element first, then by name; no hole, no overlap
The seal is the SHA-256 of the whole file with its own 64 digits read as "0": damage anywhere is
seen. It keeps nobody from writing a hostile file, so what `unpack` returns is still only bytes
that are well formed; `document.py` and the verifiers judge what they say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps import _core
from thinmaps.errors import BadFile
from thinmaps.pages import MappedFile

Arrays = dict[str, NDArray[Any]]

MAX_FILE_BYTES = 1 << 32
MAX_HEADER_BYTES = 1 << 24
MAX_RANK = 8

# Biases and tables are read one by one, which as views would bring pages of the file with them.
_MOST_COPIED_BYTES = 1 << 14

_DTYPES = {"U8": "<u1", "I8": "<i1", "I32": "<i4", "I64": "<i8", "F32": "<f4"}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_PREFIX = b'{"__metadata__":{"sha256":"'
_SEAL_AT = 8 + len(_PREFIX)
_SEAL_DIGITS = 64


def pack(text: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The file's bytes; equal arguments give equal bytes."""
    header: dict[str, Any] = {"__metadata__": {"sha256": "0" * _SEAL_DIGITS, "thinmaps": text}}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    payloads = [np.ascontiguousarray(arrays[name]).tobytes() for name in names]
    offset = 0
    for name, payload in zip(names, payloads, strict=True):
        header[name] = {
            "dtype": _NAMES[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "data_offsets": [offset, offset + len(payload)],
        }
        offset += len(payload)
    encoded = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    return seal(len(encoded).to_bytes(8, "little") + encoded + b"".join(payloads))


def seal(data: bytes) -> bytes:
    """`data` with the digits of its seal set; the tests seal hostile files with it."""
    return data[:_SEAL_AT] + _digest(data).encode() + data[_SEAL_AT + _SEAL_DIGITS :]


def unpack(data: bytes | MappedFile) -> tuple[str, Arrays]:
    """Text and arrays of a file's bytes; large arrays are read-only views of them.

    Raises:
        BadFile: the bytes are damaged or not of the form that `pack` writes.
    """
    header_bytes = _header_bytes(data)
    stored = data[_SEAL_AT : _SEAL_AT + _SEAL_DIGITS]
    if stored != _digest(data).encode():
        raise BadFile("its checksum does not match its bytes: the file is damaged")
    header = parse_json(data[8 : 8 + header_bytes], "header")
    metadata = header.pop("__metadata__")
    text = metadata.get("thinmaps")
    if set(metadata) != {"sha256", "thinmaps"} or not isinstance(text, str):
        raise BadFile('its metadata needs exactly "sha256" and "thinmaps"')
    arrays = _arrays(header, data, 8 + header_bytes)
    if isinstance(data, MappedFile):
        data.release()  # the checksum has touched all of it
    return text, arrays


def parse_json(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object without repeated keys, infinities or endless nesting."""
    try:
        parsed = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadFile(f"its {what} is not the JSON we write: {reason}") from None
    if not isinstance(parsed, dict):
        raise BadFile(f"its {what} must be a JSON object, got {type(parsed).__name__}")
    return parsed


def _header_bytes(data: bytes | MappedFile) -> int:
    """The header's length, after checking that the file starts like a .thin file."""
    if not data:
        raise BadFile("the file is empty")
    if data[8:_SEAL_AT] != _PREFIX:
        raise BadFile("this is no .thin file: its first bytes are not those of one")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise BadFile(f"its header may take {MAX_HEADER_BYTES} bytes, it claims {length}")
    if 8 + length > len(data):
        raise BadFile(f"the file is cut off: its header ends at byte {8 + length} of {len(data)}")
    if 8 + length < _SEAL_AT + _SEAL_DIGITS:
        raise BadFile(f"its header of {length} bytes is too short to hold a checksum")
    return length


def _digest(data: bytes | MappedFile) -> str:
    """SHA-256 of the file with its seal's digits read as "0"."""
    rest = np.frombuffer(data, np.uint8, offset=_SEAL_AT + _SEAL_DIGITS)
    return _core.sha256(data[:_SEAL_AT] + b"0" * _SEAL_DIGITS, rest)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _arrays(header: Mapping[str, Any], data: bytes | MappedFile, start: int) -> Arrays:
    """The arrays of the header's entries, which must tile the bytes from `start` on, in order."""
    arrays: Arrays = {}
    end, payload_bytes = 0, len(data) - start
    for name, entry in header.items():
        dtype, shape, first, stop = _entry(name, entry)
        if first != end:
            problem = "overlaps the one before it" if first < end else "leaves a hole before it"
            raise BadFile(f"tensor {name!r} {problem}: it starts at byte {first}, not {end}")
        elements = math.prod(shape)
        if stop - first != elements * dtype.itemsize:
            raise BadFile(
                f"tensor {name!r} of shape {list(shape)} needs {elements * dtype.itemsize} bytes, "
                f"its offsets give {stop - first}"
            )
        if stop > payload_bytes:
            raise BadFile(
                f"the file is cut off: tensor {name!r} ends at byte {stop} of {payload_bytes}"
            )
        array = np.frombuffer(data, dtype, elements, start + first if elements else 0)
        kept = array if stop - first > _MOST_COPIED_BYTES and array.flags.aligned else array.copy()
        arrays[name] = kept.reshape(shape)
        end = stop
    if end != payload_bytes:
        raise BadFile(f"{payload_bytes - end} bytes after the last tensor belong to nothing")
    return arrays


def _entry(name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Dtype, shape, first and stop byte of one header entry."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadFile(f"tensor {name!r} needs exactly dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise BadFile(f"tensor {name!r} may be {', '.join(_DTYPES)}, got {entry['dtype']!r:.40}")
    shape = _lengths(entry["shape"])
    offsets = _lengths(entry["data_offsets"])
    if shape is None or len(shape) > MAX_RANK or math.prod(filter(None, shape)) > MAX_FILE_BYTES:
        raise BadFile(f"tensor {name!r} needs a shape of at most {MAX_RANK} lengths that fits")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadFile(f"tensor {name!r} needs two ascending data_offsets")
    return np.dtype(_DTYPES[entry["dtype"]]), shape, offsets[0], offsets[1]


def _lengths(value: Any) -> tuple[int, ...] | None:
    """A list of whole numbers from 0 to the largest file, else None."""
    if not isinstance(value, list):
        return None
    if not all(type(item) is int and 0 <= item <= MAX_FILE_BYTES for item in value):
        return None
    return tuple(value)
