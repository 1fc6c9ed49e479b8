# SPDX-License-Identifier: Apache-2.0
"""What is printed computes what the matrices say: Python is run, C++ compiled, LaTeX read back."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from winograd.sets import SETS, Published

from thinmaps.winograd import Algorithm, arrays, cpp, derive, latex, python
from thinmaps.winograd.emit import NATIVE_SETS, native_header
from thinmaps.winograd.nested import nested
from thinmaps.winograd.transforms import transforms

EACH_SET = pytest.mark.parametrize("published", SETS.values(), ids=SETS.keys())
HEADER = Path(__file__).resolve().parents[2] / "native" / "winograd_transforms.h"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")

MAIN = """
struct Number {
  double value = 0;
  static Number Broadcast(float v) { return {v}; }
  Number operator-() const { return {-value}; }
};
Number operator+(Number a, Number b) { return {a.value + b.value}; }
Number operator-(Number a, Number b) { return {a.value - b.value}; }
Number operator*(Number a, Number b) { return {a.value * b.value}; }

// Columns of the matrix, from unit vectors that lie 2 apart to results that lie 3 apart.
template <class Transform>
void Print(Transform transform, int inputs, int outputs) {
  std::printf("[");
  for (int column = 0; column < inputs; ++column) {
    Number in[128], out[192];
    in[2 * column].value = 1;
    transform(in, 2, out, 3);
    std::printf("%s[", column ? "," : "");
    for (int i = 0; i < outputs; ++i) std::printf("%s%.17g", i ? "," : "", out[3 * i].value);
    std::printf("]");
  }
  std::printf("]\\n");
}

template <class Set>
void PrintAll(int inputs = Set::kInputs, int taps = Set::kTaps) {
  const int outputs = inputs == Set::kInputs ? Set::kOutputs : Set::kOutputs * Set::kOutputs;
  Print(Set::template InputTransform<Number>, inputs, Set::kProducts);
  Print(Set::template FilterTransform<Number>, taps, Set::kProducts);
  Print(Set::template OutputTransform<Number>, Set::kProducts, outputs);
}
"""


def native_algorithms() -> dict[str, Algorithm]:
    """By the name of their struct."""
    return {name: derive(m, r, polynomials) for name, m, r, polynomials in NATIVE_SETS}


def compiled(
    text: str, names: list[str], folder: Path, sizes: tuple[int, int] | None = None
) -> list[np.ndarray]:
    """The matrices of three transforms for each struct of `text`, as a program prints them.

    `sizes` are inputs and taps where those of the struct are those of one dimension.
    """
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    given = ", ".join(map(str, sizes or ()))
    calls = "".join(f"  PrintAll<{name}>({given});\n" for name in names)
    source = folder / "transforms.cc"
    source.write_text(f"#include <cstdio>\n{text}{MAIN}int main() {{\n{calls}}}\n")
    program = folder / "transforms"
    command = [compiler, "-std=c++20", *WARNINGS, str(source), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return [np.array(json.loads(line)).T for line in printed.splitlines()]


def assert_matrices(found: list[np.ndarray], algorithm: Algorithm, relative: float) -> None:
    """Input, filter and output transforms, in this order, are B^T, G and A^T."""
    at, g, bt = arrays(algorithm.matrices)
    for made, wanted in zip(found, (bt, g, at), strict=True):
        np.testing.assert_allclose(made, wanted, rtol=relative, atol=relative)


@EACH_SET
def test_printed_python_computes_the_matrices(published: Published) -> None:
    algorithm = published.algorithm()
    functions: dict[str, object] = {}
    exec(python(algorithm), functions)
    found = [
        np.array(functions[f"{name}_transform"](np.eye(inputs)))  # type: ignore[operator]
        for name, inputs in (
            ("input", algorithm.inputs),
            ("filter", algorithm.taps),
            ("output", algorithm.products),
        )
    ]
    assert_matrices(found, algorithm, 1e-13)


@EACH_SET
def test_printed_latex_computes_the_matrices(published: Published) -> None:
    algorithm = published.algorithm()
    found = []
    blocks = latex(algorithm).split("\\begin{aligned}")[1:]
    for block, transform in zip(blocks, transforms(algorithm), strict=True):
        values = {f"{transform.symbol}{i}": row for i, row in enumerate(_unit_rows(transform))}
        for name, index, text in re.findall(r"(\w)_\{(\d+)\} &= (.+?)(?: \\\\)?\n", block):
            values[f"{name}{index}"] = eval(_as_python(text), {}, values)
        outputs = range(len(transform.program.outputs))
        found.append(np.array([values[f"{transform.result}{i}"] for i in outputs]))
    assert_matrices(found, algorithm, 1e-13)


def _unit_rows(transform: object) -> np.ndarray:
    return np.eye(transform.program.inputs)  # type: ignore[attr-defined]


def _as_python(text: str) -> str:
    """Fractions, indices and products that are not written."""
    text = re.sub(r"\\tfrac\{(\d+)\}\{(\d+)\}", r"(\1/\2)", text)
    text = re.sub(r"(\w)_\{(\d+)\}", r"\1\2", text)
    return re.sub(r"(?<=[\d)]) (?=[(a-z])", " * ", text)


def test_pairs_are_printed_in_two_dimensions(tmp_path: Path) -> None:
    algorithm = derive(4, 3)
    at, g, bt = arrays(nested(algorithm))
    functions: dict[str, Callable[[np.ndarray], list[np.ndarray]]] = {}
    exec(python(algorithm, pairs=True), functions)
    for name, wanted in (("input", bt), ("filter", g), ("output", at)):
        found = functions[f"{name}_transform"](np.eye(wanted.shape[1]))
        np.testing.assert_array_equal(np.array(found), wanted)
    assert latex(algorithm, pairs=True).count("v_{45} &=") == 1
    text = "#include <cstddef>\n" + cpp(algorithm, "Pairs", pairs=True)
    for made, wanted in zip(compiled(text, ["Pairs"], tmp_path, (36, 9)), (bt, g, at), strict=True):
        np.testing.assert_array_equal(made, wanted)


def test_the_committed_header_is_what_the_generator_writes() -> None:
    assert HEADER.read_text() == native_header(), "regenerate it: python tools/winograd_header.py"


def test_the_committed_header_computes_the_matrices(tmp_path: Path) -> None:
    algorithms = native_algorithms()
    names = [f"thinmaps::{name}" for name in algorithms]
    found = compiled(f'#include "{HEADER}"\n', names, tmp_path)
    for place, algorithm in enumerate(algorithms.values()):
        # Constants such as 1/6 are floats.
        assert_matrices(found[3 * place : 3 * place + 3], algorithm, 2.0**-23)


def test_any_set_compiles(tmp_path: Path) -> None:
    algorithms = [published.algorithm() for published in SETS.values()]
    algorithms += [derive(1, 1), derive(3, 1, "x+1, x+2"), derive(1, 3, "x+1, x+2")]
    names = [f"Set{place}" for place in range(len(algorithms))]
    text = "#include <cstddef>\n" + "\n".join(map(cpp, algorithms, names))
    found = compiled(text, names, tmp_path)
    for place, algorithm in enumerate(algorithms):
        assert_matrices(found[3 * place : 3 * place + 3], algorithm, 2.0**-22)
