# SPDX-License-Identifier: Apache-2.0
"""How codecs are found, what is refused, and that a new one is one file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from thinmaps import codecs
from thinmaps.codecs.base import Codec
from thinmaps.codecs.native import check_native, implementations
from thinmaps.codecs.raw import Raw
from thinmaps.errors import BadArgument, UnknownCodec
from thinmaps.types import MapSpec

HERE = Path(__file__).parent


def test_the_codecs_of_this_package_are_found():
    assert {"bitplane", "block_width", "narrow", "raw", "zero_bitmap"} <= set(codecs.ids())
    assert codecs.get("raw") is Raw


def test_every_codec_of_this_package_has_a_portable_native_twin():
    for codec_id in ("bitplane", "block_width", "narrow", "raw", "zero_bitmap"):
        codec = codecs.get(codec_id)()
        check_native(codec)
        assert list(implementations(codec))[:2] == ["reference", "native-portable"]


def test_an_unknown_id_is_refused_and_the_installed_ones_are_named():
    with pytest.raises(UnknownCodec, match=r"no codec 'jpeg'; installed: .*narrow, .*raw"):
        codecs.get("jpeg")


def test_a_codec_named_unlike_its_file_is_refused():
    with pytest.raises(BadArgument, match="'elsewhere' must be its file's stem"):

        class Elsewhere(Codec):
            id = "elsewhere"


def test_a_second_codec_of_the_same_id_is_refused(monkeypatch):
    monkeypatch.setitem(Codec.registered, "test_discovery", Raw)
    with pytest.raises(BadArgument, match=r"two codecs have the id 'test_discovery'"):

        class Second(Codec):
            id = "test_discovery"


def test_a_codec_cannot_be_derived_from_another():
    with pytest.raises(BadArgument, match="codecs are final"):

        @dataclass(frozen=True, eq=False)
        class Rawer(Raw):
            id = "rawer"


def test_a_codec_that_forgets_the_export_is_refused_there_and_only_if_lossy(monkeypatch):
    monkeypatch.setattr(Codec, "registered", {})
    assert Raw().standard_operators(MapSpec(1, 1, 1)) == ()

    class Lossy(Codec):
        id = "test_discovery"
        lossless = False
        encode_unit = decode_unit = unit_bytes = fit = None

    with pytest.raises(BadArgument, match="does not define standard_operators"):
        Lossy().standard_operators(MapSpec(1, 1, 1))


@pytest.fixture
def newcomer(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which a package brings the newcomer's one file."""
    shutil.copy(HERE / "newcomer.py", tmp_path / "newcomer.py")
    metadata = tmp_path / "thinmaps_newcomer-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: thinmaps-newcomer\n")
    (metadata / "entry_points.txt").write_text("[thinmaps.codecs]\nnewcomer = newcomer\n")
    return {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{HERE.parent}"}


def run(environment: dict[str, str], *arguments: str) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=HERE.parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_a_codec_in_one_file_passes_the_whole_contract(newcomer):
    contract = "tests/contracts/test_codecs.py"
    only = "newcomer and not golden"
    printed = run(newcomer, "-m", "pytest", contract, "-k", only, "-q", "-p", "no:cacheprovider")
    assert int(printed.rsplit(" passed", 1)[0].rsplit(maxsplit=1)[-1]) > 20
    assert "failed" not in printed


IN_A_PLAN = """
import numpy as np
from small_networks import Builder, Window
from thinmaps import codecs
from thinmaps.errors import UnknownCodec
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine
from thinmaps.run.interpret import interpret, run_network

add = Builder(seed=1)
held = add.conv(add.array(9, 7, 3), 5, Window((3, 3), pads=(1, 1, 1, 1)))
network = add.network(add.conv(held, 4, Window((3, 3), (2, 2), pads=(1, 1, 1, 1))))
samples = np.zeros((1, 9, 7, 5), np.uint8)
codec = codecs.get("newcomer").fit(network.maps[held], samples, unit_rows=2)
plan = build(network, codecs={held: codec})
inputs = {network.inputs[0]: np.random.default_rng(2).normal(size=(9, 7, 3)).astype(np.float32)}
expected, found = run_network(network, inputs), interpret(plan, inputs)
for name in network.outputs:
    np.testing.assert_array_equal(found[name], expected[name].astype(found[name].dtype))
try:
    Engine(plan)
except UnknownCodec as refusal:
    print(refusal)
"""


def test_a_codec_without_a_twin_runs_in_the_interpreter_and_is_refused_by_the_engine(newcomer):
    printed = run(newcomer, "-c", IN_A_PLAN)
    assert printed.startswith("codec 'newcomer' has no native twin")
    assert "thinmaps.run.interpret runs every codec" in printed
