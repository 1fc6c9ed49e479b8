# SPDX-License-Identifier: Apache-2.0
"""The rates of this machine, measured with the engine itself; once, since they go to a file.

Five small networks run in one thread, the first four timed step by step (`Engine.profile`):

    kinds    one node of every kind on rows that stay in the cache: a rate each
    blocks   convolutions that skip zero blocks of their filters
    tiles    convolutions by Winograd's algorithm
    idle     a convolution of one byte a step: what a step costs beside its work
    heavy    18 MiB of filters, walked once per row and once in all: the difference is what reading
             them from beyond the second-level cache takes

The rate of the cache itself is that of the native core's copy loop, its size what the system says.
A plan needs none of this: the tables of `plan/cost.py` serve every machine.

File: JSON, `{"format": 3, "machine", "isa", "thinmaps", "rates": {name: number}}`, one rate for
each field of `MachineRates`. In the user's cache folder there is one file per processor model,
instruction set and version. Cost: about two seconds with AVX-512, some more with portable loops.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from thinmaps import _core
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.errors import BadArgument, BadData
from thinmaps.file.atomic import write_atomically
from thinmaps.graph import operators as op
from thinmaps.graph.network import Network, Node
from thinmaps.graph.zero_blocks import BLOCK
from thinmaps.measure.profile import machine_name
from thinmaps.measure.timing import interleaved
from thinmaps.plan.build import build
from thinmaps.plan.cost import RATES, MachineRates
from thinmaps.plan.plan import Plan
from thinmaps.plan.scratch import TILE_POINTS
from thinmaps.run.engine import Engine
from thinmaps.types import MapSpec
from thinmaps.winograd.exact import OUTPUTS

HERE = "here"
FORMAT = 3
RUNS = 9
HEAVY_RUNS = 5
DEFAULT_CACHE_BYTES = 1 << 20

# Of `kinds`: rows and columns of its maps, and channels of its input and of all other maps.
SIDE, COLUMNS, FEW, CHANNELS = 48, 128, 16, 64
# Of the blocks of a convolution in `blocks`, those that are not zero.
USED_BLOCKS = 1 / 8
# Of `heavy`: filters of 2.25 MiB in each of its nodes.
HEAVY_SIDE, HEAVY_COLUMNS, HEAVY_CHANNELS, HEAVY_NODES = 6, 60, 512, 8
IDLE_STEPS = 1024


def rates_of(machine: str) -> MachineRates:
    """Rates by the name of a table, "here" for this machine's, or the path of a file of them.

    Raises:
        BadArgument: neither a table nor a file.
        BadData: the file is not one of machine rates.
    """
    if machine in RATES:
        return RATES[machine]
    if machine == HERE:
        return rates_here()
    # Unlike `Path.is_file`, true or false for names that no file system takes.
    if not os.path.isfile(machine):
        known = ", ".join([*RATES, HERE])
        raise BadArgument(f"no machine {machine!r}: known are {known}, and files of rates")
    return load_rates(Path(machine))


def rates_here() -> MachineRates:
    """This machine's rates from the cache folder; measured and put there if it has none.

    Raises:
        BadArgument: the folder cannot be made or written.
        BadData: what lies there is damaged.
    """
    path = cache_path()
    if path.is_file():
        return load_rates(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadArgument(
            f"the rates of this machine are kept in {path.parent}, which cannot be made "
            f"({error.strerror}); name another folder in XDG_CACHE_HOME"
        ) from None
    rates = measure_rates()
    save_rates(rates, path)
    return rates


def cache_path() -> Path:
    """Where this machine's rates lie, of this version and the instruction set in use."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    key = f"{machine_name()}|{_core.isa()}|{version('thinmaps')}|{FORMAT}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return Path(root) / "thinmaps" / f"machine-{digest}.json"


def save_rates(rates: MachineRates, path: Path) -> None:
    """Write a file of rates, whole or not at all.

    Raises:
        BadArgument: the path cannot be written.
    """
    document = {
        "format": FORMAT,
        "machine": machine_name(),
        "isa": _core.isa(),
        "thinmaps": version("thinmaps"),
        "rates": dataclasses.asdict(rates),
    }
    write_atomically(path, (json.dumps(document, indent=2) + "\n").encode())


