# SPDX-License-Identifier: Apache-2.0
"""The table [weights] of `thinmaps learn`: every method by name, beside codecs of maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_models
import pytest
import torch
from learning_networks import network
from safetensors.torch import save_file
from torch import nn

import thinmaps
import thinmaps.learn as tl
from thinmaps import cli
from thinmaps.calibrate.float_maps import real_values
from thinmaps.graph import operators as op
from thinmaps.learn.config import LearnConfig, read_config
from thinmaps.learn.job import LearnReport, learn
from thinmaps.learn.weights.selection import layer_costs
from thinmaps.learn.weights.settings import METHODS

CLASSES, SIDE, PICTURES = 4, 12, 15

CONFIG = f"""
[network]
file = "net.onnx"
[pictures]
learn = "pictures.npz"
size = [{SIDE}, {SIDE}]
[codecs]
all = "narrow:4"
[weights]
KEYS
[training]
steps = 8
batch = 4
map_rate = 1e-1
accelerator = "cpu"
checkpoint = "run.ckpt"
checkpoint_every = 1
[output]
onnx = "student.onnx"
"""

KEYS = {
    "self_pruning": 'method = "self_pruning"\nbudget = 0.5',
    "balanced_sparsity": 'method = "balanced_sparsity"\nlayers = ["/features/2.Conv"]',
    "mac_pruning": 'method = "mac_pruning"\nbudget = 0.5',
    "ovsf": 'method = "ovsf"\nshare = 0.25',
    "joint_prune_quantise": 'method = "joint_prune_quantise"\nweight_bits = 3',
    "lagrangian_norm": 'method = "lagrangian_norm"',
}


def classifier() -> onnx.ModelProto:
    """Two convolutions and class scores."""
    nodes = [
        onnx_models.node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1], name="/features/0.Conv"),
        onnx_models.node("Relu", ["a"], ["features.1"]),
        onnx_models.node("Conv", ["features.1", "w2"], ["b"], name="/features/2.Conv"),
        onnx_models.node("Relu", ["b"], ["features.3"]),
        onnx_models.node("GlobalAveragePool", ["features.3"], ["c"]),
        onnx_models.node("Flatten", ["c"], ["d"]),
        onnx_models.node("Gemm", ["d", "w3"], ["scores"], transB=1, name="head"),
    ]
    kernels = {
        "w1": onnx_models.weights(8, 3, 3, 3, seed=1),
        "w2": onnx_models.weights(12, 8, 1, 1, seed=2),
        "w3": onnx_models.weights(CLASSES, 12, seed=3),
    }
    return onnx_models.model(nodes, kernels, shape=(1, 3, SIDE, SIDE), outputs=("scores",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network, and pictures with labels."""
    rng = np.random.default_rng(5)
    pictures = rng.integers(0, 256, (PICTURES, SIDE, SIDE, 3), np.uint8)
    np.savez(tmp_path / "pictures.npz", image=pictures, label=rng.integers(0, CLASSES, PICTURES))
    onnx.save(classifier(), tmp_path / "net.onnx")
    return tmp_path


def settings(folder: Path, keys: str, **replaced: str) -> Path:
    """A file with these keys in [weights], and other lines replaced by their keys."""
    lines = CONFIG.replace("KEYS", keys).splitlines()
    for key, line in replaced.items():
        assert any(each.startswith(f"{key} =") for each in lines)
        lines = [line if each.startswith(f"{key} =") else each for each in lines]
    path = folder / "learn.toml"
    path.write_text("\n".join(lines))
    return path


def learnt(config: LearnConfig) -> LearnReport:
    found = learn(config)
    assert found is not None
    return found


@pytest.mark.parametrize("method", [name for name in METHODS if name != "lagrangian_norm"])
def test_what_a_method_leaves_is_the_same_in_student_and_engine(method: str, folder: Path) -> None:
    config = read_config(settings(folder, KEYS[method]))
    pictures = list(np.load(folder / "pictures.npz")["image"])
    captured, example = tl.read_network(folder / "net.onnx"), torch.zeros(1, 3, SIDE, SIDE)
    student = tl.prepare(captured, example, calibrate=pictures, codecs="narrow:4")
    before = {name: layer.weight.detach().clone() for name, layer in student.layers().items()}
    assert config.weights is not None
    recipe = config.weights.recipe(student, example, 8, config.training)
    loader = tl.PictureLoader(pictures, batch=4, size=(SIDE, SIDE))
    result = recipe.run(student, loader, teacher=tl.OnnxTeacher(captured))
    moved = [not torch.equal(w, student.layers()[name].weight) for name, w in before.items()]
    assert all(moved), "layers without the method learn too"
    if method not in ("ovsf", "joint_prune_quantise"):
        assert 0.05 < result.density < 0.95
    tl.export(student.eval(), folder / "student.onnx")
    engine = thinmaps.Engine(thinmaps.compress(folder / "student.onnx", schedule="layer"))
    assert len(engine.model.plan.codecs) == len(student.codecs()) > 0
    planes = [real_values(each, thinmaps.Preprocessing()) for each in pictures[:4]]
    with torch.no_grad():
        expected = student(torch.from_numpy(np.stack(planes))).numpy()
    made = np.concatenate([engine(each).reshape(1, -1) for each in pictures[:4]])
    np.testing.assert_array_equal(made, expected, strict=True)


