# SPDX-License-Identifier: Apache-2.0
"""`profile`: a look at a network's maps before any choice; `measure/map_profile.py` says at what.

Without pictures a float network is calibrated on noise, which settles nothing but shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from thinmaps import codecs
from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.errors import BadModel
from thinmaps.measure.map_profile import NetworkProfile, SeenMap, profile_of_shapes
from thinmaps.prepared import Pictures, Prepared, Progress, Source, preprocessing_for
from thinmaps.types import Preprocessing

# Few suffice: the ranges are no one's answer, and the figures are means over a map's elements.
CALIBRATION_PICTURES = 80
PROFILE_PICTURES = 16
NOISE_PICTURES = 2


def profile(
    model: str | Path | onnx.ModelProto,
    images: Pictures | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    size: tuple[int, int] | None = None,
    codec: str | None = None,
    progress: Progress | None = None,
) -> NetworkProfile:
    """Look at a network's maps; `images` are what `compress` calls `calibrate`.

    Bytes, traffic and peaks are those at `size`; zeros, entropies and ratios those at the file's
    own size, where its pictures belong. Costs one calibration on at most 80 pictures, then every
    lossless codec once per map on 16 of them, or `codec` alone.

    Raises:
        BadModel: the network cannot be read, does not make sense, or has several inputs.
        BadData: no picture can be used.
        UnknownCodec: there is no such codec.
    """
    prepared = Prepared.open(
        model,
        _noise(model, preprocessing)
        if images is None
        else open_pictures(images).at_most(CALIBRATION_PICTURES),
        preprocessing=preprocessing,
        size=size,
        progress=progress,
    )
    rows = profile_of_shapes(prepared.networks.planned)
    if images is None or prepared.pictures is None:
        return NetworkProfile(tuple(rows), 0)
    pictures = prepared.pictures.fitting().at_most(PROFILE_PICTURES)
    kinds = [codecs.get(codec_id) for codec_id in ([codec] if codec else codecs.ids())]
    seen = [SeenMap(prepared.networks.own.maps[row.name], kinds) for row in rows]
    names = [row.name for row in rows]
    for done, maps in enumerate(prepared.observed(names, pictures), 1):
        for name, one in zip(names, seen, strict=True):
            one.add(maps[name])
        if progress:
            progress("profiling", done, len(pictures))
    return NetworkProfile(
        tuple(one.on(row) for one, row in zip(seen, rows, strict=True)), len(pictures)
    )


def _noise(
    model: str | Path | onnx.ModelProto, preprocessing: Preprocessing | None
) -> list[NDArray[Any]]:
    """Inputs that make a float network's ranges finite, and nothing more."""
    source = Source.open(model, None)
    if len(source.network.inputs) != 1:
        inputs = ", ".join(source.network.inputs)
        raise BadModel(f"profile feeds networks of one input, this has {inputs}")
    (name,) = source.network.inputs
    channels = source.network.shapes[name][2]
    random = np.random.default_rng(0)
    if preprocessing_for(source.network, preprocessing) is None:
        shape = source.network.shapes[name]
        return [random.standard_normal(shape, np.float32) for _ in range(NOISE_PICTURES)]
    shape = (*source.network.shapes[name][:2], 3 if channels == 3 else 1)
    return [random.integers(0, 256, shape, np.uint8) for _ in range(NOISE_PICTURES)]
