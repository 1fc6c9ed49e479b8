# SPDX-License-Identifier: Apache-2.0
"""Convolutions beside oneDNN on the same instruction set; codecs beside memcpy.

    python benchmarks/kernels.py [--isa avx512 avx2] [--only WORD ...] [--rounds N]
                                 [--json | --markdown] [--output [FILE]]

One process per instruction set holds both sides, which take turns: thinmaps with THINMAPS_ISA, and
PyTorch's quantised convolution by oneDNN with ONEDNN_MAX_CPU_ISA (see `onednn_peer`). CPU time, one
thread. A ratio is taken in every round; the table has its median and the 10th to 90th percentile.

Nobody is timed before the answer is verified: ours at pixels drawn at random against the sum in
64-bit integers, the peer's against ours (on AVX2 it saturates, and must only correlate). Filters
are normally distributed, the largest of each is 127. `ceiling` is what the multiply instruction
alone does in the same rounds (ceiling.cc); depthwise filters are far from it on any side.

Codecs: a tile of 256 KiB that stays in the second-level cache, and a map of 8 MiB that does not,
half of the elements zero; memcpy of the same size into a buffer that exists. Codecs whose reference
is slow are verified and timed on the tile alone. `--only codecs` leaves out the convolutions.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from conv_cases import CASES, Case, Convolution
from results_file import provenance, results_file, write

from thinmaps import _core
from thinmaps.codecs.base import Codec
from thinmaps.codecs.block_code import BlockCode
from thinmaps.codecs.block_width import BlockWidth
from thinmaps.codecs.mixed_width import MixedWidth
from thinmaps.codecs.narrow import Narrow
from thinmaps.codecs.native import twins
from thinmaps.codecs.rans import Rans
from thinmaps.codecs.raw import Raw
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.measure.timing import Spread, interleaved, ratio, spread
from thinmaps.types import MapSpec

BENCHMARKS = Path(__file__).resolve().parent
ONEDNN_ISA = {"avx512": "AVX512_CORE_VNNI", "avx2": "AVX2"}
CEILING_PRODUCTS = 10**9
CODECS = "codecs"  # as the one word of --only

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Convolved:
    """One convolution on one instruction set. `ceiling_share` is of thinmaps."""

    name: str
    isa: str
    ms: Spread
    peer_ms: Spread
    ratio: Spread
    giga_products: float
    ceiling_share: float
    peer: str
    peer_within_a_step: float


@dataclass(frozen=True)
class Coded:
    """One direction of a codec on one instruction set; GB/s of raw bytes."""

    name: str
    isa: str
    raw_bytes: int
    ratio: Spread  # of memcpy's time to the codec's: above 1 is faster than memcpy
    gigabytes: float


def load_ceiling(isa: str, folder: Path) -> Callable[[], int]:
    """Compile ceiling.cc and return what makes at least `CEILING_PRODUCTS` products."""
    library = folder / "ceiling.so"
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-O2", "-shared", "-fPIC", BENCHMARKS / "ceiling.cc", "-o", library]
    subprocess.run(command, check=True)
    function = getattr(ctypes.CDLL(str(library)), isa)
    function.argtypes, function.restype = [ctypes.c_int64], ctypes.c_int64
    per_round = function(1)
    return lambda: function(CEILING_PRODUCTS // per_round + 1)


def convolve(case: Case, isa: str, ceiling: Callable[[], int], rounds: int) -> Convolved:
    """Verify both sides, then time them in turns."""
    import onednn_peer

    ours = Convolution(case)
    ours.verify()
    run_peer = onednn_peer.convolution(ours.node, ours.pixels, ours.weight_scales, ours.x, ours.y)
    theirs = onednn_peer.bytes_of(run_peer())
    within = float(np.mean(np.abs(theirs.astype(int) - ours.made) <= 1))
    saturates = isa == "avx2"
    agrees = np.corrcoef(theirs.ravel(), ours.made.ravel())[0, 1] > 0.95
    assert agrees if saturates else within > 0.999, f"oneDNN differs: {within:.4f} within a step"
    name = onednn_peer.implementation(run_peer)
    assert not re.search("ref|gemm|none", name), f"oneDNN has no kernel of its own: {name}"
    own, peer, spin = interleaved([ours.run, run_peer, ceiling], rounds)
    ceiling_rate = np.median([ceiling() / seconds for seconds in spin.cpu])
    rate = case.products / float(np.median(own.cpu))
    return Convolved(
        case.name,
        isa,
        spread(own.cpu),
        spread(peer.cpu),
        ratio(own.cpu, peer.cpu),
        rate / 1e9,
        rate / float(ceiling_rate),
        name,
        within,
    )


TILE = (4, 1024, 64)  # 256 KiB
CODED_SHAPES = (TILE, (128, 1024, 64))


def code(isa: str, rounds: int) -> Iterator[Coded]:
    """Every codec in both directions and both sizes, beside memcpy."""
    for shape in CODED_SHAPES:
        random = np.random.default_rng(shape[0])
        rows = random.integers(1, 256, shape, np.uint8) * random.integers(0, 2, shape, np.uint8)
        spec = MapSpec(*shape)
        codecs = {
            "raw": Raw(unit_rows=shape[0]),
            "narrow, 4 bits": Narrow.fit(spec, rows[None], unit_rows=shape[0], bits=4),
            "zero_bitmap": ZeroBitmap(unit_rows=shape[0]),
        }
        if shape == TILE:
            codecs |= on_a_tile(spec, rows)
        for name, codec in codecs.items():
            yield from code_one(name, codec, isa, rows, rounds)


def on_a_tile(spec: MapSpec, rows: Array) -> dict[str, Codec]:
    """Those whose references take seconds for more."""
    unit = {"unit_rows": spec.height}
    return {
        "block_code, 2 bits": BlockCode.fit(spec, rows[None], rate=32, **unit),
        "mixed_width, 4 bits": MixedWidth.fit(spec, rows[None], bits=4, **unit),
        "zero_bitmap, steps": ZeroBitmap.fit(spec, rows[None], step=40, **unit),
        "block_width": BlockWidth(**unit),
        "block_width, steps": BlockWidth.fit(spec, rows[None], step=40, **unit),
        "rans": Rans.fit(spec, rows[None], contexts=0, **unit),
        "rans, steps": Rans.fit(spec, rows[None], step=272, contexts=0, **unit),
    }


def code_one(name: str, codec: Codec, isa: str, rows: Array, rounds: int) -> Iterator[Coded]:
    """One codec in both directions."""
    both = directions(codec, isa, rows)
    copy = partial(np.copyto, np.zeros_like(rows), rows)
    *timings, copied = interleaved([*both.values(), copy], rounds)
    for direction, timing in zip(both, timings, strict=True):
        rate = rows.size / float(np.median(timing.cpu)) / 1e9
        yield Coded(f"{name}, {direction}", isa, rows.size, ratio(copied.cpu, timing.cpu), rate)


def directions(codec: Codec, isa: str, rows: Array) -> dict[str, Callable[[], Any]]:
    """Encoding and decoding of all rows as one unit, verified against the reference."""
    spec = MapSpec(*rows.shape)
    chosen = next(one for one in (isa, "avx2", "portable") if one in twins(codec))
    settings = (spec.zero_point, codec.native_integers(spec), codec.native_tables(spec))
    payload = np.zeros(codec.unit_bytes(spec, len(rows)), np.uint8)
    encode = partial(_core.encode_unit, codec.id, chosen, rows, *settings, payload)
    status, written = encode()
    made, decoded = payload[:written], np.zeros_like(rows)
    decode = partial(
        _core.decode_unit, codec.id, chosen, made, spec.width, 0, *settings, rows=decoded
    )
    assert (status, decode()) == (0, 0)
    assert made.tobytes() == codec.encode_unit(rows, spec)
    np.testing.assert_array_equal(decoded, codec.decode_unit(made.tobytes(), spec, len(rows)))
    return {"encode": encode, "decode": decode}


def measure_here(isa: str, only: Sequence[str], rounds: int) -> dict[str, Any]:
    """All figures of one instruction set, in this process; with `only`, one kind of them."""
    with TemporaryDirectory(prefix="thinmaps-") as folder:
        ceiling = load_ceiling(isa, Path(folder))
        convolved = []
        for case in CASES:
            if all(word in case.name for word in only):
                convolved.append(convolve(case, isa, ceiling, rounds))
                print(convolution_line(convolved[-1]), file=sys.stderr, flush=True)
    coded = list(code(isa, rounds)) if only in ([], [CODECS]) else []
    for each in coded:
        print(codec_line(each), file=sys.stderr, flush=True)
    return {"convolutions": list(map(asdict, convolved)), "codecs": list(map(asdict, coded))}


def convolution_line(each: Convolved) -> str:
    """What a person who waits reads."""
    return (
        f"{each.isa} {each.name:26} {each.ms.median:8.3f} / {each.peer_ms.median:8.3f} ms = "
        f"{each.ratio.median:.2f} ({each.ratio.p10:.2f} to {each.ratio.p90:.2f}), "
        f"{each.giga_products:5.1f} G/s, {each.ceiling_share:.0%} of the ceiling; "
        f"{each.peer}, {each.peer_within_a_step:.2%} within a step"
    )


def codec_line(each: Coded) -> str:
    """The same for a codec."""
    taken = each.ratio
    return (
        f"{each.isa} {each.name:22} {each.raw_bytes:8,} bytes: {each.gigabytes:6.2f} GB/s, "
        f"memcpy's rate times {taken.median:.2f} ({taken.p10:.2f} to {taken.p90:.2f})"
    )


def measure(isa: str, only: Sequence[str], rounds: int) -> dict[str, Any]:
    """The same in a process of its own, in which both sides are limited to `isa`."""
    command = [sys.executable, __file__, "--child", "--isa", isa, "--rounds", str(rounds)]
    limits = {"THINMAPS_ISA": isa, "ONEDNN_MAX_CPU_ISA": ONEDNN_ISA[isa], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--only", *only],
        env={**os.environ, **limits},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


CONVOLUTION_HEAD = """\
| convolution | instructions | thinmaps | oneDNN | thinmaps / oneDNN | of the ceiling |
|---|---|---|---|---|---|"""
CODEC_HEAD = """\
| codec | instructions | tile or map | GB/s | memcpy / codec |
|---|---|---|---|---|"""


def markdown(document: dict[str, Any]) -> str:
    """Both tables: medians, ratios with their 10th and 90th percentile."""
    lines = [CONVOLUTION_HEAD]
    for each in document["convolutions"]:
        ours, peer, taken = (each[key] for key in ("ms", "peer_ms", "ratio"))
        lines.append(
            f"| {each['name']} | {each['isa']} | {ours['median']:.3f} ms | {peer['median']:.3f} ms "
            f"| {taken['median']:.2f} ({taken['p10']:.2f} to {taken['p90']:.2f}) "
            f"| {each['ceiling_share']:.0%} |"
        )
    lines += ["", CODEC_HEAD]
    for each in document["codecs"]:
        taken = each["ratio"]
        lines.append(
            f"| {each['name']} | {each['isa']} | {each['raw_bytes'] >> 10} KiB "
            f"| {each['gigabytes']:.2f} "
            f"| {taken['median']:.2f} ({taken['p10']:.2f} to {taken['p90']:.2f}) |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", nargs="*", choices=list(ONEDNN_ISA), default=list(ONEDNN_ISA))
    words = f"words in the names of convolutions, or {CODECS}"
    parser.add_argument("--only", nargs="*", default=[], help=words)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true")
    shown.add_argument("--markdown", action="store_true")
    file = results_file("-kernels")
    parser.add_argument("--output", nargs="?", type=Path, const=file, help="write the JSON here")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"a spread needs at least 2 rounds, got --rounds {options.rounds}")
    if importlib.util.find_spec("torch") is None:
        parser.error("the peer is oneDNN in PyTorch: pip install torch")
    if options.child:
        json.dump(measure_here(options.isa[0], options.only, options.rounds), sys.stdout)
        return 0
    found = [measure(isa, options.only, options.rounds) for isa in options.isa]
    document: dict[str, Any] = {
        **provenance(),
        "torch": version("torch"),
        "rounds": options.rounds,
        **{kind: [each for one in found for each in one[kind]] for kind in found[0]},
    }
    if options.json or options.markdown:
        print(json.dumps(document, indent=2) if options.json else markdown(document))
    write(document, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