def test_groups_are_balanced_in_what_the_engine_runs(folder: Path) -> None:
    found = learnt(read_config(settings(folder, KEYS["balanced_sparsity"])))
    assert found.density == 0.5
    assert ("weights", "50.00 % are not zero") in found.figures()
    network = thinmaps.compress(folder / "student.onnx", schedule="layer").plan.source
    layers = [node.operator.weights for node in network.nodes if isinstance(node.operator, op.Conv)]
    weights = next(each for each in layers if each.shape == (12, 8, 1, 1))
    assert (np.count_nonzero(weights.reshape(12, 2, 4), axis=2) <= 2).all()
    assert np.count_nonzero(weights) > 40


class Interrupted(Exception):
    """Someone pulled the plug."""


@pytest.mark.parametrize("stop", [3, 7])  # in the soft steps and in the hard ones
def test_a_run_that_stops_goes_on_as_if_it_had_not(stop: int, folder: Path) -> None:
    config = read_config(settings(folder, KEYS["self_pruning"]))
    whole = learnt(replace(config, training=replace(config.training, checkpoint=None)))
    expected = (folder / "student.onnx").read_bytes()
    (folder / "run.ckpt.fine").write_bytes(b"of an earlier run, which this one replaces")
    steps = 0

    def progress(what: str, done: int, of: int) -> None:
        nonlocal steps
        steps += what == "training"
        if steps == stop:
            raise Interrupted

    with pytest.raises(Interrupted):
        learn(replace(config, training=replace(config.training, progress=progress)))
    again = learnt(replace(config, training=replace(config.training, resume=True)))
    assert (again.resumed_from, again.loss, again.density) == (stop, whole.loss, whole.density)
    assert (folder / "student.onnx").read_bytes() == expected


