# SPDX-License-Identifier: Apache-2.0
"""A plan, told to the native core in plain numbers.

`build(plan, weights)` names every map, buffer, node and step to a `_core.Builder`. The core checks
all of it again as it builds the model, so that a plan from a hostile file cannot make it touch
memory that is not its own. `integers` follow the order that the kernel of the operator reads (its
comment in native/ says so); tensors are the operator's own.

Costs the packed weights, and one node's weights at a time where they lie in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thinmaps import _core
from thinmaps.codecs.base import Codec
from thinmaps.codecs.native import check_native
from thinmaps.errors import PlanImpossible
from thinmaps.graph import operators as op
from thinmaps.graph.network import Node
from thinmaps.pages import fetched
from thinmaps.plan.cost import RATES, StepCost
from thinmaps.plan.flow import LENGTH_PREFIX_BYTES
from thinmaps.plan.kernel_choice import winograd_rows, worth_skipping
from thinmaps.plan.plan import Plan
from thinmaps.types import MapSpec


@dataclass(frozen=True, eq=False)
class Constants:
    """What a node's kernel is built from, besides its maps."""

    integers: ArrayLike = ()
    weights: ArrayLike = ()
    bias: ArrayLike = ()
    multiplier: ArrayLike = ()
    table: ArrayLike = ()
    codec_id: str = ""


def build(
    plan: Plan,
    weights: _core.Weights,
    isa: str,
    skip_zero_blocks: bool | None = None,
    winograd: bool | None = None,
) -> _core.Model:
    """The model of `plan` for an instruction set ("": the best one), with or from `weights`.

    Convolutions to which the plan gives scratch skip the zero blocks of their filters where that is
    predicted to be faster with this instruction set; or all of them, or none. The same holds for
    Winograd's algorithm, which comes first where it is asked for.
    """
    isa = isa or _core.isa()
    builder = _core.Builder(plan.arena_bytes, weights, isa)  # refuses a set that is not there
    kernels = _chosen_kernels(plan, isa, skip_zero_blocks, winograd)
    for buffer in plan.buffers:
        builder.buffer(buffer.offset, buffer.slot_bytes, buffer.slots)
    network = plan.network
    index = {name: i for i, name in enumerate(network.maps)}
    for name, spec in network.maps.items():
        place = plan.places.get(name)
        builder.map(
            name,
            spec.shape,
            spec.scale,
            spec.zero_point,
            spec.dtype == "float32",
            (place.buffer, place.channel, place.pixel_bytes, place.unit_rows) if place else None,
        )
    for node in network.nodes:
        inputs = [index[name] for name in node.inputs]
        _describe_node(builder, plan, node, inputs, index[node.output], kernels)
    steps = np.array(plan.steps, np.int32).reshape(-1, 3)
    cost = StepCost(plan.network, RATES[isa], kernels.skipping, tuple(kernels.winograd_rows))
    builder.steps(np.column_stack([steps, step_nanoseconds(plan, steps, cost)]))
    return builder.build()


@dataclass(frozen=True)
class _Kernels:
    """Which nodes use their scratch, and what for."""

    skipping: tuple[str, ...]
    # By node: steps that need so many of a tile's 4 rows go by Winograd's algorithm.
    winograd_rows: Mapping[str, int]


def _chosen_kernels(
    plan: Plan, isa: str, skip_zero_blocks: bool | None, winograd: bool | None
) -> _Kernels:
    skipping = plan.skipping if skip_zero_blocks is not False else ()
    if skipping and skip_zero_blocks is None:
        skipping = tuple(set(skipping) & set(worth_skipping(plan.network, RATES[isa])))
    rows: Mapping[str, int] = {}
    if winograd:
        rows = dict.fromkeys(plan.winograd, 1)
    elif winograd is None:
        able = [name for name in plan.winograd if name not in skipping]
        rows = winograd_rows(plan.network, RATES[isa], plan.steps, able)
    return _Kernels(tuple(name for name in skipping if name not in rows), rows)


def step_nanoseconds(plan: Plan, steps: NDArray[np.int32], cost: StepCost) -> NDArray[np.int32]:
    """What each step may take, which says whether threads share it."""
    nodes, rows = steps[:, 0].astype(np.int64), steps[:, 2].astype(np.int64)
    known = np.minimum(nodes, len(plan.network.nodes) - 1)  # the core refuses others
    seconds = cost(known, rows)
    return np.clip(1e9 * seconds, 0, np.iinfo(np.int32).max).astype(np.int32)


def _describe_node(
    builder: _core.Builder,
    plan: Plan,
    node: Node,
    inputs: list[int],
    output: int,
    kernels: _Kernels,
) -> None:
    rows = kernels.winograd_rows.get(node.name, 0)
    direct = node.name in plan.skipping and node.name not in kernels.skipping and not rows
    state = -1 if direct else plan.states.get(node.name, -1)
    if isinstance(node.operator, op.Encode):
        constants = _codec_constants(plan.codecs, plan.network.maps, node.inputs[0])
    elif isinstance(node.operator, op.Decode):
        source = plan.network.producer[node.inputs[0]].inputs[0]
        constants = _codec_constants(plan.codecs, plan.network.maps, source)
    else:
        constants = _constants(node.operator)
    builder.node(
        node.name,
        node.operator.id,
        inputs,
        output,
        state,
        _flat(constants.integers, np.int32),
        _flat(fetched(np.asarray(constants.weights)), np.int8),
        _flat(constants.bias, np.int32),
        _flat(constants.multiplier, np.float32),
        _flat(constants.table, np.uint8),
        constants.codec_id,
        rows,
    )


