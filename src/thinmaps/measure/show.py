# SPDX-License-Identifier: Apache-2.0
"""Results as tables for the terminal: reports, evaluations, comparisons, predictions."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from thinmaps.file import Trade
from thinmaps.measure.accuracy import Classification, Detections, Interval, Segmentation
from thinmaps.measure.comparison import Comparison, Contestant
from thinmaps.measure.filter_rows import FilterRow
from thinmaps.measure.map_profile import NetworkProfile
from thinmaps.measure.prediction import Prediction, Predictions
from thinmaps.measure.profile import Profile, Share
from thinmaps.measure.report import MapRow, Overflow, Report
from thinmaps.measure.words import bytes_in_words, percent, three_digits, times


def report_tables(report: Report, notes: tuple[str, ...] = ()) -> RenderableType:
    """The headline, one line per map, and the notes."""
    capped = [overflow_table(report.overflows)] if report.overflows else []
    said = [Text(f"note: {note}") for note in notes]
    return Group(_headline(report), Text(), _maps(report), *capped, *said)


def overflow_table(overflows: Sequence[Overflow]) -> RenderableType:
    """Maps with a cap, and how many of their units pass it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("units that pass their cap", no_wrap=True)
    for name in ("in calibration", "counted"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in overflows:
        shares = (each.foreseen, each.counted)
        said = (percent(None if share is None else 100 * share) for share in shares)
        table.add_row(Text(each.map), *said)
    return table


def front_table(front: Sequence[Trade]) -> RenderableType:
    """What rate control found could be had for what."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("arena", "moved", "drop"):
        table.add_column(name, justify="right", no_wrap=True)
    for trade in front:
        bytes_of = (f"{trade.arena_bytes:,}", f"{trade.traffic_bytes:,}")
        table.add_row(*bytes_of, percent(trade.drop))
    return Group(Text("allocations that no other beats, on the pictures chosen on", "dim"), table)


def filters_table(rows: Sequence[FilterRow]) -> RenderableType:
    """Layers whose filters are made of codes, have zero blocks, or work in tiles."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("layer", overflow="ellipsis", no_wrap=True)
    for name in ("filters", "stored", "codes", "zero blocks", "tiles"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        codes = str(row.codes or "")
        stored = (f"{row.filter_bytes:,}", f"{row.stored_bytes:,}", codes)
        table.add_row(Text(row.node), *stored, f"{row.zero_block_share:.1%}", row.tiles)
    return Group(Text("filters made of codes, with zero blocks, or in tiles", "dim"), table)


def figures_table(figures: Sequence[tuple[str, str]]) -> RenderableType:
    """Named figures, one per line."""
    table = Table.grid(padding=(0, 2))
    for name, figure in figures:
        table.add_row(name, Text(figure))
    return table


def _headline(report: Report) -> Table:
    """Figures of the whole plan."""
    table = Table.grid(padding=(0, 2))
    counted = report.counted
    rows = [
        (
            "arena",
            report.arena_bytes,
            "" if counted is None else f"counted {counted.arena_bytes:,}",
        ),
        ("weights", report.weights_bytes, "filters, biases and tables, beside the arena"),
        ("input", report.input_bytes, "in the caller's buffer"),
        ("output", report.output_bytes, "in the caller's buffer"),
        ("moved", report.moved_bytes, "stored maps written and read in one inference"),
    ]
    for name, figure, note in rows:
        table.add_row(name, f"{figure:,} bytes", bytes_in_words(figure), Text(note, "dim"))
    stripe = f"at least {report.stripe_rows} row{'s' * (report.stripe_rows != 1)} per step"
    table.add_row(
        "schedule", report.schedule, "", Text(f"{report.segments} segments, {stripe}", "dim")
    )
    return table


def _maps(report: Report) -> Table:
    """One line per map."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("map", overflow="ellipsis", no_wrap=True)
    table.add_column("h x w x c", no_wrap=True)
    table.add_column("codec")
    for name in ("raw", "held", "moved"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.maps:
        table.add_row(*_cells(row), style="dim" if row.where == "caller" else "")
    return table


def _cells(row: MapRow) -> tuple[RenderableType, ...]:
    """A line's texts; names are texts, since a bracket in them is no markup."""
    held = f"in {row.inside}" if row.inside else f"{row.held_bytes:,}"
    moved = f"{row.moved_bytes:,}" + (" at most" if row.moved_is == "worst case" else "")
    return (
        Text(row.name),
        "x".join(map(str, row.shape)),
        Text(row.codec),
        f"{row.raw_bytes:,}",
        Text("caller's" if row.where == "caller" else held),
        moved,
    )


def comparison_table(found: Comparison) -> RenderableType:
    """Every side, and how far its answers are from ours."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    names = ("threads", "CPU ms", "clock ms", "p10 to p90", "live heap", "RSS", "equal", "corr.")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.rows or (found.ours, found.peer):
        table.add_row(*_comparison_cells(row))
    table.add_row(
        "ours / peer", "1", times(found.time_ratio), "", "", times(found.memory_ratio), style="bold"
    )
    said = (
        "p10 to p90 of CPU time with one thread, on the clock with more; live heap of a warm run "
        "(ONNX Runtime with its arena: what it reserves in the first runs; OpenVINO: growth of "
        "RSS); equal: elements of the final maps within one step of ours. Peer: its time with an "
        f"arena, its heap without. {100 * found.equal_fraction:.4f} % of the elements within one "
        f"step on all pictures, largest difference {found.max_step}; median of {found.rounds} "
        "interleaved rounds"
    )
    return Group(table, Text(said, "dim"))


def _comparison_cells(row: Contestant) -> tuple[str, ...]:
    """A side's figures; a dash for what was not measured."""
    counted = row.cpu_ms if row.threads == 1 else row.ms
    return (
        row.name,
        str(row.threads),
        three_digits(row.cpu_ms.median) if row.cpu_ms and row.threads == 1 else "-",
        three_digits(row.ms.median) if row.ms else "-",
        f"{three_digits(counted.p10)} to {three_digits(counted.p90)}" if counted else "-",
        "-" if row.peak_bytes is None else f"{three_digits(row.peak_bytes / 1e6)} MB",
        "-" if row.peak_rss_bytes is None else f"{row.peak_rss_bytes / 1e6:.0f} MB",
        f"{100 * row.within_a_step:.2f} %",
        f"{row.correlation:.4f}",
    )


def profile_tables(found: Profile) -> RenderableType:
    """Nodes and kinds, the longest first, and the limits that they stand beside."""
    nodes = _profile_table("node", "kind")
    for node in found.nodes:
        nodes.add_row(Text(node.node), node.kind, *_profile_cells(node))
    nodes.add_row("total", "", *_profile_cells(found.total), style="bold")
    kinds = _profile_table("kind")
    for kind in found.kinds:
        kinds.add_row(kind.kind, *_profile_cells(kind))
    limits = found.limits
    said = (
        f"{found.machine}, {limits.isa}: at most {limits.products_per_second / 1e9:,.0f} billion "
        f"products a second in registers, {limits.copied_bytes_per_second / 1e9:,.0f} GB/s copied "
        f"within the L2 cache; a whole run takes {three_digits(found.run_ms)} ms of CPU (medians "
        f"of {found.rounds})"
    )
    return Group(nodes, Text(), kinds, Text(), Text(said, "dim"))


def _profile_table(*names: str) -> Table:
    """An empty table of shares."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for name in ("steps", "rows", "ms", "share", "rate", "limit ms", "of limit"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _profile_cells(found: Share) -> tuple[str, ...]:
    """The figures of a share; the rate is of its products where it has some, else of its bytes."""
    seconds = max(found.ms, 1e-6) / 1000
    work, unit = (found.products, "GMAC/s") if found.products else (found.moved_bytes, "GB/s")
    return (
        f"{found.steps:,}",
        f"{found.rows:,}",
        three_digits(found.ms),
        f"{100 * found.share:.1f} %",
        f"{work / seconds / 1e9:.1f} {unit}",
        three_digits(found.limit_ms),
        f"{100 * found.limit_ms / max(found.ms, 1e-6):.0f} %",
    )


def map_profile_table(found: NetworkProfile) -> RenderableType:
    """One line per map, those worth treating marked, and all of them together."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("map", overflow="ellipsis", no_wrap=True)
    table.add_column("h x w x c", no_wrap=True)
    ids = list(found.ratios)
    for name in ("bytes", "moved", "peak", "zeros", "entropy", *ids):
        table.add_column(name, justify="right", no_wrap=True)
    worth = set(found.worth_treating)
    for row in found.maps:
        seen = ("-", "-")
        if row.zeros is not None and row.entropy_bits is not None:
            seen = (f"{row.zeros:.0%}", f"{row.entropy_bits:.2f} bits")
        table.add_row(
            Text(f"{row.name}{' *' if row.name in worth else ''}"),
            "x".join(map(str, row.shape)),
            f"{row.raw_bytes:,}",
            f"{row.traffic_bytes:,}",
            f"{row.peak_bytes:,}",
            *seen,
            *(times(row.ratios[codec]) for codec in ids),
        )
    together = (times(ratio) for ratio in found.ratios.values())
    sums = (f"{found.raw_bytes:,}", f"{found.traffic_bytes:,}", f"{found.peak_bytes:,}")
    table.add_row("all", "", *sums, "", "", *together, style="bold")
    return table


def evaluation_table(found: Classification | Detections | Segmentation) -> RenderableType:
    """This network beside the float one."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("", "this network", "float network", "drop"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    if isinstance(found, Classification):
        drop = _points(found.drop, found.drop_interval)
        table.add_row("top-1", percent(found.top1), percent(found.float_top1), drop)
        table.add_row("top-5", percent(found.top5), percent(found.float_top5), "")
        table.add_row("agreement", percent(found.agreement), "", "")
    elif isinstance(found, Detections):
        drop = _points(found.drop, found.drop_interval)
        table.add_row("mAP@0.5", percent(found.map50), percent(found.float_map50), drop)
    else:
        table.add_row("equal pixels", percent(found.pixel_agreement), "", "")
        if found.mean_iou is not None:
            drop = _points(found.drop, found.drop_interval)
            table.add_row("mean IoU", percent(found.mean_iou), percent(found.float_mean_iou), drop)
    skipped = f", {len(found.skipped)} skipped: {found.skipped[0]}" if found.skipped else ""
    return Group(table, Text(f"{found.pictures:,} pictures{skipped}", "dim"))


def _points(drop: float | None, interval: Interval | None) -> str:
    """A drop with its paired interval."""
    if drop is None:
        return "-"
    between = f" ({interval.low:+.2f} to {interval.high:+.2f})" if interval else ""
    return f"{drop:+.2f}{between}"


def prediction_tables(found: Predictions) -> RenderableType:
    """Each picture's answer, then what it took."""
    skipped = [Text(f"skipped: {reason}", "red") for reason in found.skipped]
    arena = Text(f"arena {found.arena_bytes:,} bytes ({bytes_in_words(found.arena_bytes)})", "dim")
    return Group(*map(_prediction, found.pictures), *skipped, arena)


def _prediction(found: Prediction) -> RenderableType:
    """The picture's name and time, then its classes or what came out."""
    table = Table.grid(padding=(0, 2))
    for guess in found.top:
        name = guess.name if guess.name is not None else f"class {guess.class_index}"
        table.add_row("", f"{guess.score:.3f}", Text(name))
    if not found.top:
        for name, shape in found.outputs.items():
            table.add_row("", Text(name), "x".join(map(str, shape)))
    return Group(Text(f"{found.picture}  {found.milliseconds:.1f} ms", "bold"), table)