def load_rates(path: Path) -> MachineRates:
    """Read a file of rates.

    Raises:
        BadData: it is damaged, or of another format.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r}, not {FORMAT}")
        rates = document["rates"]
        if not isinstance(rates, dict):
            raise ValueError(f"rates are a {type(rates).__name__}, not names with numbers")
        return _checked(rates)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise BadData(
            f"{path} is no file of machine rates ({why}); delete it to measure them again"
        ) from None


def _checked(rates: dict[str, object]) -> MachineRates:
    names = {field.name: field.type for field in dataclasses.fields(MachineRates)}
    if set(rates) != set(names):
        odd = ", ".join(sorted(set(rates) ^ set(names)))
        raise ValueError(f"its rates are not those of this version: {odd}")
    for name, value in rates.items():
        whole = names[name] == "int"
        if type(value) not in ((int,) if whole else (int, float)):
            raise ValueError(f"{name} is {value!r}")
        assert isinstance(value, int | float)
        if not 0 < value < 1e18 or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}")
    found = MachineRates(**rates)  # type: ignore[arg-type]
    if found.near_bytes_per_second < found.far_bytes_per_second:
        raise ValueError("the cache is slower than what lies beyond it")
    return found


def measure_rates(isa: str | None = None) -> MachineRates:
    """Measure the rates of one core with the loops of `isa`, by default the best."""
    chosen = isa or _core.isa()
    step = _Profile(_idle(), chosen).seconds("idle") / IDLE_STEPS
    kinds = _Profile(_kinds(), chosen)
    pixels = SIDE * COLUMNS

    def seconds(node: str) -> float:
        return max(kinds.seconds(node) - kinds.steps(node) * step, 1e-9)

    # Both convolutions make as many sums; they differ by their products.
    products = pixels * CHANNELS * (CHANNELS * 9 - FEW)
    product_seconds = max(seconds("wide") - seconds("narrow"), 1e-9) / products
    sum_seconds = seconds("narrow") - pixels * CHANNELS * FEW * product_seconds
    made = pixels * CHANNELS
    near = _core.copied_bytes_per_second()
    block_products, laid_bytes, block_sums = _block_rates(chosen, step)
    point_products, points, tile_sums = _tile_rates(chosen, step)
    return MachineRates(
        products_per_second=1 / product_seconds,
        depthwise_products_per_second=9 * made / seconds("depthwise"),
        sums_per_second=made / max(sum_seconds, 1e-9),
        pooled_bytes_per_second=9 * made / seconds("pool"),
        pointwise_bytes_per_second=made / seconds("add"),
        copied_bytes_per_second=made / seconds("table"),
        coded_bytes_per_second=2 * made / (seconds("encode") + seconds("decode")),
        near_bytes_per_second=near,
        far_bytes_per_second=min(_far_bytes_per_second(chosen, step), near),
        cache_bytes=_cache_bytes(),
        tile_pixels=RATES[chosen].tile_pixels,
        step_seconds=step,
        block_products_per_second=block_products,
        laid_bytes_per_second=laid_bytes,
        block_sums_per_second=block_sums,
        point_products_per_second=point_products,
        points_per_second=points,
        tile_sums_per_second=tile_sums,
    )


def _block_rates(isa: str, step_seconds: float) -> tuple[float, float, float]:
    """Products, laid bytes and sums of convolutions that skip zero blocks, per second."""
    profile = _Profile(_blocks(), isa)

    def seconds(node: str) -> float:
        return max(profile.seconds(node) - profile.steps(node) * step_seconds, 1e-9)

    # Both make as many sums of as many laid bytes.
    pixels = SIDE * COLUMNS
    products = pixels * CHANNELS * CHANNELS * 9
    more = products * (1 - USED_BLOCKS)
    product_seconds = max(seconds("full") - seconds("part"), 1e-9) / more
    # Next to no sums, and one row laid for each of the output.
    lay_seconds = max(seconds("lean") - pixels * CHANNELS * BLOCK[0] * product_seconds, 1e-9)
    sum_seconds = seconds("part") - products * USED_BLOCKS * product_seconds - 3 * lay_seconds
    made = pixels * CHANNELS
    return 1 / product_seconds, made / lay_seconds, made / max(sum_seconds, 1e-9)


def _tile_rates(isa: str, step_seconds: float) -> tuple[float, float, float]:
    """Products, points of inputs, and sums of convolutions by Winograd's algorithm, per second."""
    profile = _Profile(_tiles(), isa, winograd=True)

    def seconds(node: str) -> float:
        return max(profile.seconds(node) - profile.steps(node) * step_seconds, 1e-9)

    # Half of the channels on either side halve the products, and the points or the sums.
    most, fewer_sums, fewer_points = seconds("most"), seconds("fewer sums"), seconds("fewer points")
    products = max(3 * most - 2 * fewer_sums - 2 * fewer_points, 1e-9)
    points = max(2 * (most - fewer_points) - products, 1e-9)
    sums = max(2 * (most - fewer_sums) - products, 1e-9)
    tiles = SIDE * COLUMNS / OUTPUTS**2
    made = tiles * TILE_POINTS * CHANNELS
    return made * CHANNELS / products, made / points, SIDE * COLUMNS * CHANNELS / sums


