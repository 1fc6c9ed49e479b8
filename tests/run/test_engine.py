# SPDX-License-Identifier: Apache-2.0
"""What a caller may rely on: shapes, batches, clones, threads, codecs, refusals, no allocation."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from thinmaps import _core, codecs
from thinmaps.codecs.bit_planes import to_planes
from thinmaps.codecs.gf2 import Gf2
from thinmaps.codecs.narrow import Narrow
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.errors import BadArgument, BadFile, BadShape, PlanImpossible
from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.plan.build import build
from thinmaps.plan.plan import Step
from thinmaps.plan.verify import verify
from thinmaps.quant import dequantise, quantise
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import interpret, run_network
from thinmaps.types import MapSpec


def small_network(seed: int = 0, height: int = 11, width: int = 9) -> Network:
    """Picture, two convolutions, a residual sum, and a float32 head beside a uint8 map."""
    random = np.random.default_rng(seed)

    def conv(k: int, c: int, kernel: int) -> op.Conv:
        pad = kernel // 2
        return op.Conv(
            op.Window((kernel, kernel), pads=(pad, pad, pad, pad)),
            1,
            random.integers(-128, 128, (k, c, kernel, kernel), dtype=np.int8),
            random.integers(-3000, 3000, k, dtype=np.int32),
            np.full(k, 2.0**-10, np.float32),
        )

    table = random.integers(0, 256, (3, 256), dtype=np.uint8)
    hidden = MapSpec(height, width, 24, 0.1, 10)
    maps = {
        "picture": MapSpec(height, width, 3),
        "input": MapSpec(height, width, 3, 0.1, 128),
        "a": hidden,
        "b": hidden,
        "sum": hidden,
        "mask": MapSpec(height, width, 2, 0.5, 3),
        "head": MapSpec(1, 1, 24, dtype="float32"),
    }
    nodes = (
        Node("picture", op.Picture(table, (0, 1, 2)), ("picture",), "input"),
        Node("conv_a", conv(24, 3, 3), ("input",), "a"),
        Node("conv_b", conv(24, 24, 5), ("a",), "b"),
        Node("add", op.Add(np.array([1, 0.5], np.float32)), ("a", "b"), "sum"),
        Node("conv_mask", conv(2, 24, 1), ("sum",), "mask"),
        Node("mean", op.Mean(np.array([0.013], np.float32)), ("sum",), "head"),
    )
    return Network(nodes, maps, ("picture",), ("mask", "head"))


def pictures(count: int, network: Network) -> np.ndarray:
    shape = (count, *network.maps["picture"].shape)
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def network() -> Network:
    return small_network()


@pytest.fixture
def engine(network: Network) -> Engine:
    return Engine(build(network))


def test_a_batch_gives_what_its_pictures_give_one_by_one(engine: Engine, network: Network) -> None:
    batch = pictures(3, network)
    made = engine.maps(batch)
    for i, picture in enumerate(batch):
        for name, values in engine.maps(picture).items():
            np.testing.assert_array_equal(made[name][i], values, strict=True)
    assert made["mask"].shape == (3, 11, 9, 2)
    assert made["head"].dtype == np.float32


def test_an_empty_batch_gives_empty_outputs(engine: Engine, network: Network) -> None:
    assert engine.maps(pictures(0, network))["head"].shape == (0, 1, 1, 24)


def test_one_output_comes_without_its_name(network: Network) -> None:
    single = Network(
        network.nodes[:5],
        {name: spec for name, spec in network.maps.items() if name != "head"},
        network.inputs,
        ("mask",),
    )
    x = pictures(1, network)[0]
    engine = Engine(build(single))
    values = engine(x)
    assert isinstance(values, np.ndarray)
    real = engine.dequantised(x)
    assert isinstance(real, np.ndarray)
    np.testing.assert_array_equal(real, (values.astype(np.float32) - 3) * np.float32(0.5))
    rows = list(engine.rows(iter(x)))
    np.testing.assert_array_equal(np.stack([np.asarray(row) for row in rows]), values)


def test_a_clone_shares_the_weights_and_not_the_arena(engine: Engine, network: Network) -> None:
    clone = engine.clone()
    first, second = pictures(2, network)
    expected = engine.maps(first)
    before = engine.arena.copy()
    clone.maps(second)
    np.testing.assert_array_equal(engine.arena, before)
    assert clone.weights is engine.weights
    assert clone.weights_bytes == engine.weights_bytes
    np.testing.assert_array_equal(clone.maps(first)["head"], expected["head"])


def test_an_engine_of_another_plan_takes_the_same_weights(engine: Engine, network: Network) -> None:
    other = Engine(build(network, schedule="layer"), weights=engine.weights)
    x = pictures(1, network)[0]
    np.testing.assert_array_equal(other.maps(x)["mask"], engine.maps(x)["mask"])


def test_weights_of_another_network_are_refused_by_name(engine: Engine) -> None:
    with pytest.raises(PlanImpossible, match=r"conv_a.*weights.*another network"):
        Engine(build(small_network(seed=1)), weights=engine.weights)


@pytest.mark.usefixtures("every_step_shared")
@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("schedule", ["layer", "stream", "mixed"])
def test_threads_do_not_change_a_bit(network: Network, schedule: str, threads: int) -> None:
    plan = build(network, schedule=schedule)
    x = pictures(1, network)[0]
    engine = Engine(plan, threads=threads)
    expected = interpret(plan, {"picture": x})
    for _ in range(5):
        for name, values in engine.maps(x).items():
            np.testing.assert_array_equal(values, expected[name], strict=True)


def test_one_engine_serves_many_python_threads(engine: Engine, network: Network) -> None:
    batch = pictures(8, network)
    expected = engine.maps(batch)["head"]
    made = np.zeros_like(expected)

    def run(i: int) -> None:
        for _ in range(20):
            made[i] = engine.maps(batch[i])["head"]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(batch))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("schedule", ["layer", "stream", "mixed"])
@pytest.mark.parametrize(
    ("rows", "codec"),
    [
        (1, "narrow"),
        (3, "zero_bitmap"),
        (40, "narrow"),
        (2, "mixed_width"),
        (2, "capped"),
        (3, "gf2"),
    ],
)
def test_encoded_edges_equal_the_interpreter(
    network: Network, schedule: str, rows: int, codec: str
) -> None:
    x = pictures(1, network)[0]
    maps = run_network(network, {"picture": x})
    made = codecs.get(codec)
    chosen = {
        name: dataclasses.replace(made.fit(network.maps[name], maps[name][None]), unit_rows=rows)
        for name in ("a", "sum")
    }
    plan = build(network, schedule=schedule, codecs=chosen)
    expected = interpret(plan, {"picture": x})
    for threads in (1, 2):
        for name, values in Engine(plan, threads=threads).maps(x).items():
            np.testing.assert_array_equal(values, expected[name], strict=True)
    if codec == "zero_bitmap":
        np.testing.assert_array_equal(expected["mask"], maps["mask"])
    else:
        assert (expected["mask"] != maps["mask"]).any()


@pytest.mark.usefixtures("every_step_shared")
def test_an_engine_counts_what_its_encoders_store(network: Network) -> None:
    samples = np.zeros((0, *network.maps["sum"].shape), np.uint8)
    narrow = Narrow.fit(network.maps["sum"], samples, bits=4, unit_rows=2)
    chosen = {"a": ZeroBitmap(unit_rows=3), "sum": narrow}
    engine = Engine(build(network, codecs=chosen), threads=2)
    for x in pictures(2, network):
        maps = run_network(network, {"picture": x}, chosen)
        engine.maps(x)
        for name, codec in chosen.items():
            spec = network.maps[name]
            lengths = 4 * codec.unit_count(spec) if codec.rate == "variable" else 0
            stored = codec.encode(maps[name], spec).bytes + lengths
            assert engine.encoded_bytes[name] == stored


def test_a_layer_schedule_stores_the_projected_bits_of_a_float_map(network: Network) -> None:
    spec, x = network.maps["a"], pictures(1, network)[0]
    real = dequantise(run_network(network, {"picture": x})["a"], spec.scale, spec.zero_point)
    codec = Gf2.fit(spec, real[:0], preset="BIT6CH_3x3s2", unit_rows=spec.height)
    (project,) = codec.project
    bits = project.project(to_planes(real, spec, planes=9))
    assert bits.shape == (6, 5, 7 * 24)
    (payload,) = codec.encode(quantise(real, spec.scale, spec.zero_point), spec).units
    assert payload == np.packbits(bits.reshape(6, -1), axis=1, bitorder="little").tobytes()
    plan = build(network, schedule="layer", codecs={"a": codec})
    engine = Engine(plan)
    expected = interpret(plan, {"picture": x})
    for name, values in engine.maps(x).items():
        np.testing.assert_array_equal(values, expected[name], strict=True)
    assert engine.encoded_bytes["a"] == len(payload) == 6 * 5 * 7 * 24 // 8


def test_the_callers_rounding_mode_neither_matters_nor_changes(network: Network) -> None:
    # 0x400 rounds down on x86; the libm is the one that NumPy has loaded.
    code = f"""
