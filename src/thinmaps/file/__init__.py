# SPDX-License-Identifier: Apache-2.0
"""The .thin file: a plan and all that `run` and `eval` need around it, in one safetensors file.

`docs/format.md` describes the bytes. Never pickled, never trusted: `load` checks the container,
then the document, then the network, then the plan, and only then does anything use a number of it.
What can be derived (the network with its codecs in place) is derived, not stored. The same model
gives the same bytes.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import Codec
from thinmaps.errors import BadFile, ThinmapsError
from thinmaps.file.atomic import check_writable, write_atomically
from thinmaps.file.container import MAX_FILE_BYTES, pack, parse_json, unpack
from thinmaps.file.document import read, write
from thinmaps.graph.float_network import Tail, TailNode
from thinmaps.graph.network import Network
from thinmaps.graph.rules import check_operators
from thinmaps.graph.tail import OPERATORS as TAIL_OPERATORS
from thinmaps.graph.tail import evaluate
from thinmaps.pages import MappedFile, fetched
from thinmaps.plan.lower import lower
from thinmaps.plan.plan import Buffer, Place, Plan, Steps
from thinmaps.plan.verify import verify
from thinmaps.types import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path  # whose import takes half a MiB

__all__ = ["Model", "Provenance", "Trade", "check_writable", "load", "save", "write_atomically"]

FORMAT = 1
SCHEDULES = ("layer", "stream", "mixed")
MAX_TAIL_ELEMENTS = 1 << 28


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from: the float file's path as given, its SHA-256, who made this."""

    float_model: str = ""
    float_sha256: str = ""
    thinmaps: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trade:
    """What one allocation of codecs costs: bytes of the arena, bytes moved, points of drop."""

    arena_bytes: int
    traffic_bytes: int
    drop: float


@dataclass(frozen=True, eq=False)
class Model:
    """What a .thin file holds. `labels` are the classes' names in order, or empty.

    `preprocessing` is None for networks that take arrays, not pictures. `notes` are sentences for
    `show`: codecs that did not pay, constants that were bent. `drop` is what compressing cost on
    held-out calibration pictures, in points, or None where nothing was measured. `front` are the
    trades that rate control evaluated and that no other beats, on the pictures it chose on.
    """

    plan: Plan
    tail: Tail
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)
    notes: tuple[str, ...] = ()
    drop: float | None = None
    front: tuple[Trade, ...] = ()


@dataclass(frozen=True, eq=False)
class _Document:
    """The JSON document, field by field; arrays stand beside it (see `document.py`)."""

    format: int
    source: Network
    codecs: Mapping[str, Codec]
    steps: NDArray[np.int32]  # (steps, 3): node, first work row, work rows
    buffers: tuple[Buffer, ...]
    places: Mapping[str, Place]
    states: Mapping[str, int]
    arena_bytes: int
    schedule: str
    segments: tuple[int, ...]
    stripe_rows: int
    tail: Tail
    preprocessing: Preprocessing | None
    labels: tuple[str, ...]
    provenance: Provenance
    notes: tuple[str, ...]
    drop: float | None
    front: tuple[Trade, ...]


def save(model: Model, path: str | Path) -> None:
    """Write `model` to `path`, whole or not at all.

    Raises:
        BadArgument: the path cannot be written.
        BadFile: the model is not one that `load` would accept.
    """
    from pathlib import Path

    target = Path(path)
    check_writable(target)
    data = encode(model)
    try:
        decode(data)
    except ThinmapsError as error:
        raise BadFile(f"{target} was not written, it could not be read back: {error}") from error
    write_atomically(target, data)


