# SPDX-License-Identifier: Apache-2.0
"""DCT along channels, a mask of frequencies, a bitmap of zeros: Shi et al., 2021, beside ours.

Their setting: 8-bit maps of ResNet-50, masks from training. Ours, of `channel_dct`: groups of 8
channels, steps of 4 bytes, every stored map of a calibrated uint8 network as one unit, everything
counted. A map that the codec would not make smaller on calibration pictures stays raw. Masks come
from calibration pictures: those frequencies of a map stay that have the most energy; or the most
energy as the outputs feel it, which shapes the steps too; or the share is kept of all maps
together, where it is felt most. With --train, ResNet-20 is trained with its masks (`trained.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from figures import NETWORKS, Case, arguments_of, cases, compare, expected, judged, of_run
from numpy.typing import NDArray

from thinmaps import codecs
from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.calibrate.sensitivity import of_maps, sensitivities
from thinmaps.codecs.base import Codec
from thinmaps.codecs.channel_dct_fit import dct_matrix
from thinmaps.codecs.native import fastest
from thinmaps.file import Model
from thinmaps.measure.answers import final_outputs
from thinmaps.measure.float_model import FloatModel
from thinmaps.measure.map_profile import stored_maps
from thinmaps.plan.build import build
from thinmaps.prepared import Prepared
from thinmaps.run.engine import Engine
from thinmaps.types import MapSpec

Samples = NDArray[np.uint8]
Sensitivity = NDArray[np.floating]

GROUP = 8
STEP = 64  # in sixteenths of a byte
CALIBRATION_PICTURES = 80
SAMPLE_PICTURES = 16
EVALUATION_PICTURES = {"cifar10_resnet20_jpeg": 2000}
EVALUATION_PICTURES_AT_1000_CLASSES = 200
SHARES = (75, 50)
MASKS = ("energy", "sensitivity", "shared")
WORDS = {
    "energy": "by energy",
    "sensitivity": "by sensitivity",
    "shared": "of all maps together",
}


@dataclass(frozen=True, eq=False)
class Seen:
    """A stored map on calibration pictures, and how much the outputs feel its channels."""

    spec: MapSpec
    samples: Samples
    felt: Sensitivity

    def fit(self, keep: int, felt: Sensitivity | None) -> Codec | None:
        """The codec, or None where it would not make the map smaller."""
        rows = self.spec.height
        options = {"step": STEP, "group": GROUP, "keep": keep, "unit_rows": rows}
        kind = codecs.get("channel_dct")
        codec = kind.fit(self.spec, self.samples, weights=felt, **options)
        encoder = fastest(codec)
        stored = [len(encoder.encode_unit(sample, self.spec)) for sample in self.samples]
        return codec if np.mean(stored) < self.spec.raw_bytes else None

    def felt_energy(self) -> NDArray[np.float64]:
        """Per frequency, what dropping it at one position costs the outputs, in real units."""
        centred = (self.samples.astype(np.float64) - self.spec.zero_point) * self.spec.scale
        positions = centred.reshape(-1, self.spec.channels)
        found = []
        for first in range(0, self.spec.channels, GROUP):
            part = slice(first, first + GROUP)
            dct = dct_matrix(positions[:, part].shape[1])
            felt = dct**2 @ self.felt[part].astype(np.float64)
            found.append(felt * np.square(positions[:, part] @ dct.T).mean(axis=0))
        return np.concatenate(found)


def seen_maps(prepared: Prepared) -> dict[str, Seen]:
    """Every stored map on calibration pictures."""
    assert prepared.pictures is not None
    network, pictures = prepared.networks.own, prepared.pictures.fitting()
    names = stored_maps(network)
    felt = sensitivities(
        prepared.networks.real, pictures.at_most(SAMPLE_PICTURES), prepared.preprocessing
    )
    by_name = of_maps(felt, network)
    samples: dict[str, list[Samples]] = {name: [] for name in names}
    for found in prepared.observed(names, pictures.at_most(SAMPLE_PICTURES)):
        for name in names:
            samples[name].append(found[name])
    return {
        name: Seen(network.maps[name], np.stack(samples[name]), by_name[name]) for name in names
    }


def shares_of_maps(seen: Mapping[str, Seen], keep: int) -> dict[str, int]:
    """Percent of each map's frequencies, where `keep` percent of all bytes stay."""
    energies = {name: each.felt_energy() for name, each in seen.items()}
    counts = {name: each.spec.raw_bytes / each.spec.channels for name, each in seen.items()}
    least_felt_first = np.argsort(np.concatenate(list(energies.values())), kind="stable")
    weight = np.concatenate([np.full(len(e), counts[name]) for name, e in energies.items()])
    of_map = np.repeat(np.arange(len(seen)), [len(e) for e in energies.values()])
    gone = np.cumsum(weight[least_felt_first]) <= (1 - keep / 100) * weight.sum()
    dropped = np.bincount(of_map[least_felt_first[gone]], minlength=len(seen))
    return {
        name: max(1, round(100 * (1 - lost / len(energies[name]))))
        for name, lost in zip(seen, dropped, strict=True)
    }


