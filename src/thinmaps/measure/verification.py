# SPDX-License-Identifier: Apache-2.0
"""`verify`: is a .thin file the same network as an ONNX file of integers, map by map?

ONNX Runtime runs the ONNX file whole, with every quantised map as an output; `interpret`, the
definition, runs the thin network on the same picture. Maps meet by name: a map `m` is the uint8 (or
int8) tensor behind `m/reals` or `m/bytes` in files that `export` wrote, and what `QuantizeLinear`
makes of `m` in other QDQ files. Where a codec loses, what its readers see is compared. The first
map that differs, in the order of execution, is where to look: all later ones may differ for its
sake.

The engine then runs the file's own plan, and its outputs are held against the definition's, so that
a wrong plan or kernel shows as well as a wrong network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.calibrate.picture_set import network_values
from thinmaps.errors import BadArgument, BadModel, MissingExtra
from thinmaps.file import Model
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import run_network
from thinmaps.run.pictures import load_picture
from thinmaps.types import MapSpec, Preprocessing

try:
    import onnx
    import onnxruntime
    from onnx import TensorProto

    from thinmaps.graph.onnx_reader import read_model
    from thinmaps.graph.quantise import real_values
except ImportError as absent:
    raise MissingExtra(
        f"comparing with another network needs ONNX Runtime ({absent}): "
        "pip install 'thinmaps[compress]'"
    ) from None

Array = NDArray[Any]

# Bytes of int8 maps are rebased by this much, as the reader does it.
INT8_SHIFT = 128


@dataclass(frozen=True)
class Difference:
    """The first differing element of the first differing map, and how many differ in it."""

    map: str
    row: int
    column: int
    channel: int
    ours: float
    theirs: float
    elements: int
    of: int

    def __str__(self) -> str:
        return (
            f"map {self.map!r}, row {self.row}, column {self.column}, channel {self.channel}: "
            f"{self.ours:g} here, {self.theirs:g} there; {self.elements} of {self.of} elements "
            "differ"
        )


@dataclass(frozen=True)
class Verification:
    """Which maps were compared, which the other file does not name, and the first difference."""

    compared: tuple[str, ...]
    absent: tuple[str, ...]
    difference: Difference | None

    def to_json(self) -> dict[str, Any]:
        """JSON values under the field names."""
        return dataclasses.asdict(self)


def verify(model: Model, path: str | Path, picture: str | Path | None = None) -> Verification:
    """Compare `model` with the quantised ONNX network at `path` on one picture.

    Without a `picture` the input is noise from a fixed seed, which excites every range. Costs one
    inference by the definition (seconds for a network of ImageNet's size), all maps held at once.

    Raises:
        BadModel: no such file, ONNX Runtime refuses it, its input is another, or it names none of
            the network's maps (a float network has no bytes to compare).
        BadArgument: a picture is given, and the network takes several inputs or no pictures.
        BadPicture: the picture cannot be opened.
    """
    inputs = _inputs(model, picture)
    source = model.plan.source
    defined = run_network(source, inputs, model.plan.codecs)
    ours = {
        node.output: defined[node.output]
        for node in source.nodes
        if source.maps[node.output].dtype == "uint8"
    }
    theirs = _their_maps(read_model(path), list(ours), _fed(inputs, model.preprocessing), path)
    compared = tuple(name for name in ours if name in theirs)
    if not compared:
        raise BadModel(
            f"{path}: names none of the {len(ours)} maps as quantised ones; verify needs a QDQ "
            "file, such as `thinmaps export` writes"
        )
    found = (_difference(name, ours[name], theirs[name]) for name in compared)
    return Verification(
        compared,
        tuple(name for name in ours if name not in theirs),
        next((difference for difference in found if difference), None)
        or _wrong_plan(model, inputs, defined),
    )


def _inputs(model: Model, picture: str | Path | None) -> dict[str, Array]:
    """What both networks are shown, `(h, w, c)`."""
    source = model.plan.source
    if picture is not None:
        if len(source.inputs) != 1 or model.preprocessing is None:
            what = "" if model.preprocessing else ", which are no pictures"
            raise BadArgument(
                f"verify shows a picture to a network of one input, this one takes "
                f"{', '.join(source.inputs)}{what}; leave the picture out to compare on noise"
            )
        (name,) = source.inputs
        shape = source.maps[name].shape
        return {
            name: network_values(str(picture), load_picture(picture), shape, model.preprocessing)
        }
    random = np.random.default_rng(0)
    return {name: _noise(source.maps[name], random) for name in source.inputs}


def _noise(spec: MapSpec, random: np.random.Generator) -> Array:
    if spec.dtype == "float32":
        return random.standard_normal(spec.shape, np.float32)
    return random.integers(0, 256, spec.shape, np.uint8)


def _fed(inputs: Mapping[str, Array], preprocessing: Preprocessing | None) -> dict[str, Array]:
    """The same in the other file's terms: float32 `n c h w`."""
    return {name: real_values(values, preprocessing)[None] for name, values in inputs.items()}


def _their_maps(
    model: onnx.ModelProto, names: list[str], feeds: dict[str, Array], path: str | Path
) -> dict[str, Array]:
    """The maps that the other file names, as bytes `(h, w, c)`."""
    tensors = _quantised_tensors(model, names)
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    chosen = {name: tensor for name, tensor in tensors.items() if types.get(tensor) in _KINDS}
    shown.graph.output.extend(
        onnx.helper.make_tensor_value_info(tensor, types[tensor], None)
        for tensor in dict.fromkeys(chosen.values())
    )
    if not chosen:
        return {}
    made = _run(shown, list(dict.fromkeys(chosen.values())), feeds, path)
    return {name: _rebased(made[tensor]) for name, tensor in chosen.items()}


_KINDS = (TensorProto.UINT8, TensorProto.INT8)


def _quantised_tensors(model: onnx.ModelProto, names: list[str]) -> dict[str, str]:
    """Map name -> the tensor of the bytes that its readers see, as the page's head says."""
    made = {output for node in model.graph.node for output in node.output}
    bytes_of = {name: f"{name}/bytes" for name in names if f"{name}/bytes" in made}
    quantised = {
        node.input[0]: node.output[0]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    read = {
        node.output[0].removesuffix("/reals"): node.input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.output[0].endswith("/reals")
    }
    found = quantised | bytes_of | read
    return {name: found[name] for name in names if name in found}


def _run(
    model: onnx.ModelProto, outputs: list[str], feeds: dict[str, Array], path: str | Path
) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        made = session.run(outputs, feeds)
    except Exception as reason:  # ONNX Runtime's errors share no base but Exception
        raise BadModel(f"{path}: cannot be run: {str(reason).splitlines()[0]}") from None
    return dict(zip(outputs, made, strict=True))


def _rebased(values: Array) -> Array:
    """Bytes `(h, w, c)` of a tensor `(1, c, h, w)` or `(1, c)`, int8 ones moved to uint8."""
    if values.dtype == np.int8:
        values = (values.astype(np.int16) + INT8_SHIFT).astype(np.uint8)
    planes = values.reshape(values.shape[1], *(values.shape[2:] or (1, 1)))
    return planes.transpose(1, 2, 0)


def _difference(name: str, ours: Array, theirs: Array) -> Difference | None:
    """The first differing element, row by row; a map of another shape is refused."""
    if ours.shape != theirs.shape:
        raise BadModel(f"map {name!r} is {ours.shape} (h, w, c) here and {theirs.shape} there")
    places = np.argwhere(ours != theirs)
    if not len(places):
        return None
    row, column, channel = map(int, places[0])
    ours_there, theirs_there = (float(values[row, column, channel]) for values in (ours, theirs))
    return Difference(name, row, column, channel, ours_there, theirs_there, len(places), ours.size)


def _wrong_plan(
    model: Model, inputs: dict[str, Array], defined: Mapping[str, Array]
) -> Difference | None:
    """Where the engine on the file's own plan makes other outputs than the definition."""
    made = Engine(model.plan).maps(inputs)
    found = (_difference(name, made[name], defined[name]) for name in made)
    return next((difference for difference in found if difference), None)