def load(path: str | os.PathLike[str]) -> Model:
    """Read and verify a .thin file.

    Its large arrays are views of the file, which stays mapped as long as one of them lives: what
    nobody reads takes no memory. So replace a file by renaming another one onto it, as `save` does;
    who cuts it short in place kills the processes that read such an array.

    Raises:
        BadFile: it is absent, damaged, hostile or of another format version.
    """
    try:
        data = _content(path)
    except OSError as error:
        raise BadFile(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return decode(data)
    except ThinmapsError as error:
        raise BadFile(f"{path}: {error}") from error


def encode(model: Model) -> bytes:
    """The bytes of a .thin file."""
    arrays: dict[str, NDArray[Any]] = {}
    document = write(_document(model), "", arrays)
    return pack(json.dumps(document, sort_keys=True, allow_nan=False), arrays)


def decode(data: bytes | MappedFile) -> Model:
    """The model in a .thin file's bytes, verified.

    Raises:
        ThinmapsError: the first thing found wrong, without the file's name.
    """
    text, arrays = unpack(data)
    parsed = parse_json(text, "document")
    _check_format(parsed.get("format"))
    document: _Document = read(_Document, parsed, "", arrays)
    if arrays:
        raise BadFile(f"the tensor {min(arrays)!r} belongs to nothing")
    _check_tail(document)
    check_operators(document.source)
    _check_codecs(document)
    plan = _plan(document)
    verify(plan)
    return Model(
        plan,
        document.tail,
        document.preprocessing,
        document.labels,
        document.provenance,
        document.notes,
        document.drop,
        document.front,
    )


def _content(path: str | os.PathLike[str]) -> bytes | MappedFile:
    """A regular file, mapped; at most as many bytes as a .thin file may have."""
    if not os.path.exists(path):
        raise BadFile(f"there is no file {path}")
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise BadFile(f"{path} is no file: a .thin file is needed")
    if status.st_size > MAX_FILE_BYTES:
        raise BadFile(f"{path} has {status.st_size} bytes, more than the {MAX_FILE_BYTES} allowed")
    return MappedFile.open(path) if status.st_size else b""


def _check_format(version: Any) -> None:
    if type(version) is not int:
        raise BadFile(f"its document needs a format version, got {version!r:.40}")
    if version != FORMAT:
        raise BadFile(
            f"it has format version {version}, this thinmaps reads version {FORMAT}; "
            f"{'update thinmaps' if version > FORMAT else 'compress the network again'}"
        )


def _check_codecs(document: _Document) -> None:
    """Each codec is on a map, and has the tables for it."""
    for name, codec in document.codecs.items():
        if name not in document.source.maps:
            raise BadFile(f"the codec {codec.id} is for the map {name!r}, which there is not")
        codec.check_spec(document.source.maps[name])


def _check_tail(document: _Document) -> None:
    """The tail is run once on zeros: each value is made before it is read, and every shape fits."""
    tail, maps = document.tail, document.source.maps
    for name, constant in tail.constants.items():
        if constant.dtype not in (np.float32, np.int64):
            raise BadFile(f"the tail's constant {name!r} is float32 or int64, got {constant.dtype}")
    if set(tail.input_shapes) != set(document.source.outputs):
        raise BadFile("the tail does not read exactly the network's outputs")
    for name, shape in tail.input_shapes.items():
        if math.prod(shape) != math.prod(maps[name].shape) or min(shape, default=1) < 1:
            raise BadFile(f"the tail reads {name!r} as {shape}, the map has {maps[name].shape}")
    values: dict[str, NDArray[Any]] = {
        name: np.zeros(shape, np.float32) for name, shape in tail.input_shapes.items()
    }
    values.update(tail.constants)
    for node in tail.nodes:
        values.update(_try_tail_node(node, values))
    if unknown := [name for name in tail.outputs if name not in values]:
        raise BadFile(f"the tail's output {unknown[0]!r} is made by nothing")


def _try_tail_node(node: TailNode, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What one node makes of `values`."""
    if node.op_type not in TAIL_OPERATORS:
        raise BadFile(f"the tail's operator {node.op_type!r} is unknown")
    if unknown := [name for name in node.inputs if name not in values]:
        raise BadFile(f"the tail's {node.op_type} reads {unknown[0]!r}, made by nothing yet")
    inputs = {name: values[name] for name in node.inputs}
    try:
        with np.errstate(all="ignore"):
            made = evaluate(Tail((node,), inputs, node.outputs), {})
    except Exception as error:  # NumPy has many, and all mean that the file's numbers do not fit
        raise BadFile(f"the tail's {node.op_type} does not fit its inputs: {error}") from None
    if sum(array.size for array in made.values()) > MAX_TAIL_ELEMENTS:
        raise BadFile(f"the tail's {node.op_type} makes more than {MAX_TAIL_ELEMENTS} elements")
    return made


def _document(model: Model) -> _Document:
    plan = model.plan
    return _Document(
        format=FORMAT,
        source=plan.source,
        codecs=plan.codecs,
        steps=np.array(plan.steps, np.int32).reshape(-1, 3),
        buffers=plan.buffers,
        places=plan.places,
        states=plan.states,
        arena_bytes=plan.arena_bytes,
        schedule=plan.schedule,
        segments=plan.segments,
        stripe_rows=plan.stripe_rows,
        tail=model.tail,
        preprocessing=model.preprocessing,
        labels=model.labels,
        provenance=model.provenance,
        notes=model.notes,
        drop=model.drop,
        front=model.front,
    )


def _plan(document: _Document) -> Plan:
    """The plan of a document, its lowered network derived again."""
    if document.steps.ndim != 2 or document.steps.shape[1] != 3:
        raise BadFile(f"the steps need three columns, got shape {document.steps.shape}")
    if document.schedule not in SCHEDULES:
        raise BadFile(f"a schedule is one of {', '.join(SCHEDULES)}, got {document.schedule!r:.40}")
    if document.stripe_rows < 1:
        raise BadFile(f"a stripe has at least 1 row, got {document.stripe_rows}")
    network = lower(document.source, document.codecs)
    if len(document.segments) != len(network.nodes) or min(document.segments, default=0) < 0:
        raise BadFile(f"{len(network.nodes)} nodes need as many segments, counted from 0")
    return Plan(
        source=document.source,
        network=network,
        codecs=document.codecs,
        steps=Steps(fetched(document.steps)),
        buffers=document.buffers,
        places=document.places,
        states=document.states,
        arena_bytes=document.arena_bytes,
        schedule=document.schedule,
        segments=document.segments,
        stripe_rows=document.stripe_rows,
    )
