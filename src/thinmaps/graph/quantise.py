# SPDX-License-Identifier: Apache-2.0
"""A `FloatNetwork` and the quantisation of its maps -> the `Network` of uint8 maps.

The one place where real weights, clamps and functions become integers, multipliers and tables,
for float files (ranges from calibration) and QDQ files (scales and integer weights as given).

Nodes keep their names and maps theirs, so whatever is known of a float map is known of the uint8
map of that name. Two things are new: the caller's input keeps the name of the file's input, and
the map that is made of it is called `<input>_quantised`; and where a map must have another scale
than its node can give it (some QDQ files), the node makes `<map>_unscaled` and a table follows.

Rules of arithmetic, per output channel k with input scale sx and output scale sy:

    weights     int8 with scale sw, see `graph/weights.py`
    bias        int32, rne(bias / fl(sx * sw))
    multiplier  fl(fl(sx * sw) / sy); a head that ends in float has fl(sx * sw)
    tables      rne(f((x - zx) * sx) / sy) + zy, computed in float64
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps import quant
from thinmaps.errors import BadArgument, BadModel
from thinmaps.graph.float_network import (
    FloatAdd,
    FloatAveragePool,
    FloatConcat,
    FloatConv,
    FloatMean,
    FloatMul,
    FloatNetwork,
    FloatNode,
    FloatPad,
    MapQuantisation,
    ScalarFunction,
)
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import (
    Add,
    AveragePool,
    CodedConv,
    Concat,
    Conv,
    ConvTranspose,
    Lookup,
    Mean,
    Mul,
    Operator,
    Pad,
    Picture,
    Quantise,
)
from thinmaps.graph.scales import MOVES_BYTES, Range, scale_maps
from thinmaps.graph.weights import codes_fit, integer_weights
from thinmaps.types import MapSpec, Preprocessing

CODES = np.arange(256)
IDENTITY = ScalarFunction(())


def quantise(
    network: FloatNetwork,
    maps: Mapping[str, Range] | Mapping[str, MapQuantisation] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
) -> Network:
    """The uint8 network.

    Args:
        network: the float network. Convolutions that carry integer weights keep them.
        maps: by map name, either ranges of real values (scales and even zero points are chosen
            here) or scales and zero points, kept as they are. None takes the file's own (QDQ).
        preprocessing: with it, inputs of 1 or 3 channels are pictures (uint8) that a table
            converts; other inputs, or all without it, are float32 arrays in real units.

    Raises:
        BadModel: a map has no range, a weight is not finite, or an accumulator could overflow.
        BadArgument: `preprocessing` has another number of channels than a picture input.
    """
    builder = _Builder(network, _quantisation(network, maps))
    specs = {name: builder.spec(name) for name in network.shapes}
    nodes: list[Node] = []
    for name in network.inputs:
        spec = specs[quantised_name(name)] = specs[name]
        nodes.append(_input_node(name, spec, preprocessing))
        specs[name] = _caller_spec(spec, is_picture=isinstance(nodes[-1].operator, Picture))
    for float_node in network.nodes:
        nodes.extend(builder.nodes_of(float_node))
    return Network(tuple(nodes), {**specs, **builder.unscaled}, network.inputs, network.outputs)


def quantised_name(input_name: str) -> str:
    """Name of the map that is made of the caller's input."""
    return f"{input_name}_quantised"


