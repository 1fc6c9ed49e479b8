# SPDX-License-Identifier: Apache-2.0
"""Figures of papers are data that parse; each paper's are measured again where assets are."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import model, node, weights
from PIL import Image

from thinmaps.calibrate.float_maps import real_values
from thinmaps.codecs import get
from thinmaps.codecs.native import fastest
from thinmaps.errors import BadData
from thinmaps.measure.float_model import FloatModel
from thinmaps.prepared import Prepared
from thinmaps.types import MapSpec, Preprocessing

PAPERS = Path(__file__).resolve().parent.parent / "papers"
FOLDERS = sorted(path.parent for path in PAPERS.glob("*/run.py"))

sys.path.insert(0, str(PAPERS))

import figures  # noqa: E402 (behind the path)
from figures import Figure, compare, expected  # noqa: E402


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_paper_has_its_claim_and_figures_with_a_place_and_a_tolerance(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert "**Claim.**" in text
    assert f"({folder.name})" in (PAPERS / "README.md").read_text()
    found = expected(folder)
    assert len({figure.what for figure in found}) == len(found) > 0
    for figure in found:
        # A share of answers may be none, a ratio not.
        assert 0 < figure.tolerance < (5 if figure.what.endswith("%") else figure.ours)
        assert (figure.published is None) == (figure.where == "")


def test_a_figure_that_has_moved_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "expected.toml").write_text(
        '[[figure]]\nwhat = "ratio"\nours = 2.0\ntolerance = 0.1\n'
    )
    assert expected(tmp_path) == [Figure("ratio", 2.0, 0.1)]
    assert compare(tmp_path, {"ratio": 2.05}) == 0
    assert compare(tmp_path, {"ratio": 2.2}) == 1
    assert compare(tmp_path, {}) == 1
    assert compare(tmp_path, {"ratio": 2.0, "other": 1.0}) == 1
    assert compare(tmp_path, {}, figures=[]) == 0
    assert "not in expected.toml" in capsys.readouterr().out


def test_a_run_is_held_to_the_figures_of_its_networks_and_options() -> None:
    one, two = Figure("one: ratio", 2.0, 0.1), Figure("two: ratio", 2.0, 0.1)
    trained = Figure("trained: ratio", 2.0, 0.1, option="train")
    assert figures.of_run([one, two, trained], ["one"]) == [one]
    assert figures.of_run([one, two, trained], ["one", "two"], ["train"]) == [one, two, trained]


def test_evaluation_pictures_come_with_their_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 3), np.uint8)
    np.savez(tmp_path / "test.npz", image=pictures, label=np.arange(6))
    monkeypatch.setitem(figures.EVALUATION, "tiny", ("test.npz", None))
    monkeypatch.setitem(figures.NETWORKS, "tiny", (Preprocessing(fit="none"), ""))
    exact = np.eye(6, dtype=np.float32)
    found = figures.cases(tmp_path, "tiny", (8, 8), 3, lambda picture: exact[picture[0, 0, 0]])
    assert [case.label for case in found] == [0, 2, 4]
    assert [int(case.picture[0, 0, 0]) for case in found] == [0, 2, 4]
    answers = [exact[0], exact[2], exact[1]]
    assert figures.judged(found, answers) == pytest.approx(
        {"top-1 %": 200 / 3, "agreement %": 200 / 3}
    )


def module_of(paper: str, file: str) -> ModuleType:
    """A file of a paper's folder as a module; files beside it are found as a run finds them."""
    place = spec_from_file_location(f"{paper}_{file}", PAPERS / paper / f"{file}.py")
    assert place is not None
    assert place.loader is not None
    module = module_from_spec(place)
    sys.modules[place.name] = module  # where dataclasses look their annotations up
    place.loader.exec_module(module)
    return module


@pytest.fixture
def bit_planes() -> ModuleType:
    """`cavigelli-2019/run.py` as a module."""
    return module_of("cavigelli-2019", "run")


def test_bytes_of_the_bit_plane_paper_are_cut_and_reach_95(bit_planes: ModuleType) -> None:
    values = np.float32([[[0, 0.9, 4]], [[8, 7.99, 2]]])
    found = bit_planes.fixed_point(values, 8.0)
    np.testing.assert_array_equal(found, np.uint8([[[0, 95], [10, 95], [47, 23]]]), strict=True)


