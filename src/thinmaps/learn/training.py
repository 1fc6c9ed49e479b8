# SPDX-License-Identifier: Apache-2.0
"""The one training loop: `distill` and `fit` hand it an objective, it does the rest.

A step takes a batch, asks the objective for the parts of the loss, clips, lets the optimizer step
and averages. Learning rates, the exact phase and everything else that changes during a run are
functions of the step, so that a run that stops and goes on gives the weights of one that did not,
bit for bit, on a CPU; on a GPU as far as its kernels are deterministic.

Source
    averaging    Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992,
                 as the exponential mean of torch.optim.swa_utils
    devices, mixed precision and processes under torchrun are Lightning Fabric's

Cost: that of student and objective, one more copy of the student for the average, one number
copied from the device per step, which is how a loss that is no number is seen at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from thinmaps.errors import BadArgument, BadModel, TrainingDiverged
from thinmaps.file.atomic import check_writable
from thinmaps.learn.batches import Batch, EndlessBatches
from thinmaps.learn.checkpoint import (
    read_checkpoint,
    require_same_model,
    require_same_run,
    write_checkpoint,
)
from thinmaps.learn.losses import symbol_bits
from thinmaps.learn.options import TrainingOptions
from thinmaps.learn.processes import gathered, open_fabric
from thinmaps.learn.random_states import random_states, seed_all, set_random_states
from thinmaps.learn.schedule import rate_factor
from thinmaps.learn.submodule_answers import dead_bits, symbols
from thinmaps.learn.surrogates import Surrogate
from thinmaps.learn.training_log import Meter, TrainingLog, TrainingRow
from thinmaps.learn.weights.maps import SoftThenHard
from thinmaps.progress import LateBar

Forward = Callable[[Tensor], Any]


class Objective(Protocol):
    """What a network is trained for."""

    def parts(self, forward: Forward, batch: Batch, share: float) -> dict[str, Tensor]:
        """The loss on a batch as weighted parts by name; `share` of the run's steps is done.

        `forward` is the student, in the run's precision.
        """


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves behind besides the student's weights.

    Attributes:
        steps: of the whole run.
        resumed_from: the step it went on from; 0 where it began anew.
        rows: what was logged, from there on.
    """

    steps: int
    resumed_from: int
    rows: tuple[TrainingRow, ...]


