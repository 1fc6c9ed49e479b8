# SPDX-License-Identifier: Apache-2.0
"""Steps that learn: gradients by hand, the codec's own integers, tables that follow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from learn.networks import pictures, small
from learn.test_onnx_file import PHOTOGRAPHS, as_batch
from learn.test_student import answers
from torch import Tensor

import thinmaps
from thinmaps import codecs
from thinmaps.codecs.steps import ONE, Steps
from thinmaps.errors import BadArgument, BadData
from thinmaps.learn import TrainingOptions, distill, export, prepare, refit
from thinmaps.learn.surrogates import StraightThrough, Surrogate, surrogate_of
from thinmaps.learn.surrogates.base import bytes_to_values
from thinmaps.learn.surrogates.learned_steps import composed, quantised
from thinmaps.types import MapSpec

STEPS = pytest.mark.parametrize("codec_id", ["rans", "block_width", "zero_bitmap"])
LEVELS = pytest.mark.parametrize("codec_id", ["narrow", "mixed_width"])
ZERO_POINTS = pytest.mark.parametrize("zero_point", [0, 2, 128, 254])
SPEC = MapSpec(1, 256, 3, 0.125, 0)


def every_byte(spec: MapSpec) -> Tensor:
    """Each byte once in each channel, uint8 n c h w."""
    return torch.arange(256, dtype=torch.uint8).reshape(1, 1, 1, 256).repeat(1, spec.channels, 1, 1)


def surrogate_for(codec_id: str, spec: MapSpec, **options: int) -> Surrogate:
    samples = np.repeat(every_byte(spec).permute(0, 2, 3, 1).numpy(), 2, axis=0)
    return surrogate_of(codecs.get(codec_id).fit(spec, samples, **options), spec)


def moved(surrogate: Surrogate, factors: tuple[float, ...] = (0.71, 1.0, 2.3)) -> Surrogate:
    """The surrogate with steps that learning could have found, another one per channel."""
    with torch.no_grad():
        surrogate.log_step += torch.tensor(factors).log()
    return surrogate


def learned_exactly(surrogate: Surrogate, spec: MapSpec) -> None:
    """In training as in evaluation what the reference of `codec()` restores."""
    codec, bytes_in = surrogate.codec(), every_byte(spec)
    rows = bytes_in[0].permute(1, 2, 0).numpy()
    expected = codec.decode(codec.encode(np.ascontiguousarray(rows), spec))
    values = bytes_to_values(bytes_in, spec)
    for mode in (True, False):
        made = surrogate.train(mode)(values)
        restored = torch.from_numpy(expected.transpose(2, 0, 1)[None].copy())
        assert torch.equal(made, bytes_to_values(restored, spec))


@STEPS
@ZERO_POINTS
def test_learned_steps_restore_what_the_codec_restores(codec_id: str, zero_point: int) -> None:
    spec = MapSpec(1, 256, 3, 0.125, zero_point)
    surrogate = moved(surrogate_for(codec_id, spec, step=60))
    assert len(set(surrogate.codec().steps.step.tolist())) == 3
    learned_exactly(surrogate, spec)


@ZERO_POINTS
def test_symbols_of_four_bits_are_clipped_as_the_codec_clips_them(zero_point: int) -> None:
    spec = MapSpec(1, 256, 3, 0.125, zero_point)
    learned_exactly(moved(surrogate_for("zero_bitmap", spec, step=100, element_bits=4)), spec)


@pytest.mark.parametrize("bits", [1, 2, 3, 7])
@LEVELS
@ZERO_POINTS
def test_learned_levels_are_those_of_the_codec(codec_id: str, zero_point: int, bits: int) -> None:
    spec = MapSpec(1, 256, 3, 0.125, zero_point)
    surrogate = moved(surrogate_for(codec_id, spec, bits=bits))
    learned_exactly(surrogate, spec)
    operators = StraightThrough(surrogate.codec(), spec)  # what the export computes in float32
    found = every_byte(spec)
    assert torch.equal(operators.restored_bytes(found), surrogate.restored_bytes(found))


@STEPS
def test_steps_stay_between_one_byte_and_all(codec_id: str) -> None:
    surrogate = moved(surrogate_for(codec_id, SPEC, step=32), (1e-4, 1.0, 1e4))
    assert surrogate.codec().steps.step.tolist() == [ONE, 2 * ONE, 255 * ONE]


@LEVELS
def test_levels_reach_over_two_ranges_at_most(codec_id: str) -> None:
    codec = moved(surrogate_for(codec_id, SPEC, bits=7), (1e-4, 1.0, 1e4)).codec()
    reach = codec.step.astype(np.int64) * codec.largest_code
    assert codec.step.min() >= 1 << 15
    assert reach.max() <= 2 * 255 << 15


def gradients(surrogate: Surrogate, values: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Of the steps; `values.grad` has the others."""
    surrogate.zero_grad()
    values.grad = None
    loss(surrogate.train()(values)).backward()
    return surrogate.log_step.grad


