# SPDX-License-Identifier: Apache-2.0
"""Rate control: which codec on which map, for a drop, an arena or a traffic that are asked for.

    observe     samples of every map on calibration pictures, and how much the output feels it
    offer       every codec and setting on every map: bytes measured, error predicted (`allocate`)
    walk        from lossless down, the allocations that no other beats
    evaluate    real answers of the proposals, on the pictures that calibration sees (80 %)
    verify      the one chosen, on the 20 % that nothing was chosen on; where it fails there, the
                next gentler one is taken

What is minimised is the arena under schedules that stream, and the traffic layer by layer; with two
goals, what is left is the third: the drop. Only real evaluations decide; the predicted error only
orders the proposals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinmaps.allocate import arena as arena_path
from thinmaps.allocate.choices import Choice, Observed, choices_of, menu, rescaled
from thinmaps.allocate.lagrange import front
from thinmaps.calibrate.sensitivity import of_maps, sensitivities
from thinmaps.codecs.base import Codec
from thinmaps.errors import BadArgument, PlanImpossible
from thinmaps.file import Model, Trade
from thinmaps.graph.network import Network
from thinmaps.graph.operators import Concat
from thinmaps.measure.drop import DropMeter
from thinmaps.measure.float_model import FloatModel
from thinmaps.measure.report import Counted, report
from thinmaps.plan.build import build
from thinmaps.plan.held import binding
from thinmaps.plan.plan import Plan
from thinmaps.prepared import Prepared, Progress

UNIT_ROWS = 64  # of a coding unit layer by layer, so that a variable rate's overhead is small
# Samples of a map: enough rows for stable tables, few enough to encode them in every setting.
SAMPLE_PICTURES = 16
SAMPLE_BYTES = 1 << 23
SENSITIVITY_PICTURES = 32
EVALUATION_PICTURES = 800
# Of the predicted error: how much gentler the next try is where held-out pictures refuse one.
GENTLER = 0.8


@dataclass(frozen=True)
class Goals:
    """What is asked for, one or two of the three; `max_drop` in points."""

    max_drop: float | None = None
    arena_bytes: int | None = None
    traffic_bytes: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in dataclasses.astuple(self) if value is not None]
        if not 1 <= len(given) <= 2:
            raise BadArgument(
                f"one or two goals of max_drop, arena and traffic can be met, got {len(given)}"
            )
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise BadArgument(f"max_drop is 0 to 100 points, got {self.max_drop:g}")
        for name, value in (("arena", self.arena_bytes), ("traffic", self.traffic_bytes)):
            if value is not None and value < 1:
                raise BadArgument(f"{name} needs a budget of 1 byte or more, got {value}")

    @property
    def asks_only_for_arena(self) -> bool:
        """Whether a plan without codecs will do if it fits."""
        return self.arena_bytes is not None and self.max_drop is self.traffic_bytes is None


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


@dataclass(frozen=True, eq=False)
class Proposal:
    """An allocation that could be the answer."""

    chosen: Mapping[str, Choice]
    error: float

    @property
    def codecs(self) -> dict[str, Codec]:
        """The codec of every map that has one."""
        return {name: c.codec for name, c in self.chosen.items() if c.codec is not None}


EVERYTHING = Scope()
Build = Callable[[Mapping[str, Codec]], Plan]
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
        BadArgument: there are no pictures to try on, or a codec of variable rate is to save arena.
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
    if goals.max_drop is None and judge.meets(goals, judge.measured(Proposal({}, 0.0))):
        proposals = [Proposal({}, 0.0)]
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
    felt = of_maps(
        sensitivities(
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
        seen = Observed(spec, np.stack(samples.pop(name)), felt[name])
        found[name] = choices_of(seen, settings, min(spec.height, most_unit_rows))
        if progress:
            progress("offering", done, len(names))
    return found


class Judge:
    """What proposals really cost: answers on pictures, bytes of the built plan."""

    def __init__(self, prepared: Prepared, build_plan: Build, progress: Progress | None) -> None:
        self.prepared, self.build_plan, self.progress = prepared, build_plan, progress
        self._meters: dict[bool, DropMeter] = {}
        self._plans: dict[Proposal, Plan] = {}
        self._trades: dict[Proposal, Trade] = {}

    def plan(self, proposal: Proposal) -> Plan:
        """The built plan."""
        if proposal not in self._plans:
            self._plans[proposal] = self.build_plan(proposal.codecs)
        return self._plans[proposal]

    def measured(self, proposal: Proposal) -> tuple[int, int]:
        """Bytes of the arena, and bytes moved per inference."""
        plan = self.plan(proposal)
        own = self.prepared.networks.own.maps
        means = {
            # A map of another size than the samples' is taken to compress alike.
            name: choice.codec_bytes * plan.source.maps[name].raw_bytes / own[name].raw_bytes
            for name, choice in proposal.chosen.items()
            if choice.codec is not None
        }
        return plan.arena_bytes, report(plan, Counted(plan.arena_bytes, 0, means)).moved_bytes

    def meets(self, goals: Goals, measured: tuple[int, int]) -> bool:
        """Whether the bytes lie within the goals."""
        budgets = (goals.arena_bytes, goals.traffic_bytes)
        return all(b is None or m <= b for b, m in zip(budgets, measured, strict=True))

    def drop(self, proposal: Proposal) -> float:
        """On the pictures of the 80 %."""
        if proposal not in self._trades:
            found = self._meter(held_out=False).drop(self._model(proposal))
            self._trades[proposal] = Trade(*self.measured(proposal), found)
            if self.progress:
                self.progress("evaluating", len(self._trades), len(self._trades) + 1)
        return self._trades[proposal].drop

    def held_out_drop(self, proposal: Proposal) -> float:
        """On the 20 % that nothing was chosen on."""
        return self._meter(held_out=True).drop(self._model(proposal))

    def front(self) -> tuple[Trade, ...]:
        """Every evaluated trade that no other beats in all three figures, the largest first."""
        trades = list(dict.fromkeys(self._trades.values()))
        kept = [t for t in trades if not any(o != t and _no_worse(o, t) for o in trades)]
        return tuple(sorted(kept, key=lambda t: (-t.arena_bytes, -t.traffic_bytes)))

    def _model(self, proposal: Proposal) -> Model:
        """The network at its own size, where its pictures belong."""
        plan = build(self.prepared.networks.own, codecs=proposal.codecs, schedule="layer")
        tail = self.prepared.source.own_network.tail
        return Model(plan, tail, self.prepared.preprocessing)

    def _meter(self, held_out: bool) -> DropMeter:
        if held_out not in self._meters:
            prepared = self.prepared
            assert prepared.pictures is not None
            assert prepared.preprocessing is not None
            whole = prepared.pictures
            chosen = whole.held_out() if held_out else whole.fitting().at_most(EVALUATION_PICTURES)
            model = self._model(Proposal({}, 0.0))
            (name,) = model.plan.source.inputs
            size = model.plan.source.maps[name].shape[:2]
            reference = FloatModel(prepared.source.model, prepared.preprocessing, size)
            self._meters[held_out] = DropMeter(model, reference, chosen, prepared.classes)
        return self._meters[held_out]


def _no_worse(a: Trade, b: Trade) -> bool:
    return all(x <= y for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True))


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
        chosen = self.proposals[at]
        self.judge.drop(chosen)
        return Controlled(self.judge.plan(chosen), drop, self.judge.front(), notes)

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
            if self.judge.drop(self.proposals[middle]) <= most:
                low = middle
            else:
                high = middle - 1
        return low

    def _verified(self, first: int, at: int) -> tuple[float, int, tuple[str, ...]]:
        """The held-out drop; where it is too large, of a gentler proposal, and a word about it."""
        most = self.goals.max_drop
        wanted = at
        drop = self.judge.held_out_drop(self.proposals[at])
        while most is not None and drop > most:
            if at == first:
                raise PlanImpossible(self._drops(first, drop, most, " held-out"))
            gentler = GENTLER * self.proposals[at].error
            errors = [each.error for each in self.proposals[:at]]
            at = max(first, int(np.searchsorted(errors, gentler, "right")) - 1)
            drop = self.judge.held_out_drop(self.proposals[at])
        if at == wanted:
            return drop, at, ()
        return drop, at, ("held-out pictures asked for a gentler allocation than the others did",)

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
