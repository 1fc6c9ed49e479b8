# SPDX-License-Identifier: Apache-2.0
"""The one orchestration: an ONNX network and pictures in, a `Model` that runs in little memory out.

    read           graph/onnx_reader: ONNX -> FloatNetwork
    calibrate      on 80 % of the pictures: ranges, integer weights -> Network of uint8 maps
    plan           a codec per requested edge, then schedule and arena
    check          drop against the float network on the other 20 %

Nothing here is chosen on evaluation pictures, and the same arguments give the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from thinmaps import codecs
from thinmaps.codecs.base import Codec
from thinmaps.errors import BadArgument, ThinmapsError
from thinmaps.file import Model, Provenance
from thinmaps.graph.network import Network
from thinmaps.judge import Goals
from thinmaps.measure.evaluate import drop_of
from thinmaps.measure.float_model import sha256_of
from thinmaps.measure.machine import rates_of
from thinmaps.measure.prediction import check_names
from thinmaps.nearest import nearest
from thinmaps.plan.build import build
from thinmaps.plan.cost import DEFAULT_MACHINE, DEFAULT_RATES, MachineRates
from thinmaps.plan.held import held_maps
from thinmaps.plan.plan import Plan
from thinmaps.prepared import Pictures, Prepared, Progress
from thinmaps.rate_control import Controlled, Scope, control
from thinmaps.types import MapSpec, Preprocessing

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}")

Schedule = Literal["layer", "stream", "mixed"]
Arena = int | Literal["smallest"] | None

# A lossy codec's tables are fitted on this many calibration pictures, and on about so many bytes
# of each map. On held-out pictures `narrow` agreed as well or a point better with 64 than with 16.
CODEC_PICTURES = 64
CODEC_SAMPLE_BYTES = 1 << 24


Winograd = float | Literal["exact"] | None


@dataclass(frozen=True)
class Settings:
    """How a network is planned; what `compress` takes beside the network and the pictures."""

    size: tuple[int, int] | None = None
    schedule: Schedule = "mixed"
    stripe_rows: int = 1
    arena_bytes: Arena = None
    traffic_bytes: int | None = None
    max_drop: float | None = None
    codec: str | Mapping[str, str] | None = None
    winograd: Winograd = None
    rates: MachineRates = DEFAULT_RATES

    @property
    def budget_bytes(self) -> int | None:
        """The arena that is not to be passed."""
        return None if self.arena_bytes == "smallest" else self.arena_bytes

    def check(self) -> None:
        """Refuse what cannot be met at all or together, and unknown codecs, before any work."""
        _check_codecs(self.codec)
        if self.budget_bytes is not None:
            Goals(arena_bytes=self.budget_bytes)
        self._check_winograd()
        if self.goals is not None and self.codec is not None and not self.only:
            raise BadArgument(
                "goals (--max-drop, --traffic) choose settings for every map: with them, --codec "
                f"names one codec without options, got {self.codec!r}"
            )

    def _check_winograd(self) -> None:
        if isinstance(self.winograd, str):
            if self.winograd != "exact":
                raise BadArgument(
                    "Winograd's algorithm (--winograd) is asked for as 'exact', or as a relative "
                    f"error such as 0.05, got {self.winograd!r}"
                )
        elif self.winograd is not None and not 0 < self.winograd <= 1:
            raise BadArgument(
                "the relative error that scaled tiles may have (--winograd) lies above 0 and at "
                f"most at 1, got {self.winograd}"
            )

    @property
    def tile_error(self) -> float | None:
        """The relative error that scaled tiles may have; None where none are asked for."""
        return None if isinstance(self.winograd, str) else self.winograd

    @property
    def only(self) -> tuple[str, ...]:
        """The codec that rate control is bound to: one id, without options."""
        bare = isinstance(self.codec, str) and ":" not in self.codec
        return (str(self.codec),) if bare else ()

    @property
    def goals(self) -> Goals | None:
        """What rate control is asked for; None where nothing is."""
        given = (self.max_drop, self.budget_bytes, self.traffic_bytes)
        found_by_trying = self.max_drop is not None or self.traffic_bytes is not None
        if not found_by_trying and (self.codec is not None or self.budget_bytes is None):
            return None
        return Goals(*given)

    def fits(self, plan: Plan) -> bool:
        """Whether the arena is within the budget."""
        return self.budget_bytes is None or plan.arena_bytes <= self.budget_bytes


def compress(
    model: str | Path | onnx.ModelProto,
    calibrate: Pictures | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    labels: str | Path | None = None,
    anchors: str | Path | None = None,
    names: Iterable[str] = (),
    progress: Progress | None = None,
    size: tuple[int, int] | None = None,
    schedule: Schedule = "mixed",
    stripe_rows: int = 1,
    arena_bytes: Arena = None,
    machine: str = DEFAULT_MACHINE,
    traffic_bytes: int | None = None,
    max_drop: float | None = None,
    codec: str | Mapping[str, str] | None = None,
    winograd: Winograd = None,
) -> Model:
    """Make a uint8 network of a float or QDQ one and plan it for one static arena.

    Args:
        model: an ONNX file or a loaded model.
        calibrate: a folder, an .npy or .npz file, or an iterable of pictures (uint8 h w c); a QDQ
            model needs none, but with them its drop is measured.
        preprocessing: of pictures; ImageNet's by default, one mean and std serve all channels. It
            becomes part of the file. A network of other inputs takes arrays in real units.
        labels: what is right of the calibration pictures: a CSV file `filename,class_index`, a
            folder of VOC annotations (a detector's) or of masks (a segmenter's). `drop` is then
            in points of top-1, mAP@0.5 or mean IoU, else in those of `measure/drop.py`.
        anchors: of a YOLO detector, the Darknet configuration: how grids become boxes.
        names: the classes' names, for `run` and in annotations (VOC's where there are none).
        progress: called with (what, done, of).
        size: (height, width), fixed or overridden; ranges are calibrated at the file's own size.
        schedule: "layer" (one node at a time), "stream" (rows through all nodes), or "mixed".
        stripe_rows: the least rows of a step of any node that has so many.
        arena_bytes: a budget for the fastest plan that fits, "smallest", or None: `plan/trade.py`.
        machine: whose speed is assumed, by name or file of rates: `measure/machine.py`.
        traffic_bytes: a budget for the stored bytes that one inference writes and reads.
        max_drop: points that may be lost, of what `drop` is in. Of answers that have no such
            points it is refused. With it, with `traffic_bytes`, or where
            `arena_bytes` is not reached without, every map gets the codec that it deserves
            (`rate_control.py`); at most two of the three goals. `codec` may then name one to
            choose settings of.
        codec: an id with options (`"zero_bitmap"`, `"narrow:4"`) for all maps that the plan holds,
            or a mapping from map names to such ids. Without, codecs that the file brings stay.
        winograd: "exact", the same bytes in more memory where that is faster (`plan/scratch.py`);
            or the relative error, such as 0.05, of scaled tiles (`calibrate/winograd_choice.py`).

    Raises:
        BadModel: the network cannot be read or does not make sense.
        BadData: no calibration picture can be used.
        BadArgument: an option is outside what it may be.
        PlanImpossible: nothing fits in `arena_bytes`.
    """
    names = tuple(names)
    settings = Settings(size, schedule, stripe_rows, arena_bytes, traffic_bytes, max_drop, codec)
    settings = replace(settings, winograd=winograd, rates=rates_of(machine))
    settings.check()
    prepared = Prepared.open(
        model, calibrate, preprocessing=preprocessing, labels=labels, anchors=anchors,
        names=names, size=size, progress=progress,
    )  # fmt: skip
    prepared = prepared.with_tiles(settings.tile_error)
    source, pictures = prepared.source, prepared.pictures
    controlled = _controlled(prepared, settings, progress)
    plan = controlled.plan if controlled else _planned(prepared, settings)
    compressed = Model(
        plan=plan,
        tail=source.network.tail,
        preprocessing=prepared.preprocessing,
        labels=names,
        provenance=_provenance(model, settings, len(pictures) if pictures else 0),
        notes=(*source.network.notes, *prepared.networks.notes, *_notes(prepared, settings, plan)),
    )
    check_names(compressed)
    if controlled:
        notes = (*compressed.notes, *controlled.notes)
        return replace(compressed, drop=controlled.drop, front=controlled.front, notes=notes)
    return _with_drop(compressed, prepared, settings, progress)


def _with_drop(
    compressed: Model, prepared: Prepared, settings: Settings, progress: Progress | None
) -> Model:
    """The model with what it costs on held-out pictures, where there are any."""
    pictures = prepared.pictures
    if pictures is None or prepared.preprocessing is None:
        return replace(compressed, notes=(*compressed.notes, *_unmeasured(prepared)))
    checked = compressed if settings.size is None else _at_own_size(compressed, prepared)
    drop, missed = drop_of(checked, prepared.source.model, pictures, prepared.known, progress)
    return replace(compressed, drop=drop, notes=(*compressed.notes, *missed))


def _unmeasured(prepared: Prepared) -> tuple[str, ...]:
    """A sentence where there is something to measure a drop on, and nothing that measures it."""
    if prepared.pictures is None:
        return ()
    return (
        "the drop was not measured: the network takes arrays in real units, and answers are "
        "compared on pictures only",
    )


def _notes(prepared: Prepared, settings: Settings, plan: Plan) -> tuple[str, ...]:
    """Sentences on codecs that the file brings, or that were asked for and have nothing to hold."""
    own = prepared.codecs
    if own and plan.codecs.keys() != own.keys():
        return (f"the codecs that the file brings on {len(own)} maps gave way to those asked for",)
    if own:
        return (f"{len(own)} maps are held in the codecs that the file brings",)
    if not settings.codec or plan.codecs:
        return ()
    return (f"this plan holds no map whole, so codec {settings.codec} has nothing to do",)


def _at_own_size(compressed: Model, prepared: Prepared) -> Model:
    """The same network and codecs at the file's own size, where its pictures belong."""
    plan = build(prepared.networks.own, codecs=compressed.plan.codecs, schedule="layer")
    return replace(compressed, plan=plan, tail=prepared.source.own_network.tail)


