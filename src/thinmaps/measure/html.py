# SPDX-License-Identifier: Apache-2.0
"""One HTML page that says where every byte of a thin network goes; it needs no other file.

Style, figure and pictures are inside the page, there is no script, and it follows the reader's
light or dark setting. Sections appear where their facts are given: pictures before and after,
a comparison with a peer, accuracy.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thinmaps.file import Model, check_writable, write_atomically
from thinmaps.measure.accuracy import Classification
from thinmaps.measure.arena_figure import arena_figure
from thinmaps.measure.comparison import Comparison, Contestant
from thinmaps.measure.counting import count
from thinmaps.measure.report import MapRow, Report, report
from thinmaps.measure.words import bytes_in_words, percent, times
from thinmaps.plan.build import build

# Pictures below this many elements are kept exactly; larger ones become JPEG.
EXACT_ELEMENTS = 400_000


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of the page, uint8 `(h, w, 3)` or `(h, w, 1)`, and what is said below it."""

    pixels: NDArray[np.uint8]
    caption: str


@dataclass(frozen=True, eq=False)
class Page:
    """What the page shows. Pictures of one tuple of `pictures` stand side by side.

    `classifier` names the network that `classification` judges, where it is not `model`.
    """

    title: str
    model: Model
    report: Report
    layer_by_layer_bytes: int | None = None
    pictures: Sequence[tuple[Picture, ...]] = ()
    comparison: Comparison | None = None
    classification: Classification | None = None
    classifier: str = "this network"


def write_page(model: Model, path: str | Path, *, title: str) -> None:
    """The page of a model alone, with what an engine counts and the layer-by-layer arena.

    Raises:
        BadArgument: the path cannot be written.
    """
    check_writable(Path(path))
    plan = model.plan
    whole = build(plan.source, schedule="layer").arena_bytes
    page = Page(title, model, report(plan, count(plan)), whole)
    write_atomically(Path(path), render(page).encode("utf-8"))


def render(page: Page) -> str:
    """The page as HTML text."""
    style = files("thinmaps.measure").joinpath("page.css").read_text("utf-8")
    title = escape(page.title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title} - thinmaps</title>'
        f"<style>{style}</style></head><body>"
        f"<header><h1>{title}</h1><p>{escape(_summary(page))}</p>{_cards(page)}</header>"
        f"<main>{''.join(_sections(page))}</main></body></html>\n"
    )


def _sections(page: Page) -> Iterator[str]:
    """The page's sections, top to bottom."""
    if page.pictures:
        rows = "".join(f'<div class="pair">{"".join(map(_figure, p))}</div>' for p in page.pictures)
        yield _section("pictures", "Before and after", "", rows)
    if page.comparison:
        yield _versus(page.comparison)
    if page.classification:
        yield _accuracy(page.classification, page.classifier)
    yield _section(
        "schedule",
        "The arena over the schedule",
        "Each shape is a buffer: which addresses it takes, and when. Hover over it for its name, "
        "size and steps. Shapes never overlap; hatched ones hold an encoded map.",
        f'<div class="panel">{arena_figure(page.model.plan)}</div>',
    )
    yield _maps(page.report)
    yield _section(
        "counted",
        "Predicted beside counted",
        "The arena is what the plan says, to the byte. Packed weights may differ from stored ones: "
        "rows of filters are padded to the width of a vector.",
        _counted(page.report),
    )
    yield _section("origin", "Where it comes from", "", _origin(page.model))


def _section(name: str, heading: str, note: str, body: str, kind: str = "") -> str:
    said = f'<p class="note">{note}</p>' if note else ""
    return f'<section id="{name}" class="{kind}"><h2>{heading}</h2>{said}{body}</section>'


