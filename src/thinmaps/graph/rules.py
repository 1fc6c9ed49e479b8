# SPDX-License-Identifier: Apache-2.0
"""The rules that a `Network`'s operators satisfy: shapes, ranges, constants, quantisation.

`Network` itself checks the wiring. This page checks, for every node, that its constants fit its
maps, so that an engine which trusts a network never reads outside of one and never overflows an
int32 sum. The .thin reader asks this of every file before anything else looks at it. Costs one
pass over the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadModel
from thinmaps.graph.filter_codes import MOST_CODES, MOST_SHIFT, SIDE
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import (
    Add,
    AveragePool,
    CodedConv,
    Concat,
    Conv,
    ConvTranspose,
    DepthToSpace,
    Lookup,
    MaxPool,
    Mean,
    Mul,
    Operator,
    Pad,
    Picture,
    Quantise,
    Resize,
    Slice,
    Window,
    WinogradConv,
)
from thinmaps.graph.winograd_bounds import (
    TRANSFORM_REACH,
    product_reach,
    result_reach,
    transform_reach,
)
from thinmaps.types import MapSpec

MAX_EXTENT = 1 << 20
MAX_ROW_BYTES = 1 << 31
MAX_MAP_BYTES = 1 << 40
INT32_REACH = 1 << 31
MAX_TILE = 8

Specs = Sequence[MapSpec]
Layer = Conv | CodedConv | ConvTranspose


def check_operators(network: Network) -> None:
    """Refuse a network with a node that does not fit its maps.

    Raises:
        BadModel: naming the node or map, what was needed and what came.
    """
    for name, spec in network.maps.items():
        _check_map(name, spec)
    for name in network.outputs:
        if name in network.inputs:
            raise BadModel(f"output {name!r} is an input: a node must stand between them")
    for node in network.nodes:
        _check_dtypes(network, node)
        inputs, output = network.input_specs(node), network.output_spec(node)
        rule = _RULES.get(type(node.operator))
        if rule is None:
            raise BadModel(f"node {node.name!r}: {node.operator.id} has no place in a network")
        problem = rule(node.operator, inputs, output)
        if problem:
            raise BadModel(f"node {node.name!r} ({node.operator.id}): {problem}")


def _check_map(name: str, spec: MapSpec) -> None:
    if max(spec.shape) > MAX_EXTENT:
        raise BadModel(f"map {name!r} may be {MAX_EXTENT} long each way, got h w c = {spec.shape}")
    if spec.row_bytes >= MAX_ROW_BYTES or spec.raw_bytes >= MAX_MAP_BYTES:
        raise BadModel(f"map {name!r} is too large: h w c = {spec.shape}")
    with np.errstate(over="ignore"):
        exact = float(np.float32(spec.scale)) == spec.scale
    if not exact:
        raise BadModel(f"map {name!r} needs a scale that float32 holds, got {spec.scale!r}")


def _check_dtypes(network: Network, node: Node) -> None:
    """Inputs are read by `Picture` or `Quantise` only; float32 maps are inputs or head outputs."""
    entry = isinstance(node.operator, Picture | Quantise)
    for name in node.inputs:
        if (name in network.inputs) != entry:
            kind = "an input of the network" if entry else "a map that a node makes"
            raise BadModel(f"node {node.name!r} ({node.operator.id}) reads {kind}, got {name!r}")
        if not entry and network.maps[name].dtype != "uint8":
            raise BadModel(f"node {node.name!r} reads the float32 map {name!r}; uint8 is needed")
    if network.maps[node.output].dtype == "float32" and (
        not isinstance(node.operator, Conv | CodedConv | Mean) or node.output not in network.outputs
    ):
        raise BadModel(f"node {node.name!r} makes float32, which only a head may")


def _first(*problems: str | None) -> str | None:
    """The first problem there is."""
    return next(filter(None, problems), None)


def _needs(what: str, needed: Any, got: Any) -> str | None:
    return None if needed == got else f"{what} must be {needed}, got {got}"


def _within(what: str, value: int, low: int, high: int) -> str | None:
    return None if low <= value <= high else f"{what} lies in {low}..{high}, got {value}"


def _arity(inputs: Specs, needed: int) -> str | None:
    return _needs("the number of inputs", needed, len(inputs))


def _tensor(what: str, array: NDArray[Any], dtype: Any, shape: tuple[int, ...]) -> str | None:
    came = (str(array.dtype), array.shape)
    return _needs(what, (str(np.dtype(dtype)), shape), came)


def _factors(what: str, array: NDArray[Any], shape: tuple[int, ...]) -> str | None:
    """A float32 tensor of finite numbers that are not negative."""
    problem = _tensor(what, array, np.float32, shape)
    if problem or bool((np.isfinite(array) & (array >= 0)).all()):
        return problem
    return f"{what} must be finite and not negative"


def _clamp(low: int, high: int) -> str | None:
    return None if 0 <= low <= high <= 255 else f"a clamp needs 0 <= {low} <= {high} <= 255"


def _same_scale(inputs: Specs, output: MapSpec) -> str | None:
    needed = [(output.scale, output.zero_point)] * len(inputs)
    return _needs(
        "scale and zero point", needed, [(spec.scale, spec.zero_point) for spec in inputs]
    )


def _window(window: Window) -> str | None:
    """Sizes with which no row or column number can leave int32."""
    return _first(
        *(_within("a kernel's extent", size, 1, 1 << 12) for size in window.kernel),
        *(_within("a stride", size, 1, 1 << 12) for size in window.stride),
        *(_within("a dilation", size, 1, 1 << 12) for size in window.dilation),
        *(_within("a pad", size, 0, MAX_EXTENT) for size in window.pads),
    )


def _reaches(window: Window) -> tuple[int, int]:
    """Rows and columns under a window, dilation included."""
    rows, columns = (
        (size - 1) * dilation + 1
        for size, dilation in zip(window.kernel, window.dilation, strict=True)
    )
    return rows, columns


def _positions(window: Window, source: MapSpec) -> list[tuple[int, int]]:
    """Per axis the number of windows: rounded down, and rounded up (ceil_mode)."""
    reaches = _reaches(window)
    extents = (source.height, source.width)
    found = []
    for axis in range(2):
        free = extents[axis] + window.pads[axis] + window.pads[axis + 2] - reaches[axis]
        stride = window.stride[axis]
        found.append((free // stride + 1, -(-free // stride) + 1))
    return found


def _filters(operator: Layer, source: MapSpec, output: MapSpec) -> str | None:
    """Constants of a convolution, and int32 sums that cannot overflow."""
    groups, channels = operator.groups, output.channels
    if groups < 1 or source.channels % groups or channels % groups:
        return f"{groups} groups do not divide {source.channels} and {channels} channels"
    shape = (channels, source.channels // groups, *operator.window.kernel)
    problem = _first(
        _window(operator.window),
        None if isinstance(operator, CodedConv) else _weights(operator, shape),
        _tensor("bias", operator.bias, np.int32, (channels,)),
        _factors("multiplier", operator.multiplier, (channels,)),
        _clamp(operator.low, operator.high),
    )
    if problem:
        return problem
    bias = np.abs(operator.bias.astype(np.int64))
    if math.prod(shape[1:]) * 128 * 255 + int(bias.max()) < INT32_REACH:
        return None  # whatever the weights are: they need not be read
    filters = operator.weights.reshape(channels, -1)
    # Channel by channel: all at once would take eight times their memory.
    reach = bias + [255 * int(np.abs(each, dtype=np.int64).sum()) for each in filters]
    worst = int(reach.argmax())
    if reach[worst] >= INT32_REACH:
        return f"channel {worst} can sum to {reach[worst]}, which int32 does not hold"
    return None


def _coded_filters(operator: CodedConv, inputs: Specs, output: MapSpec) -> str | None:
    """Coefficients, codes and shifts from which filters of the layer's shape can be made."""
    filters, groups = operator.filters, operator.groups
    per_group = inputs[0].channels // max(groups, 1)
    codes = len(filters.codes)
    return _first(
        _needs("the kernel", (3, 3), operator.window.kernel),
        _within("the number of codes", codes, 1, MOST_CODES),
        *(_within("a code", code, 0, SIDE * SIDE - 1) for code in filters.codes),
        None if per_group % 4 == 0 else f"input channels of a group come in fours, not {per_group}",
        _tensor("coefficients", filters.coefficients, np.int8, (output.channels, per_group, codes)),
        _tensor("shift", filters.shift, np.uint8, (output.channels,)),
        _within("a shift", int(filters.shift.max(initial=0)), 0, MOST_SHIFT),
    )


