# SPDX-License-Identifier: Apache-2.0
"""Sizes of functions and files, the change against main, and the limits that `make check` keeps.

    python tools/size_table.py              the table
    python tools/size_table.py --limits     exit 1 where a limit is passed

Python functions are measured from `def` to their last line, C++ ones at the left margin from their
first line to the brace that closes them there (clang-format puts it in place).
Nothing beyond the standard library: it runs before `make setup`.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
ROOMS = ("src", "native", "tests", "tools", "benchmarks")
FILE_LINES = 600
FUNCTION_LINES = 80
MEDIAN_LINES = 12


@dataclass(frozen=True)
class Sized:
    """A function and its lines, `where` as `path:line name`."""

    where: str
    lines: int


def python_functions(path: str, text: str) -> Iterator[Sized]:
    """Every function and method; a nested one counts for itself and for its owner."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            yield Sized(f"{path}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1)


def cxx_functions(path: str, text: str) -> Iterator[Sized]:
    """Every function at the left margin: from its first line to the brace that closes it there."""
    first, header = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if not first and line[:1].isidentifier() and not line.startswith("namespace"):
            first, header = number, ""
        if "{" not in header:
            header += line
        if line == "}" and "(" in header.partition("{")[0]:
            yield Sized(f"{path}:{first}", number - first + 1)
        if line.startswith("}") or (line.endswith(";") and "{" not in header):
            first = 0


def functions(sources: dict[str, str], suffixes: tuple[str, ...]) -> list[Sized]:
    """Functions of all files of a language, the longest first."""
    measure = python_functions if ".py" in suffixes else cxx_functions
    found = [
        function
        for path, text in sources.items()
        if path.endswith(suffixes)
        for function in measure(path, text)
    ]
    return sorted(found, key=lambda function: -function.lines)


def working_tree() -> dict[str, str]:
    """Text of every source file of the checkout."""
    return {
        str(path.relative_to(CHECKOUT)): path.read_text("utf-8")
        for room in ROOMS
        for path in sorted((CHECKOUT / room).rglob("*"))
        if path.suffix in (".py", ".cc", ".h")
    }


def lines_on_main() -> dict[str, int]:
    """Lines of every source file on main; empty outside of a checkout with that branch."""
    command = ["git", "-C", str(CHECKOUT), "grep", "-c", "", "main", "--", *ROOMS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = (line.split(":", 1)[1].rsplit(":", 1) for line in done.stdout.splitlines())
    return {path: int(lines) for path, lines in rows if path.endswith((".py", ".cc", ".h"))}


def violations(sources: dict[str, str]) -> list[str]:
    """One sentence per limit that is passed."""
    found = [
        f"{path} has {len(text.splitlines())} lines, at most {FILE_LINES} are allowed"
        for path, text in sources.items()
        if len(text.splitlines()) > FILE_LINES
    ]
    for suffixes in ((".py",), (".cc", ".h")):
        sized = functions(sources, suffixes)
        found += [
            f"{function.where} has {function.lines} lines, at most {FUNCTION_LINES} are allowed"
            for function in sized
            if function.lines > FUNCTION_LINES
        ]
        median = statistics.median([f.lines for f in sized] or [0])
        if median > MEDIAN_LINES:
            found.append(
                f"{suffixes[0]} functions have a median of {median} lines, at most {MEDIAN_LINES}"
            )
    return found


def print_table(sources: dict[str, str]) -> None:
    """Totals per room, the longest functions, the files that grew."""
    before = lines_on_main()
    now = {path: len(text.splitlines()) for path, text in sources.items()}
    print(f"{'':24}{'files':>8}{'lines':>8}{'main':>8}{'change':>8}")
    for room in ROOMS:
        inside = [path for path in now if path.startswith(f"{room}/")]
        own = sum(now[path] for path in inside)
        old = sum(lines for path, lines in before.items() if path.startswith(f"{room}/"))
        print(f"{room:24}{len(inside):8}{own:8}{old:8}{own - old:+8}")
    for name, suffixes in (("Python", (".py",)), ("C++", (".cc", ".h"))):
        sized = functions(sources, suffixes)
        lengths = sorted(function.lines for function in sized) or [0]
        p95 = lengths[min(len(lengths) - 1, round(0.95 * len(lengths)))]
        print(
            f"\n{name}: {len(sized)} functions, median {statistics.median(lengths):g} lines, "
            f"p95 {p95}, longest {lengths[-1]}"
        )
        for function in sized[:5]:
            print(f"{function.lines:8}  {function.where}")
    print("\nLongest files, and the change against main")
    for path in sorted(now, key=lambda path: -now[path])[:8]:
        print(f"{now[path]:8}  {path}  ({now[path] - before.get(path, 0):+})")


def main() -> int:
    """Print the table or check the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--limits", action="store_true", help="fail where a limit is passed")
    sources = working_tree()
    if not parser.parse_args().limits:
        print_table(sources)
        return 0
    found = violations(sources)
    print("\n".join(found) or f"sizes: {len(sources)} files within their limits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