def _controlled(
    prepared: Prepared, settings: Settings, progress: Progress | None
) -> Controlled | None:
    """What rate control finds for the goals; None where no codec is asked for or needed."""
    goals = settings.goals
    if goals is None:
        return None
    smallest = replace(settings, arena_bytes="smallest")
    own = prepared.codecs
    bare_will_do = prepared.pictures is None or settings.fits(_built(prepared, smallest, own))
    if goals.asks_only_for_arena and bare_will_do:
        return None
    found = control(
        prepared,
        goals,
        lambda chosen: _built(prepared, smallest, chosen),
        Scope(settings.only),
        progress,
    )
    return replace(found, plan=_built(prepared, settings, found.plan.codecs))


def _built(prepared: Prepared, settings: Settings, chosen: Mapping[str, Codec]) -> Plan:
    return build(
        prepared.networks.planned,
        codecs=chosen,
        schedule=settings.schedule,
        stripe_rows=settings.stripe_rows,
        arena_bytes=settings.arena_bytes,
        rates=settings.rates,
        winograd=None if settings.winograd == "exact" else False,
    )


def _planned(prepared: Prepared, settings: Settings) -> Plan:
    """The plan, with the requested codecs fitted on calibration pictures, or the file's own."""
    if not settings.codec:
        return _built(prepared, settings, prepared.codecs)
    bare = None
    if isinstance(settings.codec, str):
        bare = _built(prepared, replace(settings, arena_bytes="smallest"), {})
    requested = _requested(prepared.networks.planned, settings.codec, bare)
    samples = _samples(prepared, requested)
    codecs_of = _fitted(requested, prepared.networks.own, samples)
    # A budget is for what is asked: a plan that holds nothing whole has nothing to encode.
    budget = settings.arena_bytes if codecs_of else "smallest"
    return _built(prepared, replace(settings, arena_bytes=budget), codecs_of)


