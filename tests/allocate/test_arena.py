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
from thinmaps.codecs.base import Codec
from thinmaps.codecs.narrow import Narrow
from thinmaps.graph.network import Network
from thinmaps.graph.operators import Window
from thinmaps.plan.build import build
from thinmaps.plan.held import binding
from thinmaps.plan.plan import Plan


@pytest.fixture(scope="module")
def gated() -> Network:
    """A map that a mean of itself gates: it is held whole, and is by far the largest."""
    b = Builder(1)
    x = b.conv(b.picture(24, 24), 16, Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)))
    gate = b.conv(b.mean(x), 16, Window((1, 1)))
    return b.network(b.conv(b.mul(x, gate), 4, Window((1, 1))))


@pytest.fixture(scope="module")
def stages(gated: Network) -> list[Stage]:
    random = np.random.default_rng(0)
    choices: dict[str, tuple[Choice, ...]] = {}
    for node in gated.nodes[:-1]:
        spec = gated.maps[node.output]
        samples = random.integers(0, 256, (2, *spec.shape)).astype(np.uint8)
        seen = Observed(spec, samples, np.ones(spec.channels))
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


def test_a_stage_says_what_was_chosen(stages: list[Stage]) -> None:
    last = stages[-1]
    named = {name for name, choice in last.chosen.items() if choice.codec is not None}
    assert named == set(last.plan.codecs)
    assert last.error == pytest.approx(sum(choice.error for choice in last.chosen.values()))
