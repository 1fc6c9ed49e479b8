# SPDX-License-Identifier: Apache-2.0
"""Sets of polynomials side by side, and the fronts that a search finds: tables of docs/winograd.md.

    python benchmarks/winograd.py [--fronts]

Nothing is timed: products, operations and errors are the same on every machine, the errors up to
the order in which a BLAS adds. `--fronts` searches, for about a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from thinmaps.winograd import derive, search
from thinmaps.winograd.description import Description, describe

STANDARD = (
    ("F(2,3) 0, ±1", 2, "x, x-1, x+1"),
    ("F(4,3) 0, ±1, ±2 (Lavin)", 4, "x, x-1, x+1, x-2, x+2"),
    ("F(4,3) 0, ±1, 2, -1/2", 4, "x, x-1, x+1, x-2, x+1/2"),
    ("F(4,3) 0, ±5/3, ±3/5", 4, "x, x-5/3, x+5/3, x-3/5, x+3/5"),
    ("F(4,3) 0, ±3/2, ±2/3", 4, "x, x-3/2, x+3/2, x-2/3, x+2/3"),
    ("**F(4,3) 0, ±1, x²+1**", 4, "x, x-1, x+1, x^2+1"),
    ("F(6,3) 0, ±1, ±2, ±1/2", 6, "x, x-1, x+1, x-2, x+2, x-1/2, x+1/2"),
    ("F(6,3) 0, ±1, ±2, ±3", 6, "x, x-1, x+1, x-2, x+2, x-3, x+3"),
    ("**F(6,3) 0, ±1, ±2, x²+1**", 6, "x, x-1, x+1, x^2+1, x-2, x+2"),
    ("F(6,3) 0, ±1, 2, -1/2, x²+1", 6, "x, x-1, x+1, x^2+1, x-2, x+1/2"),
    ("F(6,3) 0, ±3/2, ±2/3, x²+1", 6, "x, x-3/2, x+3/2, x-2/3, x+2/3, x^2+1"),
    ("F(6,3) 0, ±1, x²±x+1", 6, "x, x-1, x+1, x^2-x+1, x^2+x+1"),
    ("F(6,3) 0, ±1, x⁴+1", 6, "x, x-1, x+1, x^4+1"),
    ("F(8,3) 0, ±1, ±2, ±1/2, x²+1", 8, "x, x-1, x+1, x-2, x+2, x-1/2, x+1/2, x^2+1"),
)
SEARCHED = ((4, 3), (6, 3), (8, 3), (4, 5))
HEAD = (
    "| set, with infinity | 2-D products | with pairs | saving | additions | constants "
    "| amplification | float32 | 64 channels | float16 | int32 channels |\n" + "|---" * 11 + "|"
)


def standard_rows() -> Iterator[str]:
    """One line per set."""
    yield HEAD
    for name, outputs, polynomials in STANDARD:
        yield standard_row(name, describe(derive(outputs, 3, polynomials)))


def standard_row(name: str, found: Description) -> str:
    """Constants as all / those that are no power of two."""
    merit = found.merit
    cells = [
        name,
        merit.products_2d,
        merit.nested_products,
        f"{merit.saving:.2f}",
        " + ".join(map(str, merit.additions)),
        f"{merit.constants} / {merit.odd_constants}",
        f"{merit.amplification:.3g}",
        *(f"{error:.3g}" for error in (found.float32_error, found.float32_error_64_channels)),
        f"{found.float16_error:.3g}",
        found.integers.channels if found.integers else 0,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def front_rows() -> Iterator[str]:
    """The fronts in float32, with 64 channels."""
    yield "| F(m,r) | 2-D products | saving | error | polynomials, infinity |\n" + "|---" * 5 + "|"
    for outputs, taps in SEARCHED:
        for algorithm, saving, error in search(outputs, taps):
            names = ", ".join(map(str, algorithm.polynomials))
            yield (
                f"| F({outputs},{taps}) | {algorithm.products**2} | {saving:.2f} | {error:.3g} "
                f"| {names} |"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fronts", action="store_true")
    for row in front_rows() if parser.parse_args().fronts else standard_rows():
        print(row, flush=True)