def _far_bytes_per_second(isa: str, step_seconds: float) -> float:
    """Both plans take turns, and each counts with its least time: their difference is small."""
    runs = [_run(_heavy(rows), isa) for rows in (1, HEAVY_SIDE)]
    timings = interleaved(runs, HEAVY_RUNS)
    thin, whole = (min(timing.cpu) for timing in timings)
    more_steps = HEAVY_NODES * (HEAVY_SIDE - 1)
    filter_bytes = more_steps * HEAVY_CHANNELS * HEAVY_CHANNELS * 9
    return filter_bytes / max(thin - whole - more_steps * step_seconds, 1e-9)


def _run(plan: Plan, isa: str) -> Callable[[], None]:
    engine, names = Engine(plan, isa=isa), (*plan.network.inputs, *plan.network.outputs)
    x, y = (np.zeros(plan.network.maps[name].shape, np.uint8) for name in names)
    return lambda: engine.run_into([x], [y])


class _Profile:
    """Times of the nodes of a plan; an `Encode` and a `Decode` go by these names."""

    def __init__(self, plan: Plan, isa: str, winograd: bool = False) -> None:
        spec = plan.network.maps[plan.network.inputs[0]]
        picture = np.random.default_rng(0).integers(0, 256, spec.shape, dtype=np.uint8)
        engine = Engine(plan, isa=isa, skip_zero_blocks=True, winograd=winograd)
        times = engine.profile(picture, RUNS)
        self._times = {
            time.operator if time.operator in ("encode", "decode") else time.node: time
            for time in times
        }

    def seconds(self, node: str) -> float:
        """Of all steps of a node."""
        return self._times[node].seconds

    def steps(self, node: str) -> int:
        """How many steps a node has."""
        return self._times[node].steps


def _kinds() -> Plan:
    """A node of every kind, one after the other, in steps of a row, too short to be interrupted."""
    window = op.Window((3, 3), pads=(1, 1, 1, 1))
    table = np.arange(256, dtype=np.uint8)[None]
    nodes = (
        _picture(FEW),
        Node("narrow", _conv(op.Window((1, 1)), FEW, CHANNELS), ("x",), "a"),
        Node("wide", _conv(window, CHANNELS, CHANNELS), ("a",), "b"),
        Node("depthwise", _conv(window, 1, CHANNELS, CHANNELS), ("b",), "c"),
        Node("pool", op.MaxPool(window), ("c",), "d"),
        Node("add", op.Add(np.full(2, 0.5, np.float32)), ("c", "d"), "e"),
        Node("table", op.Lookup(table[:, ::-1].copy()), ("e",), "f"),
        Node("end", op.Lookup(table), ("f",), "y"),
    )
    few, many = (MapSpec(SIDE, COLUMNS, channels) for channels in (FEW, CHANNELS))
    maps = {"pixels": few, "x": few, **dict.fromkeys("abcdefy", many)}
    network = Network(nodes, maps, ("pixels",), ("y",))
    return build(network, codecs={"f": ZeroBitmap()}, schedule="stream", effort=0)


