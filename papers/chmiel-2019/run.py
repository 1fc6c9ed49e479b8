# SPDX-License-Identifier: Apache-2.0
"""Principal components of maps, one step, an entropy code: Chmiel et al., 2019, beside ours.

Their setting, as their program has it: maps in front of every ReLU; their mean, range and histogram
are those of the batch that is measured; bits are the entropy of a map's components in one table.
Ours: every stored map; mean, range and tables from calibration pictures, in ranges that clip what
lies beyond; bits are those of payloads, by a static Huffman code per map and by `rans`, which knows
components apart; what a decoder has to hold is counted beside them. Networks are in float.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from coded_graph import (
    Basis,
    CodedGraph,
    Moments,
    Quantiser,
    Session,
    names_of,
    of_any_batch,
    rectified,
    stored,
)
from figures import NETWORKS, Case, arguments_of, cases, compare, expected, judged, of_run
from numpy.typing import NDArray

from thinmaps import codecs
from thinmaps.calibrate.float_maps import real_values
from thinmaps.calibrate.picture_set import network_values, open_pictures
from thinmaps.codecs.base import Codec
from thinmaps.codecs.native import fastest
from thinmaps.graph.onnx_reader import read_model
from thinmaps.types import MapSpec, Preprocessing

Codes = NDArray[np.uint8]
Counts = NDArray[np.int64]
FloatArray = NDArray[np.float32]

SIZES = {"cifar10_resnet20_jpeg": (32, 32)}
IMAGENET_SIZE = (224, 224)
EVALUATION_PICTURES = {"cifar10_resnet20_jpeg": 1000}
EVALUATION_PICTURES_AT_1000_CLASSES = 100
BATCHES = {"cifar10_resnet20_jpeg": 250}
BATCH_AT_1000_CLASSES = 25
CALIBRATION_PICTURES = 64
CODED_PICTURES = 8  # of the calibration pictures, for the tables
THEIR_LEVELS = (512, 256, 128, 64)
OUR_LEVELS = (256, 128, 64)  # codes are bytes
SMALLEST_PROBABILITY = 1  # a symbol that calibration did not show counts as seen once
DIRECTION_BYTES = 4  # as the program has them


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, its calibration pictures and its evaluation pictures, as it takes them."""

    name: str
    model: Any
    calibration: FloatArray
    evaluation: FloatArray
    cases: Sequence[Case]

    @classmethod
    def open(cls, assets: Path, name: str) -> Subject:
        """Read everything; the float network's answers too."""
        preprocessing, folder = NETWORKS[name]
        size = SIZES.get(name, IMAGENET_SIZE)
        model = read_model(assets / "models" / f"{name}.onnx")
        chosen = open_pictures(assets / folder).at_most(CALIBRATION_PICTURES)
        calibration = [
            network_values(title, picture, (*size, 3), preprocessing)
            for title, picture in chosen.read()
        ]
        plain = Session(of_any_batch(model), {})
        at_most = EVALUATION_PICTURES.get(name, EVALUATION_PICTURES_AT_1000_CLASSES)
        found = cases(
            assets, name, size, at_most, lambda picture: plain(_values([picture], preprocessing))[0]
        )
        return cls(
            name,
            model,
            _values(calibration, preprocessing),
            _values([case.picture for case in found], preprocessing),
            found,
        )

    @property
    def batch(self) -> int:
        """Pictures at a time."""
        return BATCHES.get(self.name, BATCH_AT_1000_CLASSES)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A map on calibration pictures: its basis, and the extremes of its components."""

    basis: Basis
    low: float
    high: float

    def quantiser(self, levels: int) -> Quantiser:
        """That many levels from one extreme to the other, one of them at 0."""
        step = (self.high - self.low) / (levels - 2)
        return Quantiser(step, min(levels - 1, round(-self.low / step)), levels - 1)

    @property
    def channels(self) -> int:
        """Of the map."""
        return len(self.basis.mean)


def _values(pictures: Sequence[NDArray[Any]], preprocessing: Preprocessing) -> FloatArray:
    return np.stack([real_values(each, preprocessing) for each in pictures])


def fit(subject: Subject, names: Sequence[str]) -> dict[str, Fitted]:
    """Bases and extremes, in two readings of the calibration pictures."""
    session = Session(of_any_batch(subject.model), names_of(names))
    moments = {name: Moments() for name in names}
    for name, vectors in _vectors(session, subject.calibration):
        moments[name].add(vectors)
    bases = {name: found.basis() for name, found in moments.items()}
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for name, vectors in _vectors(session, subject.calibration):
        components = bases[name].directions.T @ (vectors - bases[name].mean[:, None])
        low[name] = min(low[name], float(components.min()))
        high[name] = max(high[name], float(components.max()))
    return {name: Fitted(bases[name], low[name], high[name]) for name in names}


def _vectors(session: Session, pictures: FloatArray) -> Iterator[tuple[str, FloatArray]]:
    """Every map of every picture as (channels, positions)."""
    for picture in pictures:
        for name, values in session(picture[None])[1].items():
            yield name, values[0].reshape(values.shape[1], -1)


def theirs(subject: Subject, fitted: Mapping[str, Fitted], levels: int) -> dict[str, float]:
    """Entropy in bits per element under their convention, and what the answers are worth."""
    graph = CodedGraph(subject.model)
    for name in rectified(subject.model):
        graph.code_by_batch(name, fitted[name].basis, levels)
    session, answers, total_bits, elements = graph.session(), [], 0.0, 0
    for batch in _batches(subject.evaluation, subject.batch):
        scores, codes = session(batch)
        answers += list(scores)
        total_bits += sum(found.size * entropy(_counts(found)) for found in codes.values())
        elements += sum(found.size for found in codes.values())
    return {"entropy bits": total_bits / elements, **judged(subject.cases, answers)}


def ours(subject: Subject, fitted: Mapping[str, Fitted], levels: int) -> dict[str, float]:
    """Bits per element with tables from calibration pictures, and what the answers are worth."""
    graph = CodedGraph(subject.model)
    for name, found in fitted.items():
        graph.code(name, found.basis, found.quantiser(levels))
    session = graph.session()
    tables = tables_of(session, subject.calibration[:CODED_PICTURES], fitted, levels)
    answers: list[FloatArray] = []
    bits = dict.fromkeys(("entropy", "huffman", "rans"), 0.0)
    elements = 0
    for picture in subject.evaluation:
        scores, codes = session(picture[None])
        answers += list(scores)
        for name, found in codes.items():
            elements += found.size
            rows = _rows(found)
            for kind, spent in tables[name].bits_of(rows).items():
                bits[kind] += spent
    held = sum(table.held_bytes for table in tables.values())
    figures = {f"{kind} bits": spent / elements for kind, spent in bits.items()}
    return {**figures, "KiB of tables": held / 1024, **judged(subject.cases, answers)}


@dataclass(frozen=True, eq=False)
class Tables:
    """The entropy codes of one map, from calibration pictures."""

    spec: MapSpec
    lengths: Counts
    ideal: NDArray[np.float64]
    rans: Codec

    def bits_of(self, codes: Codes) -> dict[str, float]:
        """Of one map (h, w, c): by the ideal lengths of the table, Huffman's, and `rans`."""
        counts = np.bincount(codes.ravel(), minlength=len(self.lengths))
        payload = fastest(self.rans).encode_unit(codes, self.spec)
        return {
            "entropy": float(counts @ self.ideal),
            "huffman": float(counts @ self.lengths),
            "rans": 8.0 * len(payload),
        }

    @property
    def held_bytes(self) -> int:
        """Of a decoder: directions, means and a step, and a length per symbol."""
        channels = self.spec.channels
        return DIRECTION_BYTES * channels**2 + 4 * channels + 4 + len(self.lengths)


