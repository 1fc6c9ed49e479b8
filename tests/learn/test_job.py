# SPDX-License-Identifier: Apache-2.0
"""`thinmaps learn`: from a configuration to a student in files, through either door."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_models
import pytest
import torch
from safetensors.torch import save_file

import thinmaps
from thinmaps import cli
from thinmaps.learn.config import read_config
from thinmaps.learn.job import LearnReport, learn
from thinmaps.learn.onnx_network import OnnxTeacher, read_network

CLASSES, SIDE, PICTURES = 4, 12, 15


def classifier() -> onnx.ModelProto:
    """Two convolutions and class scores; node names have dots and slashes, as exporters' do."""
    nodes = [
        onnx_models.node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1], name="/features/0.Conv"),
        onnx_models.node("Relu", ["a"], ["features.1"]),
        onnx_models.node("Conv", ["features.1", "w2"], ["b"], name="/features/2.Conv"),
        onnx_models.node("Relu", ["b"], ["features.3"]),
        onnx_models.node("GlobalAveragePool", ["features.3"], ["c"]),
        onnx_models.node("Flatten", ["c"], ["d"]),
        onnx_models.node("Gemm", ["d", "w3"], ["scores"], transB=1),
    ]
    kernels = {
        "w1": onnx_models.weights(6, 3, 3, 3, seed=1),
        "w2": onnx_models.weights(8, 6, 1, 1, seed=2),
        "w3": onnx_models.weights(CLASSES, 8, seed=3),
    }
    return onnx_models.model(nodes, kernels, shape=(1, 3, SIDE, SIDE), outputs=("scores",))


CONFIG = f"""
[network]
file = "net.onnx"
[pictures]
learn = "pictures.npz"
size = [{SIDE}, {SIDE}]
[codecs]
all = "narrow:2"
[training]
steps = 6
batch = 4
network_rate = 1e-2
accelerator = "cpu"
checkpoint = "run.ckpt"
checkpoint_every = 3
[output]
onnx = "student.onnx"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network, pictures with labels, and a configuration."""
    rng = np.random.default_rng(5)
    pictures = rng.integers(0, 256, (PICTURES, SIDE, SIDE, 3), np.uint8)
    labels = rng.integers(0, CLASSES, PICTURES)
    np.savez(tmp_path / "pictures.npz", image=pictures, label=labels)
    onnx.save(classifier(), tmp_path / "net.onnx")
    (tmp_path / "learn.toml").write_text(CONFIG)
    return tmp_path


def changed(folder: Path, **replaced: str) -> Path:
    """A configuration with lines replaced, by their keys."""
    lines = CONFIG.splitlines()
    for key, line in replaced.items():
        assert any(each.startswith(f"{key} =") for each in lines)
        lines = [line if each.startswith(f"{key} =") else each for each in lines]
    path = folder / "changed.toml"
    path.write_text("\n".join(lines))
    return path


def learnt(config: Path, **how: bool) -> LearnReport:
    found = learn(read_config(config), **how)
    assert found is not None
    return found