def tiny_network() -> onnx.ModelProto:
    """Three convolutions, a ReLU behind the first, and class scores of their means."""
    nodes = [
        node("Conv", ["x", "first"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "second"], ["c"]),
        node("Conv", ["c", "third"], ["d"]),
        node("GlobalAveragePool", ["d"], ["e"]),
        node("Flatten", ["e"], ["y"]),
    ]
    kernels = {
        "first": weights(6, 1, 3, 3, seed=1),
        "second": weights(5, 6, 1, 1, seed=2),
        "third": weights(2, 5, 1, 1, seed=3),
    }
    return model(nodes, kernels, shape=(1, 1, 16, 16))


def ramps() -> list[np.ndarray]:
    """Pictures for it."""
    ramp = np.linspace(0, 255, 256).reshape(16, 16, 1)
    return [np.roll(ramp, shift).astype(np.uint8) for shift in range(6)]


HALF = Preprocessing((0.5,), (0.5,), fit="none")


def tiny_cases() -> list[figures.Case]:
    """Its pictures with the float network's answers, which are the right ones."""
    exact = FloatModel(tiny_network(), HALF, (16, 16))
    scores = [exact(picture)[0] for picture in ramps()]
    return [
        figures.Case(picture, int(found.argmax()), found)
        for picture, found in zip(ramps(), scores, strict=True)
    ]


def test_the_bit_plane_paper_is_measured_on_a_tiny_network(bit_planes: ModuleType) -> None:
    found = bit_planes.measured("tiny", tiny_network(), ramps(), HALF)
    assert len(found) == 11
    assert all(0.5 < ratio < 50 for ratio in found.values())
    # One map of two is behind a ReLU, and its convention has fewer levels than ours.
    ratios = {what.removeprefix("tiny: "): ratio for what, ratio in found.items()}
    for code in ("bit planes", "zero bitmap", "entropy"):
        assert ratios[f"uint8, ReLU maps, {code}"] > ratios[f"uint8, all stored maps, {code}"]
    assert ratios["theirs, ReLU maps, entropy"] > ratios["uint8, ReLU maps, entropy"]