def test_a_checkpoint_of_other_settings_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["learn", str(settings(folder, KEYS["self_pruning"]))]) == 0
    capsys.readouterr()
    steeper = KEYS["self_pruning"].replace("0.5", "0.25") + '\ngradient = "exact"'
    assert cli.run(["learn", str(settings(folder, steeper)), "--resume"]) == 2
    said = capsys.readouterr().err
    assert "budget 0.5 there and 0.25 here, gradient 'clipped' there and 'exact' here" in said
    assert said.count("\n") == 1
    assert cli.run(["learn", str(settings(folder, KEYS["self_pruning"])), "--resume"]) == 0


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ('method = "self_pruning"\nbudget = 0', "is a share above 0, at most 1, got 0.0"),
        ('method = "self_pruning"\nbudget = 1.5', "is a share above 0, at most 1, got 1.5"),
        ('method = "mac_pruning"\nbudget = nan', "is a share above 0, at most 1, got nan"),
        ('method = "ovsf"\nshare = 2', "is a share above 0, at most 1, got 2.0"),
        ('method = "joint_prune_quantise"\nweight_bits = 9', "is above 0, at most 8, got 9.0"),
        ('method = "joint_prune_quantise"\nweight_bits = 2\nwidths = [1]', "are 2 to 8 bits"),
        ('method = "balanced_sparsity"\nkept = 5', "groups keep 1 to all of their weights"),
        ('method = "balanced_sparsity"\nblocks = 1.5', "a budget of blocks is a share above 0"),
        ('method = "balanced_sparsity"\nblocks = 0.5\nkept = 2', "exclude each other"),
        (
            'method = "balanced_sparsity"\nblocks = 0.5\nlayers = ["/features/0.Conv"]',
            "blocks of 4 x 4 channels do not divide 8 x 3 channels of '/features/0.Conv'",
        ),
        ('method = "balanced_sparsity"\nstep = 0', "a step and a limit above 0"),
        (
            'method = "balanced_sparsity"\nsize = 3\nlayers = ["/features/2.Conv"]',
            "groups of 3 do not divide the 8 input channels of '/features/2.Conv'",
        ),
        (
            'method = "self_pruning"\nbudget = 0.5\nlayers = ["/features/3.Conv", "tail"]',
            "is named '/features/3.Conv'; near it: /features/2.Conv",
        ),
        (
            'method = "ovsf"\nshare = 0.5\nlayers = ["/features/9.*"]',
            "no layer that this method can work on fits '/features/9.*'; near it: /features/",
        ),
        ('method = "self_pruning"\nbudget = 0.5\nlayers = []', "no layer is named"),
        ('method = "lagrangian_norm"', "works on a module, not on a file"),
        ('method = "self_prune"', "has no method 'self_prune'; did you mean self_pruning?"),
        ("budget = 0.5", "[weights] needs method, one of self_pruning, balanced_sparsity"),
        ('method = "self_pruning"', "[weights] needs budget, a number"),
        ('method = "mac_pruning"\nbudgte = 1', "has no key 'budgte'; did you mean budget?"),
        ('method = "mac_pruning"\nbudget = 1\nsoft_share = 0', "a budget of soft steps"),
    ],
)
def test_a_refusal_is_one_sentence_before_anything_is_trained(
    folder: Path, capsys: pytest.CaptureFixture[str], keys: str, reason: str
) -> None:
    assert cli.run(["learn", str(settings(folder, keys))]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not list(folder.glob("run.ckpt*"))


def test_all_that_is_wrong_is_told_at_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = 'method = "self_pruning"\nbudget = 3\nlayer = ["a"]\ngradient = "steep"\npeer = 1'
    assert cli.run(["learn", str(settings(folder, keys, batch='batch = "many"'))]) == 2
    said = capsys.readouterr().err
    for reason in (
        "[training] batch is a whole number",
        "[weights] has no key 'layer'; did you mean layers?",
        "[weights] gradient is one of 'exact', 'clipped', 'straight', got 'steep'",
        "[weights] peer is true or false, got 1",
    ):
        assert reason in said


def test_a_network_without_convolutions_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = onnx_models.node("Gemm", ["d", "w3"], ["scores"], transB=1, name="head")
    nodes = [
        onnx_models.node("GlobalAveragePool", ["x"], ["c"]),
        onnx_models.node("Flatten", ["c"], ["d"]),
        head,
    ]
    kernels = {"w3": onnx_models.weights(CLASSES, 3, seed=3)}
    made = onnx_models.model(nodes, kernels, shape=(1, 3, SIDE, SIDE), outputs=("scores",))
    onnx.save(made, folder / "net.onnx")
    assert cli.run(["learn", str(settings(folder, KEYS["ovsf"]))]) == 2
    said = capsys.readouterr().err
    assert "has no convolution that this method can work on" in said
    assert said.count("\n") == 1


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(folder, KEYS["self_pruning"], map_rate="map_rate = 1e30\nwarm_up = 0")
    assert cli.run(["learn", str(path)]) == 2
    said = capsys.readouterr().err
    assert "training stopped at step 2 of 6, whose loss is no finite number" in said
    assert f"{folder / 'run.ckpt.soft'} holds the last good state" in said
    assert (folder / "run.ckpt.soft").exists()


def test_batch_norms_of_a_module_go_before_it_is_a_student(folder: Path) -> None:
    (folder / "nets_with_norms.py").write_text(
        "from torch import nn\n\ndef build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))\n"
    )
    parts = {"0": nn.Conv2d(3, 5, 3), "1": nn.BatchNorm2d(5), "5": nn.Linear(5, 4)}
    save_file(nn.ModuleDict(parts).state_dict(), folder / "mine.safetensors")
    path = settings(
        folder,
        KEYS["lagrangian_norm"],
        file='module = "nets_with_norms:build"\nweights = "mine.safetensors"',
    )
    whole = learnt(read_config(path))
    assert whole.coded_maps > 0
    assert whole.density is None
    assert {each.name for each in folder.glob("run.ckpt*")} == {"run.ckpt.soft", "run.ckpt.fine"}
    first = (folder / "student.onnx").read_bytes()
    config = read_config(path)
    again = learnt(replace(config, training=replace(config.training, resume=True)))
    assert (again.resumed_from, again.loss) == (8, None)
    assert (folder / "student.onnx").read_bytes() == first
    plan = 'plan = "student.onnx"'
    assert cli.run(["learn", str(settings(folder, KEYS["lagrangian_norm"], all=plan))]) == 2


def test_a_student_costs_what_its_module_does() -> None:
    module, example = network(width=8), torch.zeros(1, 3, 8, 8)
    pictures = list(np.zeros((5, 8, 8, 3), np.uint8))
    student = tl.prepare(module, example, calibrate=pictures)
    assert layer_costs(student, example, ["0", "2", "6"]) == layer_costs(
        module, example, ["0", "2", "6"]
    )
