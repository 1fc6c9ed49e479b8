# SPDX-License-Identifier: Apache-2.0
"""`bench`: time and memory of one inference beside peers', after checking the answers.

Who takes part, and whose answer is right, `contenders` says. All sides have their inputs and
outputs in buffers made before, and take turns; the median of the rounds counts. With one thread
that is CPU time of the process, since a peer's own threads count too; with several it is time on
the clock, each number of threads for itself, and everyone gets a pause before his turn, in which
the others' threads fall asleep. Memory is counted with one thread, see `live_heap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from thinmaps.file import Model
from thinmaps.graph.onnx_reader import normalise, read_model
from thinmaps.graph.quantise import real_values
from thinmaps.measure import onnxruntime_peer
from thinmaps.measure.comparison import Comparison, Contestant
from thinmaps.measure.contenders import (
    ARENA_OFF,
    Array,
    Entry,
    Runtime,
    Side,
    Task,
    asker,
    lay_out,
    steps_apart,
)
from thinmaps.measure.own_side import Images, network_inputs
from thinmaps.measure.timing import Progress, Timing, interleaved, spread
from thinmaps.run.engine import Engine

ROUNDS = 15
PAUSE_SECONDS = 0.05  # ONNX Runtime's threads wait awake for some milliseconds


def bench(
    model: Model,
    images: Images | None = None,
    *,
    against: Runtime = "onnxruntime",
    reference: str | Path | None = None,
    threads: Sequence[int] = (1,),
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> Comparison:
    """Compare `model` with a peer on pictures, or on one of noise; see `network_inputs`.

    All pictures count for equality, the first is the one that is timed. `reference` is the float
    network that the model was made from, for rows in float32. `rounds` is at least 2.

    Raises:
        BadArgument: the network takes several inputs; the heap cannot be counted here.
        BadModel: ONNX Runtime does not run the export as the integer network that it is, or
            `reference` is another network.
        BadData: no picture can be used.
        MissingExtra: the peer is not installed.
    """
    source = model.plan.source
    pictures = network_inputs(model, images)
    spec = source.maps[source.inputs[0]]
    size = (spec.height, spec.width)
    floats = normalise(read_model(reference), size)[1] if reference is not None else None
    with TemporaryDirectory(prefix="thinmaps-") as folder:
        room = Path(folder)
        entries = lay_out(model, room, [against], floats)
        task = Task(model, pictures[0], room)
        difference = _all_steps_apart(model, entries[1], pictures)
        rows = compare(task, entries, threads, rounds, progress, only_verified=False)
    return Comparison(
        ours=rows[0],
        peer=_at_its_best(rows[1], rows),
        equal_fraction=float(np.mean(difference <= 1)),
        max_step=round(float(difference.max())),
        rounds=rounds,
        rows=rows,
    )


def compare(
    task: Task,
    entries: Sequence[Entry],
    threads: Sequence[int],
    rounds: int,
    progress: Progress | None = None,
    *,
    only_verified: bool = True,
) -> tuple[Contestant, ...]:
    """A row for every entry, first number of threads first; memory is in its rows.

    With `only_verified`, who answers wrongly is not timed.
    """
    rows: list[Contestant] = []
    for count in threads:
        # One number of threads at a time: threads of others would be awake in between.
        sides = [task.open(entry, count) for entry in entries]
        timed = [side for side in sides if side.verified or not only_verified]
        pause = 0.0 if count == 1 else PAUSE_SECONDS
        timings = interleaved([side.run for side in timed], rounds, progress, pause)
        by_name = dict(zip((side.entry.name for side in timed), timings, strict=True))
        rows += [_row(side, count, by_name.get(side.entry.name)) for side in sides]
    memories = {entry.name: task.memory(entry) for entry in entries}
    return tuple(
        replace(row, **asdict(memories[row.name]))
        if row.threads == threads[0] and row.ms is not None
        else row
        for row in rows
    )


def _row(side: Side, threads: int, timing: Timing | None) -> Contestant:
    """A side without its memory."""
    row = Contestant(side.entry.name, threads=threads, **asdict(side.agreement))
    if timing is None:
        return row
    return replace(row, ms=spread(timing.clock), cpu_ms=spread(timing.cpu))


def _at_its_best(peer: Contestant, rows: Sequence[Contestant]) -> Contestant:
    """The peer with its version, and with the heap that it takes without an arena."""
    twins = [row for row in rows if row.name == peer.name + ARENA_OFF and row.peak_bytes]
    if not twins:
        return peer
    name = onnxruntime_peer.peer_name()
    return replace(peer, name=name, peak_bytes=twins[0].peak_bytes)


def _all_steps_apart(model: Model, entry: Entry, pictures: Sequence[Array]) -> Array:
    """Differences of all final-map elements of all pictures, in steps."""
    engine, maps, ask = Engine(model.plan), model.plan.source.maps, asker(entry)
    found = []
    for picture in pictures:
        values = np.ascontiguousarray(real_values(picture, model.preprocessing)[None])
        found.append(steps_apart(maps, engine.maps(picture), ask(values)))
    return np.concatenate(found)
