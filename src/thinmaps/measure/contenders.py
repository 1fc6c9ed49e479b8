# SPDX-License-Identifier: Apache-2.0
"""The sides of a benchmark: files that runtimes run, and what they answer beside ours.

    thinmaps                the plan
    ONNX Runtime int8       the QDQ file that `export` writes for the same network
    ONNX Runtime float32    the float network, where it is given
    ..., arena off          the same without ONNX Runtime's memory arena: every map is allocated
                            when it is made and freed behind its last reader
    OpenVINO int8           the same QDQ file, where OpenVINO is installed
    OpenVINO float32        the float network, where it is given

Peers run files without the functions that emulate codecs, which would only slow them down; answers
of the int8 file in ONNX Runtime are compared with the functions in.

ONNX Runtime on the exported file is an exact peer: its final maps must be within one step on 99.9 %
of the elements. Who computes in float, with other scales or with other roundings (OpenVINO does, on
the same file) must correlate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from thinmaps.errors import BadModel
from thinmaps.export.onnx_qdq import to_onnx
from thinmaps.file import Model, save
from thinmaps.graph.quantise import real_values
from thinmaps.measure import onnxruntime_peer, openvino_peer
from thinmaps.measure.live_heap import Memory, count_in_process
from thinmaps.measure.own_side import our_run
from thinmaps.measure.peer import refuse_crippled
from thinmaps.run.engine import Engine
from thinmaps.types import MapSpec

Array = NDArray[Any]
Runtime = Literal["thinmaps", "onnxruntime", "openvino"]

WITHIN_A_STEP = 0.999  # of the elements, for an exact peer
CORRELATION = 0.95  # of all elements, for others
CHILD = "thinmaps.measure.heap_child"
OURS, ORT_INT8, ORT_FLOAT = "thinmaps", "ONNX Runtime int8", "ONNX Runtime float32"
ARENA_OFF = ", arena off"
OPENVINO, OPENVINO_FLOAT = "OpenVINO int8", "OpenVINO float32"


@dataclass(frozen=True)
class Entry:
    """A file, and the runtime that runs it.

    `answers` is the file whose answers are compared, where it is another. An exact peer must be
    within a step, others must correlate with our answers by at least `least_correlation`.
    """

    name: str
    runtime: Runtime
    file: Path
    exact: bool = False
    keep_arena: bool = True
    answers: Path | None = None
    least_correlation: float = CORRELATION


@dataclass(frozen=True)
class Agreement:
    """How far final maps lie from ours: `within_a_step` is a share of the elements, `largest_step`
    the largest difference, both in steps of the quantisation, see `steps_apart`."""

    within_a_step: float = 1.0
    largest_step: int = 0
    correlation: float = 1.0


@dataclass(frozen=True)
class Side:
    """An entry, opened: one call of `run` is one inference."""

    entry: Entry
    run: Callable[[], object]
    agreement: Agreement

    @property
    def verified(self) -> bool:
        """Whether the answer is right."""
        if self.entry.exact:
            return self.agreement.within_a_step >= WITHIN_A_STEP
        return self.agreement.correlation >= self.entry.least_correlation


def lay_out(
    model: Model,
    room: Path,
    runtimes: Sequence[Runtime],
    floats: onnx.ModelProto | None = None,
) -> list[Entry]:
    """Write what the sides run into the folder `room`; ours is the first entry.

    `floats` is the float network at the model's input size; it then ends where ours does.

    Raises:
        BadModel: ONNX Runtime does not run the export as the integer network that it is, or
            `floats` has no map of the name of one of ours.
    """
    entries = [Entry(OURS, "thinmaps", room / "model.thin", exact=True)]
    plain, coded, real = (room / f"{name}.onnx" for name in ("integer", "coded", "float"))
    save(model, entries[0].file)
    onnx.save(to_onnx(model.plan.source), plain)
    onnx.save(to_onnx(model.plan.source, model.plan.codecs), coded)
    if floats is not None:
        onnx.save(_ending_at(floats, model.plan.source.outputs), real)
    if "onnxruntime" in runtimes:
        refuse_crippled(plain, model.plan.source)
        for suffix, keep in (("", True), (ARENA_OFF, False)):
            entries.append(Entry(ORT_INT8 + suffix, "onnxruntime", plain, True, keep, coded))
            if floats is not None:
                entries.append(Entry(ORT_FLOAT + suffix, "onnxruntime", real, False, keep))
    if "openvino" in runtimes:
        entries.append(Entry(OPENVINO, "openvino", plain))
        if floats is not None:
            entries.append(Entry(OPENVINO_FLOAT, "openvino", real))
    return entries


def _ending_at(floats: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """A copy of the network with other outputs."""
    made = {name for node in floats.graph.node for name in node.output}
    absent = [name for name in outputs if name not in made]
    if absent:
        raise BadModel(
            f"the float network has no map {absent[0]!r}, so it is not the one that this model "
            "was made from"
        )
    cut = onnx.ModelProto()
    cut.CopyFrom(floats)
    del cut.graph.output[:]
    for name in outputs:
        entry = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        cut.graph.output.append(entry)
    return cut


def asker(entry: Entry, threads: int = 1) -> Callable[[Array], list[Array]]:
    """A peer that is asked for the real values of its final maps, one input after the other."""
    file = entry.answers or entry.file
    if entry.runtime == "openvino":
        request = openvino_peer.open_request(file, threads)
        return lambda values: openvino_peer.outputs(request, values)
    session = onnxruntime_peer.open_peer(file, threads=threads)
    return lambda values: onnxruntime_peer.outputs(session, values)


class Task:
    """One picture that all sides answer; `real` are our final maps' real values, all together."""

    def __init__(self, model: Model, picture: Array, room: Path) -> None:
        """Answer it ourselves, and leave it in `room` for the processes that count memory."""
        self.model, self.picture, self.room = model, picture, room
        self.values = np.ascontiguousarray(real_values(picture, model.preprocessing)[None])
        self._specs = model.plan.source.maps
        self._ours = Engine(model.plan).maps(picture)
        maps = [_real_map(codes, self._specs[name]) for name, codes in self._ours.items()]
        self.real = np.concatenate([planes.ravel() for planes in maps])
        np.save(room / "picture.npy", picture)
        np.save(room / "values.npy", self.values)

    def open(self, entry: Entry, threads: int) -> Side:
        """A side with its answer compared."""
        if entry.runtime == "thinmaps":
            return Side(entry, our_run(self.model.plan, self.picture, threads), Agreement())
        agreement = self._agreement(asker(entry, threads)(self.values))
        if entry.runtime == "openvino":
            request = openvino_peer.open_request(entry.file, threads)
            return Side(entry, openvino_peer.run_of(request, self.values), agreement)
        session = onnxruntime_peer.open_peer(
            entry.file, keep_arena=entry.keep_arena, threads=threads
        )
        return Side(entry, onnxruntime_peer.run_of(session, self.values), agreement)

    def memory(self, entry: Entry) -> Memory:
        """What an inference of an entry takes, in a process of its own with one thread."""
        values = self.room / ("picture.npy" if entry.runtime == "thinmaps" else "values.npy")
        arena = "keep" if entry.keep_arena else "off"
        found = count_in_process(CHILD, [entry.runtime, str(entry.file), str(values), arena])
        return Memory(**found)

    def _agreement(self, theirs: Sequence[Array]) -> Agreement:
        difference = steps_apart(self._specs, self._ours, theirs)
        within = float(np.mean(difference <= 1))
        return Agreement(within, round(float(difference.max())), correlation(self.real, theirs))