def _coded_conv(operator: CodedConv, inputs: Specs, output: MapSpec) -> str | None:
    return (
        _arity(inputs, 1)
        or _coded_filters(operator, inputs, output)
        or _conv(operator, inputs, output)
    )


def _conv(operator: Conv | CodedConv, inputs: Specs, output: MapSpec) -> str | None:
    problem = _arity(inputs, 1) or _filters(operator, inputs[0], output)
    if problem:
        return problem
    needed = tuple(down for down, _ in _positions(operator.window, inputs[0]))
    return _needs("the output's height and width", needed, output.shape[:2])


def _winograd_conv(operator: WinogradConv, inputs: Specs, output: MapSpec) -> str | None:
    if problem := _arity(inputs, 1) or _winograd_tensors(operator, inputs[0], output):
        return problem
    needed = tuple(down for down, _ in _positions(operator.window, inputs[0]))
    down, across = (-(-extent // operator.step_rows) for extent in output.shape[:2])
    return (
        _needs("the output's height and width", needed, output.shape[:2])
        or _within("tiles", down * across, 1, INT32_REACH - 1)
        or _winograd_reach(operator)
    )


def _winograd_tensors(operator: WinogradConv, source: MapSpec, output: MapSpec) -> str | None:
    """Matrices of a size that tiles have, and constants that fit them and the maps."""
    if operator.at.ndim != 2 or operator.bt.ndim != 2:
        return "at (m, mu) and bt (mu, n) must be matrices"
    (tile, products), side = operator.at.shape, operator.bt.shape[-1]
    taps, square = side - tile + 1, (products, products)
    return _first(
        _needs("the output's dtype", "uint8", output.dtype),
        _within("a tile's side", tile, 1, MAX_TILE),
        _within("taps", taps, 1, MAX_TILE),
        _within("products of a side", products, 1, 4 * MAX_TILE),
        _tensor("at (m, mu)", operator.at, np.int8, (tile, products)),
        _tensor("bt (mu, n)", operator.bt, np.int8, (products, side)),
        _needs("the window", Window((taps, taps), pads=operator.window.pads), operator.window),
        _window(operator.window),
        _tensor("input_scale", operator.input_scale, np.int32, (*square, source.channels)),
        _tensor(
            "weights (k c mu mu)",
            operator.weights,
            np.int8,
            (output.channels, source.channels, *square),
        ),
        _factors("product_scale", operator.product_scale, (output.channels, *square)),
        _tensor("bias", operator.bias, np.int32, (output.channels,)),
        _factors("multiplier", operator.multiplier, (output.channels,)),
        _clamp(operator.low, operator.high),
    )


def _winograd_reach(operator: WinogradConv) -> str | None:
    """Values that cannot leave the integers which hold them, whatever the input."""
    if not operator.at.any(axis=0).all():
        return "at has a product that no output uses"
    scales = operator.input_scale
    if not 1 <= scales.min() <= scales.max() < TRANSFORM_REACH:
        return f"input_scale lies in 1..{TRANSFORM_REACH - 1}, got {scales.min()}..{scales.max()}"
    if (reach := transform_reach(operator.bt)) >= TRANSFORM_REACH:
        return f"a transformed input can reach {reach}, which int16 does not hold"
    products = product_reach(operator.weights)
    if (most := int(products.max())) >= INT32_REACH:
        return f"a sum of products can reach {most}, which int32 does not hold"
    results = result_reach(operator.at, products, operator.product_scale)
    worst = results + np.abs(operator.bias.astype(np.float64))
    if worst.max() >= INT32_REACH:
        channel = int(worst.argmax())
        return f"channel {channel} can sum to {worst[channel]:.4g}, which int32 does not hold"
    return None


def _weights(operator: Conv | ConvTranspose, shape: tuple[int, ...]) -> str | None:
    return _tensor("weights (k c r s)", operator.weights, np.int8, shape)


def _conv_transpose(operator: ConvTranspose, inputs: Specs, output: MapSpec) -> str | None:
    problem = _arity(inputs, 1) or _filters(operator, inputs[0], output)
    if problem:
        return problem
    window = operator.window
    for axis, reach in enumerate(_reaches(window)):
        stride = window.stride[axis]
        least = (inputs[0].shape[axis] - 1) * stride + reach
        least -= window.pads[axis] + window.pads[axis + 2]
        most = least + max(stride, window.dilation[axis]) - 1
        problem = _within("the output's height or width", output.shape[axis], least, most)
        if problem:
            return problem
    return None


def _pooled(window: Window, inputs: Specs, output: MapSpec) -> str | None:
    """Sizes of a pool, each of whose windows must hold at least one element of the map."""
    problem = _arity(inputs, 1) or _window(window)
    problem = problem or _needs("channels", inputs[0].channels, output.channels)
    if problem:
        return problem
    for axis, (least, most) in enumerate(_positions(window, inputs[0])):
        problem = _within("the output's height or width", output.shape[axis], least, most)
        if problem:
            return problem
        taps = np.arange(window.kernel[axis]) * window.dilation[axis] - window.pads[axis]
        for position in {0, output.shape[axis] - 1}:
            places = taps + position * window.stride[axis]
            if not ((places >= 0) & (places < inputs[0].shape[axis])).any():
                return "a window holds no element of the map"
        if window.dilation[axis] > inputs[0].shape[axis]:
            return f"a dilation of {window.dilation[axis]} steps over the whole map"
    return None


def _max_pool(operator: MaxPool, inputs: Specs, output: MapSpec) -> str | None:
    return _first(_pooled(operator.window, inputs, output), _same_scale(inputs, output))


def _average_pool(operator: AveragePool, inputs: Specs, output: MapSpec) -> str | None:
    problem = _pooled(operator.window, inputs, output)
    elements = operator.window.kernel[0] * operator.window.kernel[1]
    return _first(
        problem,
        _within("the kernel's area", elements, 1, (INT32_REACH - 1) // 255),
        _factors("multiplier", operator.multiplier, (elements + 1,)),
    )


def _mean(operator: Mean, inputs: Specs, output: MapSpec) -> str | None:
    return _arity(inputs, 1) or _first(
        _needs("the output's h w c", (1, 1, inputs[0].channels), output.shape),
        _within("elements", inputs[0].height * inputs[0].width, 1, (INT32_REACH - 1) // 255),
        _factors("multiplier", operator.multiplier, (1,)),
    )


def _broadcast(inputs: Specs, output: MapSpec, which: tuple[int, ...]) -> str | None:
    """Every input has the output's shape; those in `which` may be 1 x 1."""
    for index, spec in enumerate(inputs):
        if spec.shape != output.shape and not (
            index in which and spec.shape == (1, 1, output.channels)
        ):
            return f"input {index} of h w c = {spec.shape} does not fit {output.shape}"
    return None


def _add(operator: Add, inputs: Specs, output: MapSpec) -> str | None:
    return _arity(inputs, 2) or _first(
        _broadcast(inputs, output, (0, 1)),
        _factors("ratio", operator.ratio, (2,)),
        _clamp(operator.low, operator.high),
    )


def _mul(operator: Mul, inputs: Specs, output: MapSpec) -> str | None:
    return _arity(inputs, 2) or _first(
        _broadcast(inputs, output, (1,)),
        _factors("multiplier", operator.multiplier, (1,)),
        _clamp(operator.low, operator.high),
    )


def _lookup(operator: Lookup, inputs: Specs, output: MapSpec) -> str | None:
    tables = 1 if operator.table.shape[:1] == (1,) else output.channels
    return _arity(inputs, 1) or _first(
        _needs("h w c", inputs[0].shape, output.shape),
        _tensor("table", operator.table, np.uint8, (tables, 256)),
    )


def _concat(operator: Concat, inputs: Specs, output: MapSpec) -> str | None:
    sizes = {spec.shape[:2] for spec in inputs}
    return _first(
        None if inputs else "at least one input is needed",
        _needs("heights and widths", {output.shape[:2]}, sizes),
        _needs("channels", sum(spec.channels for spec in inputs), output.channels),
        _tensor("table", operator.table, np.uint8, (len(inputs), 256)),
    )


def _slice(operator: Slice, inputs: Specs, output: MapSpec) -> str | None:
    if problem := _arity(inputs, 1):
        return problem
    firsts = (operator.row, operator.column, operator.channel)
    steps = (operator.row_step, operator.column_step, 1)
    for axis, (first, step) in enumerate(zip(firsts, steps, strict=True)):
        last = first + (output.shape[axis] - 1) * step
        if first < 0 or step < 1 or last >= inputs[0].shape[axis]:
            return f"{first} to {last} by {step} leaves an axis of {inputs[0].shape[axis]}"
    return _same_scale(inputs, output)


def _pad(operator: Pad, inputs: Specs, output: MapSpec) -> str | None:
    if problem := _arity(inputs, 1):
        return problem
    for axis, first in enumerate((operator.top, operator.left, operator.channel)):
        if first < 0 or first + inputs[0].shape[axis] > output.shape[axis]:
            return f"{inputs[0].shape[axis]} from {first} on leaves an axis of {output.shape[axis]}"
    return _first(_within("the value", operator.value, 0, 255), _same_scale(inputs, output))


def _sources(what: str, table: NDArray[Any], weight: NDArray[Any], made: int, source: int) -> Any:
    """Source rows or columns of a resize, ascending inside the map, and their weights."""
    problem = _first(
        _tensor(what, table, np.int32, (made, 2)),
        _tensor(f"{what}' weights", weight, np.int32, (made,)),
    )
    if problem:
        return problem
    if table.min() < 0 or table.max() >= source:
        return f"{what} lie in 0..{source - 1}, got {table.min()}..{table.max()}"
    if (np.diff(table, axis=0) < 0).any() or (table[:, 0] > table[:, 1]).any():
        return f"{what} must ascend"
    return _within(f"{what}' weights", int(weight.min()), 0, 2048) or _within(
        f"{what}' weights", int(weight.max()), 0, 2048
    )


def _resize(operator: Resize, inputs: Specs, output: MapSpec) -> str | None:
    if problem := _arity(inputs, 1):
        return problem
    source = inputs[0]
    return _first(
        _needs("channels", source.channels, output.channels),
        _sources("rows", operator.rows, operator.row_weight, output.height, source.height),
        _sources("columns", operator.columns, operator.column_weight, output.width, source.width),
        _same_scale(inputs, output),
    )


def _depth_to_space(operator: DepthToSpace, inputs: Specs, output: MapSpec) -> str | None:
    problem = _arity(inputs, 1) or _within("the block", operator.block, 1, 1 << 10)
    if problem:
        return problem
    block, (height, width, channels) = operator.block, output.shape
    unfolded = (height / block, width / block, channels * block * block)
    return _needs("the input's h w c", unfolded, inputs[0].shape) or _same_scale(inputs, output)


def _picture(operator: Picture, inputs: Specs, output: MapSpec) -> str | None:
    if problem := _arity(inputs, 1):
        return problem
    channels = inputs[0].channels
    return _first(
        _needs("the picture's dtype", "uint8", inputs[0].dtype),
        _needs("height and width", inputs[0].shape[:2], output.shape[:2]),
        _tensor("table", operator.table, np.uint8, (output.channels, 256)),
        _needs("the number of sources", output.channels, len(operator.source)),
        *(_within("a source channel", source, 0, channels - 1) for source in operator.source),
    )


def _quantise(operator: Quantise, inputs: Specs, output: MapSpec) -> str | None:
    return _arity(inputs, 1) or _first(
        _needs("the input's dtype", "float32", inputs[0].dtype),
        _needs("h w c", inputs[0].shape, output.shape),
    )


_RULES: Mapping[type[Operator], Callable[[Any, Specs, MapSpec], str | None]] = {
    Picture: _picture,
    Quantise: _quantise,
    Conv: _conv,
    WinogradConv: _winograd_conv,
    CodedConv: _coded_conv,
    ConvTranspose: _conv_transpose,
    MaxPool: _max_pool,
    AveragePool: _average_pool,
    Mean: _mean,
    Add: _add,
    Mul: _mul,
    Lookup: _lookup,
    Concat: _concat,
    Slice: _slice,
    Pad: _pad,
    Resize: _resize,
    DepthToSpace: _depth_to_space,
}
