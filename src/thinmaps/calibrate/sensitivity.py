# SPDX-License-Identifier: Apache-2.0
"""How sensitive the network's output is to each channel of each map.

A lossy codec adds an error `e` to a map; the outputs move by about `J e`, with `J` the Jacobian.
For errors without correlation the mean squared error of the outputs is then

    E |J e|^2 / outputs  =  sum over channels c and positions of  E[e_c^2] * M_c

where `M_c` is the mean of `g_c^2` over pictures, positions and projections, and `g` the gradient of
`v . outputs`, `v` random signs over the square root of the number of outputs. `E[v v^T]` is the
identity over that number, so `M_c` is exact in the mean over projections: its unit is mean
squared output per squared real unit of the map. A channel quantised with step `d` adds about
`positions * d^2 / 12 * M_c`. Of several outputs, each adds its own mean.

Errors that a whole channel shares do not average out: where all positions of a channel are off by
the same `b`, the outputs move by `b` times the sum of its gradients. `Felt` has therefore a second
figure, the mean square of the mean of `g_c` over positions: `positions^2 * b^2` of it is added.

Source
    The Gauss-Newton (Fisher) diagonal that Dong et al., "HAWQ-V2", 2020, arXiv:1911.03852, and
    Choi et al., "Towards the Limit of Network Quantization", 2017, arXiv:1612.01543, weigh errors
    of weights with; random signs are those of Hutchinson's estimator of a trace. Ours: maps instead
    of weights, per channel; gradients as an ONNX graph, so that no PyTorch is needed.

How far it holds. Uniform noise of a 63rd of its range in one map, on held-out calibration pictures:
measured over predicted error of the logits 0.91 to 1.22 for the 33 maps of ResNet-20; on SqueezeNet
0.67 to 1.4 for 28 of 37 maps, 3 to 3.8 for the first three, and 4.8 to 26 for six close to a
pooling that takes the largest of windows full of zeros: it picks up any noise, and the gradient
knows one winner. Codecs that keep zeros exact do not disturb those: noise in what is not zero gave
0.49 to 1.05.

Cost: per picture a forward pass and one of about the same size per projection; the memory of the
maps of one picture, and of the gradients of as many projections as `AT_ONCE_BYTES` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from thinmaps.calibrate.gradient_graph import GradientGraph, gradient_graph
from thinmaps.calibrate.graph_writer import GraphWriter
from thinmaps.calibrate.picture_set import PictureSet, network_values, open_pictures
from thinmaps.errors import BadArgument, BadModel
from thinmaps.graph.float_network import FloatArray, FloatNetwork
from thinmaps.graph.network import Network
from thinmaps.graph.quantise import quantised_name, real_values
from thinmaps.types import Preprocessing

PICTURES_AT_MOST = 64
AT_ONCE_BYTES = 1 << 28

Pictures = str | Path | Iterable[NDArray[Any]] | PictureSet
Progress = Callable[[str, int, int], None]
Float64Array = NDArray[np.float64]
Key = TypeVar("Key")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Probe:
    """How many random projections of the outputs go back per picture, and of which seed."""

    projections: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.projections < 1:
            raise BadArgument(f"sensitivity needs 1 projection or more, got {self.projections}")


@dataclass(frozen=True)
class Block:
    """What a transform codes together: `rows x columns` pixels of up to `channels` channels.

    Elements are counted pixel by pixel, a pixel's channels side by side. The last group of channels
    may be smaller; rows and columns behind the last whole block are left out.
    """

    rows: int = 1
    columns: int = 1
    channels: int = 16


@dataclass(frozen=True, eq=False)
class Felt:
    """What the outputs feel of a map, `(channels,)` each.

    `element` is the mean square of one element's gradient, `shift` that of the mean gradient of all
    positions, which a shift of the whole channel meets.
    """

    element: FloatArray
    shift: FloatArray


def sensitivities(
    network: FloatNetwork,
    pictures: Pictures,
    preprocessing: Preprocessing | None = None,
    *,
    probe: Probe | None = None,
    progress: Progress | None = None,
) -> dict[str, FloatArray]:
    """`M` of every map, float32 `(channels,)`, by map name.

    The network's inputs have an entry each, under their own names. `of_maps` turns the result to
    the names of a uint8 network.

    Args:
        network: the float network whose maps are stored; that of `Calibration.calibrated`, where
            channels are scaled as in the uint8 network.
        pictures: anything `open_pictures` takes; at most `PICTURES_AT_MOST` are used.
        preprocessing: how pictures become the input; None where arrays are given in real units.
        probe: projections and seed; the same ones give the same result.
        progress: called with (what, done, of) after each picture.

    Raises:
        BadModel: the network has several inputs, or a gradient is not finite.
        BadData: no picture can be used.
    """
    found = felt(network, pictures, preprocessing, probe=probe, progress=progress)
    return {name: each.element for name, each in found.items()}


def felt(
    network: FloatNetwork,
    pictures: Pictures,
    preprocessing: Preprocessing | None = None,
    *,
    probe: Probe | None = None,
    progress: Progress | None = None,
) -> dict[str, Felt]:
    """`sensitivities`, and what shifts of channels do; arguments and errors are the same."""
    reading = _Reading(network, open_pictures(pictures), preprocessing, probe or Probe(), progress)

    def outputs(graph: GradientGraph) -> dict[tuple[str, str], str]:
        writer = graph.writer
        return {
            key: value
            for name, g in graph.gradients.items()
            for key, value in (
                ((name, "element"), _mean_squares(writer, g)),
                ((name, "shift"), _squared_means(writer, g)),
            )
        }

    found = {key: mean.astype(np.float32) for key, mean in reading.means(outputs).items()}
    return {name: Felt(found[name, "element"], found[name, "shift"]) for name in network.shapes}


def moments(
    network: FloatNetwork,
    pictures: Pictures,
    blocks: Mapping[str, Block],
    preprocessing: Preprocessing | None = None,
    *,
    probe: Probe | None = None,
    progress: Progress | None = None,
) -> dict[str, tuple[Float64Array, ...]]:
    """`E[g g^T]` of blocks of the maps named in `blocks`: per map one matrix per channel group.

    With one pixel and one channel per block the matrices are 1 x 1 and hold what `sensitivities`
    gives. Units, arguments and errors are those of `sensitivities`.

    Raises:
        BadArgument: a map that the network does not have, or a block larger than its map.
    """
    for name, block in blocks.items():
        _check_block(network, name, block)
    reading = _Reading(network, open_pictures(pictures), preprocessing, probe or Probe(), progress)

    def outputs(graph: GradientGraph) -> dict[tuple[str, int], str]:
        return {
            (name, group): value
            for name, block in blocks.items()
            for group, value in enumerate(_outer(graph, name, network.shapes[name], block))
        }

    found = reading.means(outputs)
    groups = {name: -(-network.shapes[name][2] // block.channels) for name, block in blocks.items()}
    return {name: tuple(found[name, g] for g in range(count)) for name, count in groups.items()}


def of_maps(found: Mapping[str, Found], network: Network) -> dict[str, Found]:
    """Sensitivities by the map names of the uint8 network that was made of the float one.

    It has two more kinds of maps: the quantised input, and `<map>_unscaled` in front of a table
    that only changes the scale.
    """
    by_name = {**found, **{quantised_name(name): found[name] for name in network.inputs}}
    return {
        name: by_name[name if name in by_name else name.removesuffix("_unscaled")]
        for name in network.maps
        if name not in network.inputs
    }


def _mean_squares(writer: GraphWriter, g: str) -> str:
    """Mean over positions, `batch c`."""
    squares = writer.add("Mul", g, g)
    return writer.add("ReduceMean", squares, writer.integers([2, 3]), keepdims=0)


def _squared_means(writer: GraphWriter, g: str) -> str:
    """Square of the mean over positions, `batch c`."""
    mean = writer.add("ReduceMean", g, writer.integers([2, 3]), keepdims=0)
    return writer.add("Mul", mean, mean)


def _check_block(network: FloatNetwork, name: str, block: Block) -> None:
    if name not in network.shapes:
        raise BadArgument(f"the network has no map {name!r} to take moments of")
    height, width, _ = network.shapes[name]
    if not 1 <= block.rows <= height or not 1 <= block.columns <= width or block.channels < 1:
        raise BadArgument(
            f"map {name!r} of {height}x{width} has no block of {block.rows}x{block.columns} pixels "
            f"and {block.channels} channels"
        )


def _outer(
    graph: GradientGraph, name: str, shape: tuple[int, int, int], block: Block
) -> Iterator[str]:
    """Per group of channels the mean outer product of blocks, `batch elements elements`."""
    writer = graph.writer
    down, across = shape[0] // block.rows, shape[1] // block.columns
    for first in range(0, shape[2], block.channels):
        channels = min(block.channels, shape[2] - first)
        stop = (first + channels, down * block.rows, across * block.columns)
        part = writer.cut(graph.gradients[name], (first, 0, 0), stop)
        split = (graph.batch, channels, down, block.rows, across, block.columns)
        pixels = writer.add("Transpose", writer.reshaped(part, split), perm=(0, 3, 5, 1, 2, 4))
        elements = channels * block.rows * block.columns
        rows = writer.reshaped(pixels, (graph.batch, elements, down * across))
        sums = writer.add("MatMul", rows, writer.add("Transpose", rows, perm=(0, 2, 1)))
        yield writer.add("Mul", sums, writer.real(1 / (down * across)))


@dataclass(frozen=True, eq=False)
class _Reading:
    """One reading of the pictures, each with its own random projections."""

    network: FloatNetwork
    pictures: PictureSet
    preprocessing: Preprocessing | None
    probe: Probe
    progress: Progress | None
    at_once: int = field(init=False)

    def __post_init__(self) -> None:
        if len(self.network.inputs) != 1:
            inputs = list(self.network.inputs)
            raise BadModel(f"sensitivity needs a network of one input for pictures, got {inputs}")
        fitting = AT_ONCE_BYTES // (4 * sum(map(np.prod, self.network.shapes.values())))
        divisors = [
            d for d in range(1, self.probe.projections + 1) if not self.probe.projections % d
        ]
        object.__setattr__(self, "at_once", max(d for d in divisors if d <= max(1, fitting)))

    def means(self, outputs: Callable[[GradientGraph], dict[Key, str]]) -> dict[Key, Float64Array]:
        """Mean over pictures and projections of values `batch ...` of the graph."""
        graph = gradient_graph(self.network, self.at_once)
        wanted = outputs(graph)
        session = _session(graph, list(wanted.values()))
        sums: dict[Key, Float64Array] = {}
        runs = 0
        for feed in self._feeds(graph):
            arrays = session.run(list(wanted.values()), feed)
            for key, array in zip(wanted, arrays, strict=True):
                mean = array.mean(axis=0, dtype=np.float64)
                sums[key] = sums[key] + mean if key in sums else mean
            runs += 1
        for key, values in sums.items():
            if not np.isfinite(values).all():
                raise BadModel(f"the gradient of map {key!r} is not finite (NaN or infinity)")
        return {key: values / runs for key, values in sums.items()}

    def _feeds(self, graph: GradientGraph) -> Iterator[dict[str, FloatArray]]:
        """Inputs of the graph, `projections / at_once` times per picture."""
        rng = np.random.default_rng(self.probe.seed)
        source = self.network.inputs[0]
        shape = self.network.shapes[source]
        chosen = self.pictures.at_most(PICTURES_AT_MOST)
        for done, (name, picture) in enumerate(chosen.read(), 1):
            fitted = network_values(name, picture, shape, self.preprocessing)
            feed = {graph.pictures[source]: real_values(fitted, self.preprocessing)[None]}
            for _ in range(self.probe.projections // self.at_once):
                yield {**feed, **random_signs(self.network, graph, rng)}
            if self.progress is not None:
                self.progress("sensitivity", done, len(chosen))


def random_signs(
    network: FloatNetwork, graph: GradientGraph, rng: np.random.Generator
) -> dict[str, FloatArray]:
    """`graph.batch` projections: random signs over the root of each output's elements."""
    found = {}
    for name, projection in graph.projections.items():
        height, width, channels = network.shapes[name]
        shape = (graph.batch, channels, height, width)
        signs = rng.integers(0, 2, shape) * 2 - 1
        found[projection] = np.asarray(signs / np.sqrt(height * width * channels), np.float32)
    return found


def _session(graph: GradientGraph, outputs: list[str]) -> Any:
    """One thread, so that the same seed gives the same bits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = graph.writer.model(outputs).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
