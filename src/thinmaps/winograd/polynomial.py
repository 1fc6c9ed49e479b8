# SPDX-License-Identifier: Apache-2.0
"""Polynomials in x over the rationals, exact: what the generators of this room compute with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest

from thinmaps.errors import BadArgument

# Texts beyond these are refused before anything is computed with them.
LARGEST_DEGREE = 15
_MOST_DIGITS = 6
_MOST_SHOWN = 60

_NUMBER = rf"\d{{1,{_MOST_DIGITS}}}(?:/\d{{1,{_MOST_DIGITS}}}|\.\d{{1,{_MOST_DIGITS}}})?"
_TERM = re.compile(rf"([+-]?)(?:({_NUMBER})\*?)?(x(?:(?:\^|\*\*)(\d{{1,2}}))?)?")


@dataclass(frozen=True)
class Polynomial:
    """`coefficients[j]` belongs to x**j; the last is not zero, and zero itself has none.

    >>> print(Polynomial.parse("x^2 - 1") % Polynomial.parse("x - 1/2"))
    -3/4
    """

    coefficients: tuple[Fraction, ...] = ()

    @classmethod
    def of(cls, coefficients: Iterable[Fraction | int]) -> Polynomial:
        """From the lowest power to the highest; leading zeros go."""
        kept = [Fraction(coefficient) for coefficient in coefficients]
        while kept and not kept[-1]:
            kept.pop()
        return cls(tuple(kept))

    @classmethod
    def power(cls, degree: int) -> Polynomial:
        """x**degree."""
        return cls((Fraction(0),) * degree + (Fraction(1),))

    @classmethod
    def parse(cls, text: str) -> Polynomial:
        """From a sum of terms such as `x^2 - 5/2*x + 1`.

        Raises:
            BadArgument: something in `text` is no term, or its degree is beyond `LARGEST_DEGREE`.
        """
        packed = text.replace(" ", "")
        total, place = cls(), 0
        while place < len(packed) or not packed:
            found = _TERM.match(packed, place)
            if not found or not (found[2] or found[3]) or (place and not found[1]):
                raise BadArgument(
                    f"winograd needs polynomials in x such as x^2+1 or x-1/2, "
                    f"got {_shortened(text)}"
                )
            total, place = total + cls._term(found, text), found.end()
        return total

    @classmethod
    def _term(cls, found: re.Match[str], text: str) -> Polynomial:
        degree = int(found[4] or 1) if found[3] else 0
        if degree > LARGEST_DEGREE:
            raise BadArgument(
                f"winograd takes degrees up to {LARGEST_DEGREE}, got {_shortened(text)}"
            )
        try:
            size = Fraction(found[2] or 1)
        except ZeroDivisionError:
            raise BadArgument(f"winograd cannot divide by zero in {_shortened(text)}") from None
        return cls.of([0] * degree + [-size if found[1] == "-" else size])

    @property
    def degree(self) -> int:
        """Of the highest power; -1 for zero."""
        return len(self.coefficients) - 1

    def monic(self) -> Polynomial:
        """The multiple whose highest power has coefficient 1."""
        leading = self.coefficients[-1]
        return Polynomial(tuple(c / leading for c in self.coefficients))

    def padded(self, length: int) -> tuple[Fraction, ...]:
        """Coefficients with zeros up to `length`, a column of a matrix."""
        return self.coefficients + (Fraction(0),) * (length - len(self.coefficients))

    def __add__(self, other: Polynomial) -> Polynomial:
        pairs = zip_longest(self.coefficients, other.coefficients, fillvalue=Fraction(0))
        return Polynomial.of(a + b for a, b in pairs)

    def __neg__(self) -> Polynomial:
        return Polynomial(tuple(-c for c in self.coefficients))

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + -other

    def __mul__(self, other: Polynomial) -> Polynomial:
        product = [Fraction(0)] * (len(self.coefficients) + len(other.coefficients))
        for i, a in enumerate(self.coefficients):
            for j, b in enumerate(other.coefficients):
                product[i + j] += a * b
        return Polynomial.of(product)

    def __divmod__(self, divisor: Polynomial) -> tuple[Polynomial, Polynomial]:
        quotient, rest = Polynomial(), self
        while rest.degree >= divisor.degree:
            ratio = rest.coefficients[-1] / divisor.coefficients[-1]
            step = Polynomial.power(rest.degree - divisor.degree) * Polynomial((ratio,))
            quotient, rest = quotient + step, rest - step * divisor
        return quotient, rest

    def __floordiv__(self, divisor: Polynomial) -> Polynomial:
        return divmod(self, divisor)[0]

    def __mod__(self, divisor: Polynomial) -> Polynomial:
        return divmod(self, divisor)[1]

    def __str__(self) -> str:
        """As `parse` reads it.

        >>> str(Polynomial.parse("1 - 2.5x + x**2"))
        'x^2-5/2*x+1'
        """
        terms = [
            _term_text(c, power) for power, c in reversed([*enumerate(self.coefficients)]) if c
        ]
        return "".join(terms).removeprefix("+") or "0"


ONE = Polynomial.power(0)


def gcd(a: Polynomial, b: Polynomial) -> Polynomial:
    """The monic greatest common divisor, by Euclid; not both may be zero.

    >>> print(gcd(Polynomial.parse("x^2-1"), Polynomial.parse("x^2+3*x+2")))
    x+1
    """
    while b.coefficients:
        a, b = b, a % b
    return a.monic()


def inverse(a: Polynomial, modulus: Polynomial) -> Polynomial:
    """b with a b = 1 modulo `modulus`, to which `a` must be coprime: Euclid, extended."""
    r, next_r = modulus, a % modulus
    s, next_s = Polynomial(), ONE
    while next_r.coefficients:
        quotient, rest = divmod(r, next_r)
        r, next_r = next_r, rest
        s, next_s = next_s, s - quotient * next_s
    return s * Polynomial((1 / r.coefficients[0],)) % modulus


def _shortened(text: str) -> str:
    """For a message of one line."""
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}...")


def _term_text(coefficient: Fraction, power: int) -> str:
    sign, size = "-" if coefficient < 0 else "+", abs(coefficient)
    if power == 0:
        return f"{sign}{size}"
    x = "x" if power == 1 else f"x^{power}"
    return f"{sign}{x}" if size == 1 else f"{sign}{size}*{x}"
