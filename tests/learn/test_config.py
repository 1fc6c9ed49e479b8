# SPDX-License-Identifier: Apache-2.0
"""A configuration means what its keys say, and everything wrong in it is told at once."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from thinmaps.errors import BadArgument
from thinmaps.learn.augmentation import InTurn, RandomCrop, RandomFlip, RandomWindow
from thinmaps.learn.config import LearnConfig, read_config
from thinmaps.learn.options import TrainingOptions
from thinmaps.learn.toml_tables import keys_of
from thinmaps.types import Preprocessing

LEAST = """
[network]
file = "net.onnx"
[pictures]
learn = "pictures.npy"
[output]
onnx = "student.onnx"
"""


def read(folder: Path, text: str) -> LearnConfig:
    for name in ("net.onnx", "pictures.npy", "net.safetensors"):
        (folder / name).touch()
    (folder / "learn.toml").write_text(text)
    return read_config(folder / "learn.toml")


def refused(folder: Path, text: str) -> str:
    with pytest.raises(BadArgument) as refusal:
        read(folder, text)
    return str(refusal.value)


def test_the_least_file_has_the_defaults_of_the_classes(tmp_path: Path) -> None:
    found = read(tmp_path, LEAST)
    assert found.network.file == tmp_path / "net.onnx"
    assert found.output.onnx == tmp_path / "student.onnx"
    assert found.training == TrainingOptions()
    assert found.preprocessing == Preprocessing()
    assert found.codecs.asked is None
    assert found.augmentation.augmentation is None


def test_every_key_reaches_its_option(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
        [network]
        module = "nets:build"
        weights = "net.safetensors"
        [pictures]
        learn = "pictures.npy"
        size = [32, 48]
        [preprocessing]
        mean = [0.5, 0.5, 0]
        std = [1, 1, 1]
        order = "bgr"
        [codecs.maps]
        "features.3" = "narrow:4"
        [training]
        method = "fit"
        steps = 7
        network_rate = 1
        precision = "bf16-mixed"
        checkpoint = "run.ckpt"
        [losses]
        maps = ["features.3"]
        layerwise_until = 0.5
        [augmentation]
        window = 24
        crop = 2
        flip = true
        [output]
        onnx = "student.onnx"
        thin = "student.thin"
        """,
    )
    assert found.pictures.size == (32, 48)
    assert found.preprocessing == Preprocessing((0.5, 0.5, 0.0), (1.0, 1.0, 1.0), "bgr")
    assert found.codecs.asked == {"features.3": "narrow:4"}
    assert (found.method.method, found.method.steps, found.method.batch) == ("fit", 7, 32)
    assert found.training.network_rate == 1.0
    assert found.training.precision == "bf16-mixed"
    assert found.training.checkpoint == tmp_path / "run.ckpt"
    assert found.losses.map_names() == {"features.3": "features.3"}
    assert found.augmentation.augmentation == InTurn(RandomWindow(24), RandomCrop(2), RandomFlip())


def test_all_that_is_wrong_is_told_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        """
        [netwrok]
        [network]
        file = "absent.onnx"
        [pictures]
        learn = "pictures.npy"
        size = [32]
        [codecs]
        all = "narow:4"
        [training]
        stesp = 3
        batch = "many"
        average_decay = 2
        [losses]
        maps = 3
        [output]
        onnx = "no/folder/student.onnx"
        thin = 1
        """,
    )
    for reason in (
        "there is no table 'netwrok'; did you mean network?",
        "[network] file is absent: there is no",
        "[pictures] size is a list of 2 whole numbers, got [32]",
        "[codecs]: no codec 'narow'",
        "[training] has no key 'stesp'; did you mean steps?",
        "[training] batch is a whole number, got 'many'",
        "average_decay is 0 or more, below 1, got 2.0",
        "[losses] maps is a table of texts or a list of texts, got 3",
        "[output] onnx will not do: cannot write",
        "[output] thin is a path, got 1",
    ):
        assert reason in said
    assert "\n" not in said


def test_what_is_needed_is_named(tmp_path: Path) -> None:
    said = refused(tmp_path, '[network]\nmodule = "nets:build"\n')
    assert "module and weights, a .safetensors file, need each other" in said
    assert "[pictures] needs learn, a path" in said
    assert "[output] needs onnx, a path" in said
    both = LEAST.replace("[pictures]", 'module = "a:b"\n[pictures]')
    assert "needs either file" in refused(tmp_path, both)


@pytest.mark.parametrize("text", ["= 3", '[network]\nfile = "\x00"', "a = 1\na = 2"])
def test_what_is_no_toml_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    assert "is no TOML file" in refused(tmp_path, text)


def test_a_table_that_is_no_table_and_a_file_that_is_absent_are_named(tmp_path: Path) -> None:
    assert "network is a table, [network], got 3" in refused(tmp_path, "network = 3")
    with pytest.raises(BadArgument, match=r"cannot read .*none\.toml: No such file"):
        read_config(tmp_path / "none.toml")


def test_every_training_option_that_toml_can_say_is_a_key() -> None:
    functions = {"optimizer", "augment", "progress", "companions"}
    assert (
        keys_of(TrainingOptions).keys()
        == {each.name for each in fields(TrainingOptions)} - functions
    )
