# SPDX-License-Identifier: Apache-2.0
"""The exported file, judged by ONNX Runtime with every optimisation on."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from small_models import small_model
from small_networks import PREPROCESSING, Builder, chain, every_operator, exact
from winograd_operators import tiled_network

from thinmaps.codecs.base import Codec
from thinmaps.codecs.bit_layers import BitLayer
from thinmaps.codecs.block_width import BlockWidth
from thinmaps.codecs.gf2 import Gf2
from thinmaps.codecs.klt import Klt
from thinmaps.codecs.mixed_width import MixedWidth
from thinmaps.codecs.narrow import Narrow
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.errors import BadArgument
from thinmaps.export.onnx_qdq import export, node_to_onnx, to_onnx
from thinmaps.graph import operators as op
from thinmaps.graph.float_network import Tail, TailNode
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Window
from thinmaps.graph.rules import check_operators
from thinmaps.run.interpret import run_network, run_node
from thinmaps.types import MapSpec

NETWORKS = {"chain": chain, "every_operator": every_operator}
# ONNX Runtime sums these in float or with fused multiply-adds: one step apart, rarely.
INEXACT = (op.Add, op.Mul, op.AveragePool, op.Mean, op.ConvTranspose)


def session(model: onnx.ModelProto, optimised: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(model.SerializeToString(), options)


def inputs_of(network: Network, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        name: random.integers(0, 256, spec.shape).astype(np.uint8)
        if spec.dtype == "uint8"
        else random.normal(0, 1, spec.shape).astype(np.float32)
        for name, spec in ((name, network.maps[name]) for name in network.inputs)
    }


def preprocessed(network: Network, name: str, values: np.ndarray) -> np.ndarray:
    """What the exported file takes for a map: real values where it is an input."""
    if name in network.inputs and values.dtype == np.uint8:
        mean, std = np.float32(PREPROCESSING.mean), np.float32(PREPROCESSING.std)
        values = (values.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def run_node_there(network: Network, node: Node, maps: dict[str, np.ndarray]) -> np.ndarray:
    model = node_to_onnx(network, node)
    feeds = {name: preprocessed(network, name, maps[name]) for name in node.inputs}
    return session(model).run(None, feeds)[0][0].transpose(1, 2, 0)


def assert_agrees(node: Node, theirs: np.ndarray, ours: np.ndarray) -> None:
    if isinstance(node.operator, INEXACT):
        difference = np.abs(theirs.astype(np.int32) - ours)
        assert theirs.dtype == ours.dtype
        assert difference.max() <= 1
        assert (difference > 0).sum() <= max(2, 0.001 * difference.size)
    else:
        np.testing.assert_array_equal(theirs, ours, strict=True)


def run_there(network: Network, model: onnx.ModelProto, inputs: dict) -> list[np.ndarray]:
    feeds = {name: preprocessed(network, name, values) for name, values in inputs.items()}
    return session(model).run(None, feeds)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_node_computes_there_what_it_computes_here(name: str, seed: int) -> None:
    network = NETWORKS[name](seed)
    check_operators(network)
    maps = run_network(network, inputs_of(network, seed))
    for node in network.nodes:
        theirs = run_node_there(network, node, maps)
        assert_agrees(node, theirs, maps[node.output])


def test_what_no_standard_operator_computes_is_refused_by_name() -> None:
    with pytest.raises(BadArgument, match="node 'winograd_conv_2' is a winograd_conv"):
        to_onnx(tiled_network(1), {}, None)


def test_a_chain_gives_the_same_answers_end_to_end() -> None:
    network = chain(7)
    inputs = inputs_of(network, 7)
    (theirs,) = run_there(network, to_onnx(network), inputs)
    ours = run_network(network, inputs)[network.outputs[0]]
    np.testing.assert_array_equal(theirs[0].transpose(1, 2, 0), ours, strict=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_is_an_integer_one_for_the_runtime(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name]()
    session(to_onnx(network), tmp_path / "optimised.onnx")
    kinds = Counter(n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node)
    heads = [
        node
        for node in network.nodes
        if isinstance(node.operator, op.Conv) and node.output in network.outputs
    ]
    layers = op.Conv | op.CodedConv
    convolutions = [node for node in network.nodes if isinstance(node.operator, layers)]
    assert kinds["QLinearConv"] == len(convolutions) - len(heads)
    assert kinds["QGemm"] == len(heads)
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm"} & set(kinds)


def spec_of(height: int, width: int, channels: int, scale: float, zero_point: int) -> MapSpec:
    return MapSpec(height, width, channels, exact(scale), zero_point)


def one_node(operator: op.Operator, specs: list[MapSpec], output: MapSpec) -> tuple[Network, Node]:
    """A network around one operator between uint8 maps."""
    entries = [Node(f"enter{i}", op.Quantise(), (f"in{i}",), f"x{i}") for i in range(len(specs))]
    node = Node("node", operator, tuple(f"x{i}" for i in range(len(specs))), "y")
    maps = {f"x{i}": spec for i, spec in enumerate(specs)}
    maps |= {f"in{i}": MapSpec(*spec.shape, dtype="float32") for i, spec in enumerate(specs)}
    names = tuple(f"in{i}" for i in range(len(specs)))
    network = Network((*entries, node), maps | {"y": output}, names, ("y",))
    check_operators(network)
    return network, node


def judge(operator: op.Operator, specs: list[MapSpec], output: MapSpec, seed: int = 5) -> None:
    network, node = one_node(operator, specs, output)
    random = np.random.default_rng(seed)
    values = {
        f"x{i}": random.integers(0, 256, s.shape).astype(np.uint8) for i, s in enumerate(specs)
    }
    assert_agrees(node, run_node_there(network, node, values), run_node(network, node, values))


def conv(seed: int, groups: int = 1, low: int = 0, high: int = 255) -> op.Conv:
    """4 -> 4 channels, 3 x 3, with multipliers that make ties."""
    random = np.random.default_rng(seed)
    weights = random.integers(-127, 128, (4, 4 // groups, 3, 3)).astype(np.int8)
    bias = random.integers(-3000, 3000, 4).astype(np.int32)
    window = Window((3, 3), (2, 1), (1, 2), (1, 0, 2, 3))
    return op.Conv(window, groups, weights, bias, np.float32([2**-9] * 4), low, high)


@pytest.mark.parametrize("zero_point", [0, 3, 128, 255])
@pytest.mark.parametrize("groups", [1, 4])
def test_ties_and_odd_zero_points_round_alike(zero_point: int, groups: int) -> None:
    specs = [spec_of(9, 8, 4, 0.5, zero_point)]
    judge(conv(3, groups), specs, spec_of(5, 7, 4, 0.25, zero_point))


def test_a_clamp_bounds_the_bytes_and_leaves_the_convolution_an_integer_one(tmp_path: Path) -> None:
    operator, specs, output = (
        conv(4, low=40, high=200),
        [spec_of(9, 8, 4, 0.5, 8)],
        spec_of(5, 7, 4, 0.25, 100),
    )
    judge(operator, specs, output)
    network, node = one_node(operator, specs, output)
    session(node_to_onnx(network, node), tmp_path / "optimised.onnx")
    kinds = Counter(n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["QLinearConv"] == 1


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_agree_with_groups_and_without(groups: int) -> None:
    random = np.random.default_rng(8)
    weights = random.integers(-127, 128, (6, 4 // groups, 3, 2)).astype(np.int8)
    operator = op.ConvTranspose(
        Window((3, 2), (2, 3), (1, 1), (1, 0, 0, 1)),
        groups,
        weights,
        random.integers(-900, 900, 6).astype(np.int32),
        np.float32(random.uniform(0.001, 0.002, 6)),
    )
    judge(operator, [spec_of(5, 6, 4, 0.043, 120)], spec_of(11, 16, 6, 0.031, 130))


@pytest.mark.parametrize(
    ("window", "height", "width"),
    [
        (Window((3, 3), (2, 2)), 4, 4),  # ceil_mode reaches over the end
        (Window((2, 3), (2, 2), pads=(0, 1, 0, 1)), 4, 4),
        (Window((3, 3), (1, 1), (2, 2), (1, 1, 1, 1)), 6, 6),  # dilated
    ],
)
@pytest.mark.parametrize("kind", ["max", "average"])
def test_pools_agree(window: Window, height: int, width: int, kind: str) -> None:
    source = spec_of(8, 8, 3, 0.043, 20)
    if kind == "max":
        judge(op.MaxPool(window), [source], MapSpec(height, width, 3, source.scale, 20))
        return
    output = MapSpec(height, width, 3, exact(0.0391), 30)
    divisors = np.maximum(np.arange(window.kernel[0] * window.kernel[1] + 1), 1)
    multiplier = np.float32(source.scale / output.scale / divisors)
    judge(op.AveragePool(window, False, multiplier), [source], output)


def test_an_average_that_counts_its_padding_agrees() -> None:
    source, output = spec_of(8, 8, 3, 0.043, 20), spec_of(4, 4, 3, 0.0391, 30)
    multiplier = np.float32(source.scale / output.scale / np.maximum(np.arange(10), 1))
    window = Window((3, 3), (2, 2), pads=(1, 1, 1, 1))
    judge(op.AveragePool(window, True, multiplier), [source], output)
    overhanging = Window((3, 3), (2, 2), pads=(0, 0, 0, 0))
    judge(op.AveragePool(overhanging, True, multiplier), [source], output)


@pytest.mark.parametrize("tables", [1, 3])
def test_any_table_is_looked_up_exactly(tables: int) -> None:
    table = np.random.default_rng(1).integers(0, 256, (tables, 256)).astype(np.uint8)
    judge(op.Lookup(table), [spec_of(6, 7, 3, 0.1, 7)], spec_of(6, 7, 3, 0.2, 9))


ACTIVATIONS = {
    "LeakyRelu": lambda x: np.where(x < 0, x * np.float32(0.1), x),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "HardSigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "Relu": lambda x: np.maximum(x, 0),
    "Mul": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_table_of_a_known_function_becomes_that_function(name: str) -> None:
    source, output = spec_of(16, 16, 1, 0.0471, 120), spec_of(16, 16, 1, 0.0233, 20)
    real = (np.arange(256, dtype=np.float32) - 120) * np.float32(source.scale)
    codes = np.rint(ACTIVATIONS[name](real) / np.float32(output.scale)) + 20
    table = np.clip(codes, 0, 255).astype(np.uint8)[None]
    network, node = one_node(op.Lookup(table), [source], output)
    model = node_to_onnx(network, node)
    assert name in [n.op_type for n in model.graph.node]
    values = {"x0": np.arange(256, dtype=np.uint8).reshape(16, 16, 1)}
    theirs = run_node_there(network, node, values)
    np.testing.assert_array_equal(theirs.ravel(), table[0], strict=True)


@pytest.mark.parametrize("steep", [False, True])
def test_tables_of_an_affine_and_a_prelu_become_two_lines_exactly(steep: bool) -> None:
    random = np.random.default_rng(9)
    channels = 24
    slope = random.uniform(-0.5, 2.5 if steep else 0.9, (channels, 1))
    inner = random.uniform(-2, 2, (channels, 1)) * np.arange(-120, 136) * 0.05
    inner += random.uniform(-2, 2, (channels, 1))
    codes = np.rint(np.where(inner < 0, slope * inner, inner) / 0.06) + 60
    table = np.clip(codes, 0, 255).astype(np.uint8)
    source, output = spec_of(16, 16, channels, 0.05, 120), spec_of(16, 16, channels, 0.06, 60)
    network, node = one_node(op.Lookup(table), [source], output)
    kinds = [n.op_type for n in node_to_onnx(network, node).graph.node]
    assert "Max" in kinds
    assert "Gather" not in kinds
    every_byte = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    values = {"x0": np.repeat(every_byte, channels, axis=2)}
    theirs = run_node_there(network, node, values)
    ours = table.T.reshape(16, 16, channels)
    np.testing.assert_array_equal(theirs, ours, strict=True)


def test_concatenated_maps_of_other_tables_than_a_change_of_scale_agree() -> None:
    table = np.random.default_rng(2).integers(0, 256, (2, 256)).astype(np.uint8)
    specs = [spec_of(5, 4, 3, 0.1, 8), spec_of(5, 4, 2, 0.2, 9)]
    judge(op.Concat(table), specs, spec_of(5, 4, 5, 0.15, 10))


def resize(seed: int) -> op.Resize:
    """Tables that no mode of ONNX has."""
    random = np.random.default_rng(seed)
    low = np.sort(random.integers(0, 6, (9, 2)), axis=0).astype(np.int32)
    rows = np.stack([low.min(axis=1), low.max(axis=1)], axis=1).astype(np.int32)
    weights = random.integers(0, 2049, 9).astype(np.int32)
    return op.Resize(rows, rows, weights, weights)


def test_a_resize_of_any_tables_is_exact() -> None:
    spec = spec_of(6, 6, 3, 0.1, 8)
    judge(resize(3), [spec], dataclasses.replace(spec, height=9, width=9))
    nearest = dataclasses.replace(
        resize(4), row_weight=np.zeros(9, np.int32), column_weight=np.zeros(9, np.int32)
    )
    judge(nearest, [spec], dataclasses.replace(spec, height=9, width=9))


@pytest.mark.parametrize(("linear", "factor"), [(False, 2), (False, 3), (True, 2), (True, 4)])
def test_a_resize_of_a_known_mode_becomes_that_mode(linear: bool, factor: int) -> None:
    b = Builder(1)
    b.resize(b.array(6, 5, 3), 6 * factor, 5 * factor, linear)
    network = b.network(b.nodes[-1].output)
    node = network.nodes[-1]
    assert "Resize" in [n.op_type for n in node_to_onnx(network, node).graph.node]
    maps = run_network(network, inputs_of(network, 2))
    theirs = run_node_there(network, node, maps).astype(np.int32)
    difference = np.abs(theirs - maps[node.output])
    # Halves are frequent in linear mixing by 1/4 and 1/8: ours go up, ONNX Runtime's to even.
    assert difference.max() <= (1 if linear else 0)


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("kind", [Narrow, MixedWidth])
def test_a_codec_function_gives_what_the_codec_restores(kind: type[Codec], bits: int) -> None:
    network = chain(3)
    inputs = inputs_of(network, 3)
    edge = "conv_2:0"
    spec = network.maps[edge]
    raw = run_network(network, inputs)[edge]
    codec = kind.fit(spec, raw[None], bits=bits)
    ours = run_network(network, inputs, {edge: codec})[network.outputs[0]]
    (theirs,) = run_there(network, to_onnx(network, {edge: codec}), inputs)
    np.testing.assert_array_equal(theirs[0].transpose(1, 2, 0), ours, strict=True)


@pytest.mark.parametrize(("block", "unit_rows"), [(1, 1), (2, 1), (2, 2), (2, 99)])
@pytest.mark.parametrize("zero", [0, 128])
def test_a_transform_is_exported_as_convolutions(block: int, unit_rows: int, zero: int) -> None:
    b = Builder(1)
    edge = b.conv(b.picture(7, 9), 8, Window((1, 1)), relu=not zero, zero=zero)
    network = b.network(b.conv(edge, 5, Window((1, 1))))
    inputs = inputs_of(network, 3)
    spec = network.maps[edge]
    raw = run_network(network, inputs)[edge]
    codec = Klt.fit(spec, raw[None], rate=40, block=block, group=3, unit_rows=unit_rows)
    ours = run_network(network, inputs, {edge: codec})[network.outputs[0]]
    (theirs,) = run_there(network, to_onnx(network, {edge: codec}), inputs)
    real = ours.astype(np.float32) * np.float32(network.maps[network.outputs[0]].scale)
    np.testing.assert_array_equal(theirs[0].transpose(1, 2, 0), real, strict=True)
    assert not np.array_equal(ours, run_network(network, inputs)[network.outputs[0]])


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("zero", [0, 128])
def test_layers_of_bits_are_exported_as_convolutions(kernel: int, zero: int) -> None:
    b = Builder(1)
    edge = b.conv(b.picture(7, 10), 8, Window((1, 1)), relu=not zero, zero=zero)
    network = b.network(b.conv(edge, 5, Window((1, 1))))
    inputs = inputs_of(network, 3)
    raw = run_network(network, inputs)[edge]
    rng = np.random.default_rng(kernel)
    project, restore = (
        BitLayer(
            2,
            rng.integers(-128, 128, (outputs, inputs // 2, kernel, kernel)).astype(np.int8),
            rng.integers(-200, 200, outputs).astype(np.int32),
        )
        for inputs, outputs in ((64, 40), (40, 64))
    )
    codec = Gf2(7, 8, 2, (project,), (restore,))
    assert not np.array_equal(codec.decode(codec.encode(raw, network.maps[edge])), raw)
    ours = run_network(network, inputs, {edge: codec})[network.outputs[0]]
    (theirs,) = run_there(network, to_onnx(network, {edge: codec}), inputs)
    real = ours.astype(np.float32) * np.float32(network.maps[network.outputs[0]].scale)
    np.testing.assert_array_equal(theirs[0].transpose(1, 2, 0), real, strict=True)
    assert ours.std() > 0


@pytest.mark.parametrize("weights", [None, np.geomspace(1, 100, 8)])
def test_steps_are_exported_as_a_table_per_channel(weights) -> None:
    network = chain(3)
    inputs = inputs_of(network, 3)
    edge = "conv_2:0"
    raw = run_network(network, inputs)[edge]
    codec = BlockWidth.fit(network.maps[edge], raw[None], weights, step=300)
    ours = run_network(network, inputs, {edge: codec})[network.outputs[0]]
    (theirs,) = run_there(network, to_onnx(network, {edge: codec}), inputs)
    np.testing.assert_array_equal(theirs[0].transpose(1, 2, 0), ours, strict=True)
    assert not np.array_equal(ours, run_network(network, inputs)[network.outputs[0]])


def test_edges_with_the_same_arithmetic_share_a_function_and_lossless_codecs_need_none() -> None:
    network = chain(3)
    eight = {
        name: Narrow(bits=3, step=np.full(8, 1 << 15, np.int32), zero_code=np.zeros(8, np.uint8))
        for name in ("conv_1:0", "conv_2:0")
    }
    model = to_onnx(network, eight)
    assert len(model.functions) == 1
    assert sum(node.domain == "thinmaps.codecs" for node in model.graph.node) == 2
    assert not to_onnx(network, {"conv_1:0": ZeroBitmap()}).functions


def test_a_lossy_codec_without_standard_operators_is_refused(monkeypatch) -> None:
    monkeypatch.delattr(Narrow, "standard_operators")
    codec = Narrow(bits=3, step=np.full(8, 1 << 15, np.int32), zero_code=np.zeros(8, np.uint8))
    with pytest.raises(BadArgument, match="narrow cannot be exported to ONNX"):
        to_onnx(chain(3), {"conv_1:0": codec})


def test_the_tail_gives_the_original_names_and_shapes() -> None:
    network = chain(3)
    head = network.outputs[0]
    nodes = (
        TailNode("Add", (head, "shift"), ("shifted",)),
        TailNode("Softmax", ("shifted",), ("probabilities",), {"axes": (1,)}),
    )
    tail = Tail(
        nodes,
        {"shift": np.float32([1, 2, 3, 4, 5, 6, 7])},
        ("probabilities", head),
        {head: (1, 7)},
    )
    model = to_onnx(network, tail=tail)
    assert [value.name for value in model.graph.output] == ["probabilities", head]
    probabilities, logits = run_there(network, model, inputs_of(network, 3))
    shifted = np.exp(logits + np.float32([1, 2, 3, 4, 5, 6, 7]))
    # float32 exponentials of seven classes: 1e-6 is four units in the last place.
    np.testing.assert_allclose(probabilities, shifted / shifted.sum(), rtol=1e-6, strict=True)


def test_names_of_the_original_file_never_meet_ours() -> None:
    network = chain(3)
    taken = "conv_1:0/bytes"
    tail = Tail((TailNode("Identity", (network.outputs[0],), (taken,)),), {}, (taken,))
    model = to_onnx(network, tail=tail)
    made = [name for node in model.graph.node for name in node.output]
    assert len(made) == len(set(made))


def test_export_writes_a_file_that_runs(tmp_path: Path) -> None:
    export(small_model(), tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    (output,) = ort.InferenceSession(tmp_path / "out.onnx").get_outputs()
    assert (output.name, output.shape) == ("probabilities", [1, 7])
    with pytest.raises(BadArgument, match="there is no folder"):
        export(small_model(), tmp_path / "absent" / "out.onnx")


def test_a_table_that_changes_nothing_is_no_node() -> None:
    spec = spec_of(4, 4, 2, 0.1, 8)
    identity = op.Lookup(np.arange(256, dtype=np.uint8)[None])
    network, node = one_node(identity, [spec], spec)
    assert [n.op_type for n in node_to_onnx(network, node).graph.node] == ["Identity"]


def test_the_file_says_nothing_of_the_machine_and_is_the_same_every_time() -> None:
    codec = Narrow(bits=3, step=np.full(8, 1 << 15, np.int32), zero_code=np.zeros(8, np.uint8))
    model = to_onnx(chain(3), {"conv_1:0": codec})
    assert model.producer_name == "thinmaps"
    assert [held.key for held in model.metadata_props] == ["thinmaps.codec/conv_1:0/bytes"]
    assert json.loads(model.metadata_props[0].value)["codec"]["id"] == "narrow"
    parts = [model.graph, *model.graph.node, *model.graph.input, *model.graph.output]
    parts += [*model.graph.initializer, *model.functions]
    parts += [node for function in model.functions for node in function.node]
    for part in parts:
        assert not part.doc_string
        assert not part.metadata_props
    again = to_onnx(chain(3), {"conv_1:0": codec})
    assert model.SerializeToString() == again.SerializeToString()
