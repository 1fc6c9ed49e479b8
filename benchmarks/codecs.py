# SPDX-License-Identifier: Apache-2.0
"""All codecs on all maps of real networks: ratio against uint8, drop, speed, arena and traffic.

Maps are those that a machine stores layer by layer when it fuses what is free: outputs of
convolutions after their activation, a sum instead of the convolution in front of it; not the
classifier's. Every byte counts: bitmaps, lengths, flags, padding; tables of a codec, which a file
holds once, have a column of their own. Codecs are fitted and chosen on calibration pictures
(`rate_control`, at most `--max-drop` points expected there); ratio, accuracy and traffic are those
of the evaluation pictures, which nothing else reads. Arena and traffic (every stored map written
once, and read by each of its readers) are those of the layer-by-layer plan; speeds are uint8 bytes
of the maps over the time that their encoders, or decoders, take in it, one thread, one picture.

    python benchmarks/codecs.py [network ...] [--assets FOLDER] [--every N] [--max-drop POINTS]
                                [--codecs ID ...] [--markdown] [--output FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import ASSETS, TASKS, Task, pictures

from thinmaps import codecs
from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.codecs.base import Codec
from thinmaps.errors import PlanImpossible
from thinmaps.file import Model
from thinmaps.judge import Goals
from thinmaps.measure.accuracy import classification, judge_class
from thinmaps.measure.answers import final_outputs
from thinmaps.measure.float_model import FloatModel
from thinmaps.measure.map_profile import stored_maps
from thinmaps.measure.report import Counted, array_bytes, report
from thinmaps.plan.build import build
from thinmaps.prepared import Prepared
from thinmaps.rate_control import UNIT_ROWS, Scope, control
from thinmaps.run.engine import Engine

NETWORKS = ("cifar10_resnet20_jpeg", "squeezenet1_1", "mobilenet_v2")
CALIBRATION_PICTURES = 1000
FIXED, VARIABLE = "all of fixed rate", "all"
CODED = ("encode", "decode")


@dataclass(frozen=True)
class Row:
    """One codec on one network, as measured."""

    network: str
    codec: str
    lossless: bool
    ratio: float
    table_bytes: int
    float_top1: float
    top1: float
    drop: float
    agreement: float
    pictures: int
    arena_bytes: int
    traffic_bytes: float
    encode_bytes_per_second: float
    decode_bytes_per_second: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Bench:
    """A calibrated network and what the float one says of the evaluation pictures."""

    task: Task
    prepared: Prepared
    names: tuple[str, ...]
    cases: list[tuple[np.ndarray, int, np.ndarray]]

    @classmethod
    def of(cls, task: Task, assets: Path, every: int) -> Bench:
        """Calibrate, and ask the float network."""
        path = assets / "models" / f"{task.network}.onnx"
        calibration = open_pictures(assets / "images" / task.calibration)
        prepared = Prepared.open(
            path, calibration.at_most(CALIBRATION_PICTURES), preprocessing=task.preprocessing
        )
        network = prepared.networks.own
        shape = network.maps[network.inputs[0]].shape
        whole = FloatModel(path, task.preprocessing, shape[:2])
        cases = [
            (fitted, label, whole(fitted)[0])
            for folder in task.evaluation
            for fitted, label in pictures(assets / "images" / folder, task, shape, every)
        ]
        names = tuple(name for name in stored_maps(network) if name not in task.fused)
        return cls(task, prepared, names, cases)

    def measure(self, name: str, chosen: Mapping[str, Codec], seconds: float) -> Row:
        """Answers and stored bytes on the evaluation pictures."""
        network = self.prepared.networks.own
        tail = self.prepared.source.own_network.tail
        model = Model(build(network, codecs=chosen, schedule="layer"), tail)
        engine, verdicts = Engine(model.plan), []
        stored = dict.fromkeys(chosen, 0.0)
        for fitted, label, whole in self.cases:
            ours = next(iter(final_outputs(model, engine.maps(fitted)).values()))
            verdicts.append(judge_class(ours, whole, label))
            for each, count in engine.encoded_bytes.items():
                stored[each] += count / len(self.cases)
        raw = sum(network.maps[each].raw_bytes for each in self.names)
        plain = sum(network.maps[each].raw_bytes for each in self.names if each not in chosen)
        counted = Counted(engine.arena.nbytes, engine.weights_bytes, stored)
        found = classification(verdicts)
        assert found.top1 is not None
        return Row(
            network=self.task.network,
            codec=name,
            lossless=all(codec.lossless for codec in chosen.values()),
            ratio=raw / (plain + sum(stored.values())),
            table_bytes=sum(map(array_bytes, chosen.values())),
            float_top1=found.float_top1 or 0.0,
            top1=found.top1,
            drop=found.drop or 0.0,
            agreement=found.agreement or 0.0,
            pictures=found.pictures,
            arena_bytes=model.plan.arena_bytes,
            traffic_bytes=report(model.plan, counted).moved_bytes,
            **self._speeds(engine),
            seconds=seconds,
        )

    def _speeds(self, engine: Engine) -> dict[str, float]:
        """Bytes per second of the encoders and of the decoders; a map is decoded per reader."""
        maps = engine.plan.network.maps
        times = {time.node: time.seconds for time in engine.profile(self.cases[0][0])}
        seconds, raw = Counter[str](), Counter[str]()
        for node in engine.plan.network.nodes:
            kind = node.operator.id
            if kind in CODED:
                seconds[kind] += times[node.name]
                raw[kind] += maps[node.inputs[0] if kind == "encode" else node.output].raw_bytes
        return {f"{kind}_bytes_per_second": raw[kind] / (seconds[kind] or np.inf) for kind in CODED}


def rows_of(bench: Bench, wanted: list[str], max_drop: float) -> Iterator[Row]:
    """No codec; lossless codecs as they come; every lossy one within the drop; all together."""
    yield bench.measure("uint8", {}, 0.0)
    spec = bench.prepared.networks.own.maps[bench.names[0]]
    empty = np.zeros((0, *spec.shape), np.uint8)
    for codec_id in wanted:
        kind = codecs.get(codec_id)
        lossless = kind.fit(spec, empty).lossless
        if lossless:
            yield bench.measure(codec_id, _plain(bench, codec_id), 0.0)
        if any(kind.menu or kind.settings):
            yield _controlled(bench, codec_id, (codec_id,), max_drop)
    fixed = tuple(each for each in wanted if codecs.get(each).rate == "fixed")
    for name, ids in ((FIXED, fixed), (VARIABLE, tuple(wanted))):
        if len(ids) > 1:
            yield _controlled(bench, name, ids, max_drop)


def _plain(bench: Bench, codec_id: str) -> dict[str, Codec]:
    """The codec as it comes, tables from calibration pictures, on every map."""
    chosen = bench.prepared.pictures
    assert chosen is not None
    maps = bench.prepared.networks.own.maps
    samples: dict[str, list[np.ndarray]] = {name: [] for name in bench.names}
    for observed in bench.prepared.observed(bench.names, chosen.fitting().at_most(8)):
        for name in bench.names:
            samples[name].append(observed[name])
    return {
        name: codecs.get(codec_id).fit(
            maps[name], np.stack(samples[name]), unit_rows=min(UNIT_ROWS, maps[name].height)
        )
        for name in bench.names
    }


def _controlled(bench: Bench, name: str, ids: tuple[str, ...], max_drop: float) -> Row:
    """What rate control finds on calibration pictures, measured on the others."""
    network = bench.prepared.networks.own
    started = time.monotonic()
    found = control(
        bench.prepared,
        Goals(max_drop=max_drop),
        lambda chosen: build(network, codecs=chosen, schedule="layer"),
        Scope(ids, bench.names),
    )
    return bench.measure(name, found.plan.codecs, time.monotonic() - started)


def print_row(row: Row, markdown: bool) -> None:
    """One line, for the terminal or for docs/codecs.md."""
    kind = "nothing" if row.lossless else f"{row.drop:+.2f}"
    rates = row.encode_bytes_per_second, row.decode_bytes_per_second
    cells = (
        row.network,
        row.codec,
        f"{row.ratio:.2f}x",
        kind,
        f"{row.agreement:.1f} %",
        f"{row.table_bytes:,}",
        f"{row.arena_bytes / 1e3:,.0f}",
        f"{row.traffic_bytes / 1e3:,.0f}",
        " / ".join(f"{rate / 1e9:.2f}" if rate else "-" for rate in rates),
    )
    if markdown:
        print("| " + " | ".join(cells) + " |", flush=True)
    else:
        print(f"{cells[0]:22} {cells[1]:18} {cells[2]:>7} {cells[3]:>8} {cells[4]:>8} "
              f"{cells[5]:>9} tables, arena {cells[6]} kB, traffic {cells[7]} kB, {cells[8]} GB/s, "
              f"{row.seconds:.0f} s", flush=True)  # fmt: skip


def main() -> int:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("networks", nargs="*", metavar="network", default=NETWORKS)
    arguments.add_argument("--assets", type=Path, default=ASSETS)
    arguments.add_argument("--every", type=int, default=1, help="evaluate every Nth picture only")
    arguments.add_argument("--max-drop", type=float, default=1.0, help="points, on calibration")
    arguments.add_argument("--codecs", nargs="+", metavar="ID", default=None)
    arguments.add_argument("--markdown", action="store_true", help="the table of docs/codecs.md")
    arguments.add_argument("--output", type=Path, help="JSON of all rows")
    options = arguments.parse_args()
    wanted = options.codecs or [each for each in codecs.ids() if each != "raw"]
    if options.markdown:
        print(
            "| network | codec | ratio | drop | agreement | bytes of tables | arena, kB "
            "| traffic, kB | GB/s, in / out |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for task in TASKS:
        if task.network not in options.networks:
            continue
        bench = Bench.of(task, options.assets, options.every)
        try:
            for row in rows_of(bench, wanted, options.max_drop):
                print_row(row, options.markdown)
                rows.append(dataclasses.asdict(row))
        except PlanImpossible as refusal:
            print(f"{task.network}: {refusal}", file=sys.stderr)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
