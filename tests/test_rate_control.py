# SPDX-License-Identifier: Apache-2.0
"""Goals met and goals refused, on the digits network that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thinmaps import cli
from thinmaps.calibrate.picture_set import open_pictures
from thinmaps.compression import compress
from thinmaps.demo import shipped
from thinmaps.errors import BadArgument, PlanImpossible
from thinmaps.file import Model, load, save
from thinmaps.measure.answer_kinds import expected_drop
from thinmaps.measure.answers import thin_answer
from thinmaps.measure.drop import FEWEST_PICTURES, DropMeter
from thinmaps.measure.report import report
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import run_network
from thinmaps.types import Preprocessing

PREPROCESSING = Preprocessing((0.0,), (1.0,), fit="none")
PICTURES = list(shipped.digits().calibration[:60])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rate") / "digits.onnx"
    path.write_bytes(shipped.shipped("digits.onnx"))
    return path


def made(path: Path, **goals: Any) -> Model:
    return compress(path, PICTURES, preprocessing=PREPROCESSING, **goals)


@pytest.fixture(scope="module")
def within_five_points(digits: Path) -> Model:
    return made(digits, schedule="layer", max_drop=5.0)


def test_a_drop_buys_traffic(digits: Path, within_five_points: Model) -> None:
    bare = made(digits, schedule="layer")
    assert within_five_points.drop is not None
    assert within_five_points.drop <= 5.0
    assert within_five_points.plan.codecs
    fewest = min(trade.traffic_bytes for trade in within_five_points.front)
    assert fewest < 0.7 * report(bare.plan).moved_bytes


def test_the_answers_are_those_of_the_codecs(within_five_points: Model) -> None:
    plan = within_five_points.plan
    (name,) = plan.source.inputs
    expected = run_network(plan.source, {name: PICTURES[0]}, plan.codecs)
    for output, values in Engine(plan).maps(PICTURES[0]).items():
        np.testing.assert_array_equal(values, expected[output])


def test_the_front_has_no_trade_that_another_beats(within_five_points: Model) -> None:
    front = within_five_points.front
    assert len(front) > 1
    for a in front:
        for b in front:
            beats = b.traffic_bytes <= a.traffic_bytes and b.drop <= a.drop
            assert a == b or not (beats and b.arena_bytes <= a.arena_bytes)


def test_the_front_travels_in_the_file(within_five_points: Model, tmp_path: Path) -> None:
    save(within_five_points, tmp_path / "a.thin")
    assert load(tmp_path / "a.thin").front == within_five_points.front


def test_an_arena_below_the_smallest_without_codecs_gets_codecs(digits: Path) -> None:
    smallest = made(digits, schedule="layer").plan.arena_bytes
    found = made(digits, schedule="layer", arena_bytes=smallest * 3 // 4)
    assert found.plan.arena_bytes <= smallest * 3 // 4
    assert found.plan.codecs
    assert all(codec.rate == "fixed" or codec.has_cap for codec in found.plan.codecs.values())


def test_an_arena_that_fits_without_codecs_gets_none(digits: Path) -> None:
    assert made(digits, arena_bytes=1 << 20).plan.codecs == {}


def test_one_codec_may_be_all_there_is_to_choose_from(digits: Path) -> None:
    found = made(digits, schedule="layer", max_drop=5.0, codec="mixed_width")
    assert {codec.id for codec in found.plan.codecs.values()} == {"mixed_width"}


def test_traffic_alone_takes_the_gentlest_allocation_that_fits(digits: Path) -> None:
    whole = report(made(digits, schedule="layer").plan).moved_bytes
    found = made(digits, schedule="layer", traffic_bytes=whole // 2)
    assert min(trade.traffic_bytes for trade in found.front) <= whole // 2


@pytest.mark.parametrize(
    ("goals", "says"),
    [
        ({"arena_bytes": 200}, "the smallest arena found with codecs is .* what binds: "),
        ({"traffic_bytes": 50, "schedule": "layer"}, "the smallest traffic .* the 50 asked for$"),
        (
            {"traffic_bytes": 800, "max_drop": 0.0, "schedule": "layer"},
            "the gentlest allocation within the budget drops",
        ),
    ],
)
def test_what_cannot_be_met_is_refused_with_the_shortfall(
    digits: Path, goals: dict[str, Any], says: str
) -> None:
    with pytest.raises(PlanImpossible, match=says):
        made(digits, **goals)


@pytest.mark.parametrize(
    ("goals", "says"),
    [
        ({"max_drop": -1.0}, "max_drop is 0 to 100 points, got -1"),
        ({"traffic_bytes": 0}, "traffic needs a budget of 1 byte or more, got 0"),
        ({"arena_bytes": 0}, "arena needs a budget of 1 byte or more, got 0"),
        ({"max_drop": 1.0, "traffic_bytes": 9, "arena_bytes": 9}, "one or two goals"),
        ({"max_drop": 1.0, "codec": "narrow:4"}, "names one codec without options"),
        ({"max_drop": 1.0, "codec": "zero_bitmap"}, "only a fixed rate or a cap saves arena"),
    ],
)
def test_goals_that_make_no_sense_are_refused_before_any_work(
    digits: Path, goals: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadArgument, match=says):
        made(digits, **goals)


def test_goals_in_points_need_pictures(tmp_path: Path, digits: Path) -> None:
    from thinmaps.export.onnx_qdq import export

    export(made(digits), tmp_path / "qdq.onnx")
    with pytest.raises(BadArgument, match="want calibration pictures"):
        compress(tmp_path / "qdq.onnx", max_drop=1.0, preprocessing=PREPROCESSING)


def test_the_command_line_takes_goals(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "pictures.npy", np.stack(PICTURES))
    command = ["compress", str(digits), "--calibrate", str(tmp_path / "pictures.npy")]
    command += ["--mean", "0", "--std", "1", "--fit", "none", "-o", str(tmp_path / "a.thin")]
    assert cli.run([*command, "--schedule", "layer", "--max-drop", "5", "--json"]) == 0
    assert '"front"' in capsys.readouterr().out
    assert cli.run([*command, "--traffic", "many"]) == 2
    assert "--traffic needs bytes such as" in capsys.readouterr().err


def test_a_plan_that_loses_far_too_much_is_seen_on_few_pictures(digits: Path) -> None:
    model = made(digits)
    ours = thin_answer(model)
    pictures = open_pictures(shipped.digits().calibration[:80])
    contrary = DropMeter(model, lambda fitted: [-20 * ours(fitted)[0]], pictures)
    assert contrary.drop(model, allowed=1.0).pictures == FEWEST_PICTURES
    assert contrary.drop(model).pictures == len(pictures)
    alike = DropMeter(model, ours, pictures)
    assert alike.drop(model, allowed=1.0).pictures == len(pictures)


def test_an_expected_drop_weighs_a_disagreement_by_the_float_networks_doubt() -> None:
    sure, torn = np.array([[0.0, 9.0, 0.0]]), np.array([[0.0, 2.0, 1.99]])
    other = np.array([[0.0, 0.0, 5.0]])
    assert expected_drop(sure, sure) == 0.0
    assert expected_drop(other, sure) > 0.99
    assert 0.0 < expected_drop(other, torn) < 0.01