def _flat(values: ArrayLike, dtype: Any) -> NDArray[Any]:
    """One row of `dtype`; a value that it cannot hold is refused, never wrapped."""
    given = np.asarray(values).reshape(-1)
    if given.dtype == dtype:
        return np.ascontiguousarray(given)
    flat = np.ascontiguousarray(given, dtype)
    if np.issubdtype(dtype, np.integer) and not np.array_equal(flat, given):
        raise PlanImpossible(f"the engine needs constants that fit {np.dtype(dtype)}")
    return flat


def _codec_constants(
    codecs: Mapping[str, Codec], maps: Mapping[str, MapSpec], name: str
) -> Constants:
    codec, spec = codecs[name], maps[name]
    check_native(codec)
    if codec.encode_halo_rows or codec.decode_halo_units:
        raise PlanImpossible(
            f"the engine runs codecs without a halo; {codec.id} on map {name!r} has one"
        )
    full = min(codec.unit_rows, spec.height)
    last = codec.rows_of_unit(spec, codec.unit_count(spec) - 1)
    own = np.asarray(codec.native_integers(spec), np.int64).reshape(-1)
    sizes = [
        LENGTH_PREFIX_BYTES if codec.rate == "variable" else 0,
        codec.unit_rows,
        codec.unit_bytes(spec, full),
        codec.unit_bytes(spec, last),
    ]
    return Constants(
        integers=np.concatenate([np.asarray(sizes, np.int64), own]),
        table=np.asarray(codec.native_tables(spec)),
        codec_id=codec.id,
    )


def _window(window: op.Window) -> list[int]:
    return [*window.kernel, *window.stride, *window.dilation, *window.pads]


@singledispatch
def _constants(operator: op.Operator) -> Constants:
    """The constants of an operator; those that have none need no entry."""
    del operator
    return Constants()


@_constants.register
def _(o: op.Picture) -> Constants:
    return Constants(integers=np.array(o.source), table=o.table)


@_constants.register(op.Conv)
@_constants.register(op.ConvTranspose)
def _(o: op.Conv | op.ConvTranspose) -> Constants:
    integers = np.array([*_window(o.window), o.groups, o.low, o.high])
    return Constants(integers, o.weights, o.bias, o.multiplier)


@_constants.register
def _(o: op.WinogradConv) -> Constants:
    matrices = (o.at, o.bt, o.input_scale)
    sizes = [*_window(o.window), *o.at.shape, o.low, o.high]
    integers = np.concatenate([sizes, *(part.reshape(-1) for part in matrices)])
    factors = np.concatenate([o.product_scale.reshape(-1), o.multiplier])
    return Constants(integers, o.weights, o.bias, factors)


@_constants.register
def _(o: op.CodedConv) -> Constants:
    codes, filters = o.filters.table, o.filters
    integers = np.array([*_window(o.window), o.groups, o.low, o.high, *codes.reshape(-1)])
    return Constants(integers, filters.coefficients, o.bias, o.multiplier, filters.shift)


@_constants.register
def _(o: op.MaxPool) -> Constants:
    return Constants(integers=np.array(_window(o.window)))


@_constants.register
def _(o: op.AveragePool) -> Constants:
    integers = np.array([*_window(o.window), int(o.count_include_pad)])
    return Constants(integers=integers, multiplier=o.multiplier)


@_constants.register
def _(o: op.Mean) -> Constants:
    return Constants(multiplier=o.multiplier)


@_constants.register
def _(o: op.Add) -> Constants:
    return Constants(integers=np.array([o.low, o.high]), multiplier=o.ratio)


@_constants.register
def _(o: op.Mul) -> Constants:
    return Constants(integers=np.array([o.low, o.high]), multiplier=o.multiplier)


@_constants.register(op.Lookup)
@_constants.register(op.Concat)
def _(o: op.Lookup | op.Concat) -> Constants:
    return Constants(table=o.table)


@_constants.register
def _(o: op.Slice) -> Constants:
    return Constants(integers=np.array([o.row, o.row_step, o.column, o.column_step, o.channel]))


@_constants.register
def _(o: op.Pad) -> Constants:
    return Constants(integers=np.array([o.top, o.left, o.channel, o.value]))


@_constants.register
def _(o: op.Resize) -> Constants:
    parts = (o.rows, o.row_weight, o.columns, o.column_weight)
    return Constants(integers=np.concatenate([part.reshape(-1) for part in parts]))


@_constants.register
def _(o: op.DepthToSpace) -> Constants:
    return Constants(integers=np.array([o.block, int(o.mode == "DCR")]))
