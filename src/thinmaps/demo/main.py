# SPDX-License-Identifier: Apache-2.0
"""`thinmaps demo`: compress, run, measure and show, on two networks and pictures that ship.

1. The denoiser is compressed for the whole photograph, calibrated on nine small squares, and
   cleans the photograph from an arena that is smaller than the photograph.
2. Memory and time are measured beside ONNX Runtime on the exported file.
3. The digit reader is compressed and answers 500 digits that neither training nor calibration
   has seen, beside the float network.
4. `report.html` shows it all; everything made on the way stays in the folder, to play with.

About a minute on two cores, no network access.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from thinmaps.compression import compress
from thinmaps.demo import shipped
from thinmaps.demo.shipped import Pixels
from thinmaps.errors import BadArgument
from thinmaps.file import Model, save
from thinmaps.file.atomic import write_atomically
from thinmaps.measure.accuracy import Classification
from thinmaps.measure.bench import bench
from thinmaps.measure.comparison import Comparison
from thinmaps.measure.evaluate import evaluate
from thinmaps.measure.html import Page, Picture, render
from thinmaps.measure.report import Counted, report
from thinmaps.measure.words import bytes_in_words, percent, times
from thinmaps.plan.build import build
from thinmaps.run.engine import Engine
from thinmaps.types import Preprocessing

# (top, left) of what the page shows at full size, and its height and width.
DETAIL_AT = (240, 560)
DETAIL = (480, 640)
PHOTOGRAPH = "photograph"  # the folder of the noisy one, for `thinmaps run` and `bench`
ROUNDS = 3  # of the benchmark: every run takes seconds


@dataclass(frozen=True, eq=False)
class Cleaned:
    """The photograph in three states, the network that cleaned it, and how long it took."""

    model: Model
    engine: Engine
    clean: Pixels
    noisy: Pixels
    restored: Pixels
    seconds: float

    @property
    def layer_by_layer_bytes(self) -> int:
        """The arena that the same network takes with one node at a time."""
        return build(self.model.plan.source, schedule="layer").arena_bytes


def run(output: Path, console: Console | None = None) -> Path:
    """Do all of it in folder `output`; returns the page's path.

    Raises:
        BadArgument: `output` is a file, or cannot be made.
    """
    console = console or Console()
    _make_folder(output)
    with console.status("compressing the denoiser for 2400 x 1350 pixels") as status:
        cleaned = clean_photograph(output)
        status.update("measuring memory and time beside ONNX Runtime")
        comparison = bench(cleaned.model, output / PHOTOGRAPH, rounds=ROUNDS)
        status.update("compressing the digit reader, reading 500 digits")
        accuracy = read_digits(output)
        status.update("drawing the page")
        page = output / "report.html"
        write_atomically(page, render(_page(cleaned, comparison, accuracy)).encode())
    console.print(_table(cleaned, comparison, accuracy))
    console.print(f"\nBefore and after, and where every byte went: {page}")
    return page


def clean_photograph(output: Path) -> Cleaned:
    """Compress the denoiser, save it, clean the photograph with it."""
    path = output / "denoiser.onnx"
    path.write_bytes(shipped.shipped(path.name))
    clean = shipped.photograph()
    noisy = shipped.with_noise(clean)
    model = compress(
        path,
        shipped.calibration_squares(),
        preprocessing=Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, fit="crop"),
        size=clean.shape[:2],
    )
    save(model, output / "denoiser.thin")
    engine = Engine(model.plan)
    started = perf_counter()
    (restored,) = engine.maps(noisy).values()
    seconds = perf_counter() - started
    (output / PHOTOGRAPH).mkdir(exist_ok=True)
    Image.fromarray(noisy).save(output / PHOTOGRAPH / "noisy.png", compress_level=1)
    Image.fromarray(restored).save(output / "restored.png", compress_level=1)
    return Cleaned(model, engine, clean, noisy, restored, seconds)


def read_digits(output: Path) -> Classification:
    """Compress the digit reader, save it, compare it with the float network.

    The digits that it was calibrated on stay in the folder, for those who train on.
    """
    path = output / "digits.onnx"
    path.write_bytes(shipped.shipped(path.name))
    digits = shipped.digits()
    np.save(output / "digits_to_learn.npy", digits.calibration)
    model = compress(
        path,
        list(digits.calibration),
        preprocessing=Preprocessing(mean=(0.0,), std=(1.0,), fit="none"),
        names=tuple("0123456789"),
    )
    save(model, output / "digits.thin")
    found = evaluate(model, *_write_digits(output, digits)).result
    assert isinstance(found, Classification)
    return found


def _write_digits(output: Path, digits: shipped.Digits) -> tuple[Path, Path]:
    """The held-out digits as a folder of pictures and a file of labels."""
    folder = output / "digits"
    folder.mkdir(exist_ok=True)
    rows = ["filename,class_index"]
    for index, (picture, label) in enumerate(zip(digits.pictures, digits.labels, strict=True)):
        name = f"{index:03d}.png"
        Image.fromarray(picture[:, :, 0]).save(folder / name)
        rows.append(f"{name},{label}")
    labels = output / "digits.csv"
    labels.write_text("\n".join(rows) + "\n")
    return folder, labels


def _make_folder(output: Path) -> None:
    """The folder, or a sentence why not."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise BadArgument(f"the demo needs a folder to write to, {output}: {reason}") from None


