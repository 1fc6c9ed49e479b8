# SPDX-License-Identifier: Apache-2.0
"""`bench`: time and memory of one inference beside ONNX Runtime's, after checking the answers.

The peer runs what `export` writes for the same network, up to the last maps (the float operators
behind them run on neither side), without the functions that emulate codecs, which would only slow
it down. Both sides have one thread, their inputs and outputs in buffers made before, and take
turns; the median of the rounds counts. Memory: see `live_heap`; ONNX
Runtime counts without its arena allocator, which keeps memory that no map needs.

Differences of the final maps are in steps of their quantisation. A head's float32 output has none;
there 1/255 of its range counts as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.calibrate.float_maps import real_values
from thinmaps.export.onnx_qdq import to_onnx
from thinmaps.file import Model, save
from thinmaps.measure.comparison import Comparison, Contestant
from thinmaps.measure.live_heap import count_in_process
from thinmaps.measure.own_side import Images, network_inputs, our_run
from thinmaps.measure.peer import open_peer, peer_name, refuse_crippled
from thinmaps.measure.timing import Progress, Timing, interleaved, spread
from thinmaps.run.engine import Engine
from thinmaps.types import MapSpec

Array = NDArray[Any]

ROUNDS = 15
CHILD = "thinmaps.measure.heap_child"


def bench(
    model: Model,
    images: Images | None = None,
    *,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> Comparison:
    """Compare `model` with ONNX Runtime on pictures, or on one of noise.

    `images` is a folder, an .npy or .npz file, an iterable of pictures or one picture. At most
    eight count for equality, the first is the one that is timed. `rounds` is at least 2.

    Raises:
        BadArgument: the network takes several inputs; the heap cannot be counted here.
        BadModel: ONNX Runtime does not run the export as the integer network that it is.
        BadData: no picture can be used.
    """
    source = model.plan.source
    pictures = network_inputs(model, images)
    real = [real_values(picture, model.preprocessing)[None] for picture in pictures]
    with TemporaryDirectory(prefix="thinmaps-") as folder:
        plain, coded = Path(folder) / "plain.onnx", Path(folder) / "coded.onnx"
        plain.write_bytes(to_onnx(source).SerializeToString())
        coded.write_bytes(to_onnx(source, model.plan.codecs).SerializeToString())
        refuse_crippled(plain, source)
        difference = _steps_apart(model, coded, pictures, real)
        ours, peer = interleaved(
            [our_run(model.plan, pictures[0]), peer_run(plain, real[0])], rounds, progress
        )
        peaks = _peaks(model, Path(folder), plain, pictures[0], real[0])
    return Comparison(
        ours=_contestant("thinmaps", ours, peaks[0]),
        peer=_contestant(peer_name(), peer, peaks[1]),
        equal_fraction=float(np.mean(difference <= 1)),
        max_step=round(float(difference.max())),
        rounds=rounds,
    )


def _steps_apart(
    model: Model, exported: Path, pictures: Sequence[Array], real: Sequence[Array]
) -> Array:
    """Differences of all final-map elements, in steps."""
    engine, session = Engine(model.plan), open_peer(exported)
    maps = model.plan.source.maps
    found = []
    for picture, values in zip(pictures, real, strict=True):
        theirs = session.run(None, {session.get_inputs()[0].name: values})
        found.append(steps_apart(maps, engine.maps(picture), theirs))
    return np.concatenate(found)


def steps_apart(
    maps: Mapping[str, MapSpec], ours: Mapping[str, Array], theirs: Sequence[Array]
) -> Array:
    """Differences of all final-map elements in steps: our maps and a peer's real values of them."""
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


def peer_run(exported: Path, values: Array, threads: int = 1) -> Callable[[], object]:
    """One inference of ONNX Runtime, its input bound."""
    session = open_peer(exported, threads=threads)
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, values)
    for entry in session.get_outputs():
        binding.bind_output(entry.name, "cpu")
    # `values` stays referenced: the binding holds its address only.
    return lambda: (session.run_with_iobinding(binding), values)


def _peaks(
    model: Model, folder: Path, exported: Path, picture: Array, values: Array
) -> tuple[int, int]:
    """Live heap of one warm run of each side."""
    thin, ours_input, peer_input = (
        folder / name for name in ("model.thin", "ours.npy", "peer.npy")
    )
    save(model, thin)
    np.save(ours_input, picture)
    np.save(peer_input, values)
    return (
        count_in_process(CHILD, ["ours", str(thin), str(ours_input)]),
        count_in_process(CHILD, ["peer", str(exported), str(peer_input)]),
    )


def _contestant(name: str, timing: Timing, peak_bytes: int) -> Contestant:
    """Medians and tenths in milliseconds."""
    clock, cpu = spread(timing.clock), spread(timing.cpu)
    return Contestant(name, clock.median, peak_bytes, clock.p10, clock.p90, cpu.median)
