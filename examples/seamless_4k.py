# SPDX-License-Identifier: Apache-2.0
"""A 4K picture through a fully convolutional network in two megabytes, beside the same in tiles.

1. The demo's denoiser is planned for the whole picture; rows go in from a file and come out into
   another (`stream_rows.py`, in a process of its own, so that its memory can be seen).
2. The same network, the same weights, the same arithmetic, in tiles (`tiles.py`), with margins
   from none upwards. Every difference is the tiling's.
3. ONNX Runtime on the float network, whole and on one tile: what it holds at once.

    python seamless_4k.py [--picture FILE] [--size 2160x3840] [--tile 512] [-o FOLDER] [--no-peer]

Leaves `seam.png` (a place where four tiles meet: in tiles, whole, 16 times the difference),
`difference.png` (where the tiled picture differs), `clean.png` and `figures.json`. At 4K about two
minutes and 3 GB, for the peer; without it half a minute.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from PIL import Image
from tiles import Pixels, Tiled, run_tiled, seam_of

import thinmaps as tm
from thinmaps.demo import shipped
from thinmaps.graph.onnx_clean import clean
from thinmaps.measure.contenders import CHILD
from thinmaps.measure.live_heap import count_in_process
from thinmaps.measure.words import bytes_in_words
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine
from thinmaps.types import Preprocessing

HERE = Path(__file__).resolve().parent
MARGINS = (0, 4, 8, 16, 32)
PREPROCESSING = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, fit="none")
CROP = (120, 160)  # height and width of the place that is shown, enlarged
ENLARGED, AMPLIFIED = 3, 16


def noisy_picture(path: Path | None, size: tuple[int, int]) -> Pixels:
    """The picture at `size`, with the noise of a sensor in the dark."""
    clear = Image.fromarray(shipped.photograph()) if path is None else Image.open(path)
    scaled = clear.convert("RGB").resize(size[::-1], Image.Resampling.LANCZOS)
    return shipped.with_noise(np.asarray(scaled))


def denoiser(size: tuple[int, int]) -> tm.Model:
    """The network of the demo, planned for pictures of `size`. Ranges do not depend on it."""
    network = onnx.load_from_string(shipped.shipped("denoiser.onnx"))
    squares = shipped.calibration_squares()
    return tm.compress(network, squares, preprocessing=PREPROCESSING, size=size)


def streamed(model: tm.Model, noisy: Pixels) -> tuple[Pixels, dict[str, float]]:
    """The whole picture, row by row, in another process; and what that cost."""
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("model.thin", "noisy.rows", "clean.rows")]
        tm.save(model, paths[0])
        paths[1].write_bytes(noisy.tobytes())
        command = [sys.executable, str(HERE / "stream_rows.py"), *map(str, paths)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        clean_rows = np.fromfile(paths[2], np.uint8)
    return clean_rows.reshape(noisy.shape), json.loads(done.stdout)


def one_map(engine: Engine) -> Callable[[Pixels], Pixels]:
    """The engine of a network with one output, as a function."""
    (name,) = engine.output_specs
    return lambda pixels: engine.maps(pixels)[name]


def peer_bytes(size: tuple[int, int]) -> int:
    """Live heap of ONNX Runtime on the float network, which frees every map as early as it can."""
    network, _ = clean(onnx.load_from_string(shipped.shipped("denoiser.onnx")), size)
    with TemporaryDirectory() as folder:
        paths = Path(folder) / "float.onnx", Path(folder) / "zeros.npy"
        onnx.save(network, paths[0])
        np.save(paths[1], np.zeros((1, 3, *size), np.float32))
        counted = count_in_process(CHILD, ["onnxruntime", *map(str, paths), "off"])
        return int(counted["peak_bytes"])


def plainest_crossing(tiled: Tiled, whole: Pixels) -> tuple[int, int]:
    """The top left corner of the crop, around the crossing of seams that shows most.

    That is where the picture is bright and the difference large beside what else changes from
    pixel to pixel.
    """
    difference = np.abs(tiled.picture.astype(np.int16) - whole).sum(2)
    change = np.abs(np.diff(whole.astype(np.int16), axis=1, append=0)).sum(2)
    found = []
    for row in tiled.rows:
        for column in tiled.columns:
            top = min(max(row - CROP[0] // 2, 0), whole.shape[0] - CROP[0])
            left = min(max(column - CROP[1] // 2, 0), whole.shape[1] - CROP[1])
            place = np.s_[top : top + CROP[0], left : left + CROP[1]]
            contrast = difference[place].mean() / (change[place].mean() + 1)
            found.append((contrast * whole[place].mean(), top, left))
    _, top, left = max(found)
    return top, left


def draw(tiled: Tiled, whole: Pixels, folder: Path) -> None:
    """The crop three times: in tiles, whole, the difference; and the difference everywhere."""
    difference = np.abs(tiled.picture.astype(np.int16) - whole)
    bright = np.minimum(difference * AMPLIFIED, 255).astype(np.uint8)
    top, left = plainest_crossing(tiled, whole)
    place = np.s_[top : top + CROP[0], left : left + CROP[1]]
    gap = np.full((CROP[0], 2, 3), 255, np.uint8)
    row = np.hstack([tiled.picture[place], gap, whole[place], gap, bright[place]])
    shown = Image.fromarray(row)
    size = (shown.width * ENLARGED, shown.height * ENLARGED)
    shown.resize(size, Image.Resampling.NEAREST).save(folder / "seam.png", optimize=True)
    height, width = (extent // 4 * 4 for extent in whole.shape[:2])
    blocks = bright[:height, :width].max(2).reshape(height // 4, 4, width // 4, 4)
    Image.fromarray(blocks.max((1, 3))).save(folder / "difference.png", optimize=True)


def size_of(text: str) -> tuple[int, int]:
    """`2160x3840` as (height, width)."""
    height, width = map(int, text.split("x"))
    return height, width


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, help="a photograph; the demo's by default")
    parser.add_argument("--size", type=size_of, default=(2160, 3840), metavar="HxW")
    parser.add_argument("--tile", type=int, default=512, metavar="SIDE")
    parser.add_argument("--no-peer", action="store_true", help="leave ONNX Runtime out")
    parser.add_argument("-o", "--output", type=Path, default=Path("seamless-out"))
    options = parser.parse_args()
    height, width = options.size
    if height < CROP[0] or width < CROP[1] or height % 2 or width % 2:
        parser.error(f"--size needs even numbers, at least {CROP[0]}x{CROP[1]}")
    if not 2 * MARGINS[-1] < options.tile < min(options.size) or options.tile % 2:
        parser.error(f"--tile needs an even side above {2 * MARGINS[-1]}, below the picture's")
    return options


def memory_of(model: tm.Model, tile: tm.Model, peer: bool) -> dict[str, int]:
    """Bytes that the maps take: whole and in tiles, ours streamed and by layers, and the peer's."""
    figures = {}
    for name, planned in (("whole", model), ("tile", tile)):
        source = planned.plan.source
        figures[f"{name}_arena_bytes"] = planned.plan.arena_bytes
        figures[f"{name}_layer_by_layer_bytes"] = build(source, schedule="layer").arena_bytes
        if peer:
            height, width, _ = source.maps[source.inputs[0]].shape
            figures[f"{name}_onnxruntime_float_bytes"] = peer_bytes((height, width))
    return figures


