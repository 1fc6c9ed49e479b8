# SPDX-License-Identifier: Apache-2.0
"""What the house promises of its own source: heads of files, names, errors, imports, documents."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinmaps import errors

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "src" / "thinmaps"
PYTHON_FILES = sorted(
    path
    for room in ("src", "tests", "tools", "examples")
    for path in (CHECKOUT / room).rglob("*.py")
)
CXX_FILES = sorted(
    path
    for room in ("src", "native")
    for suffix in ("*.cc", "*.h")
    for path in (CHECKOUT / room).rglob(suffix)
)
MODULES = [path for path in PYTHON_FILES if path.is_relative_to(PACKAGE)]
LIBRARY = [path for path in MODULES if "training" not in path.parts]

# Doors that a command or a measurement opens only when asked: the runtime install lacks what is
# behind them, or they cost a second or megabytes to load.
LATE_IMPORTS = {
    "cli/commands.py",
    "inference.py",
    "measure/evaluate.py",
    "measure/heap_child.py",
    "measure/live_heap.py",
    "measure/openvino_peer.py",
    "measure/resident.py",
}
# Errors of Python's own protocols, and one of the command line's.
OTHER_RAISES = {
    "AttributeError",  # __getattr__
    "AssertionError",  # our own mistakes
    "NotImplementedError",
    "typer.Exit",
    "ValueError",  # parsers whose callers turn it into one of ours
}


def relative(path: Path) -> str:
    """How a failure names the file."""
    return path.relative_to(CHECKOUT).as_posix()


def tracked_text() -> Iterator[tuple[str, str]]:
    """Every text file of the checkout, by name."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    for name in listed.stdout.splitlines():
        path = CHECKOUT / name
        if path.is_file() and path.suffix not in {".onnx", ".npz", ".jpg", ".png", ".bin"}:
            yield name, path.read_text("utf-8")


def test_every_file_starts_with_its_licence() -> None:
    for path in PYTHON_FILES:
        assert path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
    for path in CXX_FILES:
        assert path.read_text().startswith("// SPDX-License-Identifier: Apache-2.0\n"), path


def test_every_file_says_what_it_promises() -> None:
    silent = [relative(p) for p in PYTHON_FILES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent
    # A .cc file that implements a header is described there.
    told = {p for p in CXX_FILES if p.read_text().splitlines()[1].startswith("// ")}
    bare = [p for p in CXX_FILES if p not in told and p.with_suffix(".h") not in told]
    assert not [relative(path) for path in bare]


def test_no_module_has_a_name_that_says_nothing() -> None:
    banned = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert not [relative(path) for path in PYTHON_FILES + CXX_FILES if path.stem in banned]


def test_nothing_names_a_machine_or_leaves_work_for_later() -> None:
    # Put together here, so that this file does not find itself.
    rooms = "|".join(("work", "tmp", "home", "root"))
    patterns = [
        re.compile(rf"(?<![\w.~$}}])/({rooms})/[a-z]"),
        re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
        re.compile(r"pypi\.(?:org|python)|files\.python" + r"hosted"),
    ]
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in tracked_text()
        for number, line in enumerate(text.splitlines(), 1)
        if any(pattern.search(line) for pattern in patterns)
    ]
    assert not found


def test_errors_come_from_one_tree() -> None:
    tree = {name for name, value in vars(errors).items() if isinstance(value, type)}
    strangers = []
    for path in LIBRARY:
        module = ast.parse(path.read_text())
        own = {
            node.name
            for node in ast.walk(module)
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        local = {
            alias.asname or alias.name
            for node in ast.walk(module)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("thinmaps")
            for alias in node.names
        }
        for node in ast.walk(module):
            if not isinstance(node, ast.Raise) or node.exc is None:
                continue
            raised = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            known = tree | own | local | OTHER_RAISES
            if raised not in known and not raised.startswith("type("):
                strangers.append(f"{relative(path)}:{node.lineno} {raised}")
    assert not strangers


def test_every_error_is_also_the_builtin_that_a_user_would_guess() -> None:
    for value in vars(errors).values():
        if isinstance(value, type) and value is not errors.ThinmapsError:
            assert issubclass(value, errors.ThinmapsError)
            assert issubclass(value, ValueError | LookupError | ImportError), value


def test_rooms_are_imported_at_the_top_except_behind_named_doors() -> None:
    late = {
        path.relative_to(PACKAGE).as_posix()
        for path in LIBRARY
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("thinmaps")
    }
    assert late <= LATE_IMPORTS


@pytest.mark.parametrize("name", ["thinmaps", "thinmaps.file"])
def test_every_public_name_exists(name: str) -> None:
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(set(module.__all__))
    assert all(getattr(module, public) is not None for public in module.__all__)


def test_what_runs_a_file_imports_neither_onnx_nor_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('onnx', 'onnxruntime', 'torch', 'sklearn'): sys.modules[name] = None\n"
        "import thinmaps, thinmaps.cli\n"
        "thinmaps.Engine, thinmaps.load, thinmaps.save\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_of_tests_are_sentences() -> None:
    short = [
        f"{relative(path)} {node.name}"
        for path in PYTHON_FILES
        if path.name.startswith("test_")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and len(node.name.split("_")) < 3
    ]
    assert not short


def test_sizes_stay_within_their_limits() -> None:
    done = subprocess.run(
        [sys.executable, CHECKOUT / "tools" / "size_table.py", "--limits"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_make_help_names_every_target() -> None:
    text = (CHECKOUT / "Makefile").read_text()
    declared = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert declared
    targets = set(declared[1].replace("\\", " ").split())
    assert targets == set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))


def test_links_lead_to_files_that_exist() -> None:
    broken = []
    for document in [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")]:
        text = document.read_text()
        broken += [
            f"{relative(document)} -> {target}"
            for target in re.findall(r"\]\(([^)#:]+)\)", text)
            if not (document.parent / target).exists()
        ]
    assert not broken


def test_every_claim_names_a_file_and_a_test_that_exist() -> None:
    claims = (CHECKOUT / "docs" / "claims.md").read_text()
    rows = re.findall(r"\| `([\w/.-]+)` \| `([\w/.]+)::(\w+)` \|$", claims, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| (?!claim|---)", claims, re.MULTILINE))
    for source, tests, name in rows:
        assert (CHECKOUT / source).is_file(), source
        starts = f"int {name}(" if tests.endswith(".cc") else f"def {name}("
        assert starts in (CHECKOUT / tests).read_text(), f"{tests}::{name}"
