# SPDX-License-Identifier: Apache-2.0
"""One TOML file that says everything about a run of learning: `read_config`.

    [network]        file: a float .onnx; or module, "package.module:function" that builds the
                     network, with weights, its .safetensors, and channels of its input
    [pictures]       learn: what to learn from, a folder, an .npy or .npz file; calibrate: what to
                     find ranges on, if not the same; labels: a CSV file; size; workers
    [preprocessing]  fields of `Preprocessing`
    [codecs]         all: a request for every map that layers hold; or maps: one for each named map;
                     plan: a .thin file, whose scales, weights and codecs are taken;
                     prune_dead_bits: what codes store and never changes is taken out in the end
    [weights]        method: how weights are pruned, balanced or coded; `weights/settings.py`
    [training]       method, "distill" or "fit"; steps; batch; fields of `TrainingOptions`
    [losses]         fields of `DistillationLosses`
    [augmentation]   window, crop, flip: `RandomWindow`, `RandomCrop`, `RandomFlip`
    [output]         onnx, thin: files to write

A table is a frozen dataclass and its keys are the fields; what other places own (the three "fields
of" above) are those places' own classes, so that a key is declared once. Paths are relative to the
file's folder. Whatever is wrong is told at once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from thinmaps.compression import parse_codec
from thinmaps.errors import BadArgument
from thinmaps.learn.augmentation import Augmentation, InTurn, RandomCrop, RandomFlip, RandomWindow
from thinmaps.learn.distillation import DistillationLosses
from thinmaps.learn.options import TrainingOptions
from thinmaps.learn.toml_tables import SourcePath, TargetPath, read_table, unknown
from thinmaps.learn.weights import settings
from thinmaps.types import Preprocessing


@dataclass(frozen=True)
class NetworkTable:
    """Where the network comes from."""

    file: SourcePath | None = None
    module: str | None = None
    weights: SourcePath | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        if (self.file is None) == (self.module is None):
            raise BadArgument("needs either file, an .onnx, or module, 'package.module:function'")
        if (self.module is None) != (self.weights is None):
            raise BadArgument("module and weights, a .safetensors file, need each other")


@dataclass(frozen=True)
class PicturesTable:
    """What is learnt from; a fifth of it is held out. `size` is (height, width)."""

    learn: SourcePath
    calibrate: SourcePath | None = None
    labels: SourcePath | None = None
    size: tuple[int, int] | None = None
    workers: int = 0


@dataclass(frozen=True)
class CodecsTable:
    """Codecs by map, one for all held maps, or those of a plan."""

    all: str | None = None
    maps: Mapping[str, str] = field(default_factory=dict)
    plan: SourcePath | None = None
    prune_dead_bits: bool = False

    def __post_init__(self) -> None:
        if self.all and self.maps:
            raise BadArgument("all and maps exclude each other")
        for request in (*([self.all] if self.all else []), *self.maps.values()):
            parse_codec(request)

    @property
    def asked(self) -> str | Mapping[str, str] | None:
        """As `prepare` takes them; None where nothing is asked for."""
        return self.all or self.maps or None


@dataclass(frozen=True)
class MethodTable:
    """The keys of [training] that are no fields of `TrainingOptions`."""

    method: Literal["distill", "fit"] = "distill"
    steps: int = 300
    batch: int = 32


@dataclass(frozen=True)
class AugmentationTable:
    """Random changes of pictures, in this order: a window's side, a crop's margin, a flip."""

    window: int | None = None
    crop: int | None = None
    flip: bool = False
    augmentation: Augmentation | None = field(init=False)

    def __post_init__(self) -> None:
        chosen: list[Augmentation] = []
        if self.window is not None:
            chosen.append(RandomWindow(self.window))
        if self.crop is not None:
            chosen.append(RandomCrop(self.crop))
        if self.flip:
            chosen.append(RandomFlip())
        object.__setattr__(self, "augmentation", InTurn(*chosen) if chosen else None)


@dataclass(frozen=True)
class OutputTable:
    """Files to write."""

    onnx: TargetPath
    thin: TargetPath | None = None


@dataclass(frozen=True)
class LearnConfig:
    """A whole file. A field is the table of its name, so another table is another field.

    What keys [weights] has depends on its method, so it has a reader of its own.
    """

    network: NetworkTable
    pictures: PicturesTable
    preprocessing: Preprocessing
    codecs: CodecsTable
    training: TrainingOptions
    method: MethodTable = field(metadata={"table": "training"})
    losses: DistillationLosses
    augmentation: AugmentationTable
    output: OutputTable
    folder: Path
    weights: settings.Weights | None


def read_config(path: str | Path) -> LearnConfig:
    """The file at `path`.

    Raises:
        BadArgument: it cannot be read, is no TOML, or says what cannot be; all reasons at once.
    """
    path = Path(path)
    found = _parsed(path)
    tables = _tables()
    reasons = [
        unknown("there is no table", name, [*tables, settings.TITLE])
        for name in found
        if name not in tables and name != settings.TITLE
    ]
    made: dict[str, Any] = {"folder": path.parent, "weights": None}
    for title, kinds in tables.items():
        objects = read_table(title, [*kinds.values()], found.get(title, {}), path.parent, reasons)
        made |= dict(zip(kinds, objects, strict=True))
    if settings.TITLE in found:
        made["weights"] = settings.read_weights(found[settings.TITLE], path.parent, reasons)
        reasons += _misplaced(made["weights"], made["network"], made["codecs"])
    if reasons:
        raise BadArgument(f"{path}: {'; '.join(reasons)}")
    return LearnConfig(**made)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as reason:
        raise BadArgument(f"cannot read {path}: {reason.strerror or reason}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as reason:
        raise BadArgument(f"{path} is no TOML file: {reason}") from None


def _misplaced(
    weights: settings.Weights | None, network: NetworkTable | None, codecs: CodecsTable | None
) -> list[str]:
    """Why a method that works on modules cannot work on what is given."""
    if weights is None or not weights.method.takes_modules:
        return []
    name, reasons = weights.shared.method, []
    if network is not None and network.module is None:
        reasons.append(f"[weights] {name} works on a module, not on a file: give [network] module")
    if codecs is not None and codecs.plan is not None:
        reasons.append(f"[weights] {name} changes weights before [codecs] plan brings its own")
    return reasons


def _tables() -> dict[str, dict[str, type]]:
    """Title -> the fields of `LearnConfig` that the table fills, with their classes."""
    hints = get_type_hints(LearnConfig)
    tables: dict[str, dict[str, type]] = {}
    for each in fields(LearnConfig):
        if each.name not in ("folder", settings.TITLE):
            title = each.metadata.get("table", each.name)
            tables.setdefault(title, {})[each.name] = hints[each.name]
    return tables
