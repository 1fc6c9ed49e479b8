# SPDX-License-Identifier: Apache-2.0
"""Extended bit-plane compression of maps: Cavigelli et al., 2019, beside ours.

Their setting, as their program has it: outputs of ReLU and ReLU6 only, in float; each is scaled so
that its maximum over a batch becomes 0.75 of 127, and cut towards zero to 8 bits. Ours: the uint8
maps of a calibrated network, rounded; those behind a ReLU, and all that a machine stores. Each map
is one unit. Ratios are those of all bytes together, and under their convention also the mean of the
maps' ratios, since their abstract does not say which it gives. Beside the codec stand a bitmap of
zeros and the order-0 entropy of each map.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from figures import NETWORKS, assets_from_arguments, compare
from numpy.typing import NDArray

from thinmaps import codecs
from thinmaps.calibrate.float_maps import FloatMaps
from thinmaps.calibrate.picture_set import PictureSet, open_pictures
from thinmaps.graph.float_network import FloatNetwork
from thinmaps.measure.map_profile import MapProfile, SeenMap, profile_of_shapes, ratios_of
from thinmaps.prepared import Pictures, Prepared
from thinmaps.types import MapSpec, Preprocessing

BATCH = 250
CALIBRATION_PICTURES = 80
ENCODED_PICTURES = 16
SAFETY = 0.75
LARGEST = 127
KINDS = ("bitplane", "zero_bitmap")
WORDS = {"bitplane": "bit planes", "zero_bitmap": "zero bitmap", "entropy": "entropy"}


def rectified(network: FloatNetwork) -> list[str]:
    """Outputs of ReLU and ReLU6."""
    return [node.output for node in network.nodes if node.low == 0]


def fixed_point(values: NDArray[np.float32], maximum: float) -> NDArray[np.uint8]:
    """Their 8 bits, which are never negative, of a map `(c, h, w)` as `(h, w, c)`."""
    scaled = values.transpose(1, 2, 0) * (SAFETY / maximum * LARGEST)
    return np.trunc(scaled).astype(np.uint8, order="C")


def theirs(prepared: Prepared, batch: PictureSet) -> list[MapProfile]:
    """Maps behind a ReLU under their convention."""
    source, network = prepared.source.own_model, prepared.source.own_network
    names = rectified(network)

    def maps(pictures: PictureSet) -> Iterator[dict[str, NDArray[np.float32]]]:
        runner = FloatMaps(source, network, names, prepared.preprocessing)
        for title, picture in pictures.read():
            yield runner.of(title, picture)

    maximum = dict.fromkeys(names, 0.0)
    for found in maps(batch):
        maximum = {name: max(maximum[name], float(found[name].max())) for name in names}
    seen = _watch({name: MapSpec(*network.shapes[name]) for name in names})
    for found in maps(batch.at_most(ENCODED_PICTURES)):
        for name, one in seen.items():
            one.add(fixed_point(found[name], maximum[name] or 1.0))
    return _rows(seen)


def ours(prepared: Prepared) -> list[MapProfile]:
    """Every map of the uint8 network."""
    assert prepared.pictures is not None
    rows = profile_of_shapes(prepared.networks.planned)
    seen = _watch({row.name: prepared.networks.own.maps[row.name] for row in rows})
    pictures = prepared.pictures.fitting().at_most(ENCODED_PICTURES)
    for found in prepared.observed(list(seen), pictures):
        for name, one in seen.items():
            one.add(found[name])
    return [
        dataclasses.replace(row, stored=shape.stored)
        for row, shape in zip(_rows(seen), rows, strict=True)
    ]


def _watch(specs: Mapping[str, MapSpec]) -> dict[str, SeenMap]:
    kinds = [codecs.get(kind) for kind in KINDS]
    return {name: SeenMap(spec, kinds) for name, spec in specs.items()}


def _rows(seen: Mapping[str, SeenMap]) -> list[MapProfile]:
    return [
        one.on(MapProfile(name, one.spec.shape, one.spec.raw_bytes, 0, "", 0))
        for name, one in seen.items()
    ]


def ratios(rows: Sequence[MapProfile]) -> dict[str, float]:
    """Bytes / stored bytes of all maps together, and what order-0 entropy allows."""
    raw = sum(row.raw_bytes for row in rows)
    allowed = sum(row.raw_bytes * (row.entropy_bits or 0) / 8 for row in rows)
    return {**ratios_of(rows), "entropy": raw / allowed}


def measured(
    name: str, model: Any, pictures: Pictures, preprocessing: Preprocessing
) -> dict[str, float]:
    """Every figure of one network."""
    batch = open_pictures(pictures).at_most(BATCH)
    prepared = Prepared.open(
        model, batch.at_most(CALIBRATION_PICTURES), preprocessing=preprocessing
    )
    rows = ours(prepared)
    behind_relu = set(rectified(prepared.source.own_network))
    cut = theirs(prepared, batch)
    settings = {
        "theirs, ReLU maps": cut,
        "uint8, ReLU maps": [row for row in rows if row.name in behind_relu],
        "uint8, all stored maps": [row for row in rows if row.stored],
    }
    found = {setting: ratios(chosen) for setting, chosen in settings.items()}
    found["theirs, mean of ReLU maps"] = {
        code: float(np.mean([row.ratios[code] for row in cut])) for code in KINDS
    }
    return {
        f"{name}: {setting}, {WORDS[code]}": ratio
        for setting, by_code in found.items()
        for code, ratio in by_code.items()
    }


def main() -> int:
    """Measure every network, compare with what is expected."""
    assets = assets_from_arguments(__doc__ or "")
    found: dict[str, float] = {}
    for name, (preprocessing, pictures) in NETWORKS.items():
        path = assets / "models" / f"{name}.onnx"
        found |= measured(name, path, assets / pictures, preprocessing)
    return compare(Path(__file__).parent, found)


if __name__ == "__main__":
    sys.exit(main())
