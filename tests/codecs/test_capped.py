# SPDX-License-Identifier: Apache-2.0
"""Units that pass the cap of `capped` get coarser steps, and every unit stays within it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_networks import Builder

from thinmaps.codecs.block_width import BlockWidth
from thinmaps.codecs.capped import SHARE_ONE, Capped
from thinmaps.codecs.native import implementations
from thinmaps.codecs.steps import IDENTITY, ONE, Steps
from thinmaps.errors import BadArgument, CorruptPayload
from thinmaps.file.codec_text import from_text, to_text
from thinmaps.graph.operators import Window
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import interpret, run_network
from thinmaps.types import MapSpec

SPEC = MapSpec(6, 20, 24, 1.0, 0)


def stepped(sixteenths: int) -> Steps:
    return Steps(np.full(1, sixteenths * ONE // 16, np.int32))


def busier_by_row(spec: MapSpec, seed: int = 4) -> np.ndarray:
    """Noise around the zero point that grows from row to row."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(2, 120, spec.height)[:, None, None]
    return rng.normal(spec.zero_point, spread, spec.shape).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("zero_point", [0, 128])
def test_a_unit_gets_the_first_steps_that_fit_the_cap(zero_point):
    spec = dataclasses.replace(SPEC, zero_point=zero_point)
    values = busier_by_row(spec)
    steps = (IDENTITY, stepped(64), stepped(256), stepped(4080))
    codec = Capped(1, steps, SHARE_ONE * 7 // 16)
    cap = codec.unit_bytes(spec, 1)
    assert cap == 1 + 20 * 24 * 7 // 16
    tried = []
    for row in values[:, None]:
        payload = codec.encode_unit(row, spec)
        inner = [BlockWidth(1, each).encode_unit(row, spec) for each in steps]
        k = next(k for k, blocks in enumerate(inner) if len(blocks) < cap)
        assert payload == bytes([k]) + inner[k]
        restored = BlockWidth(1, steps[k]).decode_unit(inner[k], spec, 1)
        np.testing.assert_array_equal(codec.decode_unit(payload, spec, 1), restored, strict=True)
        for implementation in implementations(codec).values():
            assert implementation.encode_unit(row, spec) == payload
            np.testing.assert_array_equal(implementation.decode_unit(payload, spec, 1), restored)
        tried.append(k)
    assert len(set(tried)) > 2
    assert codec.overflow_share(values[None], spec) == np.mean(np.array(tried) > 0)


def test_the_cap_is_what_so_many_units_of_the_samples_do_not_pass():
    samples = np.stack([busier_by_row(SPEC, seed) for seed in range(4)])
    shares = {}
    for permille in (250, 500, 1000):
        codec = Capped.fit(SPEC, samples, step=32, permille=permille)
        shares[permille] = codec.overflow_share(samples, SPEC)
        assert codec.unit_bytes(SPEC, 1) < SPEC.raw_bytes // SPEC.height + 1
        assert not codec.lossless
        assert codec.foreseen_overflow == pytest.approx(shares[permille], abs=1 / SHARE_ONE)
    assert shares[1000] == 0
    assert 0.4 <= shares[500] <= 0.5 <= 0.7 <= shares[250] <= 0.75


def test_the_last_steps_fit_even_a_cap_of_nothing():
    codec = Capped(3, (IDENTITY, stepped(4080)), 0)
    blocks = BlockWidth(3, stepped(4080))
    assert codec.unit_bytes(SPEC, 3) == 1 + blocks.unit_bytes(SPEC, 3)
    full = np.full((3, 20, 24), 255, np.uint8)
    for implementation in implementations(codec).values():
        assert implementation.encode_unit(full, SPEC) == b"\1" + blocks.encode_unit(full, SPEC)


@pytest.mark.parametrize("schedule", ["layer", "stream"])
def test_the_engine_overflows_as_the_interpreter_does(schedule):
    b = Builder(1)
    x = b.conv(b.picture(12, 10), 16, Window((3, 3), pads=(1, 1, 1, 1)))
    network = b.network(b.conv(x, 4, Window((3, 3))))
    values = np.random.default_rng(2).integers(0, 256, network.maps["picture"].shape, np.uint8)
    values[::2] //= 16
    held = run_network(network, {"picture": values})[x]
    codec = Capped.fit(network.maps[x], held[None], step=0, permille=500, unit_rows=1)
    assert 0.3 < codec.overflow_share(held[None], network.maps[x]) <= 0.5
    plan = build(network, schedule=schedule, codecs={x: codec})
    expected = interpret(plan, {"picture": values})
    for threads in (1, 2):
        engine = Engine(plan, threads=threads)
        for name, rows in engine.maps(values).items():
            np.testing.assert_array_equal(rows, expected[name], strict=True)
        seen = codec.overflow_share(held[None], network.maps[x])
        assert engine.overflow_shares == {x: seen}
        engine.maps(np.zeros_like(values))  # each inference counts for itself
        assert engine.overflow_shares[x] < seen
    assert (
        expected[network.outputs[0]]
        != run_network(network, {"picture": values})[network.outputs[0]]
    ).any()


def test_steps_that_do_not_exist_are_refused():
    codec = Capped(1, (IDENTITY, stepped(64)), SHARE_ONE // 2)
    payload = codec.encode_unit(busier_by_row(SPEC)[:1], SPEC)
    for wrong, message in [
        (b"", "got b''"),
        (b"\2" + payload[1:], r"needs a first byte in 0\.\.1"),
    ]:
        for implementation in implementations(codec).values():
            with pytest.raises(CorruptPayload, match=message):
                implementation.decode_unit(wrong, SPEC, 1)


def test_a_configuration_out_of_range_is_refused():
    for steps in ((), (IDENTITY,) * 9):
        with pytest.raises(BadArgument, match=f"needs 1 to 8 steps, got {len(steps)}"):
            Capped(steps=steps)
    for fitted in (-1, SHARE_ONE + 1, 0.5):
        with pytest.raises(BadArgument, match=r"fitted_overflow to be an integer in 0\.\.65536"):
            Capped(fitted_overflow=fitted)
    for share in (-1, 2 * SHARE_ONE + 1, True, 0.5):
        with pytest.raises(BadArgument, match=r"cap_share to be an integer in 0\.\.131072"):
            Capped(cap_share=share)
    with pytest.raises(BadArgument, match="symbols of 8 bits, got 4"):
        Capped(steps=(Steps(symbol_bits=4),))
    for permille in (0, 1001, 0.5):
        with pytest.raises(BadArgument, match=r"permille to be an integer in 1\.\.1000"):
            Capped.fit(SPEC, busier_by_row(SPEC)[None], permille=permille)


def test_without_samples_nothing_overflows():
    codec = Capped.fit(SPEC, np.zeros((0, *SPEC.shape), np.uint8), step=0)
    dense = np.random.default_rng(1).integers(0, 256, (1, *SPEC.shape), np.uint8)
    assert codec.overflow_share(dense, SPEC) == 0
    assert codec.foreseen_overflow is None
    assert codec.unit_bytes(SPEC, 1) == 1 + BlockWidth().unit_bytes(SPEC, 1)


def test_a_file_may_say_how_many_units_overflowed_and_need_not():
    told = Capped.fit(SPEC, busier_by_row(SPEC)[None], step=32, permille=500)
    silent = dataclasses.replace(told, fitted_overflow=None)
    assert told.foreseen_overflow == pytest.approx(0.5, abs=1 / SHARE_ONE)
    for codec in (told, silent):
        again = from_text(to_text(codec))
        assert again.foreseen_overflow == codec.foreseen_overflow
    assert "fitted_overflow" not in to_text(silent)
