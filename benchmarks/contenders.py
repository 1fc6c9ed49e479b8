# SPDX-License-Identifier: Apache-2.0
"""The sides of a speed benchmark: thinmaps, ONNX Runtime, OpenVINO where it is installed.

All find their files in one folder, where `lay_out` writes them. ONNX Runtime on the exported file
is an exact peer: its final maps must be within one step on 99.9 % of the elements. Who computes in
float, with other scales or with other roundings (OpenVINO does, on the same file) must correlate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino_peer

from thinmaps.calibrate.float_maps import real_values
from thinmaps.export.onnx_qdq import to_onnx
from thinmaps.file import Model, save
from thinmaps.measure.bench import CHILD, peer_run, steps_apart
from thinmaps.measure.live_heap import count_in_process
from thinmaps.measure.own_side import our_run
from thinmaps.measure.peer import open_peer, refuse_crippled
from thinmaps.run.engine import Engine
from thinmaps.types import MapSpec

WITHIN_A_STEP = 0.999  # of the elements, for an exact peer
CORRELATION = 0.95  # of all elements, for others
OURS, ORT_INT8, ORT_FLOAT = "thinmaps", "ONNX Runtime int8", "ONNX Runtime float32"
OPENVINO, OPENVINO_NNCF = "OpenVINO int8", "OpenVINO int8 (NNCF)"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Contender:
    """A side: how it runs once, how its memory is counted, how its final maps compare with ours."""

    name: str
    run: Callable[[], object]
    count: Callable[[], int]
    within_a_step: float = 1.0
    correlation: float = 1.0

    @property
    def verified(self) -> bool:
        """Whether the answer is right."""
        exact = self.name in (OURS, ORT_INT8)
        return self.within_a_step >= WITHIN_A_STEP if exact else self.correlation >= CORRELATION


def lay_out(model: Model, floats: onnx.ModelProto, room: Path) -> None:
    """Write what the sides run; the float network then ends where ours does.

    Raises:
        BadModel: ONNX Runtime does not run the export as the integer network that it is.
    """
    save(model, room / "model.thin")
    onnx.save(to_onnx(model.plan.source), room / "integer.onnx")
    refuse_crippled(room / "integer.onnx", model.plan.source)
    del floats.graph.output[:]
    for name in model.plan.source.outputs:
        entry = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        floats.graph.output.append(entry)
    onnx.save(floats, room / "float.onnx")


def contenders(model: Model, picture: Array, room: Path, threads: int) -> Iterator[Contender]:
    """Ours first, then every peer that is installed, each with its answer compared."""
    specs = model.plan.source.maps
    ours = Engine(model.plan, threads=threads).maps(picture)
    real = np.concatenate([real_map(codes, specs[name]).ravel() for name, codes in ours.items()])

    def compared(theirs: Sequence[Array]) -> tuple[float, float]:
        other = np.concatenate([np.ravel(planes) for planes in theirs])
        equal = np.mean(steps_apart(specs, ours, theirs) <= 1)
        return float(equal), float(np.corrcoef(real, other)[0, 1])

    values = np.ascontiguousarray(real_values(picture, model.preprocessing)[None])
    ours_input, peer_input = room / "picture.npy", room / "values.npy"
    np.save(ours_input, picture)
    np.save(peer_input, values)

    def counted(program: str | Path, *arguments: str | Path) -> Callable[[], int]:
        return lambda: count_in_process(program, [str(argument) for argument in arguments])

    run = our_run(model.plan, picture, threads)
    yield Contender(OURS, run, counted(CHILD, "ours", room / "model.thin", ours_input))
    for name, file in ((ORT_INT8, room / "integer.onnx"), (ORT_FLOAT, room / "float.onnx")):
        session = open_peer(file, threads=threads)
        agreement = compared(session.run(None, {session.get_inputs()[0].name: values}))
        count = counted(CHILD, "peer", file, peer_input)
        yield Contender(name, peer_run(file, values, threads), count, *agreement)
    for name, file in openvino_files(room, values):
        request = openvino_peer.open_request(file, values, threads)
        agreement = compared(openvino_peer.outputs(request))
        count = counted(Path(openvino_peer.__file__), file, peer_input)
        yield Contender(name, request.infer, count, *agreement)


def openvino_files(room: Path, values: Array) -> list[tuple[str, Path]]:
    """What OpenVINO runs here: our exported file, and what its own quantiser makes."""
    files = []
    if openvino_peer.installed():
        files.append((OPENVINO, room / "integer.onnx"))
    if files and openvino_peer.installed("nncf"):
        openvino_peer.quantise_with_nncf(room / "float.onnx", values, room / "nncf.xml")
        files.append((OPENVINO_NNCF, room / "nncf.xml"))
    return files


def real_map(codes: Array, spec: MapSpec) -> Array:
    """Real values of a final map, in planes as ONNX orders them."""
    planes = np.moveaxis(codes, -1, 0)
    if spec.dtype != "uint8":
        return planes
    return (planes.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)
