# SPDX-License-Identifier: Apache-2.0
"""A float network and pictures -> ranges, rounded weights and corrected biases -> uint8.

Three passes over the pictures, each with the maps of one picture in memory:

    channels   how far each channel of each map reaches; channels are scaled so that all make use
               of their map's range (`equalise.py`)
    ranges     a histogram per map; a map's range is the one that loses least (`histogram.py`)
    weights    moments of what each convolution's filters see through the quantised maps; weights
               are rounded so that the sums stay close (`rounding.py`), and each bias makes up for
               what the mean of its sum still lost. Transposed convolutions are rounded to nearest

Maps that only move bytes, and concatenations, have no range of their own: theirs follows from the
maps they are made of (`graph/scales.py`).

A `Calibration` knows nothing of sizes: `apply` makes the uint8 network of the calibrated network
or of the same network at another size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from thinmaps.calibrate.equalise import channel_factors, equalised
from thinmaps.calibrate.float_maps import FloatMaps
from thinmaps.calibrate.histogram import Function, Histogram
from thinmaps.calibrate.moments import Moments
from thinmaps.calibrate.picture_set import PictureSet, open_pictures
from thinmaps.calibrate.rounding import round_to_outputs
from thinmaps.errors import BadModel
from thinmaps.graph.float_network import (
    FloatConcat,
    FloatConv,
    FloatNetwork,
    FloatNode,
    FloatPad,
    MapQuantisation,
    ScalarFunction,
)
from thinmaps.graph.network import Network
from thinmaps.graph.quantise import picture_values, quantise
from thinmaps.graph.scales import MOVES_BYTES, Range, scale_maps
from thinmaps.graph.weights import coded, weight_scales
from thinmaps.types import Preprocessing

PICTURES_AT_MOST = 400
PICTURES_FOR_CHANNELS = 100
FEW_PICTURES = 20

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was learnt from the pictures.

    `convolutions` (by node name) carry integer weights and corrected biases. `skipped` are the
    messages of pictures that could not be decoded; `pictures` counts those that were used; `notes`
    are sentences for the user. `factors` are what each channel of each map was divided by.
    """

    ranges: Mapping[str, Range]
    convolutions: Mapping[str, FloatConv]
    preprocessing: Preprocessing | None
    pictures: int
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    factors: Mapping[str, NDArray[np.float32]]

    def apply(self, network: FloatNetwork) -> Network:
        """The uint8 network of the float network, at the calibrated size or another.

        Raises:
            BadModel: the network has other nodes or maps than the calibrated one.
        """
        prepared = self.calibrated(network)
        return quantise(prepared, self.ranges, preprocessing=self.preprocessing)

    def calibrated(self, network: FloatNetwork) -> FloatNetwork:
        """The float network with the calibrated convolutions: `apply` stores its maps."""
        nodes = tuple(
            replace(node, operator=self.convolutions.get(node.name, node.operator))
            for node in network.nodes
        )
        return replace(network, nodes=nodes)


def calibrate(
    model: onnx.ModelProto,
    network: FloatNetwork,
    pictures: str | Path | Iterable[NDArray[Any]] | PictureSet,
    preprocessing: Preprocessing | None = None,
    *,
    pictures_at_most: int = PICTURES_AT_MOST,
    progress: Progress | None = None,
) -> Calibration:
    """Learn ranges, weights and biases from pictures.

    Args:
        model: float, static shapes, with every map of `network` as a value of that name.
        network: the same network, normalised (`graph.onnx_reader.normalise` makes both).
        pictures: a folder, an .npy or .npz file, an iterable of arrays, or a `PictureSet`.
        preprocessing: how pictures become the input; None where arrays are given in real units.
        pictures_at_most: use no more, evenly spread.
        progress: called with (what, done, of) after each picture.

    Raises:
        BadData: no picture can be used, or one has another number of channels.
        BadModel: the network has several inputs, or computes something that is not finite.
    """
    chosen = open_pictures(pictures).at_most(pictures_at_most)
    skipped: list[str] = []
    reading = _Pass(model, network, chosen, preprocessing, progress)
    factors = channel_factors(network, _magnitudes(reading))
    reading = replace(reading, network=equalised(network, factors), factors=factors)
    ranges = _ranges(reading, skipped)
    maps = scale_maps(network, ranges)
    moments = _moments(reading, maps)
    convolutions = {
        node.name: _rounded(node.operator, moments.get(node.name), maps[node.inputs[0]].scale)
        for node in reading.network.nodes
        if isinstance(node.operator, FloatConv)
    }
    used = len(chosen) - len(skipped)
    notes = _notes(used)
    return Calibration(
        ranges, convolutions, preprocessing, used, tuple(skipped), notes, reading.factors
    )


def fill_quantisation(
    model: onnx.ModelProto,
    network: FloatNetwork,
    pictures: PictureSet,
    preprocessing: Preprocessing | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, MapQuantisation]:
    """Every map's quantisation for a QDQ network that leaves some maps without.

    The file's own are kept; the others follow from the ranges that the pictures show. Arguments
    and errors are those of `calibrate`.
    """
    assert network.quantisation is not None
    chosen = pictures.at_most(PICTURES_AT_MOST)
    ranges = _ranges(_Pass(model, network, chosen, preprocessing, progress), [])
    return {**scale_maps(network, ranges), **network.quantisation}


def _notes(pictures: int) -> tuple[str, ...]:
    """What the user should know of this calibration."""
    if pictures >= FEW_PICTURES:
        return ()
    return (f"calibrated on few pictures ({pictures}): 100 or more make the ranges reliable",)


