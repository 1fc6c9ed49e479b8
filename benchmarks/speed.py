# SPDX-License-Identifier: Apache-2.0
"""Time and memory of one inference beside ONNX Runtime and OpenVINO.

    python benchmarks/speed.py [--networks NAME|FILE.onnx ...] [--sizes HxW ...] [--rounds N]
                               [--threads N] [--json | --markdown] [--output [FILE]]

Peers run the QDQ file that `export` writes for the same network, up to its last maps; ONNX Runtime
runs the float network too, and OpenVINO, where it is installed, also what its own quantiser makes
of it, where that is installed (nncf).

Nobody is timed before its answer on the timed picture is verified (see `contenders`). Then all take
turns. With one thread CPU time of the process counts, which a busy machine hardly stretches; with
more, time on the clock. Memory, counted in a process of its own with one thread: the live heap of a
warm run (thinmaps; ONNX Runtime without its arena allocator), and for OpenVINO what `openvino_peer`
says. Weights and the picture are excluded. MB are 10^6 bytes.

Ranges hardly change the time, so a few pictures calibrate. The ResNets have random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import openvino_peer
from contenders import (
    OPENVINO,
    OPENVINO_NNCF,
    ORT_FLOAT,
    ORT_INT8,
    OURS,
    Contender,
    contenders,
    lay_out,
)
from resnets import resnet18, resnet50

from thinmaps.calibrate.calibration import Calibration, calibrate
from thinmaps.calibrate.picture_set import network_values, open_pictures
from thinmaps.file import Model
from thinmaps.graph.onnx_reader import normalise, read_model
from thinmaps.measure.timing import Spread, Timing, interleaved, spread
from thinmaps.plan.build import build
from thinmaps.types import Preprocessing

CHECKOUT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("THINMAPS_ASSETS", CHECKOUT.parent / "shared" / "assets"))
OUTPUT = CHECKOUT / "benchmarks" / "results" / "speed.json"
HALF = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BUILT = {"resnet18": resnet18, "resnet50": resnet50}
NETWORKS = ("squeezenet1_1", "mobilenet_v2", *BUILT)
SIZES = ((224, 224), (1088, 1920))
CALIBRATION_PICTURES = 4

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Measured:
    """A contender's times and memory; None for one whose answer was wrong."""

    name: str
    within_a_step: float
    correlation: float
    cpu_ms: Spread | None = None
    ms: Spread | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Result:
    """One network at one size (height, width)."""

    network: str
    size: tuple[int, int]
    threads: int
    arena_bytes: int
    contenders: tuple[Measured, ...]


@dataclass(frozen=True)
class Source:
    """A float network, calibrated, ready to be planned for any size."""

    name: str
    model: onnx.ModelProto
    picture: Array
    calibration: Calibration
    preprocessing: Preprocessing

    @classmethod
    def open(cls, name: str, assets: Path) -> Source:
        """A network that is built, one of the assets, or a file."""
        file = file_of(name, assets)
        model = BUILT[name]() if name in BUILT else read_model(file)
        preprocessing = HALF if name == "mobilenet_v2" else Preprocessing()
        network, clean = normalise(model)
        pictures = some_pictures(assets)
        calibration = calibrate(clean, network, pictures, preprocessing)
        return cls(file.stem, model, pictures[0], calibration, preprocessing)


def file_of(name: str, assets: Path) -> Path:
    """Where a network lies, if it is not built."""
    return Path(name) if name.endswith(".onnx") else assets / "models" / f"{name}.onnx"


def some_pictures(assets: Path) -> list[Array]:
    """Photographs, or noise where there are none."""
    folder = assets / "images" / "imagenet-sample" / "calibrate"
    if not folder.is_dir():
        shape = (CALIBRATION_PICTURES, 256, 256, 3)
        return list(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    return [picture for _, picture in open_pictures(folder).at_most(CALIBRATION_PICTURES).read()]


def measure(source: Source, size: tuple[int, int], rounds: int, threads: int) -> Result:
    """Plan for one size, verify every contender, and time those whose answers are right."""
    network, clean = normalise(source.model, size)
    quantised = source.calibration.apply(network)
    model = Model(build(quantised), network.tail, source.preprocessing)
    shape = quantised.maps[quantised.inputs[0]].shape
    picture = network_values("picture", source.picture, shape, source.preprocessing)
    with TemporaryDirectory(prefix="thinmaps-") as folder:
        room = Path(folder)
        lay_out(model, clean, room)
        found = list(contenders(model, picture, room, threads))
        verified = [contender for contender in found if contender.verified]
        timings = interleaved([contender.run for contender in verified], rounds)
        timed = dict(zip((contender.name for contender in verified), timings, strict=True))
        measured = tuple(measured_of(contender, timed.get(contender.name)) for contender in found)
    return Result(source.name, size, threads, model.plan.arena_bytes, measured)


def measured_of(contender: Contender, timing: Timing | None) -> Measured:
    """Count the memory of who was timed."""
    unmeasured = Measured(contender.name, contender.within_a_step, contender.correlation)
    if timing is None:
        return unmeasured
    cpu, clock = spread(timing.cpu), spread(timing.clock)
    return replace(unmeasured, cpu_ms=cpu, ms=clock, peak_bytes=contender.count())


def provenance() -> dict[str, object]:
    """The machine, the commit and the versions."""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    information = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line for line in information.splitlines() if line.startswith("model name")]
    packages = ("thinmaps", "numpy", "onnxruntime", "openvino", "nncf")
    return {
        "machine": models[0].partition(": ")[2] if models else platform.processor(),
        "cores": os.cpu_count(),
        "commit": done.stdout.strip(),
        "versions": {name: version(name) for name in packages if openvino_peer.installed(name)},
    }


