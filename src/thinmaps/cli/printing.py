# SPDX-License-Identifier: Apache-2.0
"""Results to standard output, as tables or as JSON; words to people on standard error."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from thinmaps.file import Model
from thinmaps.measure import show
from thinmaps.measure.comparison import Comparison
from thinmaps.measure.counting import count
from thinmaps.measure.evaluate import Evaluation
from thinmaps.measure.filter_rows import filter_rows
from thinmaps.measure.map_profile import NetworkProfile
from thinmaps.measure.prediction import Predictions
from thinmaps.measure.profile import Profile
from thinmaps.measure.report import report
from thinmaps.measure.words import percent

if TYPE_CHECKING:  # need ONNX or torch, which `run` does not
    from thinmaps.learn.job import LearnReport
    from thinmaps.measure.verification import Verification
    from thinmaps.winograd.description import Description
    from thinmaps.winograd.pareto import Front

# Lines of a table that goes to a file or a pipe are never cut.
PIPE_COLUMNS = 200


def print_json(values: Any) -> None:
    """One JSON document."""
    print(json.dumps(values, indent=2))


def print_table(table: RenderableType) -> None:
    """For people; plain text where nobody looks."""
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)


def say(sentence: str) -> None:
    """A word beside the result."""
    print(sentence, file=sys.stderr)


def show_report(model: Model, as_json: bool) -> None:
    """Where the bytes go, and what compressing cost."""
    found = report(model.plan, count(model.plan))
    filters = filter_rows(model.plan)
    if as_json:
        front = [dataclasses.asdict(trade) for trade in model.front]
        rows = [dataclasses.asdict(row) for row in filters]
        said = {"drop": model.drop, "notes": model.notes, "front": front, "filters": rows}
        print_json({**found.to_json(), **said})
        return
    print_table(show.report_tables(found, model.notes))
    if filters:
        print_table(show.filters_table(filters))
    if model.front:
        print_table(show.front_table(model.front))
    if model.drop is not None:
        say(f"drop on held-out pictures: {percent(model.drop)}; what is counted, the notes say")


def show_predictions(found: Predictions, as_json: bool) -> None:
    """Answers to pictures."""
    if as_json:
        print_json(found.to_json())
    else:
        print_table(show.prediction_tables(found))


def show_map_profile(found: NetworkProfile, as_json: bool) -> None:
    """What the maps cost and how they would compress."""
    if as_json:
        print_json(found.to_json())
        return
    print_table(show.map_profile_table(found))
    say(
        f"* worth treating: alive at the peak (node {found.peak_node}, {found.peak_bytes:,} bytes "
        f"at once) or most of the {found.traffic_bytes:,} bytes that a layer-by-layer machine moves"
    )


def show_evaluation(found: Evaluation, as_json: bool) -> None:
    """Accuracy, and a sentence about what is not known."""
    if as_json:
        print_json(found.to_json())
    else:
        print_table(show.evaluation_table(found.result))
        if found.overflows:
            print_table(show.overflow_table(found.overflows))
    if found.note:
        say(found.note)


def show_learning(found: LearnReport, as_json: bool) -> None:
    """What learning brought, and the files that it left."""
    if as_json:
        print_json(found.to_json())
    else:
        print_table(show.figures_table(found.figures()))
    for path in found.files:
        say(f"wrote {path}")


def show_comparison(found: Comparison, as_json: bool) -> None:
    """Time and memory beside the peer's."""
    if as_json:
        print_json(found.to_json())
    else:
        print_table(show.comparison_table(found))


def show_verification(found: Verification, as_json: bool) -> None:
    """0, or the first difference; beside it how many maps were compared."""
    if as_json:
        print_json(found.to_json())
    else:
        print(found.difference or 0)
    absent = f"; {len(found.absent)} have other names there" if found.absent else ""
    say(f"compared {len(found.compared)} maps{absent}")


def show_profile(found: Profile, as_json: bool) -> None:
    """Where the time goes."""
    if as_json:
        print_json(found.to_json())
    else:
        print_table(show.profile_tables(found))


def show_derived(found: Description | Front, as_json: bool) -> None:
    """A fast convolution and all its figures, or those that no other beats."""
    if as_json:
        print_json(found.to_json())
    else:
        print(found)
