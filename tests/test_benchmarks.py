# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, and what they print fits the README; what they find out is not tested."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest

from thinmaps import _core
from thinmaps.codecs import block_code, gf2

ISAS = {isa for _, isa in _core.codec_kernels()}
CHECKOUT = Path(__file__).resolve().parent.parent
BENCHMARKS = CHECKOUT / "benchmarks"


@pytest.fixture
def resnets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("resnets")


def speed(*arguments: str, script: str = "speed.py") -> subprocess.CompletedProcess[str]:
    """Run the benchmark as `make bench` does."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_built_resnet_is_valid_and_keeps_the_size_of_values(
    resnets: ModuleType, bottleneck: bool
) -> None:
    model = resnets.resnet((2, 1, 1, 1), bottleneck=bottleneck, stem=16, size=(64, 64))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    picture = np.random.default_rng(5).standard_normal((1, 3, 64, 64), np.float32)
    (logits,) = session.run(None, {"picture": picture})
    assert logits.shape == (1, 1000)
    assert 0.1 < logits.std() < 10


def test_the_built_resnets_have_the_weights_of_the_paper(resnets: ModuleType) -> None:
    # As published with folded batch normalisation, in millions.
    for build, millions in ((resnets.resnet18, 11.68), (resnets.resnet50, 25.53)):
        stored = build().graph.initializer
        assert sum(int(np.prod(t.dims)) for t in stored) / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_same_seed_builds_the_same_network(resnets: ModuleType) -> None:
    first, second, other = (
        resnets.resnet((1,), bottleneck=False, stem=8, seed=seed).SerializeToString()
        for seed in (1, 1, 2)
    )
    assert first == second != other


@pytest.mark.skipif(sys.platform != "linux", reason="the heap is counted on Linux")
@pytest.mark.slow
def test_the_speed_benchmark_verifies_times_and_counts(resnets: ModuleType, tmp_path: Path) -> None:
    model = resnets.resnet((1,), bottleneck=False, stem=8, size=(32, 32))
    onnx.save(model, tmp_path / "tiny.onnx")
    asked = ["--networks", str(tmp_path / "tiny.onnx"), "--sizes", "40x32", "--rounds", "2"]
    asked += ["--threads", "1"]
    written = tmp_path / "results" / "speed.json"
    done = speed(*asked, "--assets", str(tmp_path), "--json", "--output", str(written))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    stored = json.loads(written.read_text())
    assert len(stored.pop("load_at_end")) == 3
    assert document == stored
    known = {"machine", "isa", "cores", "load", "date", "commit", "versions", "rounds", "results"}
    assert known == document.keys()
    (result,) = document["results"]
    assert (result["network"], result["size"]) == ("tiny", [40, 32])
    sides = {side["name"]: side for side in result["rows"]}
    assert all(side["threads"] == 1 for side in result["rows"])
    assert {"thinmaps", "ONNX Runtime int8", "ONNX Runtime float32"} <= sides.keys()
    assert sides["ONNX Runtime int8"]["within_a_step"] >= 0.999
    assert sides["thinmaps"]["peak_bytes"] >= result["arena_bytes"]
    assert result["float_correlation"]["thinmaps"] > 0.9
    shown = speed("--read", str(written), "--markdown")
    assert shown.stdout.splitlines()[2].startswith("| tiny, 40x32 | ")
    for side in sides.values():
        assert 0 < side["cpu_ms"]["p10"] <= side["cpu_ms"]["median"] <= side["cpu_ms"]["p90"]
        assert side["peak_bytes"] >= 0


def test_the_limits_benchmark_says_where_the_time_goes(resnets: ModuleType, tmp_path: Path) -> None:
    model = resnets.resnet((1,), bottleneck=False, stem=8, size=(32, 32))
    onnx.save(model, tmp_path / "tiny.onnx")
    asked = ["--networks", str(tmp_path / "tiny.onnx"), "--sizes", "40x32", "--rounds", "2"]
    written = tmp_path / "limits.json"
    done = speed(*asked, "--assets", str(tmp_path), "--output", str(written), script="limits.py")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(written.read_text())["results"]
    assert result["profile"]["total"]["ms"] > 0
    line = done.stdout.splitlines()[2]
    assert line.startswith("| tiny, 40x32 | ")
    assert "convolution" in line
    again = speed("--read", str(written), script="limits.py")
    assert again.stdout == done.stdout


def test_the_fused_benchmark_verifies_and_compares(tmp_path: Path) -> None:
    written = tmp_path / "fused.json"
    asked = ["--size", "12x40", "--channels", "24", "--rounds", "2", "--output", str(written)]
    done = speed(*asked, "--markdown", script="fused.py")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(written.read_text())["results"]
    sides = {side["name"]: side for side in result["sides"]}
    assert {"plain maps", "zero_bitmap"} <= sides.keys()
    assert sides["plain maps"]["over_plain"] == 1
    assert all(0.2 < share < 0.8 for share in result["zeros"])
    assert result["held_bytes"]["zero_bitmap"] < result["held_bytes"]["plain maps"]
    assert result["step_ms"].keys() == {"x.decode.conv", "conv", "y.encode"}
    assert len(done.stdout.splitlines()) == 2 + len(sides)


def test_a_network_that_is_absent_is_skipped_with_a_sentence(tmp_path: Path) -> None:
    done = speed("--networks", "squeezenet1_1", "--assets", str(tmp_path), "--markdown")
    assert done.returncode == 0
    assert "skipped squeezenet1_1: no " in done.stderr
    # Only the head is left, and the README has the same.
    assert f"<!-- measured: speed -->\n{done.stdout}" in (CHECKOUT / "README.md").read_text()


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the peer is in PyTorch")
@pytest.mark.skipif("avx2" not in ISAS, reason="oneDNN has no kernel to compare with")
@pytest.mark.slow
def test_the_kernel_benchmark_verifies_both_sides_and_names_the_peers_kernel() -> None:
    asked = ["--isa", "avx2", "--only", "960-320", "--rounds", "2", "--json"]
    command = [sys.executable, str(BENCHMARKS / "kernels.py"), *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (convolved,) = json.loads(done.stdout)["convolutions"]
    assert "avx2" in convolved["peer"]
    assert 0 < convolved["ratio"]["p10"] <= convolved["ratio"]["median"]
    assert 0 < convolved["ceiling_share"] < 1


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the peer is in PyTorch")
@pytest.mark.slow
def test_the_winograd_benchmark_verifies_against_float64_and_compares(tmp_path: Path) -> None:
    file = tmp_path / "winograd.json"
    asked = ["--only", "64-64", "7x7", "--rounds", "2", "--markdown", "--output", str(file)]
    done = speed(*asked, script="winograd_kernels.py")
    assert done.returncode == 0, done.stderr
    (layer,) = json.loads(file.read_text())["layers"]
    assert 0 < layer["largest_error"] <= 5e-5
    assert 0 < layer["ratio"]["p10"] <= layer["ratio"]["median"]
    assert f"| {layer['name']} |" in done.stdout


@pytest.mark.skipif(not {"avx2", "avx512"} & ISAS, reason="ceiling.cc counts bits on x86")
@pytest.mark.slow
def test_the_benchmark_of_layers_of_bits_verifies_and_compares_them() -> None:
    done = speed("--rounds", "2", "--json", script="gf2.py")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {each["inputs"] for each in document["layers"]} == {144, 512, 1024}
    assert all(0 < each["whole"]["median"] < 1.2 for each in document["layers"])
    assert len(document["presets"]) == 11
    assert all(each["both"]["median"] > 0 for each in document["presets"])


def test_presets_are_recommended_where_the_recorded_measurement_allows() -> None:
    (file,) = sorted((BENCHMARKS / "results").glob("*-gf2.json"))[-1:]
    held: dict[tuple[str, str], bool] = {}
    for each in json.loads(file.read_text())["presets"]:
        key = each["codec"], each["preset"]
        held[key] = held.get(key, True) and each["both"]["median"] <= 1.0
    known = {"gf2": gf2.PRESETS, "block_code": block_code.PRESETS}
    assert {codec for codec, _ in held} == known.keys()
    for (codec, name), cheap in held.items():
        assert known[codec][name].recommended == cheap
    assert {name for codec, name in held if codec == "block_code"} == block_code.PRESETS.keys()


def test_what_settings_are_chosen_on_is_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(BENCHMARKS)
    taught = importlib.import_module("taught_networks")
    found = taught.PictureSet.of_all(map(str, range(2500)), lambda index: np.zeros((1, 1, 3)))
    for subject in taught.SUBJECTS.values():
        training, held_out = subject.split(found)
        assert sorted(training.indices + held_out.indices) == list(found.indices)
        assert len(training) > len(held_out) > 0
        assert subject.task.calibration not in subject.task.evaluation


def test_every_weight_method_gets_as_many_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(BENCHMARKS)
    weights = importlib.import_module("weights")
    asked = weights.Asked(2, 1, (1e-3, 2e-3), (30.0, 60.0, 90.0), 1, 0.3, 2.0)
    tried = {name: weights.tries(name, asked) for name in weights.METHODS}
    assert {len(set(rates)) for rates in tried.values()} == {6}
    assert (2e-3, 0.06) in [(rate, round(of_maps, 9)) for rate, of_maps in tried["soft-threshold"]]


def test_normalisations_are_compared_at_the_rate_that_was_best_on_held_out_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(BENCHMARKS)
    normalisation = importlib.import_module("normalisation")
    monkeypatch.setattr(normalisation, "HELD_OUT", 8)
    monkeypatch.setattr(normalisation, "STARTED_FROM", 4)
    torch.manual_seed(1)
    labels = torch.arange(24) % 2
    values = torch.randn(24, 1, 8, 8) + 3 * labels.reshape(-1, 1, 1, 1)
    pictures = normalisation.Pictures(values, labels)
    tested = normalisation.Pictures(values, torch.arange(24) // 2 % 2)  # no network is right in all
    asked = normalisation.Asked(shown=16, rates=(1e-2, 1e-9), seeds=2)
    found = []
    for method in ("batch", "group", "signed"):
        runs, compared = normalisation.compare(method, 2, pictures, tested, asked)
        (other,) = {*asked.rates} - {compared.rate}
        expected = [(other, 0), (compared.rate, 0), (compared.rate, 1)]
        assert [(run.rate, run.seed) for run in runs] == expected
        assert runs[0].held_out_percent <= runs[1].held_out_percent
        assert [run.test_percent is None for run in runs] == [True, False, False]
        found.append(compared)
    errors = {each.method: 100 - each.mean_percent for each in found}
    ratios = {each["peer"]: each["error_ratio"] for each in normalisation.error_ratios(found)}
    assert ratios == {peer: errors["signed"] / errors[peer] for peer in ("batch", "group")}