class TrainingRun:
    """One run: the student, what trains it, and where it stands.

    Raises:
        BadArgument: steps, options, or the checkpoint's place or settings do not fit.
        BadFile: the checkpoint to go on from is damaged.
        BadModel: it is of another model.
    """

    def __init__(
        self,
        student: nn.Module,
        loader: Iterable[Any],
        steps: int,
        options: TrainingOptions,
    ) -> None:
        if steps < 1:
            raise BadArgument(f"training takes 1 step or more, got {steps}")
        self.student, self.steps, self.options, self.step = student, steps, options, 0
        self._path = None if options.checkpoint is None else Path(options.checkpoint)
        if self._path is not None:
            check_writable(self._path)
        self.fabric = open_fabric(options)
        seed_all(options.seed + self.fabric.global_rank)
        student.to(self.fabric.device).train()
        self._optimizer = options.optimizer(_groups(student, options))
        self._average = _average_of(student, options.average_decay)
        self._forward = _Forward(student)
        if options.rate_weight:
            self.watch(lambda: symbols(student))
        self._module, self._stepper = self.fabric.setup(self._forward, self._optimizer)
        self._batches = EndlessBatches(
            loader, self.fabric.device, self.fabric.global_rank, self.fabric.world_size
        )
        if options.resume and self._path is not None and self._path.exists():
            self._restore(self._path)

    def watch(self, tensors: Callable[[], Iterable[Tensor]]) -> None:
        """Make known what else than the outputs of a forward pass the loss depends on.

        Several processes add up the gradients of a parameter when all of them are there; which
        ones come is told from the graph behind these tensors and the outputs.
        """
        self._forward.watched.append(tensors)

    def finish(self, objective: Objective) -> TrainingResult:
        """Do the steps that are left; the student ends with its averaged weights.

        Raises:
            BadData: the loader is empty, or hands out what nothing can be learnt from.
            TrainingDiverged: a loss or gradient is no finite number; the student keeps the weights
                from before that step, the checkpoint stays the last good one.
        """
        first, meter = self.step, Meter()
        with ExitStack() as stack:
            log = TrainingLog(self.options.log if self.fabric.is_global_zero else None, first)
            progress = self.options.progress
            if progress is None and self.fabric.is_global_zero:
                progress = stack.enter_context(LateBar())
            stack.callback(log.close)
            for step in range(first, self.steps):
                parts, norm, pictures = self._advance(objective)
                meter.count(pictures * self.fabric.world_size)
                self.step = step + 1
                if self.step % self.options.log_every == 0 or self.step == self.steps:
                    log.write(self._row(parts, norm, meter))
                if self.step % self.options.checkpoint_every == 0 or self.step == self.steps:
                    self._save()
                if progress is not None:
                    progress("training", self.step, self.steps)
        self._take_average()
        return TrainingResult(self.steps, first, tuple(log.rows))

    def _advance(self, objective: Objective) -> tuple[dict[str, float], float, int]:
        """One step: parts of the loss, norm of the gradients, pictures of this process."""
        self._set_phase()
        batch = self._next_batch()
        parts = objective.parts(self._answer, batch, self.step / self.steps)
        for companion in self.options.companions:
            parts |= _named_apart(companion.parts(), parts)
        if self.options.rate_weight:
            parts["rate"] = self.options.rate_weight * symbol_bits(symbols(self.student))
        named = self._mean_over_processes(parts)
        self._require_finite(named)
        self._stepper.zero_grad()
        self.fabric.backward(torch.stack(list(parts.values())).sum())
        norm = self._clip()
        self._stepper.step()
        for companion in self.options.companions:
            companion.after(self._mean)
        if self._average is not None:
            self._average.update_parameters(_weights(self.student))
        return named, norm, len(batch.pictures)

    def _answer(self, pictures: Tensor) -> Any:
        """The student's, in the run's precision and with gradients over all processes."""
        answer, _ = self._module(_Untouched(pictures))
        return answer

    def _next_batch(self) -> Batch:
        taken = self._batches.take()
        pictures, labels = self.fabric.to_device((taken.pictures, taken.labels))
        augment = self.options.augment
        return Batch(pictures if augment is None else augment(pictures), labels)

    def _set_phase(self) -> None:
        """Rates, companions, and whether the student is exact, at this step."""
        factor = rate_factor(self.step, self.steps, self.options.warm_up)
        for group in self._optimizer.param_groups:
            group["lr"] = group["highest_rate"] * factor
        for companion in self.options.companions:
            companion.before(self.step / self.steps)
        self._forward.exact = self.step >= self.options.exact_from * self.steps
        switch = getattr(self.student, "exact", None)
        if callable(switch):
            switch(self._forward.exact)

    def _mean_over_processes(self, parts: dict[str, Tensor]) -> dict[str, float]:
        """The parts as numbers; one that is not finite anywhere is not finite everywhere."""
        values = torch.stack([part.detach().float() for part in parts.values()])
        return dict(zip(parts, self._mean(values).tolist(), strict=True))

    def _mean(self, values: Tensor) -> Tensor:
        """Over all processes."""
        means = self.fabric.all_reduce(values, reduce_op="mean")
        assert isinstance(means, Tensor)
        return means

    def _clip(self) -> float:
        norm = self.fabric.clip_gradients(
            self._module,
            self._stepper,
            max_norm=self.options.clip_norm,
            error_if_nonfinite=False,
        )
        assert norm is not None
        # A loss scale that was too large skips the step and shrinks.
        if self.options.precision != "16-mixed":
            self._require_finite({"the gradients' norm": float(norm)})
        return float(norm)

    def _require_finite(self, values: dict[str, float]) -> None:
        if all(math.isfinite(value) for value in values.values()):
            return
        saved = self._path is not None and self._path.exists()
        kept = f"{self._path} holds the last good state" if saved else "no checkpoint was written"
        said = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise TrainingDiverged(
            f"training stopped at step {self.step + 1} of {self.steps}, whose loss is no finite "
            f"number ({said}); {kept}; a lower learning rate or clip_norm may help"
        )

    def _row(self, parts: dict[str, float], norm: float, meter: Meter) -> TrainingRow:
        rates = {group["name"]: group["lr"] for group in self._optimizer.param_groups}
        return TrainingRow(
            step=self.step,
            loss=sum(parts.values()),
            parts=parts,
            network_rate=rates.get("network", 0.0),
            codec_rate=rates.get("codec", 0.0),
            map_rate=rates.get("map", 0.0),
            watched={k: v for each in self.options.companions for k, v in each.watched().items()},
            gradient_norm=norm,
            dead_bits=dead_bits(self.student),
            exact=self._forward.exact,
            pictures_per_second=meter.rate(),
        )

    def _save(self) -> None:
        """The state of all processes, written by the first."""
        if self._path is None:
            return
        own = {"random": random_states(self.fabric.device), "batches": self._batches.state()}
        everyone = gathered(self.fabric, own)
        if self.fabric.is_global_zero:
            average = self._average
            state = {
                "step": self.step,
                "run": self._settings(),
                "student": self.student.state_dict(),
                "average": None if average is None else average.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "companions": [each.state_dict() for each in self.options.companions],
                "precision": self.fabric.strategy.precision.state_dict(),
                "processes": everyone,
            }
            write_checkpoint(self._path, state)
        self.fabric.barrier()

    def _restore(self, path: Path) -> None:
        saved = read_checkpoint(path)
        require_same_model(path, saved["student"], self.student.state_dict())
        require_same_run(path, saved["run"], self._settings())
        self.student.load_state_dict(saved["student"])
        if self._average is not None:
            self._average.load_state_dict(saved["average"])
        try:
            self._optimizer.load_state_dict(saved["optimizer"])
        except ValueError as reason:
            raise BadModel(f"{path} is of a run that trains other parameters: {reason}") from None
        self._restore_companions(path, saved["companions"])
        self.fabric.strategy.precision.load_state_dict(saved["precision"])
        self.step = saved["step"]
        own = saved["processes"][self.fabric.global_rank]
        self._batches.restore(own["batches"])
        set_random_states(own["random"], self.fabric.device)

    def _restore_companions(self, path: Path, states: list[dict[str, Any]]) -> None:
        own = self.options.companions
        if len(states) != len(own):
            raise BadArgument(
                f"{path} cannot be gone on with: it has the state of {len(states)} companions, "
                f"this run has {len(own)}"
            )
        for companion, state in zip(own, states, strict=True):
            companion.load_state_dict(state)

    def _settings(self) -> dict[str, Any]:
        chosen = self.options.run_settings()
        kind = type(self._optimizer).__name__
        processes = self.fabric.world_size
        return {"steps": self.steps, "optimizer": kind, "processes": processes, **chosen}

    def _take_average(self) -> None:
        if self._average is None:
            return
        averaged = self._average.module.parameters()
        with torch.no_grad():
            for own, mean in zip(self.student.parameters(), averaged, strict=True):
                own.copy_(mean)