def test_a_float_onnx_file_becomes_a_student_that_its_files_answer_like(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(folder, onnx='onnx = "student.onnx"\nthin = "student.thin"')
    assert cli.run(["learn", str(path), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["method"], found["steps"], found["held_out"]) == ("distill", 6, PICTURES // 5)
    assert found["raw_bytes"] / found["stored_bytes"] == found["ratio"] == 4
    assert 0 <= found["agreement"] <= 100
    assert said.err.splitlines() == [f"wrote {file}" for file in found["files"]]
    engine = thinmaps.Engine(folder / "student.thin")
    again = thinmaps.compress(folder / "student.onnx")
    picture = np.load(folder / "pictures.npz")["image"][0]
    np.testing.assert_array_equal(engine(picture), thinmaps.Engine(again)(picture))
    assert engine.model.plan.codecs.keys() == again.plan.codecs.keys() != set()


def test_people_read_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["learn", str(changed(folder, all='all = "raw"'))]) == 0
    said = capsys.readouterr().out
    for word in ("steps", "loss", "ratio", "agreement", "seconds", "6, distill", "3 held out"):
        assert word in said


def test_a_run_goes_on_from_its_checkpoint(folder: Path) -> None:
    whole = learnt(folder / "learn.toml")
    first = (folder / "student.onnx").read_bytes()
    assert whole.resumed_from == 0
    again = learnt(folder / "learn.toml", resume=True)
    assert (again.resumed_from, again.loss) == (6, None)
    assert (folder / "student.onnx").read_bytes() == first
    assert ("loss", "no step was left") in again.figures()


def test_dead_bits_are_taken_out_where_it_is_asked_for(folder: Path) -> None:
    asked = 'all = "gf2:keep=9,planes=9"'  # of which the ninth is idle
    whole = learnt(changed(folder, all=asked))
    assert whole.dead_bits is None
    less = learnt(changed(folder, all=f"{asked}\nprune_dead_bits = true"))
    assert less.dead_bits is not None
    assert all(less.dead_bits.values())
    assert less.stored_bytes < whole.stored_bytes
    name, bits = next(iter(less.dead_bits.items()))
    said = dict(less.figures())["dead bits"]
    assert said.startswith(f"taken out: {bits} of {name}")
    assert "dead bits" not in dict(whole.figures())
    none = learnt(changed(folder, steps="steps = 1", all='all = "raw"\nprune_dead_bits = true'))
    assert none.dead_bits == {}


def test_labels_are_learnt_where_there_are_any(folder: Path) -> None:
    assert learnt(changed(folder, steps='steps = 2\nmethod = "fit"')).method == "fit"
    pictures = np.load(folder / "pictures.npz")["image"]
    np.save(folder / "bare.npy", pictures)
    path = changed(folder, steps='method = "fit"', learn='learn = "bare.npy"')
    assert cli.run(["learn", str(path)]) == 2


def test_a_module_by_reference_learns_too(folder: Path) -> None:
    (folder / "nets_of_mine.py").write_text(
        "from torch import nn\n\ndef build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "        nn.Flatten(), nn.Linear(5, 4))\n"
    )
    module = torch.nn.ModuleDict({"0": torch.nn.Conv2d(3, 5, 3), "4": torch.nn.Linear(5, 4)})
    save_file(module.state_dict(), folder / "mine.safetensors")
    path = changed(
        folder,
        file='module = "nets_of_mine:build"\nweights = "mine.safetensors"',
        all='all = "raw"',
    )
    assert learnt(path).coded_maps > 0
    path = changed(folder, file='module = "nets_of_mine:made"\nweights = "mine.safetensors"')
    assert cli.run(["learn", str(path)]) == 2


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        ({"file": 'module = "absent_nets:f"\nweights = "pictures.npz"'}, "cannot import"),
        ({"file": 'module = "json:loads"\nweights = "run.ckpt"'}, "is absent"),
        ({"all": "[codecs.maps]\nnowhere = 'raw'"}, "no map 'nowhere'"),
        ({"all": "all = 'gf2:keep=1,kernel=3'"}, "is exported to ONNX in whole maps only"),
        ({"size": "size = [0, 3]"}, "size"),
        ({"steps": "steps = 0"}, "1 step or more"),
    ],
)
def test_a_refusal_is_one_sentence_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], replaced: dict[str, str], reason: str
) -> None:
    assert cli.run(["learn", str(changed(folder, **replaced))]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not (folder / "run.ckpt").exists()


def test_a_quantised_file_is_no_network_to_learn_from(folder: Path) -> None:
    learnt(folder / "learn.toml")
    (folder / "net.onnx").write_bytes((folder / "student.onnx").read_bytes())
    assert cli.run(["learn", str(folder / "learn.toml")]) == 2


def test_without_torch_the_command_says_what_to_install(folder: Path) -> None:
    program = (
        "import sys\nsys.modules['torch'] = None\n"
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
        f"from thinmaps import cli\nsys.exit(cli.run(['learn', {str(folder / 'learn.toml')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "pip install 'thinmaps[learn]'" in done.stderr


def test_two_processes_under_torchrun_write_one_answer(folder: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    thinmaps_command = Path(sys.executable).parent / "thinmaps"
    done = subprocess.run(
        [
            *torchrun,
            "--nproc-per-node=2",
            thinmaps_command,
            "learn",
            folder / "learn.toml",
            "--json",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 6
    assert done.stderr.count("wrote ") == 1


def test_the_teacher_answers_as_the_file_and_shows_its_maps(folder: Path) -> None:
    teacher = OnnxTeacher(read_network(folder / "net.onnx"))
    pictures = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []
    bare = teacher(pictures)
    teacher.get_submodule("features.1").register_forward_hook(lambda *given: seen.append(given[2]))
    assert torch.equal(teacher(pictures), bare)
    assert seen[0].shape == (3, 6, SIDE, SIDE)
    assert (seen[0] >= 0).all()
    assert teacher(torch.zeros(1, 3, 20, 24)).shape == (1, CLASSES)
