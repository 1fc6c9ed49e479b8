# SPDX-License-Identifier: Apache-2.0
"""All that is known of one algorithm: matrices, figures of merit, errors, integers; for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

from thinmaps.errors import BadArgument
from thinmaps.winograd.algorithm import Algorithm
from thinmaps.winograd.integers import IntegerForm, integer_form
from thinmaps.winograd.measured_error import relative_error
from thinmaps.winograd.merit import Merit, error_bound, merit
from thinmaps.winograd.rational import Matrix

# Over channels, errors are measured on fewer tiles: as many sums are averaged.
CHANNELS = 64
TILES_OF_CHANNELS = 100


@dataclass(frozen=True)
class Description:
    """Errors are relative to direct convolution in the same format, infinite where it overflows.

    `integers` is None where 32 bits hold no integers of the matrices.
    """

    algorithm: Algorithm
    merit: Merit
    float32_error: float
    float32_error_64_channels: float
    float16_error: float
    integers: IntegerForm | None

    def to_json(self) -> dict[str, object]:
        """Matrices as texts of fractions."""
        algorithm = self.algorithm
        return {
            "outputs": algorithm.outputs,
            "taps": algorithm.taps,
            "polynomials": [str(p) for p in algorithm.polynomials],
            "at": _texts(algorithm.at),
            "g": _texts(algorithm.g),
            "bt": _texts(algorithm.bt),
            **self.merit.to_json(),
            "error_bound_float32": error_bound(algorithm),
            "float32_error": _finite(self.float32_error),
            "float32_error_64_channels": _finite(self.float32_error_64_channels),
            "float16_error": _finite(self.float16_error),
            "integers": self._integers_json(),
        }

    def _integers_json(self) -> dict[str, object] | None:
        form = self.integers
        if form is None:
            return None
        inputs, filters = form.bounds(1).bits[:2]
        return {
            "divisor": form.divisor,
            "input_bits": inputs,
            "filter_bits": filters,
            "channels_without_overflow": form.plain_channels,
            "channels": form.channels,
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        algorithm, found = self.algorithm, self.merit
        yield f"{algorithm}, infinity"
        yield f"y = A^T ((G g) . (B^T d)), verified: {found.products} products"
        for name, rows in zip(("A^T", "G", "B^T"), algorithm.matrices, strict=True):
            yield ""
            yield from _matrix_lines(name, rows)
        yield ""
        yield (
            f"2-D products   {found.nested_products}"
            + f" (rows inside columns: {found.products_2d})"
            * (found.nested_products != found.products_2d)
            + f", {found.saving:.2f} times fewer than direct"
        )
        for transform, additions, multiplications in zip(
            ("input", "filter", "output"), found.additions, found.multiplications, strict=True
        ):
            yield f"{transform:<14} {additions} additions, {multiplications} multiplications"
        yield (
            f"constants      {found.constants} beside 0 and +-1 in A^T and B^T, "
            f"{found.odd_constants} no power of two"
        )
        yield f"amplification  {found.amplification:.4g}"
        yield (
            f"error          {self.float32_error:.2f} of direct in float32, "
            f"{self.float32_error_64_channels:.2f} over {CHANNELS} channels, "
            f"{self.float16_error:.2f} in float16"
        )
        yield f"integers       {self._integers_words()}"

    def _integers_words(self) -> str:
        form = self.integers
        if form is None or not form.channels:
            return "not exact in 32 bits"
        inputs, filters = form.bounds(1).bits[:2]
        return (
            f"exact in int32 up to {form.channels} channels, {inputs}-bit inputs, {filters}-bit "
            f"filters, divided by {form.divisor}"
        )


def describe(algorithm: Algorithm) -> Description:
    """Scheduled, measured, and put into integers where 32 bits hold them."""
    try:
        integers = integer_form(algorithm)
    except BadArgument:
        integers = None
    return Description(
        algorithm,
        merit(algorithm),
        relative_error(algorithm),
        relative_error(algorithm, channels=CHANNELS, tiles=TILES_OF_CHANNELS),
        relative_error(algorithm, "float16"),
        integers,
    )


def _finite(error: float) -> float | None:
    """JSON has no infinity."""
    return error if isfinite(error) else None


def _texts(rows: Matrix) -> list[list[str]]:
    return [[str(x) for x in row] for row in rows]


def _matrix_lines(name: str, rows: Matrix) -> Iterator[str]:
    """Columns aligned to the right."""
    texts = _texts(rows)
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for place, row in enumerate(texts):
        cells = "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
        yield f"{name if place == 0 else '':<5}{cells}"
