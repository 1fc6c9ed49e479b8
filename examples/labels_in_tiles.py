# SPDX-License-Identifier: Apache-2.0
"""A segmentation network on a large picture, whole and in tiles: how many pixels change class.

    python labels_in_tiles.py MODEL.thin TILE.thin PICTURE [--margins 0 16 32 64 128]

MODEL.thin is planned for the whole picture, TILE.thin is the same network planned for square tiles
(`thinmaps compress ... --size HxW`); the picture is scaled to what MODEL.thin takes. Rows of scores
come one by one and only their largest stays, so that the scores are never whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from tiles import Pixels, run_tiled, seam_of

import thinmaps as tm


def labels(engine: tm.Engine, picture: Pixels) -> Pixels:
    """The class of every pixel, thrice, as a picture."""
    rows = [row.argmax(1) for row in engine.rows(iter(picture))]
    return np.repeat(np.array(rows, np.uint8)[..., None], 3, axis=2)


def main() -> None:
    """Compare, print a line per margin."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("tile", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--margins", type=int, nargs="*", default=[0, 16, 32, 64, 128])
    options = parser.parse_args()
    whole, tile = tm.Engine(options.model), tm.Engine(options.tile)
    ((height, width, _),) = [spec.shape for spec in whole.native.input_specs.values()]
    ((side, _, _),) = [spec.shape for spec in tile.native.input_specs.values()]
    with Image.open(options.picture) as opened:
        scaled = opened.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    picture = np.asarray(scaled)
    expected = labels(whole, picture)
    print(f"arena {whole.arena_bytes} bytes, of a tile {tile.arena_bytes} bytes")
    for margin in options.margins:
        tiled = run_tiled(lambda pixels: labels(tile, pixels), picture, side, margin)
        differing = seam_of(tiled, expected).differing_percent
        work = tiled.tiles * side**2 / (height * width)
        print(f"margin {margin:4d}: {differing:.1f} % of the pixels, {work:.2f} times the work")


if __name__ == "__main__":
    main()
