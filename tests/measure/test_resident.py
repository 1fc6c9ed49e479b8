# SPDX-License-Identifier: Apache-2.0
"""The memory of a process that does nothing but load a file and run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from thinmaps.errors import BadArgument
from thinmaps.file import Model, load, save
from thinmaps.graph.float_network import Tail
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Conv, Picture, Window
from thinmaps.measure.resident import growth
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine
from thinmaps.types import MapSpec

MIB = 1 << 20
SIDE = 16
CHANNELS = 512
DEPTH = 5  # 9 MiB of weights: to hold them, or the file, twice would be seen

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").is_file(), reason="the system does not count resident pages"
)


def conv(inputs: int, seed: int) -> Conv:
    shape = (CHANNELS, inputs, 3, 3)
    return Conv(
        Window((3, 3), pads=(1, 1, 1, 1)),
        1,
        np.random.default_rng(seed).integers(-128, 128, shape, dtype=np.int8),
        np.zeros(CHANNELS, np.int32),
        np.full(CHANNELS, 2.0**-14, np.float32),
    )


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .thin file that is nearly all weights."""
    maps = {"picture": MapSpec(SIDE, SIDE, 3), "x0": MapSpec(SIDE, SIDE, 3, 0.5)}
    nodes = [Node("picture", Picture(np.zeros((3, 256), np.uint8), (0, 1, 2)), ("picture",), "x0")]
    for i in range(DEPTH):
        maps[f"x{i + 1}"] = MapSpec(SIDE, SIDE, CHANNELS, 0.5)
        nodes.append(Node(f"conv{i}", conv(CHANNELS if i else 3, i), (f"x{i}",), f"x{i + 1}"))
    last = f"x{DEPTH}"
    network = Network(tuple(nodes), maps, ("picture",), (last,))
    tail = Tail((), {}, (last,), {last: (1, CHANNELS, SIDE, SIDE)})
    path = tmp_path_factory.mktemp("heavy") / "heavy.thin"
    save(Model(build(network), tail), path)
    return path


def test_running_a_file_takes_its_weights_and_arena_and_eight_mebibytes(
    heavy: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((SIDE, SIDE, 3), np.uint8))
    engine = Engine(load(heavy).plan)
    known = engine.weights_bytes + engine.arena_bytes + engine.input_bytes + engine.output_bytes
    assert engine.weights_bytes > 7 * MIB
    # Measured: 7 MiB beside what is known, 2 of them a layer's weights before they are packed. What
    # Python, NumPy and the C library take differs between their versions by a MiB or two.
    assert known < growth(heavy, tmp_path / "x.npy") < known + 10 * MIB


def resident_of(path: Path) -> int:
    """Bytes of a mapped file that this process has resident."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.endswith(str(path))]
    return sum(
        int(next(line for line in lines[i:] if line.startswith("Rss:")).split()[1]) * 1024
        for i in starts
    )


def test_loading_and_packing_leave_nothing_of_the_file_resident(heavy: Path) -> None:
    model = load(heavy)
    Engine(model.plan)
    assert resident_of(heavy) < 3 * MIB  # small arrays, with 2 MiB around them
    weights = [node.operator.weights for node in model.plan.network.nodes[1:]]
    assert sum(int(each[0, 0, 0, 0]) + each.nbytes for each in weights) > 8 * MIB
    assert resident_of(heavy) > 0  # the count counts


def test_running_a_file_imports_no_more_than_it_needs() -> None:
    code = (
        "import sys, thinmaps; thinmaps.Engine, thinmaps.load\n"
        "costly = {'PIL', '_hashlib', 'email', 'html', 'rich', 'typer', 'importlib.metadata'}\n"
        "print(*sorted(costly & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_side_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match=r"measuring .*absent\.thin.* failed.*there is no file"):
        growth(tmp_path / "absent.thin", "x.npy")
