# SPDX-License-Identifier: Apache-2.0
"""Figures as people read them: bytes, ratios, percentages, long names made short."""

from __future__ import annotations


def bytes_in_words(count: float) -> str:
    """Binary units, at most four digits.

    >>> [bytes_in_words(b) for b in (0, 800, 1536, 150 * 1024, 3 << 20)]
    ['0 B', '800 B', '1.5 KiB', '150 KiB', '3 MiB']
    """
    units = ("KiB", "MiB", "GiB")
    power = max((i for i in range(1, 4) if count >= 1024**i), default=0)
    return f"{_digits(count / 1024**power)} {units[power - 1]}" if power else f"{count:.0f} B"


def _digits(value: float) -> str:
    """One decimal below 100, without a trailing zero."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}".removesuffix(".0")


def three_digits(value: float) -> str:
    """The digits that count, without an exponent.

    >>> [three_digits(value) for value in (1449.74, 0.00002927, 108.27, 30.0)]
    ['1,450', '0.0000293', '108', '30']
    """
    return f"{float(f'{value:.3g}'):,.12f}".rstrip("0").rstrip(".")


def times(ratio: float) -> str:
    """How many times: two digits that count.

    >>> times(9.94), times(0.125), times(112.3)
    ('9.9x', '0.12x', '112x')
    """
    if ratio < 1:
        return f"{ratio:.2f}x"
    return f"{ratio:.1f}x" if ratio < 100 else f"{ratio:.0f}x"


def percent(value: float | None) -> str:
    """Two decimals, or a dash for what was not measured.

    >>> percent(72.666), percent(None)
    ('72.67 %', '-')
    """
    return "-" if value is None else f"{value:.2f} %"


def shortened(name: str, characters: int) -> str:
    """The name, or its two ends around an ellipsis.

    >>> shortened("features.12.conv.output", 11)
    'featu…utput'
    """
    if len(name) <= characters:
        return name
    kept = max(characters - 1, 2)
    return f"{name[: (kept + 1) // 2]}…{name[len(name) - kept // 2 :]}"