def picture_values(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Real value of each picture byte, (channels, 256), channels in the network's order.

    >>> picture_values(Preprocessing((0.5,), (0.5,)))[0, [0, 255]].tolist()
    [-1.0, 1.0]
    """
    mean = np.array(preprocessing.mean)[:, None]
    std = np.array(preprocessing.std)[:, None]
    return np.asarray((CODES / 255 - mean) / std, np.float32)


def channel_source(preprocessing: Preprocessing) -> tuple[int, ...]:
    """For each channel of the network, the channel of the RGB (or grey) picture it comes from."""
    channels = tuple(range(len(preprocessing.mean)))
    return channels[::-1] if preprocessing.order == "bgr" else channels


def real_values(fitted: NDArray[Any], preprocessing: Preprocessing | None) -> NDArray[np.float32]:
    """What the float network is fed: `(c, h, w)` float32 from picture bytes or an array."""
    planes = fitted.transpose(2, 0, 1)
    if fitted.dtype != np.uint8 or preprocessing is None:
        return np.ascontiguousarray(planes, np.float32)
    table = picture_values(preprocessing)
    return np.stack(
        [table[c][planes[source]] for c, source in enumerate(channel_source(preprocessing))]
    )


def _quantisation(
    network: FloatNetwork, maps: Mapping[str, Range] | Mapping[str, MapQuantisation] | None
) -> dict[str, MapQuantisation]:
    """Scale and zero point of every map that is not float."""
    if maps is None:
        maps = network.quantisation
    if maps is None:
        raise BadModel("a float network needs ranges: calibrate it with pictures first")
    ranges = {name: found for name, found in maps.items() if isinstance(found, Range)}
    if ranges:
        return scale_maps(network, ranges)
    given = {name: found for name, found in maps.items() if isinstance(found, MapQuantisation)}
    for node in network.nodes:
        if isinstance(node.operator, MOVES_BYTES) and node.inputs[0] in given:
            given.setdefault(node.output, given[node.inputs[0]])
    if missing := [name for name in maps_to_quantise(network) if name not in given]:
        raise BadModel(
            "a QDQ network needs a QuantizeLinear and DequantizeLinear on every map; there is none "
            f"on {', '.join(map(repr, missing))}. Calibrate these with pictures (--calibrate)"
        )
    return given


def maps_to_quantise(network: FloatNetwork) -> list[str]:
    """Names of the maps that hold bytes: all but the float outputs."""
    return [name for name in network.shapes if name not in network.float_outputs]


def _input_node(name: str, spec: MapSpec, preprocessing: Preprocessing | None) -> Node:
    """The node that makes a map of the caller's picture or float array."""
    if preprocessing is None or spec.channels not in (1, 3):
        return Node(f"quantise_{name}", Quantise(), (name,), quantised_name(name))
    if len(preprocessing.mean) != spec.channels:
        raise BadArgument(
            f"input {name!r} has {spec.channels} channels, but preprocessing has "
            f"{len(preprocessing.mean)} means; give one mean and one std per channel"
        )
    # In float32, as ONNX quantises the same values.
    table = quant.quantise(picture_values(preprocessing), spec.scale, spec.zero_point)
    picture = Picture(table, channel_source(preprocessing))
    return Node(f"picture_{name}", picture, (name,), quantised_name(name))


def _caller_spec(spec: MapSpec, *, is_picture: bool) -> MapSpec:
    """What the caller hands in: picture bytes, or real values."""
    return MapSpec(*spec.shape, dtype="uint8" if is_picture else "float32")


def _codes(values: NDArray[np.floating], spec: MapSpec) -> NDArray[np.uint8]:
    """Real values -> bytes of a map, in float64: what tables hold."""
    codes = np.rint(np.asarray(values, np.float64) / spec.scale) + spec.zero_point
    return np.asarray(np.clip(codes, 0, 255), np.uint8)


def _table(
    function: ScalarFunction, source: MapSpec, target: MapSpec, low: float, high: float
) -> NDArray[np.uint8]:
    """The table of a function of one variable, `(1 or channels, 256)`."""
    real = (CODES - source.zero_point) * np.float64(source.scale)
    values = np.broadcast_to(function(real[:, None]), (256, function.channels))
    return np.ascontiguousarray(_codes(np.clip(values, low, high), target).T)


class _Builder:
    """Turns nodes one by one; remembers the maps that had to be added."""

    def __init__(self, network: FloatNetwork, maps: Mapping[str, MapQuantisation]) -> None:
        self.network = network
        self.maps = maps
        self.unscaled: dict[str, MapSpec] = {}
        clamped = {
            node.output for node in network.nodes if node.low > -np.inf or node.high < np.inf
        }
        self.float_outputs = network.float_outputs - clamped

    def spec(self, name: str) -> MapSpec:
        """The spec of a map of the float network."""
        shape = self.network.shapes[name]
        if name in self.float_outputs:
            return MapSpec(*shape, dtype="float32")
        if name not in self.maps:
            raise BadModel(
                f"map {name!r} has no scale and zero point; a QDQ file needs QuantizeLinear and "
                "DequantizeLinear behind every node"
            )
        found = self.maps[name]
        return MapSpec(*shape, float(np.float32(found.scale)), found.zero_point)

    def nodes_of(self, node: FloatNode) -> Iterator[Node]:
        """The node, and a table behind it where it cannot make the scale or the clamp itself."""
        inputs = tuple(
            quantised_name(name) if name in self.network.inputs else name for name in node.inputs
        )
        sources = [self.spec(name) for name in node.inputs]
        output = self.spec(node.output)
        made = self._made(node, sources[0], output)
        operator = _operator(node, sources, made)
        if made == output and not _clamp_is_left(node, operator, output):
            yield Node(node.name, operator, inputs, node.output)
            return
        between = f"{node.output}_unscaled"
        self.unscaled[between] = made
        table = _table(IDENTITY, made, output, node.low, node.high)
        yield Node(node.name, operator, inputs, between)
        yield Node(f"{node.name}_rescale", Lookup(table), (between,), node.output)

    @staticmethod
    def _made(node: FloatNode, source: MapSpec, output: MapSpec) -> MapSpec:
        """The spec that the node's operator can make: some only move bytes."""
        if not isinstance(node.operator, MOVES_BYTES):
            return output
        return replace(output, scale=source.scale, zero_point=source.zero_point)


def _clamp_is_left(node: FloatNode, operator: Operator, output: MapSpec) -> bool:
    """Whether the node's clamp is tighter than saturation and its operator has none of its own."""
    if isinstance(operator, Conv | CodedConv | ConvTranspose | Add | Mul | Lookup):
        return False
    return _clamp_codes(node, output) != (0, 255)


def _clamp_codes(node: FloatNode, output: MapSpec) -> tuple[int, int]:
    """The fused Relu or Clip as bytes: its bounds rounded, 0 and 255 where they saturate."""
    if output.dtype == "float32":
        return 0, 255
    low, high = _codes(np.array([node.low, node.high]), output)
    return int(low), int(high)


def _operator(node: FloatNode, sources: list[MapSpec], output: MapSpec) -> Operator:
    """The integer operator of a float node."""
    operator, source = node.operator, sources[0]
    low, high = _clamp_codes(node, output)
    match operator:
        case FloatConv():
            return _convolution(node.name, operator, source, output, (low, high))
        case FloatAdd():
            ratio = np.array([s.scale for s in sources], np.float32) / np.float32(output.scale)
            return Add(ratio, low, high)
        case FloatMul():
            product = quant.conv_multiplier(source.scale, _one(sources[1].scale), output.scale)
            return Mul(product, low, high)
        case FloatMean():
            divisor = np.float32(source.height * source.width) * np.float32(output.scale)
            return Mean(_one(source.scale) / divisor)
        case FloatAveragePool():
            return _average_pool(operator, source, output)
        case FloatConcat():
            return Concat(
                np.concatenate([_table(IDENTITY, s, output, -np.inf, np.inf) for s in sources])
            )
        case ScalarFunction():
            return Lookup(_table(operator, source, output, node.low, node.high))
        case FloatPad():
            value = int(_codes(np.array(operator.value), output))
            return Pad(operator.top, operator.left, operator.channel, value)
        case Operator():
            return operator


def _one(value: float) -> NDArray[np.float32]:
    return np.array([value], np.float32)


def _average_pool(pool: FloatAveragePool, source: MapSpec, output: MapSpec) -> AveragePool:
    """`fl(sx / fl(sy * n))` for every divisor n."""
    divisors = np.arange(pool.window.kernel[0] * pool.window.kernel[1] + 1, dtype=np.float32)
    multiplier = np.zeros_like(divisors)
    multiplier[1:] = np.float32(source.scale) / (np.float32(output.scale) * divisors[1:])
    return AveragePool(pool.window, pool.count_include_pad, multiplier)


def _convolution(
    name: str, conv: FloatConv, source: MapSpec, output: MapSpec, clamp: tuple[int, int]
) -> Conv | CodedConv | ConvTranspose:
    """Integer weights, bias and multiplier of a convolution."""
    integers = integer_weights(name, conv, source.scale)
    multiplier = quant.conv_multiplier(source.scale, integers.scale, output.scale)
    if conv.coded is not None and codes_fit(conv):
        return CodedConv(conv.window, conv.groups, conv.coded, integers.bias, multiplier, *clamp)
    kind = ConvTranspose if conv.transposed else Conv
    return kind(conv.window, conv.groups, integers.weights, integers.bias, multiplier, *clamp)
