# SPDX-License-Identifier: Apache-2.0
"""Allocations for an arena: its bytes are those that live at once, not a sum over maps.

Starting from maps held as they are, the fullest moment of the plan says which maps bind. Of every
map that lives there each lossier choice is a move: it saves so many bytes at that moment and adds
so much error. The move with the least error per byte is made, the plan is built anew with its real
arena, and so on: the path from the plan without codecs to the smallest arena that codecs reach.

Ours; greedy, so not the optimum, but every step of the path is a plan that was really built.

Cost: a plan is built per step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from thinmaps.allocate.choices import Choice
from thinmaps.allocate.lagrange import hull
from thinmaps.codecs.base import Codec
from thinmaps.plan.held import Binding, binding
from thinmaps.plan.plan import Plan

Build = Callable[[Mapping[str, Codec]], Plan]
# Moves upon each other that may leave the arena as it is.
PATIENCE = 4


@dataclass(frozen=True, eq=False)
class Stage:
    """A plan on the path, what was chosen for it, and the predicted error of the outputs."""

    plan: Plan
    chosen: Mapping[str, Choice]
    error: float


def path(choices: Mapping[str, Sequence[Choice]], build: Build) -> Iterator[Stage]:
    """Plans of falling arena and growing error, the one without codecs first.

    The bytes of a choice are those that it reserves: a fixed rate or a cap may save arena, a worst
    case never does. A move that leaves the arena as it is (another map needs the bytes as much) is
    taken back, and only made again together with others once no move helps alone.
    """
    hulls = {name: hull(each, worst_bytes) for name, each in choices.items()}
    place = dict.fromkeys(hulls, 0)
    stage = _stage(hulls, place, build)
    yield stage
    useless: set[tuple[str, int]] = set()
    while True:
        tried = _next(stage, hulls, place, build, useless)
        if tried is None:
            tried = _together(stage, hulls, place, build)
        if tried is None:
            return
        place, stage = tried
        useless.clear()
        yield stage


def worst_bytes(choice: Choice) -> float:
    """The bytes that count in an arena."""
    return choice.worst_bytes


Place = dict[str, int]
Hulls = Mapping[str, Sequence[Choice]]


def _stage(hulls: Hulls, place: Place, build: Build) -> Stage:
    chosen = {name: hulls[name][at] for name, at in place.items()}
    plan = build({name: c.codec for name, c in chosen.items() if c.codec is not None})
    return Stage(plan, chosen, sum(choice.error for choice in chosen.values()))


def _next(
    stage: Stage, hulls: Hulls, place: Place, build: Build, useless: set[tuple[str, int]]
) -> tuple[Place, Stage] | None:
    """The cheapest single move that makes the arena smaller; others become `useless`."""
    while move := _cheapest(binding(stage.plan), hulls, place, useless):
        moved = {**place, move[0]: move[1]}
        tried = _stage(hulls, moved, build)
        if tried.plan.arena_bytes < stage.plan.arena_bytes:
            return moved, tried
        useless.add(move)
    return None


def _together(stage: Stage, hulls: Hulls, place: Place, build: Build) -> tuple[Place, Stage] | None:
    """Several moves, one upon the other, that make the arena smaller only together."""
    tried = stage
    for _ in range(PATIENCE):
        move = _cheapest(binding(tried.plan), hulls, place, set())
        if move is None:
            return None
        place = {**place, move[0]: move[1]}
        tried = _stage(hulls, place, build)
        if tried.plan.arena_bytes < stage.plan.arena_bytes:
            return place, tried
    return None


def _cheapest(
    bound: Sequence[Binding], hulls: Hulls, place: Place, useless: set[tuple[str, int]]
) -> tuple[str, int] | None:
    """The map and choice that saves bytes at the fullest moment for the least error per byte."""
    best: tuple[float, str, int] | None = None
    for held in bound:
        choices, now = hulls.get(held.map, ()), place.get(held.map, 0)
        for at in range(now + 1, len(choices)):
            share = choices[at].worst_bytes / choices[now].worst_bytes
            saved = held.bytes * (1 - share) - (0 if now else held.window_bytes)
            price = (choices[at].error - choices[now].error) / max(saved, 1)
            usable = saved > 0 and (held.map, at) not in useless
            if usable and (best is None or price < best[0]):
                best = (price, held.map, at)
    return None if best is None else best[1:]
