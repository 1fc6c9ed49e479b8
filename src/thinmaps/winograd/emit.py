# SPDX-License-Identifier: Apache-2.0
"""Transforms as text that a person can read: Python (NumPy), C++, LaTeX.

All three print the same programs (straight_line.py), one line per sum. C++ functions are templates
on a type `V` of many floats side by side, which has `+`, `-` and `*` and `V::Broadcast(float)`, so
that a kernel compiles them once per instruction set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from thinmaps.winograd.algorithm import Algorithm, derive, is_power_of_two
from thinmaps.winograd.nested_transforms import nested_transforms
from thinmaps.winograd.straight_line import Program, Statement
from thinmaps.winograd.transforms import Transform, transforms

# What native kernels are compiled for: (name, outputs, taps, polynomials).
NATIVE_SETS = (
    ("F2x3", 2, 3, "x, x-1, x+1"),
    ("F4x3Thirds", 4, 3, "x, x-3/2, x+3/2, x-2/3, x+2/3"),
    ("F4x3Points", 4, 3, "x, x-1, x+1, x-2, x+2"),
    ("F4x3Quadratic", 4, 3, "x, x-1, x+1, x^2+1"),
    ("F6x3Quadratic", 6, 3, "x, x-1, x+1, x^2+1, x-2, x+2"),
)


@dataclass(frozen=True)
class Notation:
    """How a language writes a variable, a constant, and a product."""

    variable: Callable[[str], str]
    constant: Callable[[Fraction], str]
    times: str


def python(algorithm: Algorithm, pairs: bool = False) -> str:
    """Three functions of sequences, whose elements are numbers or arrays, to lists.

    With `pairs` they are two-dimensional, their sequences pictures row by row.

    >>> print(python(derive(2, 2)).split("\\n\\n\\n")[0])
    def input_transform(d):
        \"\"\"B^T d of F(2,2) x, x-1: 2 additions, 0 multiplications.\"\"\"
        d0, d1, d2 = d
        v0 = d0 - d1
        v1 = d1
        v2 = d2 - d1
        return [v0, v1, v2]
    """
    functions = ["\n".join(_python_lines(algorithm, t)) for t in _chosen(algorithm, pairs)]
    return "\n\n\n".join(functions) + "\n"


def latex(algorithm: Algorithm, pairs: bool = False) -> str:
    """The three transforms as aligned equations; needs amsmath."""
    notation = Notation(_latex_name, _latex_constant, " ")
    blocks = []
    for transform in _chosen(algorithm, pairs):
        lines = [
            f"  {_latex_name(transform.variable(v))} &= {expression(transform, s, notation)}"
            for v, s in _assigned(transform.program)
        ]
        body = " \\\\\n".join(lines)
        blocks.append(
            f"% {transform.matrix}: {transform.cost}\n"
            f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}\n"
        )
    return f"% {algorithm}\n" + "\n".join(blocks)


def cpp(algorithm: Algorithm, name: str, pairs: bool = False) -> str:
    """A struct of this name with sizes and the three transforms, as clang-format lays it out.

    With `pairs` kProducts are all of two dimensions; the other sizes remain those of one.
    """
    found = _chosen(algorithm, pairs)
    where = " in two dimensions, row by row" if pairs else ""
    head = (
        f"// {algorithm}{where}\n"
        f"struct {name} {{\n"
        f"  static constexpr int kOutputs = {algorithm.outputs};\n"
        f"  static constexpr int kTaps = {algorithm.taps};\n"
        f"  static constexpr int kInputs = {algorithm.inputs};\n"
        f"  static constexpr int kProducts = {found[2].program.inputs};\n"
    )
    functions = ["\n".join(_cpp_lines(t)) for t in found]
    return head + "".join(f"\n{function}\n" for function in functions) + "};\n"


def native_header() -> str:
    """native/winograd_transforms.h, which `tools/winograd_header.py` writes."""
    structs = "\n".join(cpp(derive(m, r, p), name) for name, m, r, p in NATIVE_SETS)
    return f"{_HEADER}namespace thinmaps {{\n\n{structs}\n}}  // namespace thinmaps\n"


def expression(transform: Transform, statement: Statement, notation: Notation) -> str:
    """The right side of a line."""
    text = ""
    for coefficient, v in statement.terms:
        size, sign = abs(coefficient), "-" if coefficient < 0 else "+"
        factor = "" if size == 1 else notation.constant(size) + notation.times
        text += f" {sign} {factor}{notation.variable(transform.variable(v))}"
    text = "-" + text[3:] if text.startswith(" -") else text[3:]
    if statement.scale == 1:
        return text
    inner = text if len(statement.terms) == 1 else f"({text})"
    return f"{notation.constant(statement.scale)}{notation.times}{inner}"


def _chosen(algorithm: Algorithm, pairs: bool) -> tuple[Transform, Transform, Transform]:
    return nested_transforms(algorithm) if pairs else transforms(algorithm)


def _assigned(program: Program) -> Iterator[tuple[int, Statement]]:
    return enumerate(program.statements, program.inputs)


def _python_lines(algorithm: Algorithm, transform: Transform) -> Iterator[str]:
    notation = Notation(str, _python_constant, " * ")
    program = transform.program
    inputs = ", ".join(transform.variable(v) for v in range(program.inputs))
    yield f"def {transform.name}_transform({transform.symbol}):"
    yield f'    """{transform.matrix} of {algorithm}: {transform.cost}."""'
    yield f"    {inputs}{',' * (program.inputs == 1)} = {transform.symbol}"
    for v, statement in _assigned(program):
        yield f"    {transform.variable(v)} = {expression(transform, statement, notation)}"
    yield f"    return [{', '.join(transform.variable(v) for v in program.outputs)}]"


def _cpp_lines(transform: Transform) -> Iterator[str]:
    program = transform.program
    notation = Notation(str, _cpp_constant_name, " * ")
    yield f"  // {transform.matrix}: {transform.cost}."
    yield "  template <class V>"
    yield (
        f"  static void {transform.name.capitalize()}Transform("
        "const V* in, ptrdiff_t in_stride, V* out, ptrdiff_t out_stride) {"
    )
    for constant in sorted({c for s in program.statements for c in s.constants}):
        yield f"    const V {_cpp_constant_name(constant)} = {_cpp_constant(constant)};"
    for v in range(program.inputs):
        yield f"    const V {transform.variable(v)} = in[{v} * in_stride];"
    for v, statement in _assigned(program):
        target = f"const V {transform.variable(v)}"
        if v in program.outputs:
            target = f"out[{program.outputs.index(v)} * out_stride]"
        yield f"    {target} = {expression(transform, statement, notation)};"
    yield "  }"


def _cpp_constant_name(constant: Fraction) -> str:
    return "c" + str(constant).replace("-", "m").replace("/", "_")


def _cpp_constant(constant: Fraction) -> str:
    """Exact, or a quotient of exact floats that the compiler rounds once."""
    if is_power_of_two(Fraction(constant.denominator)):
        return f"V::Broadcast({float(constant)}f)"
    return f"V::Broadcast({constant.numerator}.0f / {constant.denominator}.0f)"


def _python_constant(constant: Fraction) -> str:
    if constant.denominator == 1:
        return str(constant)
    if is_power_of_two(Fraction(constant.denominator)):
        return str(float(constant))
    return f"({constant.numerator} / {constant.denominator})"


def _latex_constant(constant: Fraction) -> str:
    top, bottom = constant.numerator, constant.denominator
    sign = "-" if top < 0 else ""
    return str(top) if bottom == 1 else f"{sign}\\tfrac{{{abs(top)}}}{{{bottom}}}"


def _latex_name(variable: str) -> str:
    return f"{variable[0]}_{{{variable[1:]}}}"


_HEADER = """\
// SPDX-License-Identifier: Apache-2.0
// Winograd transforms of inputs, filters and products in one dimension, along strides; in two, once
// along columns and once along rows. Written by tools/winograd_header.py, which derives and
// verifies the matrices; change it there.
//
// V is a vector of floats with +, - and * and V::Broadcast(float). All inputs are read before the
// first output is written, so `out` may be `in`.
#pragma once

#include <cstddef>

"""
