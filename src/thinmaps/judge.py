# SPDX-License-Identifier: Apache-2.0
"""What rate control asks for, proposes and is told: `Goals`, `Proposal` and their `Judge`.

A proposal is judged by what it really does: bytes of the plan that is built of it, and answers on
calibration pictures. `drop` counts them on the pictures that settings are chosen on (80 %),
`held_out` on the others, and `foreseen` joins both (`measure/drop.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from thinmaps.allocate.choices import Choice
from thinmaps.codecs.base import Codec
from thinmaps.errors import BadArgument
from thinmaps.file import Model, Trade
from thinmaps.measure.drop import Drop, DropMeter, answer_kind, foreseen
from thinmaps.measure.float_model import FloatModel
from thinmaps.measure.report import Counted, report
from thinmaps.plan.build import build
from thinmaps.plan.plan import Plan
from thinmaps.prepared import Prepared, Progress

EVALUATION_PICTURES = 800

Build = Callable[[Mapping[str, Codec]], Plan]


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


@dataclass(frozen=True, eq=False)
class Proposal:
    """An allocation that could be the answer."""

    chosen: Mapping[str, Choice]
    error: float

    @property
    def codecs(self) -> dict[str, Codec]:
        """The codec of every map that has one."""
        return {name: c.codec for name, c in self.chosen.items() if c.codec is not None}


UINT8 = Proposal({}, 0.0)  # the network as it is, without codecs


class Judge:
    """What proposals really cost: answers on pictures, bytes of the built plan."""

    def __init__(self, prepared: Prepared, build_plan: Build, progress: Progress | None) -> None:
        self.prepared, self.build_plan, self.progress = prepared, build_plan, progress
        self._meters: dict[bool, DropMeter] = {}
        self._plans: dict[Proposal, Plan] = {}
        self._trades: dict[Proposal, Trade] = {}
        self._seen: dict[Proposal, Drop] = {}

    def check(self, goals: Goals) -> None:
        """Refuse a goal of drop for answers that have no points, and labels that do not fit them.

        Raises:
            BadArgument, BadData, BadModel: see `measure/answer_kinds.py`.
        """
        kind = answer_kind(self._model(UINT8), self.prepared.known)
        if goals.max_drop is not None and kind.refusal is not None:
            raise BadArgument(kind.refusal)

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

    def drop(self, proposal: Proposal, allowed: float | None = None) -> float:
        """Points, on the pictures of the 80 %; on some of them if far more than `allowed`."""
        if proposal not in self._seen:
            found = self._meter(held_out=False).drop(self._model(proposal), allowed)
            self._seen[proposal] = found
            self._trades[proposal] = Trade(*self.measured(proposal), found.points)
            if self.progress:
                self.progress("evaluating", len(self._trades), len(self._trades) + 1)
        return self._seen[proposal].points

    def held_out(self, proposal: Proposal) -> tuple[float, Drop]:
        """Points that pictures like those of the 20 % will lose, and what was counted on them."""
        found = self._meter(held_out=True).drop(self._model(proposal))
        self.drop(proposal)
        return foreseen(self._seen[proposal], found), found

    @property
    def points_are(self) -> str:
        """The sentence that says what a drop counts."""
        return self._meter(held_out=True).points_are

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
            model = self._model(UINT8)
            (name,) = model.plan.source.inputs
            size = model.plan.source.maps[name].shape[:2]
            reference = FloatModel(prepared.source.model, prepared.preprocessing, size)
            self._meters[held_out] = DropMeter(
                model, reference, chosen, prepared.known, beside_uint8=True
            )
        return self._meters[held_out]


def _no_worse(a: Trade, b: Trade) -> bool:
    return all(x <= y for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True))