def _summary(page: Page) -> str:
    """One sentence below the title."""
    report, source = page.report, page.model.plan.source
    sizes = ", ".join("x".join(map(str, source.maps[name].shape)) for name in source.inputs)
    return (
        f"{len(source.nodes)} nodes, input {sizes} (height x width x channels), "
        f"{report.schedule} schedule of {report.steps:,} steps in {report.segments} "
        f"segment{'s' * (report.segments != 1)}. One block of {report.arena_bytes:,} bytes holds "
        "everything between input and output."
    )


def _cards(page: Page) -> str:
    """The headline figures."""
    report = page.report
    cards = [("arena", bytes_in_words(report.arena_bytes), "known before the first inference")]
    if page.layer_by_layer_bytes:
        ratio = times(page.layer_by_layer_bytes / max(report.arena_bytes, 1))
        whole = bytes_in_words(page.layer_by_layer_bytes)
        cards.append(("smaller than layer by layer", ratio, f"which needs {whole}"))
    cards += [
        ("weights", bytes_in_words(report.weights_bytes), "beside the arena"),
        (
            "moved per inference",
            bytes_in_words(report.moved_bytes),
            "stored maps, written and read",
        ),
        (
            "input and output",
            bytes_in_words(report.input_bytes + report.output_bytes),
            "in the caller's buffers",
        ),
    ]
    items = (
        f"<li{' class=main' if i == 0 else ''}><span>{name}</span><strong>{figure}</strong>"
        f"<span>{note}</span></li>"
        for i, (name, figure, note) in enumerate(cards)
    )
    return f'<ul class="cards">{"".join(items)}</ul>'


def _figure(picture: Picture) -> str:
    """One picture, inside the page."""
    pixels = picture.pixels[:, :, 0] if picture.pixels.shape[2] == 1 else picture.pixels
    kind = "PNG" if pixels.size <= EXACT_ELEMENTS else "JPEG"
    stream = io.BytesIO()
    options = {"quality": 92} if kind == "JPEG" else {}
    Image.fromarray(pixels).save(stream, kind, **options)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/{kind.lower()};base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _versus(comparison: Comparison) -> str:
    """Memory and time beside the peer's."""
    ours, peer = comparison.ours, comparison.peer
    memory = _bars(ours, peer, [c.peak_bytes or 0 for c in (ours, peer)], bytes_in_words)
    time = _bars(ours, peer, [c.counted_ms or 0 for c in (ours, peer)], lambda ms: f"{ms:.2f} ms")
    return _section(
        "comparison",
        f"Beside {escape(peer.name)}",
        "Both run the same network on the same picture and one core. Memory is the largest live "
        "heap of one warm run, without weights and pictures; time is CPU time, the median of "
        "interleaved rounds.",
        f'<div class="panel">Memory{memory}Time{time}'
        f'<span class="note">{100 * comparison.equal_fraction:.3f} % of the final map\'s elements '
        f"within one step, largest difference {comparison.max_step} steps.</span></div>",
    )


def _bars(ours: Contestant, peer: Contestant, values: Sequence[float], words: object) -> str:
    """Two bars to one scale."""
    assert callable(words)
    largest = max(*values, 1e-9)
    rows = (
        f"<span>{escape(contestant.name)}</span><span class=track>"
        f'<span class="fill {kind}" style="width:{100 * value / largest:.2f}%"></span></span>'
        f"<strong>{words(value)}</strong>"
        for contestant, kind, value in zip((ours, peer), ("ours", "peer"), values, strict=True)
    )
    return f'<div class="versus">{"".join(rows)}</div>'


def _accuracy(found: Classification, classifier: str) -> str:
    """Right answers before and after."""
    rows = [
        ("right answers (top-1)", found.float_top1, found.top1),
        ("among the first five (top-5)", found.float_top5, found.top5),
    ]
    body = "".join(
        f"<tr><td>{name}</td><td class=number>{percent(before)}</td>"
        f"<td class=number>{percent(after)}</td></tr>"
        for name, before, after in rows
    )
    said = "" if found.agreement is None else f"; both agree on {percent(found.agreement)}"
    return _section(
        "accuracy",
        "Accuracy",
        f"Of {classifier}, on {found.pictures:,} pictures{said}.",
        '<div class="panel"><table><tr><th></th><th class=number>in float</th>'
        f"<th class=number>in uint8</th></tr>{body}</table></div>",
    )