@dataclass(frozen=True, eq=False)
class _Pass:
    """One reading of all pictures."""

    model: onnx.ModelProto
    network: FloatNetwork
    pictures: PictureSet
    preprocessing: Preprocessing | None
    progress: Progress | None
    factors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def over(
        self, what: str, names: Iterable[str], skipped: list[str]
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        """The named maps of each picture."""
        maps = FloatMaps(self.model, self.network, names, self.preprocessing)
        for done, (name, picture) in enumerate(self.pictures.read(skipped), 1):
            values = maps.of(name, picture)
            for key, factors in self.factors.items():
                if key in values and (factors != 1).any():
                    values[key] = values[key] / factors[:, None, None]
            yield values
            if self.progress is not None:
                self.progress(what, done, len(self.pictures))


def _magnitudes(reading: _Pass) -> dict[str, NDArray[np.float64]]:
    """How far each channel of each map reaches from 0: the mean over pictures of the largest."""
    network = reading.network
    few = replace(reading, pictures=reading.pictures.at_most(PICTURES_FOR_CHANNELS))
    sums = {name: np.zeros(shape[2]) for name, shape in network.shapes.items()}
    names = [node.output for node in network.nodes]
    for maps in few.over("channels", names, []):
        for name in names:
            planes = maps[name].reshape(len(maps[name]), -1)
            sums[name] += np.maximum(planes.max(axis=1), -planes.min(axis=1))
    for name in names:
        if not np.isfinite(sums[name]).all():
            raise BadModel(f"map {name!r} holds values that are not finite (NaN or infinity)")
    return sums


def _ranges(reading: _Pass, skipped: list[str]) -> dict[str, Range]:
    """The range of every map."""
    network = reading.network
    computed = [node.output for node in network.nodes if not _follows(node)]
    histograms = {name: Histogram() for name in (*network.inputs, *computed)}
    for picture, maps in enumerate(reading.over("ranges", computed, skipped)):
        for name, histogram in histograms.items():
            try:
                histogram.add(maps[name], picture)
            except BadModel as refusal:
                raise BadModel(f"map {name!r} {refusal}") from None
    found = {
        name: histogram.best_range(*_only_reader(network, name))
        for name, histogram in histograms.items()
    }
    if reading.preprocessing is not None:
        found.update(_picture_ranges(network, reading.preprocessing))
    for node in filter(_follows, network.nodes):
        found[node.output] = _following(node, found)
    return found


def _only_reader(network: FloatNetwork, name: str) -> tuple[Function, ...]:
    """The function of one variable that alone reads the map, if one does."""
    readers = [node.operator for node in network.nodes if name in node.inputs]
    if len(readers) != 1 or name in network.outputs or not isinstance(readers[0], ScalarFunction):
        return ()
    function = readers[0]
    if function.channels == 1:
        return (function,)
    if len(function.steps) == 1 and function.steps[0][0] == "prelu":
        slope = np.mean(function.steps[0][1][0], keepdims=True)
        return (ScalarFunction((("prelu", (slope,)),)),)
    return ()


def _picture_ranges(network: FloatNetwork, preprocessing: Preprocessing) -> dict[str, Range]:
    """A picture may hold every byte, whatever these pictures hold."""
    values = picture_values(preprocessing)
    whole = Range(float(values.min()), float(values.max()))
    return {name: whole for name in network.inputs if network.shapes[name][2] == len(values)}


def _follows(node: FloatNode) -> bool:
    """Whether the node's output holds values of its inputs and nothing else."""
    return isinstance(node.operator, (*MOVES_BYTES, FloatConcat))


def _following(node: FloatNode, ranges: Mapping[str, Range]) -> Range:
    """The hull of the inputs' ranges, and of the border's value."""
    hull = reduce(Range.hull, (ranges[name] for name in node.inputs))
    if isinstance(node.operator, FloatPad):
        return hull.hull(Range(node.operator.value, node.operator.value))
    return hull


def _moments(reading: _Pass, maps: Mapping[str, MapQuantisation]) -> dict[str, Moments]:
    """Moments of the input of every convolution that is not transposed."""
    network = reading.network
    nodes = {
        node.name: node
        for node in network.nodes
        if isinstance(node.operator, FloatConv) and not node.operator.transposed
    }
    found = {name: Moments(node.operator) for name, node in nodes.items()}  # type: ignore[arg-type]
    names = [node.inputs[0] for node in nodes.values()]
    for picture, values in enumerate(reading.over("weights", names, [])):
        for name, node in nodes.items():
            source = node.inputs[0]
            size = network.shapes[node.output][:2]
            found[name].add(values[source], maps[source], size, picture)
    return found


def _rounded(conv: FloatConv, moments: Moments | None, input_scale: float) -> FloatConv:
    """The convolution with integer weights, and a bias that makes up for what they lose."""
    if moments is None:
        return conv
    conv = coded(conv, input_scale)
    if conv.integer_weights is not None and conv.weight_scale is not None:
        scale, integers = conv.weight_scale, conv.integer_weights
    else:
        scale = weight_scales(conv, input_scale)
        integers = round_to_outputs(conv, scale, moments)
    real = integers.astype(np.float64) * scale.astype(np.float64)[:, None, None, None]
    lost = _mean_sums(conv, conv.weights, moments.real_mean) - _mean_sums(conv, real, moments.mean)
    bias = (conv.bias + lost).astype(np.float32)
    return replace(conv, integer_weights=integers, weight_scale=scale, bias=bias)


def _mean_sums(
    conv: FloatConv, weights: NDArray[np.floating], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean of each output channel's sum, bias aside."""
    grouped = weights.reshape(conv.groups, -1, weights[0].size).astype(np.float64)
    return np.asarray(np.einsum("gkc,gc->gk", grouped, mean).ravel())
