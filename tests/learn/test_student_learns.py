# SPDX-License-Identifier: Apache-2.0
"""The loop and a student together: maps by name, codecs, the exact phase, stopping, going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from learn.networks import pictures, small
from learning_networks import options, weights

from thinmaps.learn import DistillationLosses, TrainingResult, distill
from thinmaps.learn.preparation import prepare
from thinmaps.learn.student import Student

LOSSES = DistillationLosses(maps=["1", "2"], layerwise_until=0.25)


class Interrupted(Exception):
    """Someone pulled the plug."""


def student() -> Student:
    """Of a small SqueezeNet, with a code of bits and a width to learn with."""
    codecs: dict[str, Any] = {"1": "gf2", "3.cat": "narrow:4"}
    return prepare(small("squeezenet"), pictures(1), calibrate=pictures(8), codecs=codecs)


def learnt(own: Student, **changed: Any) -> TrainingResult:
    chosen = options(network_rate=1e-2, codec_rate=2e-2, **changed)
    loader = list(pictures(16).split(4))
    return distill(
        own, small("squeezenet", seed=5), loader, steps=10, losses=LOSSES, options=chosen
    )


def test_a_student_learns_within_its_codecs_and_is_exact_in_the_end() -> None:
    own = student()
    rows = learnt(own).rows
    assert rows[-1].parts["maps"] < 0.9 * rows[3].parts["maps"]  # behind the layer-wise steps
    assert [row.exact for row in rows] == [False] * 8 + [True] * 2
    assert {*rows[0].parts} == {"divergence", "logits", "maps"}
    assert all(row.codec_rate > row.network_rate > 0 for row in (rows[0], rows[5]))
    assert rows[-1].dead_bits is not None
    with torch.no_grad():
        exact = own.eval()(pictures(2))
        own.train().exact(True)
        assert torch.allclose(own(pictures(2)), exact, atol=1e-5)


def test_a_student_that_stops_and_goes_on_is_the_one_that_did_not(tmp_path: Path) -> None:
    def stop(what: str, done: int, of: int) -> None:
        if done == 6:
            raise Interrupted

    whole, parted = student(), student()
    learnt(whole)
    chosen: dict[str, Any] = {"checkpoint": tmp_path / "a.ckpt", "resume": True}
    with pytest.raises(Interrupted):
        learnt(parted, **chosen, checkpoint_every=5, progress=stop)
    fresh = student()
    assert learnt(fresh, **chosen, checkpoint_every=5).resumed_from == 5
    assert torch.equal(weights(fresh), weights(whole))
    assert all(torch.equal(fresh.state_dict()[k], v) for k, v in whole.state_dict().items())


def test_pictures_of_another_size_join_a_run_with_an_average() -> None:
    own = student()
    loader = [pictures(4), pictures(4, size=20)]
    result = distill(own, small("squeezenet"), loader, steps=4, options=options(average_decay=0.9))
    assert result.rows[-1].step == 4