def tables_of(
    session: Session, pictures: FloatArray, fitted: Mapping[str, Fitted], levels: int
) -> dict[str, Tables]:
    """The tables of every map."""
    seen: dict[str, list[Codes]] = {name: [] for name in fitted}
    for picture in pictures:
        for name, codes in session(picture[None])[1].items():
            seen[name].append(_rows(codes))
    found = {}
    for name, maps in seen.items():
        samples = np.stack(maps)
        counts = np.bincount(samples.ravel(), minlength=levels) + SMALLEST_PROBABILITY
        spec = MapSpec(*samples.shape[1:], zero_point=fitted[name].quantiser(levels).zero)
        rans = codecs.get("rans").fit(spec, samples, unit_rows=spec.height)
        ideal = -np.log2(counts / counts.sum())
        found[name] = Tables(spec, huffman_lengths(counts), ideal, rans)
    return found


def huffman_lengths(counts: Counts) -> Counts:
    """Bits of each symbol's code.

    >>> huffman_lengths(np.array([8, 4, 2, 2])).tolist()
    [1, 2, 3, 3]
    """
    lengths = np.zeros(len(counts), np.int64)
    heap = [(int(count), symbol, [symbol]) for symbol, count in enumerate(counts)]
    heapq.heapify(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        together = first[2] + second[2]
        lengths[together] += 1
        heapq.heappush(heap, (first[0] + second[0], first[1], together))
    return lengths


def entropy(counts: Counts) -> float:
    """Bits per element.

    >>> entropy(np.array([2, 1, 1, 0]))
    1.5
    """
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _rows(codes: NDArray[np.uint16]) -> Codes:
    """Codes of one map (1, c, h, w) as `rans` takes them, (h, w, c)."""
    return np.ascontiguousarray(codes[0].transpose(1, 2, 0), np.uint8)


def _counts(codes: NDArray[np.uint16]) -> Counts:
    return np.bincount(codes.ravel())


def _batches(values: FloatArray, count: int) -> Iterator[FloatArray]:
    for first in range(0, len(values), count):
        yield values[first : first + count]


def measured(subject: Subject) -> dict[str, float]:
    """Every figure of one network."""
    exact = judged(subject.cases, [case.scores for case in subject.cases])
    found = {f"{subject.name}: float, top-1 %": exact["top-1 %"]}
    every = stored(subject.model)
    fitted = fit(subject, every)
    runs: list[tuple[str, int, Callable[..., dict[str, float]]]] = [
        *(("theirs", levels, theirs) for levels in THEIR_LEVELS),
        *(("ours", levels, ours) for levels in OUR_LEVELS),
    ]
    for setting, levels, measure in runs:
        figures = measure(subject, fitted, levels)
        print(f"{subject.name}, {levels} levels, {setting}: {_said(figures)}", flush=True)
        for what, value in figures.items():
            found[f"{subject.name}: {setting}, {levels} levels, {what}"] = value
    return found


def _said(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{what} {value:.2f}" for what, value in figures.items())


def main() -> int:
    """Measure every network, compare with what is expected."""
    options = arguments_of(__doc__ or "", networks=True).parse_args()
    found: dict[str, float] = {}
    for name in options.networks:
        found |= measured(Subject.open(options.assets, name))
    folder = Path(__file__).parent
    return compare(folder, found, of_run(expected(folder), options.networks))


if __name__ == "__main__":
    sys.exit(main())