def _maps(report: Report) -> str:
    """The table of maps, with bars to one scale."""
    largest = max(*(row.raw_bytes for row in report.maps), *(r.moved_bytes for r in report.maps), 1)
    rows = "".join(_map_row(row, largest) for row in report.maps)
    heads = "".join(f"<th class=number>{name}</th>" for name in ("raw", "held", "moved"))
    key = " ".join(
        f'<span class="key"><span class="bar {kind}"></span></span>{name}&emsp;'
        for kind, name in (("", "raw"), ("held", "held"), ("moved", "moved"))
    )
    return _section(
        "maps",
        "Bytes per map",
        "Raw: the uint8 map. Held: what its stored form takes of the arena. Moved: the stored form "
        "written once and read once per reader.",
        f'<div class="panel"><table><thead><tr><th>map</th><th>h x w x c</th><th>codec</th>{heads}'
        f"<th>{key}</th></tr></thead><tbody>{rows}</tbody></table></div>",
        "long",
    )


def _map_row(row: MapRow, largest: int) -> str:
    """One map."""
    held = f"in {escape(row.inside)}" if row.inside else bytes_in_words(row.held_bytes)
    held = "caller's" if row.where == "caller" else held
    moved = bytes_in_words(row.moved_bytes) + (" at most" if row.moved_is == "worst case" else "")
    bars = "".join(
        f'<span class="bar {kind}" style="width:{100 * value / largest:.2f}%"></span>'
        for kind, value in (
            ("", row.raw_bytes),
            ("held", row.held_bytes),
            ("moved", row.moved_bytes),
        )
    )
    kind = "raw" if row.codec == "raw" else ""
    name = escape(row.name)
    return (
        f'<tr class="{row.where}"><td class=name title="{name}">{name}</td>'
        f"<td>{'x'.join(map(str, row.shape))}</td>"
        f'<td><span class="tag {kind}">{escape(row.codec)}</span></td>'
        f"<td class=number>{bytes_in_words(row.raw_bytes)}</td>"
        f"<td class=number>{held}</td><td class=number>{moved}</td><td class=bars>{bars}</td></tr>"
    )


def _counted(report: Report) -> str:
    """What the plan says beside what an engine counted."""
    counted = report.counted
    rows = [
        ("arena", report.arena_bytes, counted.arena_bytes if counted else None),
        ("weights", report.weights_bytes, counted.weights_bytes if counted else None),
    ]
    body = "".join(
        f"<tr><td>{name}</td><td class=number>{predicted:,}</td>"
        f"<td class=number>{'not run' if found is None else f'{found:,}'}</td></tr>"
        for name, predicted, found in rows
    )
    return (
        '<div class="panel"><table><tr><th>bytes</th><th class=number>predicted</th>'
        f"<th class=number>counted</th></tr>{body}</table></div>"
    )


def _origin(model: Model) -> str:
    """Provenance, preprocessing and the notes that were made when compressing."""
    facts = [
        ("float network", model.provenance.float_model or "not recorded"),
        ("its SHA-256", model.provenance.float_sha256 or "not recorded"),
        ("made by", f"thinmaps {model.provenance.thinmaps}"),
        *((name, str(value)) for name, value in sorted(model.provenance.options.items())),
    ]
    if p := model.preprocessing:
        facts += [
            ("mean", ", ".join(f"{value:g}" for value in p.mean)),
            ("std", ", ".join(f"{value:g}" for value in p.std)),
            ("channel order", p.order),
            ("fit", p.fit),
        ]
    facts += [("note", note) for note in model.notes]
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f'<div class="panel"><dl>{rows}</dl></div>'
