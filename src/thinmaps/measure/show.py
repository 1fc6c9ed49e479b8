# SPDX-License-Identifier: Apache-2.0
"""A report as tables for the terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from thinmaps.measure.report import MapRow, Report
from thinmaps.measure.words import bytes_in_words


def terminal_tables(report: Report, notes: tuple[str, ...] = ()) -> RenderableType:
    """The headline, one line per map, and the notes."""
    return Group(_headline(report), Text(), _maps(report), *(Text(f"note: {n}") for n in notes))


def print_report(
    report: Report, notes: tuple[str, ...] = (), console: Console | None = None
) -> None:
    """Print the tables to standard output; plain text where that is no terminal."""
    (console or Console()).print(terminal_tables(report, notes))


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
    stripe = f"{report.stripe_rows} row{'s' * (report.stripe_rows != 1)} per step"
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
