# SPDX-License-Identifier: Apache-2.0
"""From a model file and pictures to the network of uint8 maps: what every door does first.

    read           graph/onnx_reader: ONNX -> FloatNetwork
    calibrate      on 80 % of the pictures: ranges, integer weights -> Network of uint8 maps

`Prepared.open` does both; `compress` plans what comes out, `profile` looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from thinmaps.calibrate.calibration import calibrate as calibrate_network
from thinmaps.calibrate.calibration import fill_quantisation
from thinmaps.calibrate.picture_set import PictureSet, network_values, open_pictures
from thinmaps.calibrate.winograd_choice import choose_tiles, eligible_inputs, with_tiles
from thinmaps.codecs.base import Codec
from thinmaps.errors import BadArgument, BadModel
from thinmaps.file.codec_text import from_text
from thinmaps.graph.float_network import FloatNetwork, MapQuantisation
from thinmaps.graph.network import Network
from thinmaps.graph.onnx_reader import normalise, read_model
from thinmaps.graph.quantise import maps_to_quantise, quantise, quantised_name
from thinmaps.measure.answer_kinds import Known
from thinmaps.measure.detection import VOC_CLASSES, read_yolo_grids
from thinmaps.measure.truths import Truth, pictures_with_truths
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine
from thinmaps.types import Preprocessing

Pictures = str | Path | Iterable[NDArray[Any]] | PictureSet
Progress = Callable[[str, int, int], None]

# Scales of tiles come from half of so many pictures, fewer where their maps take more bytes.
TILE_PICTURES = 64
TILE_SAMPLE_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model, its pictures and the uint8 networks made with them.

    `pictures` is None where a QDQ file came without any; `known` is what labels say of them.
    """

    source: Source
    networks: Networks
    preprocessing: Preprocessing | None
    pictures: PictureSet | None
    known: Known

    @classmethod
    def open(
        cls,
        model: str | Path | onnx.ModelProto,
        calibrate: Pictures | None,
        *,
        preprocessing: Preprocessing | None = None,
        labels: str | Path | None = None,
        anchors: str | Path | None = None,
        names: Sequence[str] = (),
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> Prepared:
        """Read, calibrate and quantise; the arguments are those of `compress`."""
        source = Source.open(model, size)
        chosen = preprocessing_for(source.network, preprocessing)
        pictures, truths = calibration_pictures(calibrate, labels)
        grids = () if anchors is None else read_yolo_grids(anchors)
        known = Known(truths, grids, tuple(names) or VOC_CLASSES)
        networks = quantised(source, pictures, chosen, progress)
        return cls(source, networks, chosen, pictures, known)

    @property
    def codecs(self) -> dict[str, Codec]:
        """The codecs that the model file itself has on its maps, by map name."""
        network = self.source.network
        return {
            quantised_name(name) if name in network.inputs else name: from_text(text)
            for name, text in network.codecs.items()
        }

    def observed(
        self, names: Sequence[str], pictures: PictureSet
    ) -> Iterator[dict[str, NDArray[np.uint8]]]:
        """The bytes `(h, w, c)` of the named maps, at the file's own size, picture by picture."""
        network = self.networks.own
        engine = Engine(build(network.ending_in(names), schedule="layer"))
        shape = network.maps[network.inputs[0]].shape
        for title, picture in pictures.read():
            yield engine.maps(network_values(title, picture, shape, self.preprocessing))

    def tile_samples(self, pictures: PictureSet) -> list[dict[str, NDArray[np.uint8]]]:
        """Maps of at least two pictures (one may count twice) that `choose_tiles` is given."""
        network = self.networks.own
        names = eligible_inputs(network)
        if not names:
            return []
        one_bytes = sum(network.maps[name].raw_bytes for name in names)
        most = max(2, min(TILE_PICTURES, TILE_SAMPLE_BYTES // one_bytes))
        samples = list(self.observed(names, pictures.at_most(most)))
        return samples * 2 if len(samples) == 1 else samples

    def with_tiles(self, limit: float | None) -> Prepared:
        """With scaled tiles for the convolutions whose relative error is within `limit`, if any.

        Raises:
            BadArgument: there are no pictures to find scales and errors on.
        """
        if limit is None:
            return self
        if self.pictures is None:
            raise BadArgument(
                "scaled tiles (--winograd) need calibration pictures for their scales: give a "
                "folder, an .npy or .npz file (--calibrate)"
            )
        own, planned = self.networks.own, self.networks.planned
        tiled = choose_tiles(own, self.tile_samples(self.pictures.fitting()), limit)
        worst = max((each.error for each in tiled), default=0.0)
        note = (
            f"{len(tiled)} convolutions are done by scaled Winograd tiles, with relative errors of "
            f"at most {worst:.1%} each; {limit:.1%} were allowed"
        )
        networks = replace(
            self.networks,
            planned=with_tiles(planned, tiled),
            own=with_tiles(own, tiled),
            notes=(*self.networks.notes, note),
        )
        return replace(self, networks=networks)


@dataclass(frozen=True, eq=False)
class Source:
    """The model as read: for the planned size, and at its own size for calibration."""

    model: onnx.ModelProto
    network: FloatNetwork
    own_model: onnx.ModelProto
    own_network: FloatNetwork

    @classmethod
    def open(cls, given: str | Path | onnx.ModelProto, size: tuple[int, int] | None) -> Source:
        """Read and normalise; errors name the file."""
        model = given if isinstance(given, onnx.ModelProto) else read_model(given)
        try:
            network, clean = normalise(model, size)
            if size is None:
                return cls(model, network, clean, network)
            own_network, own_clean = normalise(model)
        except BadModel as error:
            named = "" if isinstance(given, onnx.ModelProto) else f"{given}: "
            raise type(error)(f"{named}{error}") from None
        return cls(model, network, own_clean, own_network)


def preprocessing_for(network: FloatNetwork, given: Preprocessing | None) -> Preprocessing | None:
    """Preprocessing for the network's channels; None where its input is no picture."""
    channels = [network.shapes[name][2] for name in network.inputs]
    if given is None and channels not in ([1], [3]):
        return None
    chosen = given or Preprocessing()
    if len(chosen.mean) == 1:
        chosen = replace(chosen, mean=chosen.mean * channels[0], std=chosen.std * channels[0])
    if len(chosen.mean) != channels[0]:
        raise BadArgument(
            f"the network's input has {channels[0]} channels, preprocessing is for "
            f"{len(chosen.mean)}: give as many means and stds, or one for all (--mean, --std)"
        )
    return chosen


def calibration_pictures(
    given: Pictures | None, labels: str | Path | None
) -> tuple[PictureSet | None, tuple[Truth, ...] | None]:
    """The picture set, and what is right of each picture where labels are given."""
    if given is None:
        return None, None
    if labels is None:
        return open_pictures(given), None
    if not isinstance(given, str | Path):
        raise BadArgument(f"labels name files of a folder, got {type(given).__name__} of pictures")
    return pictures_with_truths(given, labels)


@dataclass(frozen=True, eq=False)
class Networks:
    """The uint8 network at the planned size and at the file's own, and how it was made.

    `real` is the float network whose maps the one at its own size holds in bytes.
    """

    planned: Network
    own: Network
    real: FloatNetwork
    notes: tuple[str, ...]


def quantised(
    source: Source,
    pictures: PictureSet | None,
    preprocessing: Preprocessing | None,
    progress: Progress | None,
) -> Networks:
    """The uint8 networks: by calibration, or as a QDQ file says."""
    if source.network.quantisation is not None:
        maps, note = _stored_quantisation(source, pictures, preprocessing, progress)
        notes: tuple[str, ...] = (note,)
        real = source.own_network

        def apply(network: FloatNetwork) -> Network:
            return quantise(network, maps, preprocessing=preprocessing)

    elif pictures is None:
        raise BadArgument(
            "a float network needs calibration pictures: give a folder, an .npy or .npz file "
            "(--calibrate)"
        )
    else:
        found = calibrate_network(
            source.own_model,
            source.own_network,
            pictures.fitting(),
            preprocessing,
            progress=progress,
        )
        skipped = f", {len(found.skipped)} skipped: {found.skipped[0]}" if found.skipped else ""
        notes = (f"calibrated on {found.pictures} pictures{skipped}", *found.notes)
        real, apply = found.calibrated(source.own_network), found.apply
    planned = apply(source.network)
    own = planned if source.own_network is source.network else apply(source.own_network)
    return Networks(planned, own, real, notes)


def _stored_quantisation(
    source: Source,
    pictures: PictureSet | None,
    preprocessing: Preprocessing | None,
    progress: Progress | None,
) -> tuple[Mapping[str, MapQuantisation], str]:
    """A QDQ file's scales and zero points; maps that it leaves out are calibrated."""
    network = source.own_network
    assert network.quantisation is not None
    missing = [name for name in maps_to_quantise(network) if name not in network.quantisation]
    if not missing or pictures is None:
        return network.quantisation, "quantised as the QDQ file says, no calibration"
    filled = fill_quantisation(
        source.own_model, network, pictures.fitting(), preprocessing, progress=progress
    )
    return filled, f"quantised as the QDQ file says; {len(missing)} maps without were calibrated"
