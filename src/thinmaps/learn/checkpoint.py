# SPDX-License-Identifier: Apache-2.0
"""The whole state of a training run in one file, from which it goes on bit for bit.

The file is torch's zip of tensors and plain values, read with `weights_only`, so a foreign file
runs no code. It is replaced atomically: what lies there is always a whole state, the last good one.

    format      "thinmaps training 2"
    step        steps done
    run         `TrainingOptions.run_settings()` and the steps of the run
    student     parameters and buffers, by name
    average     the moving average, or None
    optimizer   its state; learning rates are a function of the step and need none
    companions  the state of each of the run's companions
    precision   the loss scale of "16-mixed", else empty
    processes   per process: its random generators and its position in the loader
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thinmaps.errors import BadArgument, BadFile, BadModel
from thinmaps.file.atomic import write_atomically

FORMAT = "thinmaps training 2"
NAMES = (
    "step",
    "run",
    "student",
    "average",
    "optimizer",
    "companions",
    "precision",
    "processes",
)


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Put a state (all of `NAMES`) at `path`, whole or not at all.

    Raises:
        BadArgument: `path` cannot be written.
    """
    assert set(state) == set(NAMES)
    stream = io.BytesIO()
    torch.save({"format": FORMAT, **state}, stream)
    write_atomically(path, stream.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state at `path`, its tensors on the CPU.

    Raises:
        BadFile: it cannot be read, is damaged, or is no checkpoint of a training run.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as reason:
        raise BadFile(f"cannot read {path}: {reason.strerror or reason}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise BadFile(
            f"{path} is damaged or no checkpoint of thinmaps.learn; start without resume, or from "
            "another checkpoint"
        ) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not found.keys() >= {*NAMES}:
        raise BadFile(f"{path} is no checkpoint of thinmaps.learn ({FORMAT!r} is what it says)")
    return found


def require_same_model(path: Path, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint whose parameters and buffers are not those of the student.

    Raises:
        BadModel: names are missing, left over, or have other shapes or types.
    """
    differences = [
        *_named("it lacks", sorted(own.keys() - saved.keys())),
        *_named("the student has no", sorted(saved.keys() - own.keys())),
        *_named("of another shape or type:", _reshaped(saved, own)),
    ]
    if differences:
        raise BadModel(f"{path} is a checkpoint of another model: {'; '.join(differences)}")


def require_same_run(path: Path, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than the run began with.

    Raises:
        BadArgument: steps, rates, seed, precision or the number of processes differ.
    """
    changed = [
        f"{name} {saved.get(name)!r} there and {value!r} here"
        for name, value in own.items()
        if saved.get(name) != value
    ]
    if changed:
        raise BadArgument(
            f"{path} cannot be gone on with: {', '.join(changed)}; give the run the settings that "
            "it began with, or start without resume"
        )


def _named(what: str, names: list[str]) -> list[str]:
    """At most three names, and how many more."""
    if not names:
        return []
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{what} {', '.join(names[:3])}{rest}"]


def _reshaped(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} ({_form(saved[name])} there, {_form(own[name])} here)"
        for name in sorted(saved.keys() & own.keys())
        if _form(saved[name]) != _form(own[name])
    ]


def _form(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{kind} {'x'.join(str(length) for length in tensor.shape) or 'scalar'}"