class _Forward(nn.Module):
    """The student; in its exact phase without mixed precision, which would round its integers."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.exact = False
        self.watched: list[Callable[[], Iterable[Tensor]]] = []

    def forward(self, held: _Untouched) -> tuple[Any, list[Tensor]]:
        """The student's answer, and the watched tensors."""
        pictures = held.pictures
        with ExitStack() as stack:
            if self.exact:
                stack.enter_context(torch.autocast(pictures.device.type, enabled=False))
            answer = self.student(pictures)
        return answer, [tensor for tensors in self.watched for tensor in tensors()]


class _Untouched:
    """Pictures that Fabric does not round to 16 bits on their way into the student."""

    def __init__(self, pictures: Tensor) -> None:
        self.pictures = pictures


def _groups(student: nn.Module, options: TrainingOptions) -> list[dict[str, Any]]:
    """Parameters that learn: those of surrogates, of weight and activation maps, and the others.

    Raises:
        BadArgument: there are none.
    """
    kinds = {"codec": Surrogate, "map": SoftThenHard}
    kind_of = {
        id(parameter): name
        for name, kind in kinds.items()
        for module in student.modules()
        if isinstance(module, kind)
        for parameter in module.parameters()
    }
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    if not learning:
        raise BadArgument(f"{type(student).__name__} has no parameter that requires a gradient")
    rates = {"network": options.network_rate, "codec": options.codec_rate, "map": options.map_rate}
    groups = [
        (name, rate, [p for p in learning if kind_of.get(id(p), "network") == name])
        for name, rate in rates.items()
    ]
    return [
        {"name": name, "params": parameters, "lr": rate, "highest_rate": rate}
        | ({"weight_decay": 0.0} if name == "map" else {})
        for name, rate, parameters in groups
        if parameters
    ]


def _named_apart(added: dict[str, Tensor], parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The terms of a companion, whose names nothing else has."""
    if twice := added.keys() & parts.keys():
        raise BadArgument(
            f"two parts of the loss are named {min(twice)!r}: give companions names of their own"
        )
    return added


def _average_of(student: nn.Module, decay: float) -> AveragedModel | None:
    """A moving average that forgets its beginning faster than `decay` alone would."""
    if not decay:
        return None

    @torch.no_grad()
    def move(averages: Any, current: Any, averaged: Any) -> None:
        done = int(averaged)
        share = 1 - min(decay, (1 + done) / (10 + done))
        for mean, parameter in zip(averages, current, strict=True):
            mean.lerp_(parameter, share)

    return AveragedModel(_weights(student), multi_avg_fn=move)


def _weights(student: nn.Module) -> nn.ParameterList:
    """The parameters alone: a student grows buffers where pictures of another size come."""
    return nn.ParameterList(student.parameters())