def _blocks() -> Plan:
    """Convolutions with all blocks, with few, and with few outputs, in steps of a row."""
    window = op.Window((3, 3), pads=(1, 1, 1, 1))
    full = _conv(window, CHANNELS, CHANNELS)
    used = np.random.default_rng(0).random((CHANNELS // BLOCK[0], CHANNELS // BLOCK[1], 3, 3))
    mask = (used < USED_BLOCKS).repeat(BLOCK[0], axis=0).repeat(BLOCK[1], axis=1)
    part = dataclasses.replace(full, weights=full.weights * mask)
    nodes = (
        _picture(CHANNELS),
        Node("full", full, ("x",), "a"),
        Node("part", part, ("a",), "b"),
        Node("lean", _conv(op.Window((1, 1)), CHANNELS, BLOCK[0]), ("b",), "y"),
    )
    many = MapSpec(SIDE, COLUMNS, CHANNELS)
    maps = {**dict.fromkeys(("pixels", "x", "a", "b"), many), "y": MapSpec(SIDE, COLUMNS, BLOCK[0])}
    network = Network(nodes, maps, ("pixels",), ("y",))
    return build(network, schedule="stream", effort=0, skip_zero_blocks=True)


def _tiles() -> Plan:
    """Convolutions of all channels, of half of them made, and of half of them read."""
    window = op.Window((3, 3), pads=(1, 1, 1, 1))
    half = CHANNELS // 2
    nodes = (
        _picture(CHANNELS),
        Node("most", _conv(window, CHANNELS, CHANNELS), ("x",), "a"),
        Node("fewer sums", _conv(window, CHANNELS, half), ("a",), "b"),
        Node("fewer points", _conv(window, half, CHANNELS), ("b",), "y"),
    )
    many, few = (MapSpec(SIDE, COLUMNS, channels) for channels in (CHANNELS, half))
    maps = {**dict.fromkeys(("pixels", "x", "a", "y"), many), "b": few}
    network = Network(nodes, maps, ("pixels",), ("y",))
    return build(network, schedule="stream", stripe_rows=OUTPUTS, effort=0, winograd=True)


def _idle() -> Plan:
    spec = MapSpec(IDLE_STEPS, 1, 1)
    nodes = (_picture(1), Node("idle", _conv(op.Window((1, 1)), 1, 1), ("x",), "y"))
    network = Network(nodes, dict.fromkeys(("pixels", "x", "y"), spec), ("pixels",), ("y",))
    return build(network, schedule="stream", effort=0)


def _heavy(rows: int) -> Plan:
    window = op.Window((3, 3), pads=(1, 1, 1, 1))
    spec = MapSpec(HEAVY_SIDE, HEAVY_COLUMNS, HEAVY_CHANNELS)
    names = ["x", *(f"y{i}" for i in range(HEAVY_NODES))]
    conv = _conv(window, HEAVY_CHANNELS, HEAVY_CHANNELS)
    convs = (Node(f"heavy{i}", conv, (names[i],), names[i + 1]) for i in range(HEAVY_NODES))
    maps = dict.fromkeys(["pixels", *names], spec)
    network = Network((_picture(HEAVY_CHANNELS), *convs), maps, ("pixels",), (names[-1],))
    return build(network, schedule="stream", stripe_rows=rows, effort=0)


def _picture(channels: int) -> Node:
    table = np.tile(np.arange(256, dtype=np.uint8), (channels, 1))
    return Node("picture", op.Picture(table, tuple(range(channels))), ("pixels",), "x")


def _conv(window: op.Window, per_group: int, outputs: int, groups: int = 1) -> op.Conv:
    random = np.random.default_rng(outputs)
    weights = random.integers(-128, 128, (outputs, per_group, *window.kernel), dtype=np.int8)
    factor = np.full(outputs, 2.0**-12, np.float32)
    return op.Conv(window, groups, weights, np.zeros(outputs, np.int32), factor)


def _cache_bytes() -> int:
    """Of the second level, as the system says."""
    size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
    text = size.read_text().strip() if size.is_file() else ""
    kib = text.removesuffix("K")
    return int(kib) << 10 if text.endswith("K") and kib.isdigit() else DEFAULT_CACHE_BYTES
