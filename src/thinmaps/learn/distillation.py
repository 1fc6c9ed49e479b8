# SPDX-License-Identifier: Apache-2.0
"""`distill`: a student learns to answer as its teacher does, from pictures without labels.

Source
    Hinton et al., 2015, arXiv:1503.02531 (outputs at a temperature); Romero et al., 2015,
    arXiv:1412.6550 (maps inside). Ours: the layer-wise phase, in which a named submodule of the
    student passes on the teacher's map instead of its own, so that each part between two named maps
    learns by itself, all in one pass. The part behind the last one learns from the outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thinmaps.errors import BadArgument, BadShape
from thinmaps.learn.batches import Batch
from thinmaps.learn.losses import divergence, logit_error, map_error, map_power
from thinmaps.learn.named_maps import NamedMaps
from thinmaps.learn.options import TrainingOptions
from thinmaps.learn.training import Forward, TrainingResult, TrainingRun


@dataclass(frozen=True)
class DistillationLosses:
    """What counts how much. A weight of 0 leaves its part out.

    Attributes:
        temperature: of the softened outputs; classes lie along axis 1.
        divergence_weight: of the Kullback-Leibler divergence of softened outputs.
        logit_weight: of the outputs' mean squared difference.
        maps: submodules whose outputs shall agree: names, or student's name -> teacher's name.
        map_weight: of the mean over those maps of their relative squared difference.
        layerwise_until: the share of the steps in which each part learns by itself; needs maps.
    """

    temperature: float = 2.0
    divergence_weight: float = 1.0
    logit_weight: float = 1.0
    maps: Mapping[str, str] | Sequence[str] = field(default=())
    map_weight: float = 1.0
    layerwise_until: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.divergence_weight, self.logit_weight, self.map_weight)
        if not self.temperature > 0 or not all(weight >= 0 for weight in weights):
            raise BadArgument(
                "distillation takes a temperature above 0 and weights of 0 or more, got "
                f"{self.temperature} and {weights}"
            )
        if not 0 <= self.layerwise_until <= 1 or (self.layerwise_until and not self.maps):
            raise BadArgument(
                "layerwise_until is a share from 0 to 1 and needs maps to learn from, got "
                f"{self.layerwise_until} and {len(self.maps)} maps"
            )

    def map_names(self) -> dict[str, str]:
        """Student's name -> teacher's name."""
        if isinstance(self.maps, Mapping):
            return dict(self.maps)
        return {name: name for name in self.maps}


def distill(
    student: nn.Module,
    teacher: nn.Module,
    loader: Iterable[Any],
    *,
    steps: int = 300,
    losses: DistillationLosses | None = None,
    options: TrainingOptions | None = None,
) -> TrainingResult:
    """Train `student`, in place, towards the outputs of `teacher` on the pictures of `loader`.

    Both map a float batch n c h w to outputs of the same form: a tensor, a tuple or a dict of
    tensors. Labels that the loader hands out are not looked at. Both end on the run's device, each
    in the mode it came in, the student with its averaged weights.

    Cost per step: a forward and a backward pass of the student, a forward pass of the teacher.

    Raises:
        BadShape: student and teacher differ in outputs or in named maps.
        BadData, BadArgument, BadFile, BadModel, TrainingDiverged: as `TrainingRun`.
    """
    modes = [(module, module.training) for module in (student, teacher)]
    try:
        run = TrainingRun(student, loader, steps, options or TrainingOptions())
        teacher.to(run.fabric.device).eval()
        with Distillation(run, teacher, losses or DistillationLosses()) as objective:
            return run.finish(objective)
    finally:
        for module, training in modes:
            module.train(training)


class Distillation:
    """The objective of `distill`; holds hooks on both modules from `with` to its end."""

    def __init__(self, run: TrainingRun, teacher: nn.Module, losses: DistillationLosses) -> None:
        self._fabric, self._teacher, self._losses = run.fabric, teacher, losses
        self._names = losses.map_names()
        self._ours = NamedMaps(run.student, self._names.keys())
        self._theirs = NamedMaps(teacher, self._names.values())
        run.watch(lambda: self._ours.maps.values())
        self._stack = ExitStack()

    def __enter__(self) -> Distillation:
        self._stack.enter_context(self._ours)
        self._stack.enter_context(self._theirs)
        return self

    def __exit__(self, *reason: object) -> None:
        self._stack.close()

    def parts(self, forward: Forward, batch: Batch, share: float) -> dict[str, Tensor]:
        """Divergence, logits and maps, each with its weight."""
        self._ours.clear()
        self._theirs.clear()
        with torch.no_grad(), self._fabric.autocast():
            wanted = named_outputs(self._teacher(batch.pictures))
        if share < self._losses.layerwise_until:
            self._ours.replaced.update(self._teachers_maps())
        made = named_outputs(forward(batch.pictures))
        require_same_outputs(made, wanted)
        pairs = [(made[name], wanted[name]) for name in wanted]
        losses = self._losses
        weighted = {
            "divergence": (
                losses.divergence_weight,
                [divergence(ours, theirs, losses.temperature) for ours, theirs in pairs],
            ),
            "logits": (losses.logit_weight, [logit_error(*pair) for pair in pairs]),
            "maps": (losses.map_weight, self._map_errors()),
        }
        return {
            name: weight * torch.stack(found).mean()
            for name, (weight, found) in weighted.items()
            if weight and found
        }

    def _teachers_maps(self) -> dict[str, Tensor]:
        return {ours: self._theirs.maps[theirs] for ours, theirs in self._names.items()}

    def _map_errors(self) -> list[Tensor]:
        if not self._names:
            return []
        made = {name: self._ours.maps[name] for name in self._names}
        wanted = self._teachers_maps()
        require_same_outputs(made, wanted)
        # Of all processes: the maps of one may be brighter than another's.
        own = torch.stack([map_power(wanted[name]) for name in self._names])
        powers = self._fabric.all_reduce(own, reduce_op="mean")
        assert isinstance(powers, Tensor)
        return [
            map_error(made[name], wanted[name], power)
            for name, power in zip(self._names, powers, strict=True)
        ]


def named_outputs(output: Any) -> dict[str, Tensor]:
    """A module's output as tensors by name; those of a tuple are named by their position.

    Raises:
        BadShape: it is no tensor, tuple or dict of tensors.
    """
    if isinstance(output, Tensor):
        return {"0": output}
    if isinstance(output, Mapping):
        found = {str(name): value for name, value in output.items()}
    elif isinstance(output, tuple | list):
        found = {str(position): value for position, value in enumerate(output)}
    else:
        found = {}
    if not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise BadShape(
            "a network to learn from puts out a tensor, or a tuple or dict of tensors, got "
            f"{type(output).__name__}"
        )
    return found


def require_same_outputs(made: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other names or shapes.

    Raises:
        BadShape: with those of both sides.
    """
    ours = {name: tuple(value.shape) for name, value in made.items()}
    theirs = {name: tuple(value.shape) for name, value in wanted.items()}
    if ours != theirs:
        raise BadShape(
            f"student and teacher need the same outputs and maps: the student has {ours}, the "
            f"teacher {theirs}"
        )
