# SPDX-License-Identifier: Apache-2.0
"""All codecs on all maps of real networks: ratio against uint8, drop, speed.

Maps are those that a machine stores layer by layer when it fuses what is free: outputs of
convolutions after their activation, a sum instead of the convolution in front of it; not the
classifier's. Every byte counts: bitmaps, lengths, flags, padding; tables of a codec, which a file
holds once, have a column of their own. Codecs are fitted and chosen on calibration pictures
(`rate_control`, at most `--max-drop` points expected there); ratio and accuracy are those of the
evaluation pictures, which nothing else reads.

    python benchmarks/codecs.py [network ...] [--assets FOLDER] [--every N] [--max-drop POINTS]
                                [--codecs ID ...] [--markdown] [--output FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
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
from thinmaps.measure.accuracy import classification, judge_class
from thinmaps.measure.answers import final_outputs
from thinmaps.measure.float_model import FloatModel
from thinmaps.measure.map_profile import stored_maps
from thinmaps.plan.build import build
from thinmaps.prepared import Prepared
from thinmaps.rate_control import UNIT_ROWS, Goals, Scope, control
from thinmaps.run.engine import Engine

NETWORKS = ("cifar10_resnet20_jpeg", "squeezenet1_1", "mobilenet_v2")
# A classifier's map is fused with the mean behind it.
FUSED = {"squeezenet1_1": ("relu_25",)}
CALIBRATION_PICTURES = 1000
FIXED, VARIABLE = "all of fixed rate", "all"


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
        fused = FUSED.get(task.network, ())
        names = tuple(name for name in stored_maps(network) if name not in fused)
        return cls(task, prepared, names, cases)

    def measure(self, name: str, chosen: Mapping[str, Codec], seconds: float) -> Row:
        """Answers and stored bytes on the evaluation pictures."""
        network = self.prepared.networks.own
        tail = self.prepared.source.own_network.tail
        model = Model(build(network, codecs=chosen, schedule="layer"), tail)
        engine, verdicts, stored = Engine(model.plan), [], 0
        for fitted, label, whole in self.cases:
            ours = next(iter(final_outputs(model, engine.maps(fitted)).values()))
            verdicts.append(judge_class(ours, whole, label))
            stored += sum(engine.encoded_bytes.values())
        raw = sum(network.maps[each].raw_bytes for each in self.names)
        plain = sum(network.maps[each].raw_bytes for each in self.names if each not in chosen)
        found = classification(verdicts)
        assert found.top1 is not None
        return Row(
            network=self.task.network,
            codec=name,
            lossless=all(codec.lossless for codec in chosen.values()),
            ratio=raw / (plain + stored / len(self.cases)),
            table_bytes=sum(_table_bytes(codec) for codec in chosen.values()),
            float_top1=found.float_top1 or 0.0,
            top1=found.top1,
            drop=found.drop or 0.0,
            agreement=found.agreement or 0.0,
            pictures=found.pictures,
            seconds=seconds,
        )


def _table_bytes(codec: Codec) -> int:
    """Arrays in a codec's fields, and in the nouns that they hold."""
    total = 0
    for field in dataclasses.fields(codec):
        value = getattr(codec, field.name)
        if isinstance(value, np.ndarray):
            total += value.nbytes
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            total += _table_bytes(value)  # type: ignore[arg-type]
    return total


def rows_of(bench: Bench, wanted: list[str], max_drop: float) -> Iterator[Row]:
    """Lossless codecs as they come, then every lossy one within the drop, then all together."""
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
    yield _controlled(bench, FIXED, fixed, max_drop)
    yield _controlled(bench, VARIABLE, tuple(wanted), max_drop)


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
    cells = (
        row.network,
        row.codec,
        f"{row.ratio:.2f}x",
        kind,
        f"{row.agreement:.1f} %",
        f"{row.table_bytes:,}",
    )
    if markdown:
        print("| " + " | ".join(cells) + " |", flush=True)
    else:
        print(f"{cells[0]:22} {cells[1]:18} {cells[2]:>7} {cells[3]:>8} {cells[4]:>8} "
              f"{cells[5]:>9} tables, {row.seconds:.0f} s", flush=True)  # fmt: skip


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
        print("| network | codec | ratio | drop | agreement | bytes of tables |")
        print("|---|---|---|---|---|---|")
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
