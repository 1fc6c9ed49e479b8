# SPDX-License-Identifier: Apache-2.0
"""Makes the two pictures that ship with the demo from those that `LICENSES.md` lists.

`photograph.jpg`: the one the demo cleans, 2400 x 1350, never seen in training.
`calibration.jpg`: nine squares of 256 x 256, three by three, to calibrate ranges on.

    python pictures.py --pictures FOLDER -o FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

SIDE = 256
# Name, and the centres of its squares as shares of width and height.
SQUARES = {
    "astronaut": [(0.4, 0.35), (0.7, 0.7)],
    "chelsea": [(0.35, 0.5)],
    "rocket": [(0.35, 0.5)],
    "Picture_0B": [(0.45, 0.5)],
    "Picture_1A": [(0.3, 0.4)],
    "aitzgorri": [(0.5, 0.3)],
    "friends": [(0.4, 0.35)],
    "life": [(0.5, 0.6)],
}


def opened(path: Path) -> Image.Image:
    """The picture as RGB."""
    with Image.open(path) as picture:
        return picture.convert("RGB")


def square(picture: Image.Image, across: float, down: float) -> Image.Image:
    """A square around a point of the picture at 720 pixels of its longer side."""
    small = picture.copy()
    small.thumbnail((720, 720), Image.Resampling.LANCZOS)
    left = min(max(round(across * small.width) - SIDE // 2, 0), small.width - SIDE)
    top = min(max(round(down * small.height) - SIDE // 2, 0), small.height - SIDE)
    return small.crop((left, top, left + SIDE, top + SIDE))


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description="Make the pictures of the demo.")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    paths = {path.stem: path for path in options.pictures.iterdir()}
    photograph = opened(paths["seeding"]).resize((2400, 1350), Image.Resampling.LANCZOS)
    photograph.save(options.output / "photograph.jpg", quality=90, optimize=True)
    sheet = Image.new("RGB", (3 * SIDE, 3 * SIDE))
    squares = [square(opened(paths[name]), *at) for name, ats in SQUARES.items() for at in ats]
    for index, crop in enumerate(squares):
        sheet.paste(crop, (index % 3 * SIDE, index // 3 * SIDE))
    sheet.save(options.output / "calibration.jpg", quality=90, subsampling=0, optimize=True)


if __name__ == "__main__":
    main()
