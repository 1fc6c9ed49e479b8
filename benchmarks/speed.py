# SPDX-License-Identifier: Apache-2.0
"""Time and memory of one inference beside ONNX Runtime and OpenVINO.

    python benchmarks/speed.py [--networks NAME|FILE.onnx ...] [--sizes HxW ...] [--rounds N]
                               [--threads N ...] [--json | --markdown] [--output [FILE]]
    python benchmarks/speed.py --read FILE --markdown

Peers run the QDQ file that `export` writes for the same network, up to its last maps; ONNX Runtime
runs the float network too, each with its memory arena and without, and OpenVINO, where it is
installed, also what its own quantiser makes of the float network, where that is installed (nncf).

Nobody is timed before its answer on the timed picture is verified, and nobody whose answer is wrong
(`thinmaps.measure.contenders` says what that means; NNCF's, with scales of its own, need not
agree: how far every side correlates with the float network is written beside). Then all take turns,
as `thinmaps.measure.bench` says: CPU time of the process with one thread, time on the clock with
more. Memory: the live heap of a warm run (ONNX Runtime with its arena: what it reserves in the
first runs; OpenVINO: growth of resident memory over the first), without weights and picture; beside
it the largest resident memory of a process that does nothing else, with everything. MB are 10^6
bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from nncf_peer import OPENVINO_NNCF, nncf_entries
from results_file import provenance, results_file, write
from sources import Source, add_source_options, sources

from thinmaps.graph.quantise import real_values
from thinmaps.measure import openvino_peer
from thinmaps.measure.bench import compare
from thinmaps.measure.comparison import Contestant
from thinmaps.measure.contenders import (
    ARENA_OFF,
    OPENVINO,
    ORT_FLOAT,
    ORT_INT8,
    OURS,
    Entry,
    Task,
    asker,
    correlation,
    lay_out,
)
from thinmaps.measure.words import three_digits


@dataclass(frozen=True)
class Result:
    """One network at one size (height, width). `float_correlation` is by the names of the sides:
    how far their answers correlate with the float network's."""

    network: str
    size: tuple[int, int]
    arena_bytes: int
    float_correlation: dict[str, float]
    rows: tuple[Contestant, ...]


def measure(source: Source, size: tuple[int, int], rounds: int, threads: Sequence[int]) -> Result:
    """Plan for one size, verify every side, and time those whose answers are right."""
    planned = source.planned(size)
    with TemporaryDirectory(prefix="thinmaps-") as folder:
        room = Path(folder)
        peers = ["onnxruntime", *(["openvino"] if openvino_peer.installed() else [])]
        entries = lay_out(planned.model, room, peers, planned.floats)
        inputs = [real_values(picture, source.preprocessing)[None] for picture in planned.pictures]
        entries += nncf_entries(room, inputs)
        task = Task(planned.model, planned.pictures[0], room)
        rows = compare(task, entries, threads, rounds)
        correlations = float_correlations(task, entries)
    return Result(source.name, size, planned.model.plan.arena_bytes, correlations, rows)


def float_correlations(task: Task, entries: Sequence[Entry]) -> dict[str, float]:
    """How far the sides' answers correlate with the float network's."""
    peers = {entry.name: entry for entry in entries if ARENA_OFF not in entry.name}
    floats = np.concatenate([np.ravel(x) for x in asker(peers.pop(ORT_FLOAT))(task.values)])
    found = {peers.pop(OURS).name: correlation(floats, [task.real])}
    return found | {
        name: correlation(floats, asker(entry)(task.values)) for name, entry in peers.items()
    }


MARKDOWN_HEAD = """\
| network | thinmaps | ONNX Runtime int8 | ONNX Runtime float32 | OpenVINO int8 | time | memory |
|---|---|---|---|---|---|---|"""


