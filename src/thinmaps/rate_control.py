# SPDX-License-Identifier: Apache-2.0
"""Rate control: which codec on which map, for a drop, an arena or a traffic that are asked for.

    observe     samples of every map on calibration pictures, and how much the output feels it
    offer       every codec and setting on every map: bytes measured, error predicted (`allocate`)
    walk        from lossless down, the allocations that no other beats
    evaluate    real answers of the proposals, on the pictures that calibration sees (80 %)
    verify      the one chosen, with the 20 % that nothing was chosen on; where they refuse it, a
                gentler one is taken

What is minimised is the arena under schedules that stream, and the traffic layer by layer; with two
goals, what is left is the third: the drop. Only real evaluations decide; the predicted error only
orders the proposals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinmaps.allocate import arena as arena_path
from thinmaps.allocate.choices import Choice, Observed, choices_of, menu, rescaled
from thinmaps.allocate.lagrange import front
from thinmaps.calibrate.sensitivity import felt, of_maps
from thinmaps.codecs.base import Codec
from thinmaps.errors import BadArgument, PlanImpossible
from thinmaps.file import Trade
from thinmaps.graph.network import Network
from thinmaps.graph.operators import Concat
from thinmaps.judge import UINT8, Build, Goals, Judge, Proposal
from thinmaps.measure.drop import Drop
from thinmaps.plan.held import binding
from thinmaps.plan.plan import Plan
from thinmaps.prepared import Prepared, Progress

UNIT_ROWS = 64  # of a coding unit layer by layer, so that a variable rate's overhead is small
# Samples of a map: enough pictures for stable tables, of which half are fitted on, and few enough
# bytes to encode them in every setting.
SAMPLE_PICTURES = 64
SAMPLE_BYTES = 1 << 23
SENSITIVITY_PICTURES = 32
# Of the predicted error: at most so much has the next try where held-out pictures refuse one.
GENTLER = 0.97


@dataclass(frozen=True)
class Scope:
    """What may be chosen from: `codecs` by id and `maps` by name; all of them where empty."""

    codecs: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Controlled:
    """The plan that meets the goals, and every evaluated one that no other beats."""

    plan: Plan
    drop: float
    front: tuple[Trade, ...]
    notes: tuple[str, ...]


EVERYTHING = Scope()
Settings = Sequence[tuple[type[Codec], Mapping[str, int]]]


def control(
    prepared: Prepared,
    goals: Goals,
    build_plan: Build,
    scope: Scope = EVERYTHING,
    progress: Progress | None = None,
) -> Controlled:
    """The best plan for the goals.

    `build_plan` makes the smallest plan of the wanted size and schedule with codecs by map name.
    `scope` may leave codecs and maps out.

    Raises:
        BadArgument: there are no pictures to try on, a codec of variable rate is to save arena, or
            a drop is asked for of answers that have no points.
        PlanImpossible: no allocation meets the goals; the message says by how much.
    """
    if prepared.pictures is None or prepared.preprocessing is None:
        raise BadArgument(
            "what a codec costs is found by trying: goals of drop and traffic, and an arena that "
            "needs codecs, want calibration pictures (--calibrate)"
        )
    bare = build_plan({})
    by_arena = goals.arena_bytes is not None or bare.schedule != "layer"
    judge = Judge(prepared, build_plan, progress)
    judge.check(goals)
    if goals.max_drop is None and judge.meets(goals, judge.measured(UINT8)):
        proposals = [UINT8]
    elif by_arena:
        offered = _offers_for_arena(prepared, bare.source, scope, progress)
        proposals = _arena_proposals(offered, goals, build_plan)
    else:
        offered = _offers_for_traffic(prepared, bare.source, scope, progress)
        proposals = [Proposal(each.chosen, each.error) for each in front(offered)]
    return _Selection(goals, judge, proposals).best()


Offers = Mapping[str, Sequence[Choice]]


def _offers_for_traffic(
    prepared: Prepared, network: Network, scope: Scope, progress: Progress | None
) -> Offers:
    """Choices of every rate, their bytes as often as the map moves; parts stand for what joins.

    A cap costs traffic and saves none: it counts only where it is asked for by name.
    """
    names = [
        name
        for name in _eligible(network, scope)
        if not isinstance(network.producer[name].operator, Concat)
    ]
    rates = ("fixed", "variable", "capped") if scope.codecs else ("fixed", "variable")
    found = offers(prepared, names, menu(rates, scope.codecs), UNIT_ROWS, progress)
    return {
        name: [rescaled(choice, 1 + len(network.readers[name])) for choice in choices]
        for name, choices in found.items()
    }


def _offers_for_arena(
    prepared: Prepared, network: Network, scope: Scope, progress: Progress | None
) -> Offers:
    """Choices of fixed rate or with a cap, row by row: reserving the worst case saves no arena."""
    settings = menu(["fixed", "capped"], scope.codecs)
    if not settings:
        raise BadArgument(
            f"only a fixed rate or a cap saves arena, {', '.join(scope.codecs)} has neither; "
            "under --schedule layer the traffic is minimised"
        )
    return offers(prepared, _eligible(network, scope), settings, 1, progress)


def _arena_proposals(offered: Offers, goals: Goals, build_plan: Build) -> list[Proposal]:
    """From the plan without codecs down to the smallest arena, or to the goal where that is all."""
    found = []
    for stage in arena_path.path(offered, build_plan):
        found.append(Proposal(stage.chosen, stage.error))
        reached = goals.arena_bytes is not None and stage.plan.arena_bytes <= goals.arena_bytes
        if reached and goals.traffic_bytes is None:
            break
    return found


def _eligible(network: Network, scope: Scope) -> list[str]:
    """Maps between nodes that can be held encoded, and are in scope."""
    return [
        node.output
        for node in network.nodes
        if network.readers[node.output]
        and node.output not in network.outputs
        and network.maps[node.output].dtype == "uint8"
        and (not scope.maps or node.output in scope.maps)
    ]


def offers(
    prepared: Prepared,
    names: Sequence[str],
    settings: Settings,
    most_unit_rows: int,
    progress: Progress | None,
) -> dict[str, tuple[Choice, ...]]:
    """Every choice for every map, on pictures of the 80 %."""
    assert prepared.pictures is not None
    pictures, network = prepared.pictures.fitting(), prepared.networks.own
    of_channels = of_maps(
        felt(
            prepared.networks.real,
            pictures.at_most(SENSITIVITY_PICTURES),
            prepared.preprocessing,
            progress=progress,
        ),
        network,
    )
    sampled = pictures.at_most(SAMPLE_PICTURES)
    wanted = {name: max(2, SAMPLE_BYTES // network.maps[name].raw_bytes) for name in names}
    samples: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in names}
    for maps in prepared.observed(names, sampled):
        for name, kept in samples.items():
            if len(kept) < wanted[name]:
                kept.append(maps[name])
    found = {}
    for done, name in enumerate(names, 1):
        spec = network.maps[name]
        seen = Observed(spec, np.stack(samples.pop(name)), of_channels[name])
        found[name] = choices_of(seen, settings, min(spec.height, most_unit_rows))
        if progress:
            progress("offering", done, len(names))
    return found


def _counted(found: Drop, expected: float) -> str:
    """The sentence that says what was counted, and how far that can be trusted."""
    return (
        f"the drop of {expected:.2f} points is expected from all calibration pictures; on the "
        f"{found.pictures} held-out ones alone {found.points:.2f} were counted, "
        f"give or take {found.interval_points:.2f} (95 %)"
    )


@dataclass(frozen=True, eq=False)
class _Selection:
    """Which of the proposals, in order of growing error and falling bytes."""

    goals: Goals
    judge: Judge
    proposals: Sequence[Proposal]

    def best(self) -> Controlled:
        """The first that meets goals in bytes; with a drop alone, the last within it."""
        first = self._first_within_bytes()
        at = first if self.goals.max_drop is None else self._last_within_drop(first)
        drop, at, notes = self._verified(first, at)
        return Controlled(self.judge.plan(self.proposals[at]), drop, self.judge.front(), notes)

    def _first_within_bytes(self) -> int:
        """By bisection: bytes fall along the proposals."""
        low, high = 0, len(self.proposals) - 1
        least = self.judge.measured(self.proposals[high])
        if not self.judge.meets(self.goals, least):
            raise PlanImpossible(self._short_of(least))
        while low < high:
            middle = (low + high) // 2
            if self.judge.meets(self.goals, self.judge.measured(self.proposals[middle])):
                high = middle
            else:
                low = middle + 1
        return low

    def _last_within_drop(self, first: int) -> int:
        """By bisection from `first` on; with a goal in bytes there is nothing to gain behind it."""
        most = self.goals.max_drop
        assert most is not None
        drop = self.judge.drop(self.proposals[first])
        if drop > most:
            raise PlanImpossible(self._drops(first, drop, most))
        if self.goals.arena_bytes is not None or self.goals.traffic_bytes is not None:
            return first
        low, high = first, len(self.proposals) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.judge.drop(self.proposals[middle], most) <= most:
                low = middle
            else:
                high = middle - 1
        return low

    def _verified(self, first: int, at: int) -> tuple[float, int, tuple[str, ...]]:
        """The drop to expect of the proposal that held-out pictures take, and a word on it.

        They refuse one that is expected to lose too much, or where they themselves count too much
        by more than the standard error of their count. Then a gentler one is tried: the drop grows
        about as the error does.
        """
        most, wanted = self.goals.max_drop, at
        expected, found = self.judge.held_out(self.proposals[at])
        while most is not None and max(expected, found.at_least) > most:
            if at == first:
                worst = max(expected, found.at_least)
                raise PlanImpossible(self._drops(first, worst, most, " held-out"))
            gentler = min(GENTLER, most / max(expected, found.at_least)) * self.proposals[at].error
            errors = [each.error for each in self.proposals[:at]]
            at = max(first, int(np.searchsorted(errors, gentler, "right")) - 1)
            expected, found = self.judge.held_out(self.proposals[at])
        asked = "held-out pictures asked for a gentler allocation than the others did"
        notes = (*([asked] if at != wanted else []), _counted(found, expected))
        return expected, at, (*notes, self.judge.points_are)

    def _short_of(self, least: tuple[int, int]) -> str:
        """Which budget cannot be met, by how much, and the maps that bind."""
        plan = self.judge.plan(self.proposals[-1])
        wanted = (("arena", self.goals.arena_bytes), ("traffic", self.goals.traffic_bytes))
        short = [
            f"the smallest {name} found with codecs is {bytes_found:,} bytes, "
            f"{bytes_found - budget:,} more than the {budget:,} asked for"
            for (name, budget), bytes_found in zip(wanted, least, strict=True)
            if budget is not None and bytes_found > budget
        ]
        if self.goals.arena_bytes is None or least[0] <= self.goals.arena_bytes:
            return "; ".join(short)
        bound = ", ".join(f"{b.map!r} with {b.bytes:,} bytes" for b in binding(plan)[:4])
        return f"{'; '.join(short)}; what binds: {bound}"

    def _drops(self, at: int, drop: float, most: float, pictures: str = "") -> str:
        """Why the drop cannot be met."""
        if not self.proposals[at].codecs:
            what = "the uint8 network alone, without any codec,"
        else:
            what = "the gentlest allocation within the budget"
        return (
            f"{what} drops {drop:.2f} points on the{pictures} calibration pictures, more than the "
            f"{most:g} asked for"
        )