def _page(cleaned: Cleaned, comparison: Comparison, accuracy: Classification) -> Page:
    """What the page shows."""
    gain = f"{shipped.psnr(cleaned.restored, cleaned.clean):.1f} dB"
    noise = f"{shipped.psnr(cleaned.noisy, cleaned.clean):.1f} dB"
    height, width = cleaned.clean.shape[:2]
    counted = Counted(cleaned.engine.arena_bytes, cleaned.engine.weights_bytes)
    return Page(
        title=f"A photograph of {width} x {height} pixels, cleaned",
        model=cleaned.model,
        report=report(cleaned.model.plan, counted),
        layer_by_layer_bytes=cleaned.layer_by_layer_bytes,
        pictures=(
            (
                Picture(_small(cleaned.noisy), f"before, {noise} (half size)"),
                Picture(_small(cleaned.restored), f"after, {gain} (half size)"),
            ),
            (
                Picture(_detail(cleaned.noisy), "before, every pixel"),
                Picture(_detail(cleaned.restored), "after, every pixel"),
            ),
        ),
        comparison=comparison,
        classification=accuracy,
        classifier="the digit reader",
    )


def _small(picture: Pixels) -> Pixels:
    """Half the size, by averaging."""
    return np.asarray(Image.fromarray(picture).reduce(2))


def _detail(picture: Pixels) -> Pixels:
    """The part that the page shows pixel by pixel."""
    (top, left), (height, width) = DETAIL_AT, DETAIL
    return picture[top : top + height, left : left + width]


def _table(cleaned: Cleaned, comparison: Comparison, accuracy: Classification) -> Table:
    """What the demo found, every figure measured just now."""
    ours, peer = comparison.ours, comparison.peer
    height, width = cleaned.clean.shape[:2]
    table = Table(title="thinmaps demo", title_justify="left")
    for column in ("", "thinmaps", "beside"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row(
        f"photograph, {width * height / 1e6:.1f} megapixels",
        f"{shipped.psnr(cleaned.restored, cleaned.clean):.2f} dB",
        f"{shipped.psnr(cleaned.noisy, cleaned.clean):.2f} dB before",
    )
    table.add_row(
        "arena",
        bytes_in_words(cleaned.engine.arena_bytes),
        f"{bytes_in_words(cleaned.layer_by_layer_bytes)} layer by layer",
    )
    table.add_row(
        "peak live heap of a run",
        bytes_in_words(ours.peak_bytes or 0),
        f"{bytes_in_words(peer.peak_bytes or 0)} {peer.name}",
    )
    table.add_row("so many times less", times(1 / comparison.memory_ratio), "")
    table.add_row(
        "CPU time, one thread",
        f"{ours.counted_ms or 0:.0f} ms",
        f"{peer.counted_ms or 0:.0f} ms {peer.name}",
    )
    table.add_row(
        "pixels within one step", f"{100 * comparison.equal_fraction:.3f} %", "of the peer's"
    )
    table.add_row(
        f"right digits of {accuracy.pictures}",
        percent(accuracy.top1),
        f"{percent(accuracy.float_top1)} in float",
    )
    return table
