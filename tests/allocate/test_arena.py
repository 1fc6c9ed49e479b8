# SPDX-License-Identifier: Apache-2.0
"""The path of plans towards a small arena, on a network whose binding map is known."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from small_networks import Builder

from thinmaps.allocate.arena import Stage, path
from thinmaps.allocate.choices import Choice, Observed, choices_of
from thinmaps.calibrate.sensitivity import Felt
from thinmaps.codecs.base import Codec
from thinmaps.codecs.block_width import BlockWidth
from thinmaps.codecs.capped import Capped
from thinmaps.codecs.narrow import Narrow
from thinmaps.graph.network import Network
from thinmaps.graph.operators import Window
from thinmaps.plan.build import build
from thinmaps.plan.held import binding
from thinmaps.plan.plan import Plan
from thinmaps.types import MapSpec


@pytest.fixture(scope="module")
def gated() -> Network:
    """A map that a mean of itself gates: it is held whole, and is by far the largest."""
    b = Builder(1)
    x = b.conv(b.picture(24, 24), 16, Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)))
    gate = b.conv(b.mean(x), 16, Window((1, 1)))
    return b.network(b.conv(b.mul(x, gate), 4, Window((1, 1))))


def alike(spec: MapSpec) -> Felt:
    """All channels are felt alike, shifts as any noise."""
    each = np.ones(spec.channels, np.float32)
    return Felt(each, each / (spec.height * spec.width))


@pytest.fixture(scope="module")
def stages(gated: Network) -> list[Stage]:
    random = np.random.default_rng(0)
    choices: dict[str, tuple[Choice, ...]] = {}
    for node in gated.nodes[:-1]:
        spec = gated.maps[node.output]
        samples = random.integers(0, 256, (2, *spec.shape)).astype(np.uint8)
        seen = Observed(spec, samples, alike(spec))
        choices[node.output] = choices_of(seen, [(Narrow, {"bits": b}) for b in (2, 4, 6)], 1)

    def planned(codecs: Mapping[str, Codec]) -> Plan:
        return build(gated, codecs=codecs, arena_bytes="smallest")

    return list(path(choices, planned))


def test_the_path_begins_without_codecs_and_every_stage_is_smaller(
    gated: Network, stages: list[Stage]
) -> None:
    assert stages[0].plan.codecs == {}
    assert stages[0].error == 0.0
    assert stages[0].plan.arena_bytes == build(gated, arena_bytes="smallest").arena_bytes
    for before, after in itertools.pairwise(stages):
        assert after.plan.arena_bytes < before.plan.arena_bytes
        assert after.error >= before.error
    assert len(stages) > 2


def test_the_map_that_binds_is_encoded_first(gated: Network, stages: list[Stage]) -> None:
    held = gated.nodes[1].output
    bound = binding(stages[0].plan)
    assert bound[0].map == held
    assert bound[0].bytes == gated.maps[held].raw_bytes
    assert held in stages[1].plan.codecs
    assert set(stages[1].plan.codecs) == {held}


def test_a_cap_makes_the_arena_smaller_and_a_worst_case_never_does(gated: Network) -> None:
    random = np.random.default_rng(0)
    held = gated.nodes[1].output
    spec = gated.maps[held]
    samples = (random.integers(0, 64, (2, *spec.shape)) * (random.random(spec.shape) < 0.3)).astype(
        np.uint8
    )
    settings = [(BlockWidth, {"step": 24}), (Capped, {"step": 24, "permille": 900})]
    found = choices_of(Observed(spec, samples, alike(spec)), settings, 1)

    def planned(codecs: Mapping[str, Codec]) -> Plan:
        return build(gated, codecs=codecs, arena_bytes="smallest")

    bare, *rest = path({held: found}, planned)
    assert [type(stage.plan.codecs[held]) for stage in rest] == [Capped]
    assert rest[0].plan.arena_bytes < bare.plan.arena_bytes


def test_a_stage_says_what_was_chosen(stages: list[Stage]) -> None:
    last = stages[-1]
    named = {name for name, choice in last.chosen.items() if choice.codec is not None}
    assert named == set(last.plan.codecs)
    assert last.error == pytest.approx(sum(choice.error for choice in last.chosen.values()))
