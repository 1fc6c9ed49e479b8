# SPDX-License-Identifier: Apache-2.0
"""A network small enough to count by hand, and a plan of it that no planner has touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from thinmaps.codecs.base import Codec
from thinmaps.codecs.narrow import Narrow
from thinmaps.file import Model, Provenance
from thinmaps.graph.float_network import Tail
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Concat, Conv, Encode, Mean, Picture, Window
from thinmaps.plan.lower import lower
from thinmaps.plan.plan import Buffer, Place, Plan, Step
from thinmaps.types import MapSpec, Preprocessing

SIDE = 12
CLASSES = 10


def _conv(inputs: int, outputs: int, seed: int, multiplier: float = 0.01) -> Conv:
    weights = np.random.default_rng(seed).integers(-60, 60, (outputs, inputs, 1, 1))
    return Conv(
        window=Window((1, 1)),
        groups=1,
        weights=weights.astype(np.int8),
        bias=np.zeros(outputs, np.int32),
        multiplier=np.full(outputs, multiplier, np.float32),
    )


@pytest.fixture(scope="session")
def network() -> Network:
    """image -> x -> (a, b) -> both -> mean -> logits."""
    identity = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    nodes = (
        Node("quantise", Picture(identity, (0, 1, 2)), ("image",), "x"),
        Node("left", _conv(3, 4, 1), ("x",), "a"),
        Node("right", _conv(3, 2, 2), ("x",), "b"),
        Node("concat", Concat(identity[:2]), ("a", "b"), "both"),
        Node("average", Mean(np.full(1, 1 / SIDE**2, np.float32)), ("both",), "mean"),
        Node("head", _conv(6, CLASSES, 3), ("mean",), "logits"),
    )
    channels = {"image": 3, "x": 3, "a": 4, "b": 2, "both": 6}
    maps = {name: MapSpec(SIDE, SIDE, count) for name, count in channels.items()}
    maps["x"] = MapSpec(SIDE, SIDE, 3, float(np.float32(1 / 255)))
    maps["mean"] = MapSpec(1, 1, 6)
    maps["logits"] = MapSpec(1, 1, CLASSES, dtype="float32")
    return Network(nodes, maps, ("image",), ("logits",))


def naive_plan(network: Network, codecs: Mapping[str, Codec]) -> Plan:
    """Layer by layer, every map in a buffer of its own, nothing shared but the slices of "both"."""
    lowered = lower(network, codecs)
    coded = {n.output: n.inputs[0] for n in lowered.nodes if isinstance(n.operator, Encode)}
    buffers: list[Buffer] = []
    places: dict[str, Place] = {}
    states: dict[str, int] = {}

    def add(name: str, slots: int, slot_bytes: int) -> int:
        offset = sum(-(-buffer.bytes // 64) * 64 for buffer in buffers)
        buffers.append(Buffer(name, slots, slot_bytes, offset))
        return len(buffers) - 1

    for name, spec in lowered.maps.items():
        if name in (*lowered.inputs, *lowered.outputs, "a", "b"):
            continue
        if name in coded:
            codec = codecs[coded[name]]
            slot_bytes = codec.unit_bytes(spec, codec.unit_rows) + 4 * (codec.rate == "variable")
            index = add(name, codec.unit_count(spec), slot_bytes)
            places[name] = Place(index, 0, 0, codec.unit_rows)
        else:
            places[name] = Place(add(name, spec.height, spec.row_bytes), 0, spec.channels)
    for slice_name, channel in (("a", 0), ("b", 4)):
        places[slice_name] = Place(places["both"].buffer, channel, 6)
    steps = []
    for i, node in enumerate(lowered.nodes):
        inputs, output = lowered.input_specs(node), lowered.output_spec(node)
        steps.append(Step(i, 0, node.operator.work_rows(inputs, output)))
        if state := node.operator.state_bytes(inputs, output):
            states[node.name] = add(f"sums of {node.name}", 1, state)
    arena = buffers[-1].offset + buffers[-1].bytes + 64
    segments = tuple(range(len(lowered.nodes)))
    return Plan(
        source=network,
        network=lowered,
        codecs=codecs,
        steps=tuple(steps),
        buffers=tuple(buffers),
        places=places,
        states=states,
        arena_bytes=arena,
        schedule="layer",
        segments=segments,
        stripe_rows=SIDE,
    )


PlanOf = Callable[[Network, Mapping[str, Codec]], Plan]


@pytest.fixture(scope="session")
def plan_of() -> PlanOf:
    """The naive planner."""
    return naive_plan


@pytest.fixture(scope="session")
def plan(network: Network) -> Plan:
    """Without codecs."""
    return naive_plan(network, {})


@pytest.fixture(scope="session")
def coded_plan(network: Network) -> Plan:
    """With four bits per element on "x", which two nodes read."""
    steps = np.full(3, 1 << 19, np.int32)
    return naive_plan(network, {"x": Narrow(bits=4, step=steps, zero_code=np.zeros(3, np.uint8))})


@pytest.fixture(scope="session")
def model(coded_plan: Plan) -> Model:
    """The coded plan as a model of pictures."""
    provenance = Provenance("net<1>.onnx", "ab" * 32, "0.1.0", {"schedule": "layer"})
    return Model(
        coded_plan,
        Tail((), {}, ("logits",), {"logits": (1, CLASSES)}),
        Preprocessing(),
        tuple(f"class {i}" for i in range(CLASSES)),
        provenance,
        ("a note & more",),
    )