def main() -> None:
    """Do all of it, print and write what was found."""
    options = parsed()
    options.output.mkdir(parents=True, exist_ok=True)
    noisy = noisy_picture(options.picture, options.size)
    model, tile = denoiser(options.size), denoiser((options.tile, options.tile))
    whole, cost = streamed(model, noisy)
    Image.fromarray(whole).save(options.output / "clean.png", compress_level=1)
    figures = {"size": options.size, "tile": options.tile, "streamed": cost}
    figures["memory"] = memory_of(model, tile, not options.no_peer)
    run = one_map(Engine(tile.plan))
    for margin in MARGINS:
        tiled = run_tiled(run, noisy, options.tile, margin)
        work = tiled.tiles * options.tile**2 / (options.size[0] * options.size[1])
        seam = asdict(seam_of(tiled, whole))
        figures[f"margin_{margin}"] = {"tiles": tiled.tiles, "times_the_work": work, **seam}
        if margin == 0:
            draw(tiled, whole, options.output)
    (options.output / "figures.json").write_text(json.dumps(figures, indent=1))
    print_figures(figures)


def print_figures(figures: dict[str, Any]) -> None:
    """One line each, bytes in words."""
    for name, value in figures.items():
        print(name, "" if isinstance(value, dict) else value)
        for key, figure in value.items() if isinstance(value, dict) else ():
            said = bytes_in_words(figure) if key.endswith("bytes") else f"{figure:.4g}"
            print(f"    {key:32s} {said}")


if __name__ == "__main__":
    main()
