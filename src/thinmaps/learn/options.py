# SPDX-License-Identifier: Apache-2.0
"""How a network is trained: rates, shares of the run, precision, files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from thinmaps.errors import BadArgument
from thinmaps.learn.companion import Companion

Progress = Callable[[str, int, int], None]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class TrainingOptions:
    """What `distill` and `fit` share. Shares are of all steps of the run, 0 to 1.

    The defaults are those of 300 steps with Adam from a network that is already trained.

    Attributes:
        network_rate: learning rate of the network's own weights, at its highest.
        codec_rate: the same for parameters that belong to codecs.
        map_rate: the same for parameters of weight and activation maps, such as thresholds, which
            an optimizer's weight decay leaves alone.
        warm_up: share in which the rates climb; then they follow half a cosine to 0.
        exact_from: from this share on the student computes the exact integers of inference
            forwards (`student.exact(True)`, where it has that); 1 is never.
        average_decay: of the exponential moving average of the weights that the student has in the
            end; 0 keeps the last weights. The first steps count less: `(1 + n) / (10 + n)` at most.
        clip_norm: gradients whose norm is larger are scaled down to it; infinite never.
        rate_weight: of `symbol_bits`, for codecs whose surrogates hand out `symbols()`.
        optimizer: makes one from torch's parameter groups.
        augment: called with each batch of pictures, float n c h w, on its device.
        precision: "bf16-mixed" and "16-mixed" compute in 16 bits what bears it, until `exact_from`.
        accelerator: "auto", "cpu", "cuda" or "mps".
        seed: of all generators; a process adds its rank.
        checkpoint: the file that holds the whole state of the run; replaced atomically.
        checkpoint_every: steps between two states; the last step is always written.
        resume: go on from `checkpoint`, where that file exists.
        log: a folder for `training.jsonl`, and TensorBoard's events where that is installed.
        log_every: steps between two rows.
        companions: what takes part in every step, such as schedules and constraints.
        progress: called with ("training", done, of); without it a bar on a terminal.
    """

    network_rate: float = 2e-4
    codec_rate: float = 5e-4
    map_rate: float = 2e-3
    warm_up: float = 0.05
    exact_from: float = 0.8
    average_decay: float = 0.99
    clip_norm: float = 1.0
    rate_weight: float = 0.0
    optimizer: Callable[[list[dict[str, Any]]], Optimizer] = torch.optim.Adam
    augment: Callable[[Tensor], Tensor] | None = None
    precision: Precision = "32-true"
    accelerator: str = "auto"
    seed: int = 0
    checkpoint: str | Path | None = None
    checkpoint_every: int = 100
    resume: bool = False
    log: str | Path | None = None
    log_every: int = 10
    companions: Sequence[Companion] = ()
    progress: Progress | None = None

    def __post_init__(self) -> None:
        reasons = [
            *_outside("a share from 0 to 1", self, ("warm_up", "exact_from"), _is_share),
            *_outside("0 or more, below 1", self, ("average_decay",), lambda v: 0 <= v < 1),
            *_outside("finite and not negative", self, _RATES, lambda v: 0 <= v < math.inf),
            *_outside("above 0", self, ("clip_norm",), lambda v: v > 0),
            *_outside("0 or more", self, ("seed",), lambda v: v >= 0),
            *_outside("1 or more", self, ("checkpoint_every", "log_every"), lambda v: v >= 1),
            *_outside(f"one of {get_args(Precision)}", self, ("precision",), _is_precision),
        ]
        if self.resume and self.checkpoint is None:
            reasons.append("resume needs a checkpoint to go on from")
        if reasons:
            raise BadArgument(f"training options: {'; '.join(reasons)}")

    def run_settings(self) -> dict[str, float | int | str]:
        """What decides the weights that come out, so a run can only go on with the same."""
        names = (*_RATES, "warm_up", "exact_from", "average_decay", "clip_norm", "precision")
        return {name: getattr(self, name) for name in (*names, "seed")}


_RATES = ("network_rate", "codec_rate", "map_rate", "rate_weight")


def _is_share(value: float) -> bool:
    return 0 <= value <= 1


def _is_precision(value: str) -> bool:
    return value in get_args(Precision)


def _outside(
    rule: str, options: TrainingOptions, names: tuple[str, ...], holds: Callable[[Any], bool]
) -> list[str]:
    """A reason for each of the named options that breaks the rule; NaN breaks every rule."""
    return [
        f"{name} is {rule}, got {getattr(options, name)!r}"
        for name in names
        if not holds(getattr(options, name))
    ]