def test_gradients_of_a_step_by_hand() -> None:
    spec = MapSpec(1, 3, 1, 0.5, 0)
    surrogate = surrogate_of(
        codecs.get("block_width")(steps=Steps(np.array([4 * ONE], np.int32))), spec
    )
    values = torch.tensor([3.0, 8.0, 10.0]).reshape(1, 1, 1, 3) * 0.5
    values.requires_grad_()
    # 3, 8 and 10 bytes are restored as 4, 8 and 12 (half up), which are levels 1, 2 and 3.
    of_step = gradients(surrogate, values, lambda made: made.sum())
    assert of_step.tolist() == [pytest.approx((1 + 0 + 2) * 0.5)]
    assert values.grad.flatten().tolist() == [1, 1, 1]
    of_step = gradients(surrogate, values, lambda made: surrogate.symbols().sum())
    assert surrogate.symbols().flatten().tolist() == [1, 2, 3]
    assert of_step.tolist() == [pytest.approx(-(3 + 8 + 10) / 4)]
    assert values.grad.flatten().tolist() == pytest.approx([1 / 2] * 3)


def test_beyond_the_last_level_only_the_step_has_a_gradient() -> None:
    spec = MapSpec(1, 2, 1, 0.5, 0)
    codec = codecs.get("narrow")(bits=1, step=np.array([8 << 15], np.int32))
    values = (torch.tensor([10.0, 40.0]).reshape(1, 1, 1, 2) * 0.5).requires_grad_()
    of_step = gradients(surrogate_of(codec, spec), values, lambda made: made.sum())
    assert values.grad.flatten().tolist() == [1, 0]
    assert of_step.tolist() == [pytest.approx((8 - 10 + 8) * 0.5)]


@pytest.mark.parametrize(
    ("codec_id", "options"),
    [
        ("rans", {"step": 60}),
        ("zero_bitmap", {"step": 60, "element_bits": 4}),
        ("narrow", {"bits": 2}),
    ],
)
@ZERO_POINTS
def test_gradients_are_those_that_torch_finds(
    codec_id: str, options: dict[str, int], zero_point: int
) -> None:
    spec = MapSpec(1, 256, 3, 0.125, zero_point)
    surrogate = moved(surrogate_for(codec_id, spec, **options)).train()
    found = []
    for way in (quantised, composed):
        values = bytes_to_values(every_byte(spec), spec).requires_grad_()
        restored, levels = way(values, surrogate.log_step, spec.scale, surrogate._hard)
        loss = (restored * torch.linspace(-1, 1, 256)).sum() + levels.square().sum() / 7
        found.append(torch.autograd.grad(loss, (values, surrogate.log_step)))
    for by_hand, by_torch in zip(*found, strict=True):
        torch.testing.assert_close(by_hand, by_torch, rtol=1e-4, atol=1e-2)


@STEPS
def test_a_lossless_codec_stays_lossless_and_hands_out_symbols(codec_id: str) -> None:
    surrogate = surrogate_for(codec_id, SPEC)
    values = bytes_to_values(every_byte(SPEC), SPEC).requires_grad_()
    assert torch.equal(surrogate.train()(values), values)
    assert torch.equal(surrogate.symbols(), every_byte(SPEC).float())
    assert surrogate.codec().lossless


def test_symbols_before_any_map_are_refused() -> None:
    with pytest.raises(BadArgument, match="rans has seen no map in training"):
        surrogate_for("rans", SPEC, step=32).symbols()


def test_a_surrogate_is_copied_with_symbols_in_it() -> None:
    surrogate = surrogate_for("rans", SPEC, step=32).train()
    surrogate(bytes_to_values(every_byte(SPEC), SPEC))
    assert torch.equal(copy.deepcopy(surrogate).log_step, surrogate.log_step)


def test_refitted_models_are_shorter_and_survive_finer_steps() -> None:
    spec = MapSpec(16, 16, 3, 0.125, 0)
    rng = np.random.default_rng(5)
    samples = rng.exponential(30, (4, *spec.shape)).clip(0, 255).astype(np.uint8)
    surrogate = surrogate_of(
        codecs.get("rans").fit(spec, samples[:2], step=320, unit_rows=16), spec
    )
    moved(surrogate, (0.1, 0.1, 0.1))  # symbols that no model has a token for
    before = surrogate.codec()
    surrogate.refit(samples[:2])
    after = surrogate.codec()
    assert after.steps.step.tolist() == before.steps.step.tolist()
    lengths = [sum(len(c.encode_unit(s, spec)) for s in samples[2:]) for c in (before, after)]
    assert lengths[1] < lengths[0]


def test_the_rate_term_shortens_maps_and_the_file_gives_the_students_answers(
    tmp_path: Path,
) -> None:
    module, batch = small("resnet"), as_batch(PHOTOGRAPHS)
    request = "rans:step=20,unit_rows=16"
    student = prepare(module, batch[:1], calibrate=PHOTOGRAPHS, codecs=request)
    options = TrainingOptions(codec_rate=3e-2, network_rate=1e-4, rate_weight=3.0)
    begun = student.codecs()
    distill(student, module, [batch], steps=20, options=options)
    refit(student, [batch])
    learned = student.codecs()
    assert all(learned[name].steps.step.mean() > begun[name].steps.step.mean() for name in begun)
    export(student, tmp_path / "student.onnx")
    engine = thinmaps.Engine(thinmaps.compress(tmp_path / "student.onnx", schedule="layer"))
    made = np.stack([engine(picture).ravel() for picture in PHOTOGRAPHS[:3]])
    np.testing.assert_array_equal(made, answers(student.eval(), batch[:3])[0])


def test_tables_need_pictures() -> None:
    student = prepare(small("resnet"), pictures(1), calibrate=pictures(8), codecs="rans:step=20")
    with pytest.raises(BadData, match="hands out none"):
        refit(student, [])
