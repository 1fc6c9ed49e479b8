# SPDX-License-Identifier: Apache-2.0
"""The page is complete in one file, and a real browser shows it without complaint."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from thinmaps.file import Model
from thinmaps.measure.accuracy import Classification, Interval
from thinmaps.measure.arena_figure import arena_figure
from thinmaps.measure.comparison import Comparison, Contestant
from thinmaps.measure.html import Page, Picture, render
from thinmaps.measure.occupancy import occupants
from thinmaps.measure.report import Counted, report
from thinmaps.measure.timing import Spread
from thinmaps.plan.plan import Plan

SECTIONS = ["pictures", "comparison", "accuracy", "schedule", "maps", "counted", "origin"]


@pytest.fixture(scope="module")
def page(model: Model) -> str:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    pictures = ((Picture(pixels, "before"), Picture(pixels[:, :, :1], "after <b>")),)
    ours, peer = (
        Contestant(name, cpu_ms=Spread(ms, ms, ms), peak_bytes=peak)
        for name, ms, peak in (("thinmaps", 2.5, 10_000), ("ONNX Runtime", 5.0, 40_000))
    )
    counted = Counted(model.plan.arena_bytes, 5000)
    return render(
        Page(
            title="net <1>",
            model=model,
            report=report(model.plan, counted),
            layer_by_layer_bytes=8 * model.plan.arena_bytes,
            pictures=pictures,
            comparison=Comparison(ours, peer, 0.9995, 2),
            classification=Classification(
                10, (), 70.0, 90.0, Interval(40, 90), agreement=99.0, float_top1=71.0
            ),
        )
    )


class _Outline(HTMLParser):
    """Ids, external references and whether every element is closed in its turn."""

    void = frozenset({"meta", "link", "img", "rect", "path", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href"}:
                self.references.append(value or "")
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.void or self.open.pop() == tag


def _outline(page: str) -> _Outline:
    outline = _Outline()
    outline.feed(page)
    assert outline.open == []
    return outline


def test_every_section_whose_facts_are_given_is_there(page: str) -> None:
    assert [name for name in _outline(page).ids if name in SECTIONS] == SECTIONS


def test_the_page_needs_no_other_file(page: str) -> None:
    assert all(reference.startswith("data:") for reference in _outline(page).references)
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert "<script" not in page


def test_names_from_files_are_text_and_never_markup(page: str) -> None:
    assert "net &lt;1&gt;" in page
    assert "after &lt;b&gt;" in page
    assert "<b>" not in page


def test_a_page_without_optional_facts_has_no_empty_sections(model: Model) -> None:
    bare = render(Page("bare", model, report(model.plan)))
    assert [name for name in _outline(bare).ids if name in SECTIONS] == SECTIONS[3:]
    assert "not run" in bare


def test_the_figure_has_a_shape_for_every_buffer(coded_plan: Plan) -> None:
    figure = arena_figure(coded_plan)
    assert figure.count('class="buffer"') == len(coded_plan.buffers)
    assert figure.count('class="hatch"') == 1


def test_occupants_of_the_naive_plan_live_from_their_node_to_their_last_reader(plan: Plan) -> None:
    lives = {occupant.maps: occupant.life for occupant in occupants(plan)}
    assert lives == {
        ("x",): (0, 2),
        ("a", "b", "both"): (1, 4),
        (): (4, 4),  # the running sums of the mean
        ("mean",): (4, 5),
    }


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_a_real_browser_shows_the_page_without_complaint(
    page: str, tmp_path: Path, width: int
) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    file = tmp_path / "report.html"
    file.write_text(page, "utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
        "--enable-logging=stderr", "--v=0", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in shown.stderr
    assert [name for name in _outline(shown.stdout).ids if name in SECTIONS] == SECTIONS
    assert 'id="arena"' in shown.stdout
