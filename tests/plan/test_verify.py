# SPDX-License-Identifier: Apache-2.0
"""A plan that was tampered with is refused, and the refusal says where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from plan.simulate import simulate
from plan.sizes import HALF
from plan.zoo import ZOO

from thinmaps.errors import BadFile
from thinmaps.plan.build import build
from thinmaps.plan.plan import ALIGNMENT_BYTES, Step
from thinmaps.plan.verify import verify

NAMES = ["squeezenet", "unet", "densenet", "squeeze_excite", "odd_sizes"]


@pytest.fixture(scope="module")
def plans():
    found = {name: build(ZOO[name](), effort=8_000) for name in NAMES}
    network = ZOO["unet"]()
    codecs = {network.nodes[2].output: HALF, network.nodes[9].output: HALF}
    found["encoded"] = build(network, codecs=codecs, effort=8_000)
    return found


EACH = pytest.mark.parametrize("name", [*NAMES, "encoded"])


def with_step(plan, index, step):
    return replace(plan, steps=(*plan.steps[:index], step, *plan.steps[index + 1 :]))


def with_buffer(plan, index, **changes):
    changed = replace(plan.buffers[index], **changes)
    return replace(plan, buffers=(*plan.buffers[:index], changed, *plan.buffers[index + 1 :]))


def is_sound(plan):
    """Whether the simulation, which shares no code with `verify`, finds nothing wrong."""
    try:
        simulate(plan)
    except (AssertionError, ValueError, IndexError):
        return False
    return True


def is_refused(plan):
    try:
        verify(plan)
    except BadFile:
        return True
    return False


@EACH
def test_swapped_steps_are_refused_exactly_when_they_break_the_plan(plans, name):
    plan, random, broken = plans[name], np.random.default_rng(7), 0
    for _ in range(12):
        i, j = sorted(random.choice(len(plan.steps), 2, replace=False).tolist())
        steps = list(plan.steps)
        steps[i], steps[j] = steps[j], steps[i]
        changed = replace(plan, steps=tuple(steps))
        sound = is_sound(changed)
        broken += not sound
        assert is_refused(changed) != sound
    assert broken


@EACH
def test_a_ring_that_is_one_slot_short_is_refused(plans, name):
    plan = plans[name]
    for i, buffer in enumerate(plan.buffers):
        if buffer.slots > 1:
            changed = with_buffer(plan, i, slots=buffer.slots - 1)
            assert not is_sound(changed)
            assert is_refused(changed), buffer


@EACH
def test_a_buffer_that_moved_onto_another_is_refused(plans, name):
    plan, random, broken = plans[name], np.random.default_rng(8), 0
    for i, buffer in enumerate(plan.buffers):
        last = (plan.arena_bytes - buffer.bytes) // ALIGNMENT_BYTES
        offset = int(random.integers(max(1, last))) * ALIGNMENT_BYTES
        changed = with_buffer(plan, i, offset=offset)
        sound = is_sound(changed)
        broken += not sound
        # `verify` lets no slot touch another; the simulation minds only bytes that are read.
        assert is_refused(changed) or sound
    assert broken


def test_steps_that_repeat_skip_or_tear_work_are_refused(plans):
    plan = plans["encoded"]
    with pytest.raises(BadFile, match="starts at work row"):
        verify(replace(plan, steps=(*plan.steps, plan.steps[-1])))
    with pytest.raises(BadFile, match="work rows, the steps do"):
        verify(replace(plan, steps=plan.steps[:-1]))
    with pytest.raises(BadFile, match="names a node outside"):
        verify(with_step(plan, 3, Step(len(plan.network.nodes), 0, 1)))
    with pytest.raises(BadFile, match="fewer than 1 or more than"):
        verify(with_step(plan, 3, plan.steps[3]._replace(rows=-1)))
    with pytest.raises(BadFile, match="not triples of integers"):
        verify(with_step(plan, 3, Step(0, 1 << 80, 1)))
    encode = next(i for i, node in enumerate(plan.network.nodes) if node.operator.id == "encode")
    at = next(i for i, step in enumerate(plan.steps) if step.node == encode and step.rows > 1)
    torn = (Step(encode, plan.steps[at].first, 1),)
    rest = (Step(encode, plan.steps[at].first + 1, plan.steps[at].rows - 1),)
    with pytest.raises(BadFile, match="splits a coding unit"):
        verify(replace(plan, steps=(*plan.steps[:at], *torn, *rest, *plan.steps[at + 1 :])))


def test_buffers_that_cannot_be_are_refused(plans):
    plan = plans["unet"]
    for changes, words in (
        ({"offset": -64}, "starts at byte -64"),
        ({"offset": 32}, "not a multiple of 64"),
        ({"offset": plan.arena_bytes // 64 * 64}, "outside of the arena"),
        ({"slots": 0}, "cannot have 0 slots"),
        ({"slot_bytes": plan.buffers[0].slot_bytes - 1}, "does not fit its place"),
    ):
        with pytest.raises(BadFile, match=words):
            verify(with_buffer(plan, 0, **changes))
    with pytest.raises(BadFile, match="outside of the arena"):
        verify(replace(plan, arena_bytes=plan.arena_bytes - 1))
    with pytest.raises(BadFile, match="cannot be"):
        verify(replace(plan, arena_bytes=1 << 60))
    with pytest.raises(BadFile, match="used by nothing"):
        verify(replace(plan, buffers=(*plan.buffers, plan.buffers[0])))


def test_places_that_do_not_fit_are_refused(plans):
    plan = plans["squeezenet"]
    name = next(iter(plan.places))
    place = plan.places[name]
    for changes, words in (
        ({"buffer": len(plan.buffers)}, f"of {len(plan.buffers)}"),
        ({"buffer": -1}, "lies in buffer -1"),
        ({"channel": 1}, "does not fit its place"),
        ({"channel": -1}, "does not fit its place"),
        ({"unit_rows": 2}, "units of 1 rows, not 2"),
    ):
        changed = {**plan.places, name: replace(place, **changes)}
        with pytest.raises(BadFile, match=words):
            verify(replace(plan, places=changed))
    without = {key: value for key, value in plan.places.items() if key != name}
    with pytest.raises(BadFile, match="needs one and has none"):
        verify(replace(plan, places=without))


def test_running_sums_without_a_buffer_of_their_own_are_refused(plans):
    plan = plans["squeeze_excite"]
    node, number = next(iter(plan.states.items()))
    with pytest.raises(BadFile, match="running sums"):
        verify(replace(plan, states={}))
    with pytest.raises(BadFile, match="sums share a buffer"):
        verify(replace(plan, states={**plan.states, node: 0}))
    with pytest.raises(BadFile, match="need one slot of"):
        verify(with_buffer(plan, number, slots=2, offset=0))


def test_a_network_that_its_source_does_not_give_is_refused(plans):
    plan = plans["encoded"]
    with pytest.raises(BadFile, match="not those of its source network and codecs"):
        verify(replace(plan, codecs={}))
    other = ZOO["unet"]()
    renamed = replace(other.nodes[1], name="another")
    nodes = (*plan.network.nodes[:1], renamed, *plan.network.nodes[2:])
    network = replace(plan.network, nodes=nodes)
    with pytest.raises(BadFile, match="'another' is not"):
        verify(replace(plan, network=network))