import ctypes, ctypes.util, sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
import numpy as np
from test_engine import *
network = small_network()
engine, x = Engine(build(network)), pictures(1, network)[0]
expected = engine.maps(x)["head"]
libm = ctypes.CDLL(ctypes.util.find_library("m"))
assert libm.fesetround(0x400) == 0
made = engine.maps(x)["head"]
assert libm.fegetround() == 0x400
libm.fesetround(0)
assert (made == expected).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_after_load_a_run_allocates_nothing() -> None:
    library = Path(_core.__file__ or "").parent / "libthinmaps_live_heap.so"
    if not library.is_file():
        pytest.skip("allocations are counted on Linux only")
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("the sanitizer brings an allocator of its own")
    code = f"""
import ctypes, gc, json, sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
import numpy as np
from test_engine import *
from thinmaps.run import cores, describe
cores.usable_cores = lambda: 2
describe.step_nanoseconds = lambda plan, steps, cost: np.full(len(steps), 2**30, np.int32)
network = small_network()
counts = []
for threads, skips in ((1, False), (2, False), (1, True), (2, True)):
    engine = Engine(
        build(network, skip_zero_blocks=skips), threads=threads, skip_zero_blocks=skips
    )
    inputs = [pictures(1, network)[0]]
    outputs = [np.empty(spec.shape, spec.dtype) for spec in engine.output_specs.values()]
    heap = ctypes.CDLL(None)
    heap.thinmaps_live_heap_count.restype = ctypes.c_int64
    gc.disable()
    for _ in range(3):
        engine.run_into(inputs, outputs)
        heap.thinmaps_live_heap_count()
    heap.thinmaps_live_heap_reset()
    engine.run_into(inputs, outputs)
    counts.append(heap.thinmaps_live_heap_count())
    large = np.empty(1 << 20)
    counts.append(heap.thinmaps_live_heap_count())
print(json.dumps(counts))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"LD_PRELOAD": str(library), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    counts = json.loads(done.stdout)
    assert counts[::2] == [0] * 4, "one thread, two; and both again with zero blocks skipped"
    assert min(counts[1::2]) > 0, "the counter counts"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda x: x.astype(np.float32), "needs uint8.*got float32"),
        (lambda x: x[:-1], r"needs uint8 .* = \(11, 9, 3\).*got uint8 \(10, 9, 3\)"),
        (lambda x: x.transpose(2, 0, 1), r"got uint8 \(3, 11, 9\)"),
        (lambda x: np.repeat(x, 2, axis=1)[:, ::2], "C-contiguous.*ascontiguousarray"),
        (lambda x: x[None, None], r"got uint8 \(1, 1, 11, 9, 3\)"),
        (lambda x: x.tolist(), "needs a NumPy array, got list"),
        (lambda x: {"pixels": x}, "needs inputs picture, got pixels"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(
    engine: Engine, network: Network, spoil, sentence: str
) -> None:
    with pytest.raises(BadShape, match=sentence):
        engine(spoil(pictures(1, network)[0]))


def test_outputs_that_do_not_fit_are_refused(engine: Engine, network: Network) -> None:
    x = pictures(1, network)[0]
    mask, head = (np.empty(spec.shape, spec.dtype) for spec in engine.output_specs.values())
    with pytest.raises(BadShape, match=r"2 output arrays .mask, head., got 1"):
        engine.run_into([x], [mask])
    with pytest.raises(BadShape, match="output 'head' needs float32"):
        engine.run_into([x], [mask, mask])
    mask.flags.writeable = False
    with pytest.raises(BadShape, match="output 'mask' needs an array to write to"):
        engine.run_into([x], [mask, head])


def test_too_few_or_too_many_rows_are_refused(engine: Engine, network: Network) -> None:
    x = pictures(1, network)[0]
    with pytest.raises(BadShape, match="needs 11 rows, got only 10"):
        list(engine.rows(iter(x[:-1])))
    with pytest.raises(BadShape, match="needs 11 rows, got more"):
        list(engine.rows(iter([*x, x[0]])))
    with pytest.raises(BadShape, match=r"= \(9, 3\), got uint8 \(8, 3\) as row 0"):
        list(engine.rows(iter(x[:, 1:])))


def test_rows_in_progress_keep_others_out_until_closed(engine: Engine, network: Network) -> None:
    x = pictures(1, network)[0]
    rows = engine.rows(iter(x))
    next(rows)
    with pytest.raises(BadArgument, match=r"in the middle of rows.*clone"):
        engine(x)
    rows.close()
    engine(x)


def test_output_rows_come_before_the_last_input_row(network: Network) -> None:
    engine = Engine(build(network, schedule="stream", arena_bytes="smallest"))
    asked = []

    def source():
        for i, row in enumerate(pictures(1, network)[0]):
            asked.append(i)
            yield row

    name, _ = next(iter(engine.rows(source())))
    assert name == "mask"
    assert len(asked) < 6


@pytest.mark.parametrize("threads", [0, -1, 1000, 1.5, True])
def test_impossible_thread_counts_are_refused(network: Network, threads) -> None:
    with pytest.raises(BadArgument, match="1 to 256 threads"):
        Engine(build(network), threads=threads)


def _with_node(network: Network, name: str, **changes) -> Network:
    nodes = tuple(
        dataclasses.replace(node, operator=dataclasses.replace(node.operator, **changes))
        if node.name == name
        else node
        for node in network.nodes
    )
    return Network(nodes, network.maps, network.inputs, network.outputs)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bias": np.full(24, 2**31 - 1, np.int32)}, "conv_b.*sums that fit 32 bits"),
        ({"bias": np.zeros(23, np.int32)}, "conv_b.*a bias and a multiplier per output channel"),
        ({"multiplier": np.full(24, np.nan, np.float32)}, "conv_b.*finite multipliers"),
        ({"weights": np.zeros((24, 24, 5, 4), np.int8)}, "conv_b.*14400 weights, got 11520"),
        ({"groups": 7}, "conv_b.*groups that divide its channels, got 7"),
        ({"window": op.Window((5, 5), (0, 1))}, "conv_b.*stride.*got 0"),
        ({"window": op.Window((5, 5), pads=(-1, 0, 0, 0))}, "conv_b.*pads of 0"),
        ({"window": op.Window((2**40, 5))}, "cannot run this plan"),
    ],
)
def test_a_node_that_does_not_fit_is_refused_by_name(
    network: Network, changes, sentence: str
) -> None:
    plan = build(network)
    hostile = dataclasses.replace(plan, network=_with_node(plan.network, "conv_b", **changes))
    with pytest.raises(PlanImpossible, match=sentence):
        Engine(hostile)


def test_scratch_that_is_too_small_or_not_there_is_refused(network: Network) -> None:
    plan = build(network, skip_zero_blocks=True)
    name = plan.skipping[0]
    small = dataclasses.replace(plan.buffers[plan.states[name]], slot_bytes=64)
    buffers = tuple(small if b.name == small.name else b for b in plan.buffers)
    for changes in ({"buffers": buffers}, {"states": {**plan.states, name: 999}}):
        hostile = dataclasses.replace(plan, **changes)
        with pytest.raises(BadFile):
            verify(hostile)
        with pytest.raises(PlanImpossible, match=f"'{name}' .* needs scratch of"):
            Engine(hostile, skip_zero_blocks=True)


def test_plans_that_would_leave_the_arena_are_refused(network: Network) -> None:
    plan = build(network)
    buffers = plan.buffers
    last = len(plan.steps) - 1
    for hostile, sentence in [
        ({"arena_bytes": plan.arena_bytes // 2}, "does not lie in the arena"),
        ({"arena_bytes": -1}, "size is impossible"),
        ({"buffers": tuple(dataclasses.replace(b, offset=-64) for b in buffers)}, "does not lie"),
        ({"buffers": tuple(dataclasses.replace(b, slot_bytes=8) for b in buffers)}, "does not fit"),
        ({"buffers": tuple(dataclasses.replace(b, slots=2**40) for b in buffers)}, "cannot run"),
        ({"steps": (Step(99, 0, 1), *plan.steps)}, "node 99, which does not exist"),
        ({"steps": (*plan.steps[:last], Step(1, 11, 1))}, "conv_a' does rows 11 to 12"),
        ({"steps": (*plan.steps[:last], Step(1, -1, 1))}, "conv_a' does rows -1 to 0"),
    ]:  # fmt: skip
        with pytest.raises(PlanImpossible, match=sentence):
            Engine(dataclasses.replace(plan, **hostile))


def test_places_that_lie_about_encoding_are_refused(network: Network) -> None:
    plan = build(
        network, codecs={"a": Narrow.fit(network.maps["a"], np.zeros((1, 1, 9, 24), np.uint8))}
    )
    coded = next(name for name, place in plan.places.items() if place.pixel_bytes == 0)
    for name, change, sentence in [
        ("b", {"pixel_bytes": 0}, "conv_b.*raw rows in its output"),
        (coded, {"pixel_bytes": 24}, "slots of its buffer|an encoded map in the arena"),
        (coded, {"channel": 9999}, "an encoded map in the arena"),
        (coded, {"unit_rows": 7}, "units of 1 to 4096 rows"),
        (coded, {"unit_rows": 0}, "negative place"),
        ("b", {"buffer": 99}, "lives in no buffer"),
    ]:
        places = {**plan.places, name: dataclasses.replace(plan.places[name], **change)}
        with pytest.raises(PlanImpossible, match=sentence):
            Engine(dataclasses.replace(plan, places=places))
    absent = {name: place for name, place in plan.places.items() if name != "b"}
    with pytest.raises(PlanImpossible, match="is not listed"):
        Engine(dataclasses.replace(plan, places=absent))


def test_an_unknown_instruction_set_is_refused(network: Network) -> None:
    with pytest.raises(PlanImpossible, match="no instruction set 'mmx'"):
        Engine(build(network), isa="mmx")