def chosen(seen: Mapping[str, Seen], keep: int, mask: str) -> dict[str, Codec | None]:
    """A codec per map, None where it stays raw."""
    shares = shares_of_maps(seen, keep) if mask == "shared" else dict.fromkeys(seen, keep)
    return {
        name: each.fit(shares[name], None if mask == "energy" else each.felt)
        for name, each in seen.items()
    }


def evaluated(
    prepared: Prepared, found: Mapping[str, Codec | None], pictures: Sequence[Case]
) -> dict[str, float]:
    """Ratio to uint8 bytes, top-1 and agreement on the evaluation pictures."""
    network = prepared.networks.own
    plan = build(
        network,
        codecs={name: codec for name, codec in found.items() if codec is not None},
        schedule="layer",
    )
    model, engine = Model(plan, prepared.source.own_network.tail), Engine(plan)
    answers, stored = [], 0
    for case in pictures:
        answers.append(next(iter(final_outputs(model, engine.maps(case.picture)).values())))
        stored += sum(engine.encoded_bytes.values())
    raw = sum(network.maps[name].raw_bytes for name in found)
    left_raw = sum(network.maps[name].raw_bytes for name in found if found[name] is None)
    return {"ratio": raw / (left_raw + stored / len(pictures)), **judged(pictures, answers)}


def settings() -> Iterator[tuple[str, int, str]]:
    """Words, percent that stay, and mask."""
    yield "no mask", 100, "energy"
    for keep in SHARES:
        for mask in MASKS:
            yield f"{keep} % kept {WORDS[mask]}", keep, mask


def measured(name: str, prepared: Prepared, pictures: Sequence[Case]) -> dict[str, float]:
    """Every figure of one network."""
    found = {f"{name}: float, top-1 %": judged(pictures, [c.scores for c in pictures])["top-1 %"]}
    seen = seen_maps(prepared)
    for words, keep, mask in settings():
        picked = chosen(seen, keep, mask)
        figures = evaluated(prepared, picked, pictures)
        raw = [each for each, codec in picked.items() if codec is None]
        print(
            f"{name}, {words}: {figures['ratio']:.2f}x, {len(raw)} of {len(picked)} maps raw"
            f"{': ' * bool(raw)}{', '.join(raw)}",
            flush=True,
        )
        found |= {f"{name}: {words}, {what}": value for what, value in figures.items()}
    return found


def opened(assets: Path, name: str) -> tuple[Prepared, list[Case]]:
    """A calibrated network and its evaluation pictures."""
    preprocessing, folder = NETWORKS[name]
    path = assets / "models" / f"{name}.onnx"
    calibration = open_pictures(assets / folder).at_most(CALIBRATION_PICTURES)
    prepared = Prepared.open(path, calibration, preprocessing=preprocessing)
    network = prepared.networks.own
    size = network.maps[network.inputs[0]].shape[:2]
    exact = FloatModel(path, preprocessing, size)
    at_most = EVALUATION_PICTURES.get(name, EVALUATION_PICTURES_AT_1000_CLASSES)
    return prepared, cases(assets, name, size, at_most, lambda picture: exact(picture)[0])


def trained(assets: Path) -> dict[str, float]:
    """Figures of masks trained with the network."""
    from trained import SETTINGS, measured

    found: dict[str, float] = {}
    for setting in SETTINGS:
        figures: dict[str, Any] = measured(assets, setting)
        found |= {f"trained: {setting.words}, {what}": value for what, value in figures.items()}
    return found


def main() -> int:
    """Measure every network, compare with what is expected."""
    arguments = arguments_of(__doc__ or "", networks=True)
    arguments.add_argument("--train", action="store_true", help="train masks too; needs PyTorch")
    options = arguments.parse_args()
    found: dict[str, float] = {}
    for name in options.networks:
        found |= measured(name, *opened(options.assets, name))
    if options.train:
        found |= trained(options.assets)
    folder = Path(__file__).parent
    asked = ["train"] if options.train else []
    return compare(folder, found, of_run(expected(folder), options.networks, asked))


if __name__ == "__main__":
    sys.exit(main())