def markdown_row(result: dict[str, Any]) -> str:
    """A row of the README: CPU milliseconds with one thread and MB of live heap, each side at its
    best: ONNX Runtime's time with its arena and heap without, OpenVINO's faster int8."""
    figures = [figure(result, name) for name in (OURS, ORT_INT8, ORT_FLOAT)]
    openvino = [figure(result, name) for name in (OPENVINO, OPENVINO_NNCF)]
    figures.append(min(filter(None, openvino), default=None))
    cells = [
        f"{three_digits(side[0])} ms, {three_digits(side[1] / 1e6)} MB" if side else "-"
        for side in figures
    ]
    ratios = ["-", "-"]
    if figures[0] and figures[1]:
        (our_ms, our_bytes), (peer_ms, peer_bytes) = figures[:2]
        ratios = [f"{our_ms / peer_ms:.2f}", f"1/{peer_bytes / our_bytes:.0f}"]
    name = f"{result['network']}, {result['size'][0]}x{result['size'][1]}"
    return f"| {' | '.join([name, *cells, *ratios])} |"


def figure(result: dict[str, Any], name: str) -> tuple[float, int] | None:
    """CPU milliseconds with one thread, and bytes; without the arena where there is such a row."""
    found = {row["name"]: row for row in result["rows"] if row["threads"] == 1 and row["ms"]}
    if name not in found:
        return None
    least = found.get(name + ARENA_OFF, found[name])
    return found[name]["cpu_ms"]["median"], least["peak_bytes"]


def print_lines(result: Result) -> None:
    """A line for every side, with spread and agreement."""
    print(f"{result.network} {result.size[0]}x{result.size[1]}, arena {result.arena_bytes:,} bytes")
    for row in result.rows:
        agreement = f"within a step {row.within_a_step:.5f}, correlation {row.correlation:.5f}"
        if row.name in result.float_correlation:
            agreement += f", with float {result.float_correlation[row.name]:.5f}"
        if row.ms is None:
            print(f"  {row.name:32} not timed: {agreement}")
            continue
        kind, times = ("CPU", row.cpu_ms) if row.threads == 1 else ("clock", row.ms)
        memory = ""
        if row.peak_bytes is not None:
            memory = f"{row.peak_bytes / 1e6:.2f} MB, RSS {row.peak_rss_bytes / 1e6:.0f} MB, "
        print(
            f"  {row.name:32} {row.threads} threads {times.median:9.2f} ms {kind} "
            f"({times.p10:.2f} to {times.p90:.2f}), {memory}{agreement}"
        )
    sys.stdout.flush()


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_source_options(parser)
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true")
    shown.add_argument("--markdown", action="store_true", help="rows of the README's table")
    parser.add_argument(
        "--output", nargs="?", type=Path, const=results_file(), help="write the JSON here"
    )
    parser.add_argument("--read", type=Path, help="a JSON to show; nothing is measured")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"a spread needs at least 2 rounds, got --rounds {options.rounds}")
    return options


def main() -> int:
    """Measure what is asked for, skipping networks that are not there; 1 if an answer is wrong."""
    options = parsed()
    if options.read:
        print(MARKDOWN_HEAD)
        for result in json.loads(options.read.read_text())["results"]:
            print(markdown_row(result))
        return 0
    for package in ("openvino", "nncf"):
        if not openvino_peer.installed(package):
            print(f"{package} is not installed: measured without it", file=sys.stderr)
    if options.markdown:
        print(MARKDOWN_HEAD)
    document = {**provenance(), "rounds": options.rounds, "results": []}
    right = True
    for source in sources(options.networks, options.assets):
        for size in options.sizes:
            result = measure(source, size, options.rounds, options.threads)
            right = right and all(row.ms for row in result.rows)
            document["results"].append(asdict(result))
            write(document, options.output)
            if options.markdown:
                print(markdown_row(document["results"][-1]), flush=True)
            elif not options.json:
                print_lines(result)
    if options.json:
        print(json.dumps(document, indent=2))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