def _fitted(
    requested: Mapping[str, str], network: Network, samples: Mapping[str, NDArray[np.uint8]]
) -> dict[str, Codec]:
    """The codecs of the maps; refused with the reasons of all maps that refuse theirs."""
    found: dict[str, Codec] = {}
    refusals: list[ThinmapsError] = []
    for name, request in requested.items():
        try:
            found[name] = fit_codec(request, network, name, samples.get(name))
        except ThinmapsError as error:
            refusals.append(error)
    if refusals:
        raise type(refusals[0])("; ".join(map(str, refusals)))
    return found


def _requested(
    network: Network, codec: str | Mapping[str, str], bare: Plan | None
) -> dict[str, str]:
    """Map name -> codec request, for the maps that can be held encoded."""
    if isinstance(codec, str):
        assert bare is not None
        return dict.fromkeys(held_maps(bare), codec)
    eligible = [node.output for node in network.nodes if node.output not in network.outputs]
    unknown = [name for name in codec if name not in eligible]
    if unknown:
        raise BadArgument("; ".join(_no_such_map(name, eligible) for name in unknown))
    return dict(codec)


def _no_such_map(name: str, eligible: Sequence[str]) -> str:
    near = ", ".join(nearest(name, eligible))
    return f"no map {name!r} between nodes can be held encoded; near it: {near}"