MARKDOWN_HEAD = """\
| network | thinmaps | ONNX Runtime int8 | ONNX Runtime float32 | OpenVINO int8 | time | memory |
|---|---|---|---|---|---|---|"""


def markdown_row(result: Result) -> str:
    """A row of the README: milliseconds and MB of each side, ratios to ONNX Runtime int8."""
    found = {measured.name: measured for measured in result.contenders}
    sides = (OURS, ORT_INT8, ORT_FLOAT, OPENVINO, OPENVINO_NNCF)
    figures = [figure(found.get(side), result.threads) for side in sides]
    figures[3:] = [min(filter(None, figures[3:]), default=None)]  # the faster of OpenVINO's two
    cells = [
        f"{three_digits(side[0])} ms, {three_digits(side[1] / 1e6)} MB" if side else "-"
        for side in figures
    ]
    ratios = ["-", "-"]
    if figures[0] and figures[1]:
        (our_ms, our_bytes), (peer_ms, peer_bytes) = figures[:2]
        ratios = [f"{our_ms / peer_ms:.2f}", f"1/{peer_bytes / our_bytes:.0f}"]
    name = f"{result.network}, {result.size[0]}x{result.size[1]}"
    return f"| {' | '.join([name, *cells, *ratios])} |"


def figure(measured: Measured | None, threads: int) -> tuple[float, int] | None:
    """Milliseconds (of CPU with one thread, on the clock with more) and bytes."""
    if measured is None or measured.ms is None:
        return None
    spread = measured.cpu_ms if threads == 1 else measured.ms
    return spread.median, measured.peak_bytes


def three_digits(value: float) -> str:
    """The digits that count, without an exponent."""
    return f"{float(f'{value:.3g}'):,g}"


def print_lines(result: Result) -> None:
    """A line for every side, with spread and agreement."""
    print(f"{result.network} {result.size[0]}x{result.size[1]}, arena {result.arena_bytes:,} bytes")
    for found in result.contenders:
        agreement = f"within a step {found.within_a_step:.5f}, correlation {found.correlation:.5f}"
        if found.ms is None:
            print(f"  {found.name:22} not timed: {agreement}")
            continue
        cpu, peak = found.cpu_ms, found.peak_bytes / 1e6
        print(
            f"  {found.name:22} {cpu.median:9.2f} ms CPU ({cpu.p10:.2f} to {cpu.p90:.2f}), "
            f"{found.ms.median:.2f} ms, {peak:.2f} MB, {agreement}"
        )
    sys.stdout.flush()


def size_of(text: str) -> tuple[int, int]:
    """`1088x1920` as (height, width)."""
    height, _, width = text.partition("x")
    return int(height), int(width)


def main() -> int:
    """Measure what is asked for, skipping networks that are not there; 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=NETWORKS, help="names, or ONNX files")
    parser.add_argument("--sizes", nargs="*", type=size_of, default=SIZES, metavar="HxW")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true")
    shown.add_argument("--markdown", action="store_true", help="rows of the README's table")
    parser.add_argument("--output", nargs="?", type=Path, const=OUTPUT, help="write the JSON here")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"a spread needs at least 2 rounds, got --rounds {options.rounds}")
    for package in ("openvino", "nncf"):
        if not openvino_peer.installed(package):
            print(f"{package} is not installed: measured without it", file=sys.stderr)
    if options.markdown:
        print(MARKDOWN_HEAD)
    results = []
    for name in options.networks:
        if name not in BUILT and not file_of(name, options.assets).is_file():
            print(f"skipped {name}: no {file_of(name, options.assets)}", file=sys.stderr)
            continue
        source = Source.open(name, options.assets)
        for size in options.sizes:
            results.append(measure(source, size, options.rounds, options.threads))
            if options.markdown:
                print(markdown_row(results[-1]), flush=True)
            elif not options.json:
                print_lines(results[-1])
    write(results, options.rounds, options.json, options.output)
    return 0 if all(side.ms for result in results for side in result.contenders) else 1


def write(results: Sequence[Result], rounds: int, shown: bool, output: Path | None) -> None:
    """The results as JSON, on standard output and into a file where asked."""
    document = {
        **provenance(),
        "rounds": rounds,
        "results": [asdict(result) for result in results],
    }
    text = json.dumps(document, indent=2)
    if shown:
        print(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
