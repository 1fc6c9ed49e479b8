# SPDX-License-Identifier: Apache-2.0
"""Networks with gates run as defined under every schedule, with and without a code on the gate."""

from __future__ import annotations

import numpy as np
import pytest
from codec_cases import Setting
from gated_networks import gate_under_a_skip, mobilenet_v3, one_gate

from thinmaps.graph.network import Network
from thinmaps.plan.build import NO_CODECS, build
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import interpret, run_network

SCHEDULES = pytest.mark.parametrize("schedule", ["layer", "stream", "mixed"])


def check(network: Network, schedule: str, codecs=NO_CODECS) -> None:
    """Engine and interpreter on one plan give the outputs of the network."""
    shape = network.maps["picture"].shape
    x = {"picture": np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)}
    expected = run_network(network, x, codecs)
    plan = build(network, schedule=schedule, codecs=codecs, effort=8_000)
    for made in (Engine(plan).maps(x), Engine(plan, threads=2).maps(x), interpret(plan, x)):
        for name in network.outputs:
            np.testing.assert_array_equal(made[name], expected[name], strict=True)


@SCHEDULES
def test_a_gate_gives_the_defined_bytes(schedule: str) -> None:
    check(one_gate()[0], schedule)


@SCHEDULES
def test_a_gate_under_a_skip_gives_the_defined_bytes(schedule: str) -> None:
    check(gate_under_a_skip()[0], schedule)


@SCHEDULES
@pytest.mark.parametrize("name", ["narrow", "zero_bitmap"])
def test_coded_maps_around_a_gate_give_the_defined_bytes(name: str, schedule: str) -> None:
    setting = Setting(name, (("bits", 4),) if name == "narrow" else ())
    network, *held = gate_under_a_skip(15, 17)
    check(network, schedule, {x: setting.fit(network.maps[x], 2) for x in held})


def test_gates_in_a_row_give_the_defined_bytes() -> None:
    check(mobilenet_v3(), "mixed")