def _check_codecs(codec: str | Mapping[str, str] | None) -> None:
    """Refuse unknown codecs and options, all at once, before any work and wherever they go."""
    requests = [codec] if isinstance(codec, str) else list((codec or {}).values())
    refusals = [error for request in dict.fromkeys(requests) if (error := _refusal(request))]
    if refusals:
        raise type(refusals[0])("; ".join(map(str, refusals)))


def _refusal(request: str) -> ThinmapsError | None:
    """Why a request is none, before any map is known."""
    try:
        _unfitted(request)
    except ThinmapsError as error:
        return error
    return None


def _unfitted(request: str) -> Codec:
    """The codec of a request for a map of one byte, to ask it what does not depend on the map."""
    found, options = parse_codec(request)
    return found.fit(MapSpec(1, 1, 1), np.zeros((1, 1, 1, 1), np.uint8), **options)


def parse_codec(request: str) -> tuple[type[Codec], dict[str, int]]:
    """`"narrow:4"` -> the codec and its options; the bare number is the codec's first option.

    >>> parse_codec("narrow:bits=3,unit_rows=2")[1]
    {'bits': 3, 'unit_rows': 2}

    Raises:
        UnknownCodec: no such codec.
        BadArgument: the options are no whole numbers.
    """
    codec_id, _, text = request.partition(":")
    found = codecs.get(codec_id)
    options: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.rpartition("=")
        if not _WHOLE_NUMBER.fullmatch(value):
            raise BadArgument(
                f"codec {request[:40]!r}: an option is a whole number of at most 9 digits, "
                f"got {value[:40]!r}"
            )
        options[key or "bits"] = int(value)
    return found, options


def fit_codec(
    request: str, network: Network, name: str, samples: NDArray[np.uint8] | None
) -> Codec:
    """The requested codec for one map, fitted on samples of it where it is lossy."""
    found, options = parse_codec(request)
    spec = network.maps[name]
    empty = np.zeros((0, *spec.shape), np.uint8)
    try:
        return found.fit(spec, empty if samples is None else samples, **options)
    except ThinmapsError as error:
        raise type(error)(f"map {name!r}: {error}") from None


def _samples(prepared: Prepared, requested: Mapping[str, str]) -> dict[str, NDArray[np.uint8]]:
    """Values of the maps that lossy codecs are asked for, (pictures, h, w, c)."""
    wanted = [name for name, request in requested.items() if not _unfitted(request).lossless]
    if not wanted:
        return {}
    if prepared.pictures is None:
        raise BadArgument("a lossy codec is fitted on pictures: give some (--calibrate)")
    chosen = prepared.pictures.fitting().at_most(CODEC_PICTURES)
    # Whole rows, evenly spread, so that a large map's samples stay small.
    maps = prepared.networks.own.maps
    every = {name: -(-maps[name].raw_bytes * len(chosen) // CODEC_SAMPLE_BYTES) for name in wanted}
    found: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in wanted}
    for values in prepared.observed(wanted, chosen):
        for name in wanted:
            found[name].append(values[name][:: every[name]].copy())
    return {name: np.stack(values) for name, values in found.items()}


def _provenance(
    model: str | Path | onnx.ModelProto, settings: Settings, pictures: int
) -> Provenance:
    """Where the file comes from: the path as given, never an absolute one of our making."""
    from_file = isinstance(model, str | os.PathLike)
    options: dict[str, Any] = {
        "schedule": settings.schedule,
        "stripe_rows": settings.stripe_rows,
        "calibration_pictures": pictures,
    }
    if settings.winograd is not None:
        options["winograd"] = settings.winograd
    return Provenance(
        float_model=os.fspath(model) if from_file else "",
        float_sha256=sha256_of(model) if from_file else "",
        thinmaps=_version(),
        options=options,
    )


def _version() -> str:
    from importlib.metadata import version

    return version("thinmaps")
