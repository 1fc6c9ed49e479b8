# SPDX-License-Identifier: Apache-2.0
"""The table of docs/winograd.md says what the benchmark prints."""

from __future__ import annotations

import importlib.util
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
SETS = 6  # F(2,3) and F(4,3), which take no time
ERRORS = slice(7, 10)


def test_rows_of_the_page_are_those_of_the_benchmark() -> None:
    spec = importlib.util.spec_from_file_location("table", CHECKOUT / "benchmarks/winograd.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    page = (CHECKOUT / "docs" / "winograd.md").read_text().splitlines()
    for name, outputs, polynomials in table.STANDARD[:SETS]:
        found = table.describe(table.derive(outputs, 3, polynomials))
        made = table.standard_row(name, found).strip("| ").split(" | ")
        printed = next(line for line in page if line.startswith(f"| {name} |"))
        stated = printed.strip("| ").split(" | ")
        for one, other in zip(made[ERRORS], stated[ERRORS], strict=True):
            # Other machines may add in another order.
            assert abs(float(one) - float(other)) <= 0.05 * float(other)
        del made[ERRORS], stated[ERRORS]
        assert made == stated
