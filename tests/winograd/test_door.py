# SPDX-License-Identifier: Apache-2.0
"""`thinmaps winograd` from argument to exit code."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from thinmaps import cli
from thinmaps.winograd import Triple, cpp, derive, latex, python, verify
from thinmaps.winograd.rational import matrix


def test_it_says_what_the_algorithm_is_and_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["winograd"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("F(4,3) x, x-1, x+1, x^2+1, infinity\n")
    assert "2-D products   46 (rows inside columns: 49), 3.13 times fewer" in said
    assert "input          10 additions, 0 multiplications" in said
    assert "exact in int32 up to 456 channels, 13-bit inputs, 12-bit filters" in said


def test_json_holds_matrices_that_verify(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--outputs", "3", "--taps", "2", "--polynomials", "x, x-1, x+5/3"]
    assert cli.run(["winograd", *arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    verify(Triple(*(matrix(said[name]) for name in ("at", "g", "bt"))))
    assert said["products"] == 4
    assert Fraction(said["at"][1][2]) == Fraction(-5, 3)
    assert said["float32_error"] > 0
    assert said["integers"]["divisor"] > 1


def test_what_32_bits_do_not_hold_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["winograd", "--polynomials", "x, x-5/3, x+5/3, x-3/5, x+3/5"]) == 0
    assert "not exact in 32 bits" in capsys.readouterr().out


def test_code_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    algorithm = derive(2, 3)
    for switch, text in (
        ("--python", python(algorithm)),
        ("--c", cpp(algorithm, "F2x3")),
        ("--latex", latex(algorithm)),
    ):
        assert cli.run(["winograd", "--outputs", "2", switch]) == 0
        assert capsys.readouterr().out == text
    assert cli.run(["winograd", "--outputs", "2", "--pairs", "--python"]) == 0
    assert capsys.readouterr().out == python(algorithm, pairs=True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--polynomials", "x, x-1, x^2-1, x+2"], "x-1 and x^2-1 share x-1"),
        (["--polynomials", "x, x-1"], "add up to outputs + taps - 2 = 5, got 2 from x, x-1"),
        (["--polynomials", "x, sin(x)"], "such as x^2+1 or x-1/2, got ' sin(x)'"),
        (["--outputs", "0"], "outputs of at least 1, got 0"),
        (["--taps", "99"], "at most 16, got 4 + 99 - 1 = 102"),
        (["--c", "--json"], "--c and --json exclude each other"),
        (["--search", "--polynomials", "x"], "--polynomials and --search exclude each other"),
        (["--search", "--channels", "0"], "at least one input and output channel"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["winograd", *arguments]) == 2
    said = capsys.readouterr()
    assert named in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_the_search_prints_its_front(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["winograd", "--outputs", "2", "--search"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["products", "saving", "error", "polynomials,", "infinity"]
    assert said[1].split()[0] == "16"
    arguments = ["--outputs", "2", "--search", "--number-format", "float16", "--channels", "8"]
    assert cli.run(["winograd", *arguments, "--json"]) == 0
    best = json.loads(capsys.readouterr().out)[0]
    assert best["polynomials"] == ["x", "x-1", "x+1"]
    assert best["saving"] < 2.25
