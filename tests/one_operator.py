# SPDX-License-Identifier: Apache-2.0
"""Networks of one operator between tables, held against their definition on every set."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps import _core
from thinmaps.codecs import Codec
from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.plan.build import NO_CODECS, build
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import run_network
from thinmaps.types import MapSpec

ISAS = tuple(_core.isas())


def filters(
    random: np.random.Generator, k: int, c: int, kernel: tuple[int, int]
) -> dict[str, NDArray[Any]]:
    """Random filters whose results fill the range of a byte and fall on ties."""
    return {
        "weights": random.integers(-128, 128, (k, c, *kernel), dtype=np.int8),
        "bias": random.integers(-5000, 5000, k, dtype=np.int32),
        "multiplier": (2.0 ** random.integers(-13, -9, k)).astype(np.float32),
    }


def network_of(node: op.Operator, inputs: tuple[MapSpec, ...], output: MapSpec) -> Network:
    """An input table per input (maps `x0`, `x1`, ...), the operator, and a table behind bytes."""
    random = np.random.default_rng(output.raw_bytes)
    nodes, maps = [], {}
    for i, x in enumerate(inputs):
        table = random.integers(0, 256, (x.channels, 256), dtype=np.uint8)
        picture = op.Picture(table, tuple(range(x.channels)))
        nodes.append(Node(f"picture{i}", picture, (f"pixels{i}",), f"x{i}"))
        maps |= {f"pixels{i}": MapSpec(*x.shape), f"x{i}": x}
    names = tuple(f"x{i}" for i in range(len(inputs)))
    nodes.append(Node(f"{node.id} of {inputs[0].shape}", node, names, "y"))
    maps["y"] = output
    if output.dtype == "uint8":
        outer = random.integers(0, 256, (1, 256), dtype=np.uint8)
        nodes.append(Node("table", op.Lookup(outer), ("y",), "end"))
        maps["end"] = output
    pixels = tuple(f"pixels{i}" for i in range(len(inputs)))
    return Network(tuple(nodes), maps, pixels, (nodes[-1].output,))


def pixels_for(network: Network, seed: int) -> dict[str, NDArray[np.uint8]]:
    """Random bytes for every input."""
    random = np.random.default_rng(seed)
    return {
        name: random.integers(0, 256, network.maps[name].shape, dtype=np.uint8)
        for name in network.inputs
    }


def check(
    node: op.Operator,
    inputs: MapSpec | tuple[MapSpec, ...],
    output: MapSpec,
    seed: int,
    codecs: Mapping[str, Codec] = NO_CODECS,
) -> None:
    """The network of one operator on random bytes; maps `x0`, `x1`, ... may have a codec."""
    network = network_of(node, inputs if isinstance(inputs, tuple) else (inputs,), output)
    check_network(network, pixels_for(network, seed), codecs)


def check_network(
    network: Network, values: Mapping[str, NDArray[Any]], codecs: Mapping[str, Codec] = NO_CODECS
) -> None:
    """Streamed and whole, on every instruction set: the engine gives the defined outputs.

    Convolutions with the kernels that skip zero blocks of their filters, and in tiles by Winograd's
    algorithm, too.
    """
    expected = run_network(network, values, codecs)
    for schedule, scratch in itertools.product(("stream", "layer"), (None, "skips", "winograd")):
        plan = build(
            network,
            schedule=schedule,
            codecs=codecs,
            effort=0,
            skip_zero_blocks=scratch == "skips",
            winograd=scratch == "winograd",
        )
        if scratch and not plan.skipping:
            continue
        for isa in ISAS:
            made = Engine(
                plan, isa=isa, skip_zero_blocks=True, winograd=scratch == "winograd"
            ).maps(values)
            for name in network.outputs:
                where = f"{isa}, {plan.schedule}, {[node.name for node in network.nodes]}"
                where += f", zero blocks are skipped in {plan.skipping}, {scratch}"
                np.testing.assert_array_equal(
                    made[name], expected[name], err_msg=where, strict=True
                )
