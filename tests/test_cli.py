# SPDX-License-Identifier: Apache-2.0
"""Every command from argument to exit code, on a network and pictures made here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from thinmaps import cli
from thinmaps.progress import LateBar

CLASSES = 6
SIDE = 16


def _classifier() -> onnx.ModelProto:
    """Convolution, convolution, mean, fully connected; weights from a fixed seed."""
    generator = np.random.default_rng(11)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        values = generator.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(values.astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        [weights("w1", 8, 3, 3, 3), weights("w2", 12, 8, 1, 1), weights("w3", CLASSES, 12)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _filter() -> onnx.ModelProto:
    """A picture in, the same picture out: two 1 x 1 convolutions with the identity."""
    identity = numpy_helper.from_array(np.eye(3, dtype=np.float32)[:, :, None, None], "w")
    shape = [1, 3, SIDE, SIDE]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["between"]),
            helper.make_node("Conv", ["between", "w"], ["filtered"]),
        ],
        "filter",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("filtered", TensorProto.FLOAT, shape)],
        [identity],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@dataclass(frozen=True)
class Place:
    """A folder with networks, pictures, labels and a compressed network."""

    folder: Path

    def __getattr__(self, name: str) -> str:
        return str(self.folder / name.replace("_", "."))

    @property
    def pictures(self) -> str:
        return str(self.folder / "pictures")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "pictures").mkdir()
    generator = np.random.default_rng(7)
    lines = ["filename,class_index"]
    for i in range(10):
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.png")
        lines.append(f"{i}.png,{i % CLASSES}")
    (folder / "labels.csv").write_text("\n".join(lines))
    (folder / "names.txt").write_text("\n".join(f"name [{i}]" for i in range(CLASSES)))
    onnx.save(_classifier(), folder / "net.onnx")
    onnx.save(_filter(), folder / "filter.onnx")
    found = Place(folder)
    base = ["--calibrate", found.pictures, "--json"]
    assert cli.run(["compress", found.net_onnx, "-o", found.net_thin, *base,
                    "--names", found.names_txt]) == 0  # fmt: skip
    assert cli.run(["compress", found.filter_onnx, "-o", found.filter_thin, *base,
                    "--mean", "0,0,0", "--std", "1"]) == 0  # fmt: skip
    return found


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A command's exit code, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_compress_prints_what_show_prints_and_the_drop(
    run: Run, place: Place, tmp_path: Path
) -> None:
    output = str(tmp_path / "a.thin")
    code, out, _ = run(
        "compress", place.net_onnx, "--calibrate", place.pictures, "-o", output, "--json"
    )
    assert code == 0
    found = json.loads(out)
    shown = json.loads(run("show", output, "--json")[1])
    assert found == shown
    assert 0 <= found["drop"] <= 100
    assert {"arena_bytes", "weights_bytes", "schedule", "maps"} <= found.keys()


def test_the_same_input_and_options_give_the_same_bytes(
    run: Run, place: Place, tmp_path: Path
) -> None:
    output = tmp_path / "again.thin"
    run("compress", place.net_onnx, "--calibrate", place.pictures, "-o", str(output),
        "--names", place.names_txt)  # fmt: skip
    assert output.read_bytes() == Path(place.net_thin).read_bytes()


def test_options_reach_the_plan(run: Run, place: Place, tmp_path: Path) -> None:
    output = str(tmp_path / "b.thin")
    code, out, err = run(
        "compress", place.net_onnx, "--calibrate", place.pictures, "-o", output, "--json",
        "--schedule", "layer", "--codec", "narrow:4", "--size", "24x20", "--arena", "1MiB",
        "--stripe", "2", "--labels", place.labels_csv, "--fit", "stretch", "--order", "bgr",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert (found["schedule"], found["stripe_rows"]) == ("layer", 2)
    assert found["maps"][0]["shape"] == [24, 20, 3]
    assert "narrow" in {row["codec"] for row in found["maps"]}


def test_a_codec_can_be_asked_for_on_one_edge(run: Run, place: Place, tmp_path: Path) -> None:
    maps = json.loads(run("show", place.net_thin, "--json")[1])["maps"]
    edge = next(row["name"] for row in maps if row["shape"][2] == 8)
    code, out, err = run(
        "compress", place.net_onnx, "--calibrate", place.pictures, "--json",
        "-o", str(tmp_path / "c.thin"), "--codec", f"{edge}=zero_bitmap",
    )  # fmt: skip
    assert code == 0, err
    codecs = {row["name"]: row["codec"] for row in json.loads(out)["maps"]}
    assert codecs.pop(edge) == "zero_bitmap"
    assert set(codecs.values()) == {"raw"}


def test_show_is_a_table_for_people_and_json_for_programs(run: Run, place: Place) -> None:
    code, out, _ = run("show", place.net_thin)
    assert code == 0
    assert "arena" in out
    assert f"{SIDE}x{SIDE}x3" in out
    assert json.loads(run("show", place.net_thin, "--json")[1])["arena_bytes"] > 0


def test_show_writes_a_page(run: Run, place: Place, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert run("show", place.net_thin, "--html", str(page))[0] == 0
    assert "</html>" in page.read_text("utf-8")


def test_run_names_the_five_best_classes(run: Run, place: Place) -> None:
    picture = f"{place.pictures}/3.png"
    code, out, _ = run("run", place.net_thin, picture, "--json")
    assert code == 0
    (answer,) = json.loads(out)["pictures"]
    assert len(answer["top"]) == 5
    scores = [guess["score"] for guess in answer["top"]]
    assert scores == sorted(scores, reverse=True)
    best = answer["top"][0]
    assert best["name"] == f"name [{best['class_index']}]"
    said = run("run", place.net_thin, picture)[1]
    assert best["name"] in said
    assert "arena" in said
    assert "ms" in said


def test_run_writes_the_picture_that_a_network_makes(
    run: Run, place: Place, tmp_path: Path
) -> None:
    picture, output = f"{place.pictures}/3.png", tmp_path / "out.png"
    code, _, err = run("run", place.filter_thin, picture, "-o", str(output))
    assert code == 0, err
    difference = np.asarray(Image.open(output)).astype(int) - np.asarray(Image.open(picture))
    assert np.abs(difference).max() <= 3  # two maps of eight bits between
    arrays = tmp_path / "out.npz"
    assert run("run", place.filter_thin, picture, "-o", str(arrays))[0] == 0
    with np.load(arrays) as found:
        assert found["filtered"].shape == (1, 3, SIDE, SIDE)


def test_a_corrupt_picture_among_the_held_out_ones_is_counted(
    run: Run, place: Place, tmp_path: Path
) -> None:
    folder = shutil.copytree(place.pictures, tmp_path / "pictures")
    (folder / "4.png").write_bytes(b"no picture")
    compress = ["compress", place.net_onnx, "--calibrate", str(folder), "--json"]
    code, out, _ = run(*compress, "-o", str(tmp_path / "one.thin"))
    assert code == 0
    assert "checked on 1 pictures, 1 skipped" in " ".join(json.loads(out)["notes"])
    (folder / "9.png").write_bytes(b"no picture")
    code, out, _ = run(*compress, "-o", str(tmp_path / "none.thin"))
    assert code == 0
    assert json.loads(out)["drop"] is None
    assert "checked on 0 pictures, 2 skipped" in " ".join(json.loads(out)["notes"])


def test_several_pictures_are_answered_and_a_corrupt_one_is_skipped_and_counted(
    run: Run, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    pictures = [f"{place.pictures}/1.png", str(tmp_path / "bad.png"), f"{place.pictures}/2.png"]
    code, out, _ = run("run", place.net_thin, *pictures, "--json")
    found = json.loads(out)
    assert code == 0
    assert [answer["picture"] for answer in found["pictures"]] == [pictures[0], pictures[2]]
    assert len(found["skipped"]) == 1
    assert "bad.png" in found["skipped"][0]


def test_eval_reports_accuracy_and_agreement(run: Run, place: Place) -> None:
    arguments = ("eval", place.net_thin, "--images", place.pictures, "--labels", place.labels_csv)
    code, out, _ = run(*arguments, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["pictures"] == 10
    assert 0 <= found["top1"] <= found["top5"] <= 100
    assert found["agreement"] >= 80  # random weights, near ties
    assert found["skipped"] == 0
    assert "agreement" in run(*arguments)[1]


def test_eval_without_the_float_network_says_so_in_one_sentence(
    run: Run, place: Place, tmp_path: Path
) -> None:
    moved = tmp_path / "net.onnx"
    moved.write_bytes(Path(place.net_onnx).read_bytes())
    output = str(tmp_path / "d.thin")
    run("compress", str(moved), "--calibrate", place.pictures, "-o", output)
    arguments = ("eval", output, "--images", place.pictures, "--labels", place.labels_csv, "--json")
    moved.write_bytes(Path(place.filter_onnx).read_bytes())
    code, out, err = run(*arguments)
    assert code == 0
    assert json.loads(out)["agreement"] is None
    assert "has changed" in err
    moved.unlink()
    assert "is gone" in run(*arguments)[2]
    out = run(*arguments, "--float", place.net_onnx)[1]
    assert json.loads(out)["agreement"] is not None


def test_export_writes_a_network_that_onnx_accepts(run: Run, place: Place, tmp_path: Path) -> None:
    target = tmp_path / "q.onnx"
    code, out, _ = run("export", place.net_thin, "--onnx", str(target), "--json")
    assert code == 0
    assert json.loads(out)["bytes"] == target.stat().st_size
    onnx.checker.check_model(onnx.load(target))


def test_version_and_help(run: Run) -> None:
    code, out, _ = run("--version")
    assert (code, out.split()[0]) == (0, "thinmaps")
    code, out, _ = run("--help")
    assert code == 0
    for command in ("compress", "run", "show", "eval", "bench", "export", "demo"):
        assert command in out
    assert run() == (0, out, "")


BAD = {
    "no such command": (["frob"], "frob"),
    "no such option": (["show", "{net_thin}", "--frob"], "--frob"),
    "missing argument": (["run"], "MODEL.thin"),
    "no such file": (["show", "{gone_thin}"], "gone.thin"),
    "a directory instead of a file": (["show", "{pictures}"], "pictures"),
    "not a .thin file": (["show", "{labels_csv}"], "labels.csv"),
    "empty file": (["compress", "{empty_onnx}", "-o", "{x_thin}"], "empty.onnx"),
    "directory as network": (["compress", "{pictures}", "-o", "{x_thin}"], "pictures"),
    "no calibration": (["compress", "{net_onnx}", "-o", "{x_thin}"], "calibrat"),
    "empty calibration folder": (
        ["compress", "{net_onnx}", "--calibrate", "{empty_folder}", "-o", "{x_thin}"],
        "holds no picture",
    ),
    "bad size": (["compress", "{net_onnx}", "-o", "{x_thin}", "--size", "3"], "HEIGHTxWIDTH"),
    "bad winograd": (
        ["compress", "{net_onnx}", "--winograd", "2", "-o", "{x_thin}"],
        "--winograd",
    ),
    "no winograd": (
        ["compress", "{net_onnx}", "--winograd", "fast", "-o", "{x_thin}"],
        "needs exact, or a relative error such as 0.05, got 'fast'",
    ),
    "bad mean": (["compress", "{net_onnx}", "-o", "{x_thin}", "--mean", "a"], "--mean"),
    "nan std": (["compress", "{net_onnx}", "-o", "{x_thin}", "--std", "nan"], "--std"),
    "means and stds": (
        ["compress", "{net_onnx}", "-o", "{x_thin}", "--mean", "1,2", "--std", "1,2,3"],
        "as many means as stds",
    ),
    "bad fit": (["compress", "{net_onnx}", "-o", "{x_thin}", "--fit", "squeeze"], "--fit"),
    "bad arena": (["compress", "{net_onnx}", "-o", "{x_thin}", "--arena", "much"], "--arena"),
    "more bytes than there are": (
        ["compress", "{net_onnx}", "-o", "{x_thin}", "--arena", "9" * 400], "--arena"
    ),
    "a codec's option of many digits": (
        ["compress", "{net_onnx}", "-o", "{x_thin}", "--codec", "narrow:" + "9" * 5000],
        "at most 9 digits",
    ),
    "two codecs for one map": (
        ["compress", "{net_onnx}", "-o", "{x_thin}", "--codec", "r1=raw", "--codec", "r1=narrow"],
        "several for r1",
    ),
    "a machine's name that no file has": (
        ["compress", "{net_onnx}", "-o", "{x_thin}", "--machine", "a" * 5000], "no machine"
    ),
    "bad codec text": (["compress", "{net_onnx}", "-o", "{x_thin}", "--codec", "a=B"], "--codec"),
    "two codecs for all": (
        ["compress", "{net_onnx}", "-o", "{x_thin}", "--codec", "raw", "--codec", "narrow"],
        "one codec for all",
    ),
    "unknown codec": (
        ["compress", "{net_onnx}", "--calibrate", "{pictures}", "-o", "{x_thin}",
         "--codec", "zip"],
        "'zip'",
    ),
    "unknown edge": (
        ["compress", "{net_onnx}", "--calibrate", "{pictures}", "-o", "{x_thin}",
         "--codec", "nowhere=raw"],
        "nowhere",
    ),
    "codec option where no map is held": (
        ["compress", "{filter_onnx}", "--calibrate", "{pictures}", "-o", "{x_thin}",
         "--codec", "narrow:9"],
        "bits",
    ),
    "names of other classes": (
        ["compress", "{net_onnx}", "--calibrate", "{pictures}", "-o", "{x_thin}",
         "--names", "{labels_csv}"],
        "6 classes, but 11 names",
    ),
    "tiny std": (
        ["compress", "{net_onnx}", "--calibrate", "{pictures}", "-o", "{x_thin}",
         "--std", "1e-40"],
        "must be finite",
    ),
    "labels for pictures": (
        ["eval", "{filter_thin}", "--images", "{pictures}", "--labels", "{labels_csv}"],
        "networks of class scores",
    ),
    "impossible arena": (
        ["compress", "{net_onnx}", "--calibrate", "{pictures}", "-o", "{x_thin}",
         "--arena", "64"],
        "arena",
    ),
    "output in no folder": (
        ["compress", "{net_onnx}", "-o", "{pictures}/none/x.thin"], "no folder"
    ),
    "output is a folder": (["compress", "{net_onnx}", "-o", "{pictures}"], "it is a folder"),
    "no such picture": (["run", "{net_thin}", "{gone_png}"], "gone.png"),
    "all of several pictures": (
        ["run", "{net_thin}", "{gone_png}", "{labels_csv}"], "none of 2 pictures"
    ),
    "output of two pictures": (
        ["run", "{net_thin}", "{pictures}/1.png", "{pictures}/2.png", "-o", "{x_png}"],
        "one picture",
    ),
    "classes are no picture": (
        ["run", "{net_thin}", "{pictures}/1.png", "-o", "{x_png}"], "is no picture"
    ),
    "unknown picture format": (
        ["run", "{filter_thin}", "{pictures}/1.png", "-o", "{x_xyz}"], "no picture format"
    ),
    "labels without a column": (
        ["eval", "{net_thin}", "--images", "{pictures}", "--labels", "{names_txt}"],
        "filename,class_index",
    ),
    "float network of other classes": (
        ["eval", "{net_thin}", "--images", "{pictures}", "--labels", "{labels_csv}",
         "--float", "{filter_onnx}"],
        "float network",
    ),
    "detection without anchors": (
        ["eval", "{net_thin}", "--images", "{pictures}", "--task", "detect"], "--anchors"
    ),
    "page into no folder": (
        ["show", "{net_thin}", "--html", "{pictures}/none/x.html"], "no folder"
    ),
    "export into no folder": (
        ["export", "{net_thin}", "--onnx", "{pictures}/none/x.onnx"], "no folder"
    ),
    "too few rounds": (["bench", "{net_thin}", "--rounds", "3"], "--rounds"),
    "unknown peer": (["bench", "{net_thin}", "--against", "abacus"], "--against"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "word"), BAD.values(), ids=BAD.keys())
def test_bad_input_gets_one_sentence_exit_code_2_and_leaves_no_file(
    run: Run, place: Place, arguments: list[str], word: str
) -> None:
    (place.folder / "empty.onnx").write_bytes(b"")
    (place.folder / "empty").mkdir(exist_ok=True)
    (place.folder / "empty" / "folder").mkdir(exist_ok=True)
    before = sorted(place.folder.iterdir())
    names = {
        name: getattr(place, name)
        for name in ("net_onnx", "net_thin", "filter_onnx", "filter_thin", "labels_csv", "x_xyz",
                     "names_txt", "gone_thin", "gone_png", "empty_onnx", "x_thin", "x_png")
    }  # fmt: skip
    names |= {"pictures": place.pictures, "empty_folder": str(place.folder / "empty")}
    code, out, err = run(*(argument.format(**names) for argument in arguments))
    assert code == 2, err
    assert out == ""
    assert err.startswith("thinmaps: ")
    assert err.count("\n") == 1
    assert word in err
    assert sorted(place.folder.iterdir()) == before


def test_a_read_only_output_is_refused_before_the_work(
    run: Run, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The super-user may write everywhere, so the question is answered for it.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    code, _, err = run("compress", place.net_onnx, "-o", str(tmp_path / "x.thin"))
    assert code == 2
    assert "read-only" in err


def test_ctrl_c_in_the_middle_of_writing_leaves_nothing(
    run: Run, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(descriptor: int) -> None:
        del descriptor
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "fsync", interrupted)
    # A shell's job in the background begins with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, out, err = run(
            *("compress", place.net_onnx, "--calibrate", place.pictures),
            *("-o", str(tmp_path / "x.thin")),
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, out) == (130, "")
    assert "interrupted" in err
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_ours_is_not_swallowed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("thinmaps.measure.prediction.predict_all", broken)
    with pytest.raises(ZeroDivisionError):
        cli.run(["run", place.net_thin, f"{place.pictures}/1.png"])


def test_the_bar_waits_and_then_draws(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with LateBar() as early:
        early("calibrating", 1, 3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("thinmaps.progress.PATIENCE_SECONDS", 0.0)
    with LateBar() as late:
        late("calibrating", 1, 3)
        late("calibrating", 2, 3)
        late("checking", 1, 2)
    assert "calibrating" in capsys.readouterr().err


def test_the_bar_leaves_no_line_where_nobody_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("thinmaps.progress.PATIENCE_SECONDS", 0.0)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    with LateBar() as bar:
        bar("calibrating", 1, 3)
    assert capsys.readouterr().err == ""


def test_running_and_showing_need_no_onnx(place: Place) -> None:
    blocked = "import sys; sys.modules.update(onnx=None, onnxruntime=None, torch=None); "
    call = "from thinmaps.cli import main; main(sys.argv[1:])"
    for arguments in (
        ["run", place.net_thin, f"{place.pictures}/1.png", "--json"],
        ["show", place.net_thin, "--json", "--html", str(place.folder / "bare.html")],
        ["bench", place.net_thin, "--profile", "--json"],
    ):
        command = [sys.executable, "-c", blocked + call, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout).keys() & {"arena_bytes", "total"}
    for arguments, code in (
        (["bench", place.net_thin], 2),
        (["eval", place.net_thin, "--images", place.pictures], 0),
    ):
        command = [sys.executable, "-c", blocked + call, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "thinmaps[compress]" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_package_runs_as_the_command_does() -> None:
    command = [sys.executable, "-m", "thinmaps", "show", "nothing.thin"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("thinmaps: there is no file nothing.thin")