def correlation(real: Array, theirs: Sequence[Array]) -> float:
    """Pearson's, of all elements; 0 where one side is constant."""
    other = np.concatenate([np.ravel(planes) for planes in theirs])
    return float(np.corrcoef(real, other)[0, 1]) if np.ptp(real) and np.ptp(other) else 0.0


def steps_apart(
    maps: Mapping[str, MapSpec], ours: Mapping[str, Array], theirs: Sequence[Array]
) -> Array:
    """Differences of all final-map elements in steps: our maps and a peer's real values of them.

    A head's float32 output has no step; there 1/255 of its range counts as one.
    """
    found = []
    for (name, mine), other in zip(ours.items(), theirs, strict=True):
        spec = maps[name]
        planes = np.moveaxis(mine, -1, 0).reshape(other.shape)
        if spec.dtype == "uint8":
            codes = np.rint(other / np.float32(spec.scale)) + spec.zero_point
            found.append(np.abs(codes - planes).ravel())
        else:
            step = max(float(np.ptp(planes)) / 255, 1e-12)
            found.append((np.abs(other - planes) / step).ravel())
    return np.concatenate(found)


def _real_map(codes: Array, spec: MapSpec) -> Array:
    """Real values of a final map, in planes as ONNX orders them."""
    planes = np.moveaxis(codes, -1, 0)
    if spec.dtype != "uint8":
        return planes
    return (planes.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)