@pytest.fixture
def channel_dct_paper(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`shi-2021/run.py` as a module."""
    monkeypatch.syspath_prepend(PAPERS / "shi-2021")
    return module_of("shi-2021", "run")


def noise_and_constant(paper: ModuleType) -> dict[str, Any]:
    """A map that no transform makes smaller, and one that any does; the first is felt more."""
    spec = MapSpec(6, 8, 16)
    noise = np.random.default_rng(3).integers(0, 256, (4, *spec.shape), np.uint8)
    flat = np.full((4, *spec.shape), 9, np.uint8)
    felt = np.ones(16, np.float32)
    return {"noise": paper.Seen(spec, noise, felt), "flat": paper.Seen(spec, flat, felt / 1000)}


def test_a_map_that_the_dct_makes_no_smaller_stays_raw(channel_dct_paper: ModuleType) -> None:
    found = channel_dct_paper.chosen(noise_and_constant(channel_dct_paper), 100, "energy")
    assert found["noise"] is None
    assert found["flat"] is not None


def test_a_shared_mask_drops_what_is_felt_least(channel_dct_paper: ModuleType) -> None:
    seen = noise_and_constant(channel_dct_paper)
    assert channel_dct_paper.shares_of_maps(seen, 100) == {"noise": 100, "flat": 100}
    assert channel_dct_paper.shares_of_maps(seen, 75) == {"noise": 100, "flat": 50}
    assert channel_dct_paper.shares_of_maps(seen, 50) == {"noise": 100, "flat": 1}


def test_the_channel_dct_paper_is_measured_on_a_tiny_network(
    channel_dct_paper: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = Prepared.open(tiny_network(), ramps(), preprocessing=HALF)
    found = channel_dct_paper.measured("tiny", prepared, tiny_cases())
    assert found["tiny: float, top-1 %"] == 100
    assert found["tiny: 50 % kept by energy, ratio"] > found["tiny: 75 % kept by energy, ratio"]
    assert found["tiny: 75 % kept by energy, ratio"] > 1.2
    assert "tiny, no mask: " in capsys.readouterr().out


def test_bytes_of_a_trained_mask_are_those_of_the_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(PAPERS / "shi-2021")
    trained = module_of("shi-2021", "trained")
    spec = MapSpec(6, 8, 16)
    rng = np.random.default_rng(4)
    for smooth in (True, False):
        each = rng.integers(0, 256, (6, 8, 1 if smooth else 16), np.uint8)
        unit = np.ascontiguousarray(np.broadcast_to(each, spec.shape))
        codec = get("channel_dct").fit(spec, unit[None], keep=75, group=8, unit_rows=6)
        codes = codec.transform.codes(unit, 0).astype(np.int64) - codec.transform.zero_code
        counted = trained.CodedMap(16, trained.Setting(75, 4))
        counted.share = 0.75
        counted.count(torch.from_numpy(codes.transpose(2, 0, 1)[None]))
        assert counted.coded_bytes == len(codec.encode_unit(unit, spec))


def test_training_closes_the_masks_and_moves_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(PAPERS / "shi-2021")
    trained = module_of("shi-2021", "trained")
    torch.manual_seed(0)
    setting = trained.Setting(50, 4)
    teacher = trained.ResNet20(setting).eval()
    student = trained.ResNet20(setting).eval()
    student.load_state_dict(teacher.state_dict())
    values = torch.rand(2 * trained.BATCH, 3, 8, 8)
    torch.testing.assert_close(student(values), teacher(values))
    trained.begin(student, values)
    trained.train(student, teacher, values, setting)
    for coded in student.coded():
        chosen = coded.mask().detach().flatten()
        assert sorted(set(chosen.tolist())) == [0, 1]
        assert chosen.sum() == len(chosen) // 2
        assert coded.scores.grad is not None
    assert not torch.equal(student.conv1.weight, teacher.conv1.weight)


@pytest.fixture
def transform_paper(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`chmiel-2019/run.py` as a module."""
    monkeypatch.syspath_prepend(PAPERS / "chmiel-2019")
    return module_of("chmiel-2019", "run")


def test_huffman_codes_are_complete_and_within_a_bit_of_the_entropy(
    transform_paper: ModuleType,
) -> None:
    np.testing.assert_array_equal(
        transform_paper.huffman_lengths(np.array([8, 4, 2, 2])), [1, 2, 3, 3]
    )
    counts = np.random.default_rng(5).geometric(0.02, 200)
    lengths = transform_paper.huffman_lengths(counts)
    assert (0.5**lengths).sum() == 1
    mean = counts @ lengths / counts.sum()
    assert transform_paper.entropy(counts) <= mean < transform_paper.entropy(counts) + 1


def tiny_subject(paper: ModuleType) -> Any:
    """The tiny network, as the transform's paper takes it."""
    values = np.stack([real_values(picture, HALF) for picture in ramps()])
    return paper.Subject("tiny", tiny_network(), values, values, tiny_cases())


def test_components_in_many_levels_change_little_and_fill_their_range(
    transform_paper: ModuleType,
) -> None:
    subject = tiny_subject(transform_paper)
    assert transform_paper.rectified(subject.model) == ["a"]
    assert transform_paper.stored(subject.model) == ["a", "c", "d"]
    fitted = transform_paper.fit(subject, ["a"])
    exact, _ = transform_paper.Session(transform_paper.of_any_batch(subject.model), {})(
        subject.evaluation
    )
    by_batch = transform_paper.CodedGraph(subject.model)
    by_batch.code_by_batch("a", fitted["a"].basis, 256)
    scores, codes = by_batch.session()(subject.evaluation)
    np.testing.assert_allclose(scores, exact, atol=0.05 * np.ptp(exact))
    assert (codes["a"].min(), codes["a"].max()) == (0, 254)

    beforehand = transform_paper.CodedGraph(subject.model)
    quantiser = fitted["a"].quantiser(256)
    beforehand.code("a", fitted["a"].basis, quantiser)
    scores, codes = beforehand.session()(subject.evaluation)
    np.testing.assert_allclose(scores, exact, atol=0.05 * np.ptp(exact))
    assert codes["a"].shape == (6, 6, 16, 16)
    assert 0 < quantiser.zero < 255


def test_the_transform_paper_is_measured_on_a_tiny_network(
    transform_paper: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transform_paper, "THEIR_LEVELS", (64,))
    monkeypatch.setattr(transform_paper, "OUR_LEVELS", (64,))
    found = transform_paper.measured(tiny_subject(transform_paper))
    bits = {what: found[f"tiny: ours, 64 levels, {what} bits"] for what in ("entropy", "huffman")}
    assert 0 < bits["entropy"] <= bits["huffman"] < bits["entropy"] + 1
    assert 0 < found["tiny: theirs, 64 levels, entropy bits"] < 6
    squares = 6**2 + 5**2 + 2**2
    held = 4 * squares + 4 * (6 + 5 + 2) + 3 * (4 + 64)
    assert found["tiny: ours, 64 levels, KiB of tables"] == held / 1024


@pytest.fixture
def bits_paper(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`gudovskiy-2018/run.py` as a module."""
    monkeypatch.syspath_prepend(PAPERS / "gudovskiy-2018")
    return module_of("gudovskiy-2018", "run")


def test_layouts_store_what_their_binary_channels_take(bits_paper: ModuleType) -> None:
    found = bits_paper.counted()
    # 144, 112 and 80 binary channels of 56 x 56 or 28 x 28 pixels.
    kib = {"BIT6CH": 42.875, "BIT4CH": 30.625, "BIT8CH_3x3s2": 13.78125, "BIT6CH_3x3s2": 10.71875}
    for preset, stored in kib.items():
        assert found[f"{preset}, KiB of a map"] == stored
        assert found[f"{preset}, ratio"] == 49 / stored
    assert found["BIT6CH_3x3s2, ratio as the file's name counts"] == pytest.approx(16 / 3)


def blobs(count: int) -> np.ndarray:
    """Maps of two channels, smooth, mostly zero in the second; uint8 (n, 8, 8, 2)."""
    rows, columns = np.mgrid[:8, :8]
    rng = np.random.default_rng(6)
    phase = rng.uniform(0, 6, (count, 1, 1))
    waves = 90 + 80 * np.sin(rows / 2 + columns / 3 + phase)
    return np.stack([waves, np.maximum(waves - 120, 0)], axis=-1).astype(np.uint8)


def test_thresholds_restore_the_ranges_that_they_found(bits_paper: ModuleType) -> None:
    start = module_of("gudovskiy-2018", "start")
    maps, spec = blobs(24), MapSpec(8, 8, 2)
    for bits in (7, 9):
        codec = start.fitted(spec, maps, bits)
        assert codec.unit_bytes(spec, 8) == 4 * -(-4 * 2 * bits // 8)
        errors = start._errors(codec, spec, maps)
        identity = get("gf2").fit(spec, maps, keep=bits, kernel=3, planes=9, unit_rows=8)
        assert (errors < start._errors(identity, spec, maps)).all()
    ranges = start.lloyd(np.array([0, 0, 0, 9, 10, 11, 200]), 3)
    assert ranges.values.tolist() == [0, 10, 200]


# fire2, fire3 and the pooling behind them.
FEW_FIRES = ((64, 16, 64), (128, 16, 64), None)


def test_a_small_squeezenet_learns_with_fixed_layers_of_bits(
    bits_paper: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    trained = module_of("gudovskiy-2018", "trained")
    small = dataclasses.replace(trained.SQUEEZENET, side=67, stored_side=72)
    monkeypatch.setitem(trained.SUBJECTS, "squeezenet1_1", small)
    torch.manual_seed(0)
    network = trained.SqueezeNet(4, FEW_FIRES).eval()
    pictures = np.random.default_rng(7).integers(0, 256, (10, 72, 72, 3), np.uint8)
    found = trained.open_pictures(list(pictures))
    setting = trained.Setting(
        "tiny", "BIT6CH2_3x3s2", ("fire2", "fire3"), "thresholds", steps=2, batch=2, side=67
    )
    before = trained.student_of(network, setting, found)
    monkeypatch.setattr(trained, "student_of", lambda *given: copy.deepcopy(before))
    student = trained.trained(network, setting, found)
    stored = trained.stored_bytes(student.codecs(), student)
    assert stored == dict.fromkeys(stored, 8 * 8 * 14)
    learnt, begun = (each.get_parameter("features.3.squeeze.weight") for each in (student, before))
    assert not torch.equal(learnt, begun)
    for name, codec in student.codecs().items():
        same = before.codecs()[name]
        np.testing.assert_array_equal(codec.project[0].weights, same.project[0].weights)
    assert trained.model_of(student).plan.codecs.keys() == stored.keys()


@pytest.mark.parametrize("detects", [False, True])
def test_a_network_of_a_file_learns_with_layers_of_bits_and_is_judged(
    bits_paper: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, detects: bool
) -> None:
    pytest.importorskip("torch")
    trained = module_of("gudovskiy-2018", "trained")
    (tmp_path / "models").mkdir()
    filters = {"w": weights(4, 3, 3, 3, seed=1), "v": weights(5, 4, 1, 1, seed=2)}
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Conv", ["a", "v"], ["b"])]
    nodes += [node("GlobalAveragePool", ["b"], ["c"]), node("Flatten", ["c"], ["y"])]
    onnx.save(model(nodes, filters, shape=(1, 3, 16, 16)), tmp_path / "models" / "tiny.onnx")
    subject = trained.Subject(
        "tiny",
        16,
        Preprocessing((0.5,) * 3, (0.5,) * 3, fit="stretch"),
        ("a",),
        ((14, 14, 4),),
        "b",
        stored_side=16,
        anchors="cfg" if detects else "",
    )
    monkeypatch.setitem(trained.SUBJECTS, "tiny", subject)
    monkeypatch.setattr(trained, "RESULTS", tmp_path / "results")
    pictures = np.random.default_rng(7).integers(0, 256, (10, 16, 16, 3), np.uint8)
    monkeypatch.setattr(trained, "CALIBRATION", "pictures.npy")
    np.save(tmp_path / "pictures.npy", pictures)
    setting = trained.bottlenecks(subject, "BIT6CH2_3x3s2", steps=2, batch=2, side=12)
    judged = []
    found = trained.run(tmp_path, setting, lambda made: judged.append(made) or {"drop %": 1.5})
    assert found["stored_bytes"] == {"a": 7 * -(-7 * 4 * 7 // 8)}
    assert ("held-out agreement %" in found) != detects
    assert (judged[0].preprocessing == subject.preprocessing) == detects
    assert len(judged[0].plan.codecs) == 1
    monkeypatch.setattr(bits_paper, "RESULTS", tmp_path / "results")
    assert bits_paper.recorded() == {"tiny, BIT6CH2_3x3s2 learnt, drop %": 1.5}


def test_the_identity_in_groups_is_the_identity_of_the_preset(bits_paper: ModuleType) -> None:
    start = module_of("gudovskiy-2018", "start")
    maps, spec = blobs(1), MapSpec(8, 8, 2)
    for preset in ("BIT4CH", "BIT6CH_3x3s2"):
        coded = (bits_paper.layout(preset, spec), start.identity(spec, preset))
        dense, grouped = (fastest(codec) for codec in coded)
        restored = [
            each.decode_unit(each.encode_unit(maps[0], spec), spec, 8) for each in (dense, grouped)
        ]
        np.testing.assert_array_equal(*restored)
        assert coded[0].unit_bytes(spec, 8) == coded[1].unit_bytes(spec, 8)


def folder_of_pictures(folder: Path, names: list[str], side: int) -> None:
    """Random pictures as JPEG files."""
    rng = np.random.default_rng(8)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(path)


def test_full_trainings_run_on_a_tiny_copy(
    bits_paper: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    full = module_of("gudovskiy-2018", "full_training")
    monkeypatch.setattr(full, "FIRES", FEW_FIRES)
    torch.manual_seed(0)
    save_file(full.SqueezeNet(2, FEW_FIRES).state_dict(), tmp_path / "weights.safetensors")
    folder_of_pictures(tmp_path / "train", [f"n{c}/{i}.jpg" for c in (1, 2) for i in (1, 2)], 72)
    same = ["--steps", "1", "--batch", "2", "--workers", "0", "--accelerator", "cpu"]
    same += ["--precision", "32-true", "--preset", "BIT6CH2_3x3s2"]
    output = tmp_path / "classes.onnx"
    source = ["--train", str(tmp_path / "train"), "--method", "fit", "--side", "67"]
    weights_file = ["--weights", str(tmp_path / "weights.safetensors"), "-o", str(output)]
    full.main(["imagenet", *source, *weights_file, *same])
    assert len(Prepared.open(output, None).codecs) == 2
    assert full.of_folders(tmp_path / "train")[1] == (0, 0, 1, 1)

    folder_of_pictures(tmp_path / "voc" / "JPEGImages", ["1.jpg", "2.jpg", "3.jpg"], 20)
    listed = tmp_path / "voc" / "ImageSets" / "Main" / "trainval.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("1\n3\n")
    filters = {"w": weights(4, 3, 3, 3, seed=1), "v": weights(5, 4, 1, 1, seed=2)}
    layers = [node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"])]
    detector = model([*layers, node("Conv", ["b", "v"], ["y"])], filters, shape=(1, 3, 16, 16))
    onnx.save(detector, tmp_path / "detector.onnx")
    output = tmp_path / "voc.onnx"
    source = ["--voc", str(tmp_path / "voc"), "--network", str(tmp_path / "detector.onnx")]
    full.main(["voc", *source, "--maps", "b", "--side", "16", "-o", str(output), *same])
    assert len(Prepared.open(output, None).codecs) == 1
    (tmp_path / "train" / "loose.jpg").write_bytes(b"")
    with pytest.raises(BadData, match=r"needs a folder per class, 'loose\.jpg' lies in none"):
        full.of_folders(tmp_path / "train")


# Runs of all networks take minutes; `make papers` does them.
QUICK = {folder: ["cifar10_resnet20_jpeg"] for folder in ("chmiel-2019", "shi-2021")}


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_figures_of_a_paper_have_not_moved(folder: Path, assets: Path) -> None:
    environment = {**os.environ, "THINMAPS_ASSETS": str(assets)}
    run = [sys.executable, str(folder / "run.py"), *QUICK.get(folder.name, [])]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
