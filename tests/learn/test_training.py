# SPDX-License-Identifier: Apache-2.0
"""The training loop: what it learns, how it goes on, how it stops."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from learning_networks import CLASSES, batches, network, options, pictures, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thinmaps.errors import BadArgument, BadData, BadFile, BadModel, BadShape, TrainingDiverged
from thinmaps.learn import (
    DistillationLosses,
    InTurn,
    RandomCrop,
    RandomFlip,
    TrainingOptions,
    distill,
    fit,
)
from thinmaps.learn.surrogates.base import Surrogate
from thinmaps.types import MapSpec


class Interrupted(Exception):
    """Someone pulled the plug."""


def labelled(count: int = 16) -> TensorDataset:
    return TensorDataset(pictures(count), torch.arange(count) % CLASSES)


def stops_after(steps: int) -> Any:
    def progress(what: str, done: int, of: int) -> None:
        if done == steps:
            raise Interrupted

    return progress


# What it learns


def test_distillation_brings_the_student_to_its_teacher() -> None:
    teacher, student = network(1), network(2)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    result = distill(student, teacher, batches(4), steps=60, options=options())
    assert result.rows[-1].loss < 0.1 * result.rows[0].loss
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert {*result.rows[0].parts} == {"divergence", "logits"}


def test_fitting_learns_the_labels() -> None:
    student = network(2, width=16)
    loader = DataLoader(labelled(), 16)
    result = fit(student, loader, steps=150, options=options(network_rate=3e-2))
    assert result.rows[-1].loss < 0.25 * result.rows[0].loss
    assert len(result.rows) == 150


def test_both_end_in_the_mode_they_came_in_and_without_hooks() -> None:
    teacher, student = network(1).train(), network(2).eval()
    losses = DistillationLosses(maps=["1"])
    distill(student, teacher, batches(1), steps=1, losses=losses, options=options())
    assert teacher.training
    assert not student.training
    assert not any(module._forward_hooks for net in (student, teacher) for module in net.modules())


def test_maps_agree_when_they_are_asked_to() -> None:
    teacher, student = network(1), network(2)
    losses = DistillationLosses(maps={"1": "1", "3": "3"}, divergence_weight=0, logit_weight=0)
    result = distill(student, teacher, batches(4), steps=60, losses=losses, options=options())
    assert {*result.rows[0].parts} == {"maps"}
    assert result.rows[-1].loss < 0.5 * result.rows[0].loss


def test_layer_by_layer_no_part_feels_what_comes_behind_its_map() -> None:
    teacher, student = network(1), network(2)
    student[2].load_state_dict(teacher[2].state_dict())
    student[6].load_state_dict(teacher[6].state_dict())
    before = copy.deepcopy(student.state_dict())
    losses = DistillationLosses(maps=["1", "3"], layerwise_until=1.0)
    distill(student, teacher, batches(4), steps=5, losses=losses, options=options())
    after = student.state_dict()
    # The second part is the teacher's and is fed the teacher's map: nothing is left to learn there.
    assert torch.allclose(before["2.weight"], after["2.weight"], atol=1e-6)
    assert not torch.allclose(before["0.weight"], after["0.weight"], atol=1e-3)


class Named(nn.Module):
    """Two outputs, as a dict or a tuple."""

    def __init__(self, seed: int, kind: type) -> None:
        super().__init__()
        self.inner, self.kind = network(seed), kind

    def forward(self, x: Tensor) -> Any:
        y = self.inner(x)
        return {"a": y, "b": y[:, :2]} if self.kind is dict else (y, y[:, :2])


@pytest.mark.parametrize("kind", [dict, tuple])
def test_networks_may_put_out_tuples_and_dicts(kind: type) -> None:
    student = Named(2, kind)
    result = distill(student, Named(1, kind), batches(2), steps=30, options=options())
    assert result.rows[-1].loss < 0.5 * result.rows[0].loss


# Phases of a run


class Exacting(nn.Sequential):
    """Notes when it is asked to be exact, and which type it computes in."""

    def __init__(self) -> None:
        super().__init__(*network(2))
        self.asked: list[tuple[bool, torch.dtype]] = []

    def exact(self, on: bool) -> None:
        self.on = on

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.asked.append((self.on, y.dtype))
        self.seen = x
        return y


def test_the_last_fifth_is_exact_and_in_full_precision() -> None:
    student, loader = Exacting(), batches(2)
    chosen = options(precision="bf16-mixed", average_decay=0)
    result = distill(student, network(1), loader, steps=10, options=chosen)
    assert torch.equal(student.seen, loader[1])  # not rounded on their way
    assert student.asked == [(False, torch.bfloat16)] * 8 + [(True, torch.float32)] * 2
    assert [row.exact for row in result.rows] == [False] * 8 + [True] * 2


def test_sixteen_bits_learn_about_what_thirty_two_do() -> None:
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        chosen = options(precision=precision)
        result = distill(network(2), network(1), batches(4), steps=40, options=chosen)
        losses.append((result.rows[0].loss, result.rows[-1].loss))
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.02)
    assert losses[1][1] < 0.3 * losses[1][0]


def test_rates_climb_then_follow_half_a_cosine_and_codecs_have_their_own() -> None:
    student = nn.Sequential(Scaling(), *network(2))
    chosen = options(network_rate=0.2, codec_rate=0.4, warm_up=0.25)
    rows = distill(student, network(1), batches(2), steps=8, options=chosen).rows
    expected = [0.5, 1.0] + [0.5 + 0.5 * math.cos(math.pi * at / 6) for at in range(6)]
    assert [row.network_rate for row in rows] == pytest.approx([0.2 * f for f in expected])
    assert [row.codec_rate for row in rows] == pytest.approx([0.4 * f for f in expected])


def test_the_student_ends_with_the_mean_of_its_weights() -> None:
    ends = {}
    for decay in (0.0, 0.9):
        seen: list[Tensor] = []
        student = network(2)
        chosen = options(
            average_decay=decay, progress=lambda *_, s=student, n=seen: n.append(weights(s))
        )
        distill(student, network(1), batches(2), steps=6, options=chosen)
        ends[decay] = (weights(student), seen)
    last, seen = ends[0.0]
    assert torch.equal(last, seen[-1])
    mean = seen[0]
    for done, current in enumerate(seen[1:], 1):
        mean = mean.lerp(current, 1 - min(0.9, (1 + done) / (10 + done)))
    assert torch.allclose(ends[0.9][0], mean, atol=1e-7)


def test_large_gradients_are_clipped() -> None:
    moved = {}
    for norm in (1e-3, float("inf")):
        student = network(2)
        before = weights(student)
        chosen = options(clip_norm=norm, optimizer=torch.optim.SGD, average_decay=0, warm_up=0)
        rows = distill(student, network(1), batches(1), steps=1, options=chosen).rows
        moved[norm] = float((weights(student) - before).norm())
    assert moved[1e-3] == pytest.approx(1e-2 * 1e-3, rel=1e-2)  # rate times norm
    assert moved[float("inf")] == pytest.approx(1e-2 * rows[0].gradient_norm, rel=1e-2)


# Codecs


class Part(nn.Module):
    """A layer of a codec, whose bits the codec has counted."""

    def dead_bits(self) -> int:
        raise AssertionError


class Scaling(Surrogate):
    """A step that is learnt; hands out symbols and counts dead bits."""

    def __init__(self) -> None:
        super().__init__(MapSpec(8, 8, 3, 0.1, 128))
        self.scale = nn.Parameter(torch.tensor(0.25))
        self.forgotten = 0
        self.part = Part()

    def codec(self) -> Any:
        raise AssertionError

    def restored(self, values: Tensor) -> Tensor:
        scaled = values / self.scale
        self._symbols = scaled + (scaled.round() - scaled).detach()
        return self._symbols * self.scale

    def symbols(self) -> Tensor:
        return self._symbols

    def dead_bits(self) -> list[int]:
        return [1, 1 + self.forgotten]

    def forget(self) -> None:
        self.forgotten += 1


def test_a_rate_term_makes_symbols_smaller_and_dead_bits_are_logged() -> None:
    bits = {}
    for weight in (0.0, 1.0):
        student = nn.Sequential(Scaling(), *network(2))
        chosen = options(rate_weight=weight, codec_rate=3e-2, average_decay=0)
        rows = distill(student, network(2), batches(2), steps=30, options=chosen).rows
        bits[weight] = float(torch.log2(1 + student[0].symbols().detach().abs()).mean())
        assert [row.dead_bits for row in rows[:3]] == [2, 3, 4]
        assert ("rate" in rows[0].parts) == (weight > 0)
    assert bits[1.0] < 0.7 * bits[0.0]


def test_a_rate_term_without_symbols_is_refused() -> None:
    with pytest.raises(BadArgument, match=r"hand out symbols\(\), Sequential has none"):
        distill(network(2), network(1), batches(1), steps=1, options=options(rate_weight=1.0))


# Stopping and going on


def shuffled_and_random(seed: int = 3) -> DataLoader[Any]:
    """Shuffles by torch's generator; its pictures have noise from NumPy and Python's numbers."""
    return DataLoader(
        labelled(20), batch_size=4, shuffle=True, collate_fn=_with_noise, drop_last=True
    )


def _with_noise(pairs: list[Any]) -> Any:
    noise = float(np.random.random())
    return torch.stack([p for p, _ in pairs]) + noise, torch.stack([label for _, label in pairs])


AUGMENT = InTurn(RandomCrop(2), RandomFlip(), nn.Dropout(0.1))


@pytest.mark.parametrize("stop", [4, 5, 7])
def test_a_run_that_stops_and_goes_on_is_the_run_that_did_not_bit_for_bit(
    tmp_path: Path, stop: int
) -> None:
    whole, parted = network(2), network(2)
    chosen: dict[str, Any] = {"augment": AUGMENT, "checkpoint_every": stop, "resume": True}
    first = options(**chosen, checkpoint=tmp_path / "whole.ckpt")
    fit(whole, shuffled_and_random(), steps=2 * stop, options=first)

    place = tmp_path / "parted.ckpt"
    before = options(**chosen, checkpoint=place, progress=stops_after(stop + 1))
    with pytest.raises(Interrupted):
        fit(parted, shuffled_and_random(), steps=2 * stop, options=before)
    torch.manual_seed(99)  # another process has other states
    np.random.seed(99)
    fresh = network(7)
    again = options(**chosen, checkpoint=place)
    result = fit(fresh, shuffled_and_random(), steps=2 * stop, options=again)
    assert result.resumed_from == stop
    assert torch.equal(weights(fresh), weights(whole))
    states = [torch.load(path, weights_only=True) for path in (tmp_path / "whole.ckpt", place)]
    assert torch.equal(states[0]["processes"][0]["random"]["torch"], torch.get_rng_state())
    for part in ("student", "average"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(torch.equal(states[0][part][k], states[1][part][k]) for k in states[0][part])


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    student = network(2)
    chosen = options(checkpoint=tmp_path / "a.ckpt", resume=True)
    distill(student, network(1), batches(2), steps=3, options=chosen)
    again = network(5)
    result = distill(again, network(1), batches(2), steps=3, options=chosen)
    assert result.rows == ()
    assert torch.equal(weights(again), weights(student))


def test_a_checkpoint_of_another_model_or_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    chosen = options(checkpoint=path, resume=True)
    distill(network(2), network(1), batches(2), steps=2, options=chosen)
    with pytest.raises(BadModel, match=r"another shape or type: 6.bias \(float32 5 there, flo.*7"):
        distill(network(2, 7), network(1, 7), batches(2), steps=2, options=chosen)
    other = nn.Sequential(*list(network(2))[:6], nn.Identity(), nn.PReLU())
    with pytest.raises(
        BadModel, match=r"it lacks 7\.weight; the student has no 6\.bias, 6\.weight"
    ):
        distill(other, network(1), batches(2), steps=2, options=chosen)
    changed = options(checkpoint=path, resume=True, seed=1)
    with pytest.raises(BadArgument, match="steps 2 there and 4 here, seed 0 there and 1 here"):
        distill(network(2), network(1), batches(2), steps=4, options=changed)


def test_a_checkpoint_of_a_run_that_trains_other_parameters_is_refused(tmp_path: Path) -> None:
    chosen = options(checkpoint=tmp_path / "a.ckpt", resume=True)
    distill(network(2), network(1), batches(2), steps=2, options=chosen)
    frozen = network(2)
    frozen[0].requires_grad_(False)
    with pytest.raises(BadModel, match="of a run that trains other parameters"):
        distill(frozen, network(1), batches(2), steps=2, options=chosen)


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "a.ckpt"
    chosen = options(checkpoint=path, resume=True)
    distill(network(2), network(1), batches(2), steps=2, options=chosen)
    path.write_bytes(path.read_bytes()[:700] if damage is None else damage)
    with pytest.raises(BadFile, match=r"a\.ckpt is damaged or no checkpoint of thinmaps\.learn"):
        distill(network(2), network(1), batches(2), steps=2, options=chosen)


def test_a_foreign_file_of_torch_is_refused_and_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    chosen = options(checkpoint=path, resume=True)
    for foreign in (network(1).state_dict(), network(1), Hostile(tmp_path / "ran")):
        torch.save(foreign, path)
        with pytest.raises(BadFile, match=r"no checkpoint of thinmaps\.learn"):
            distill(network(2), network(1), batches(2), steps=2, options=chosen)
    assert not (tmp_path / "ran").exists()


class Hostile:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


# What cannot be learnt from


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(
    tmp_path: Path, poison: float
) -> None:
    path, student = tmp_path / "a.ckpt", network(2)
    seen: list[int] = []

    def loss(output: Tensor, labels: Tensor) -> Tensor:
        seen.append(1)
        return output.square().mean() * (poison if len(seen) == 6 else 1.0)

    chosen = options(checkpoint=path, checkpoint_every=2)
    with pytest.raises(TrainingDiverged) as stopped:
        fit(student, DataLoader(labelled(), 4), steps=9, loss=loss, options=chosen)
    said = str(stopped.value)
    assert f"stopped at step 6 of 9, whose loss is no finite number (labels {poison:g})" in said
    assert f"{path} holds the last good state" in said
    assert torch.load(path, weights_only=True)["step"] == 4
    assert weights(student).isfinite().all()


def test_gradients_that_are_no_numbers_stop_before_the_weights_change() -> None:
    student = network(2)
    before = weights(student)
    with pytest.raises(TrainingDiverged, match=r"step 1 of 3.*gradients' norm.*no checkpoint was"):
        # The root of 0 is a number, its slope is not.
        fit(
            student,
            [(pictures(4), torch.zeros(4))],
            steps=3,
            loss=lambda output, labels: (output * 0).sum().sqrt(),
            options=options(),
        )
    assert torch.equal(weights(student), before)


def once() -> Iterator[Tensor]:
    yield from batches(2)


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        ([], "the loader is empty: training needs at least one batch"),
        (once(), "hands out nothing in epoch 2, though it did before"),
        ([torch.zeros(4, 3, 8, 8, dtype=torch.uint8)], r"float n c h w.*got torch\.uint8"),
        ([torch.zeros(0, 3, 8, 8)], r"n at least 1.*\(0, 3, 8, 8\)"),
        ([{"x": 1}], "tensors of pictures, or .pictures, labels., got dict"),
    ],
)
def test_a_loader_that_cannot_be_used_is_refused(loader: Any, said: str) -> None:
    with pytest.raises(BadData, match=said):
        distill(network(2), network(1), loader, steps=3, options=options())


def test_fit_refuses_a_loader_without_labels() -> None:
    with pytest.raises(BadData, match=r"pictures, labels.*\(4, 3, 8, 8\) alone; distill learns"):
        fit(network(2), batches(1), steps=1, options=options())


def test_student_and_teacher_with_different_outputs_are_refused() -> None:
    said = (
        r"same outputs and maps: the student has \{'0': \(4, 5\)\}, the teacher \{'0': \(4, 7\)\}"
    )
    with pytest.raises(BadShape, match=said):
        distill(network(2), network(1, classes=7), batches(1), steps=1, options=options())
    losses, wide = DistillationLosses(maps=["3"]), network(1, width=9)
    with pytest.raises(BadShape, match=r"\{'3': \(4, 6, 8, 8\)\}, the teacher \{'3': \(4, 9,"):
        distill(network(2), wide, batches(1), steps=1, losses=losses, options=options())
    with pytest.raises(BadShape, match="puts out a tensor, or a tuple or dict of tensors, got"):
        distill(Named(2, tuple), Odd(), batches(1), steps=1, options=options())


class Odd(nn.Linear):
    """Puts out a number."""

    def __init__(self) -> None:
        super().__init__(1, 1)

    def forward(self, x: Tensor) -> Any:
        return 5


def test_a_map_that_is_not_there_is_refused_with_near_names() -> None:
    losses, two = DistillationLosses(maps=["inner.11"]), (Named(2, dict), Named(1, dict))
    with pytest.raises(BadArgument, match=r"Named has no submodule 'inner\.11'; near: inner\.1"):
        distill(*two, batches(1), steps=1, losses=losses, options=options())


def test_a_module_that_runs_twice_has_no_one_map_to_learn_from() -> None:
    act = nn.ReLU()
    twice = nn.Sequential(network(1)[0], act, act, *list(network(1))[4:])
    losses = DistillationLosses(maps={"1": "1"})
    with pytest.raises(BadArgument, match="one maker, '1' runs more than once"):
        distill(network(2), twice, batches(1), steps=1, losses=losses, options=options())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"warm_up": 1.5, "network_rate": -1}, "warm_up is a share.*1.5; network_rate is finite"),
        ({"average_decay": 1.0}, "average_decay is 0 or more, below 1, got 1.0"),
        ({"clip_norm": float("nan")}, "clip_norm is above 0, got nan"),
        ({"resume": True}, "resume needs a checkpoint"),
        ({"precision": "8"}, "precision is one of"),
        ({"log_every": 0}, "log_every is 1 or more"),
    ],
)
def test_options_outside_their_range_are_refused_all_at_once(changed: Any, said: str) -> None:
    with pytest.raises(BadArgument, match=said):
        TrainingOptions(**changed)


def test_impossible_runs_are_refused_before_they_begin(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="1 step or more, got 0"):
        distill(network(2), network(1), batches(1), steps=0)
    absent = options(checkpoint=tmp_path / "absent" / "a.ckpt")
    with pytest.raises(BadArgument, match="there is no folder"):
        distill(network(2), network(1), batches(1), steps=1, options=absent)
    with pytest.raises(BadArgument, match="ReLU has no parameter that requires a gradient"):
        distill(nn.ReLU(), network(1), batches(1), steps=1, options=options())
    abacus = options(accelerator="abacus")
    with pytest.raises(BadArgument, match="training on 'abacus' is impossible"):
        distill(network(2), network(1), batches(1), steps=1, options=abacus)
    with pytest.raises(BadArgument, match="needs maps to learn from"):
        DistillationLosses(layerwise_until=0.5)


# What it says of itself


def test_rows_are_json_lines_once_per_step_across_a_stop(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"log": tmp_path / "log", "resume": True, "checkpoint_every": 2}
    chosen["checkpoint"] = tmp_path / "a.ckpt"
    stopping = options(**chosen, progress=stops_after(3))
    with pytest.raises(Interrupted):
        distill(network(2), network(1), batches(2), steps=5, options=stopping)
    distill(network(2), network(1), batches(2), steps=5, options=options(**chosen))
    lines = (tmp_path / "log" / "training.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    for row in rows:
        assert row["loss"] == pytest.approx(sum(row["parts"].values()))
        assert row["pictures_per_second"] > 0
        assert row["dead_bits"] is None


def test_tensorboard_gets_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            said.append((name, value, step))

        def flush(self) -> None: ...

        def close(self) -> None: ...

    board = ModuleType("torch.utils.tensorboard.writer")
    board.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, board.__name__, board)
    chosen = options(log=tmp_path)
    rows = distill(network(2), network(1), batches(2), steps=2, options=chosen).rows
    assert ("loss", rows[1].loss, 2) in said
    assert ("parts/logits", rows[0].parts["logits"], 1) in said
    assert {name for name, _, _ in said} >= {"gradient_norm", "network_rate", "exact"}
