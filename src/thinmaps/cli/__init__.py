# SPDX-License-Identifier: Apache-2.0
"""The command line: arguments to calls, results to text or JSON. No logic lives here.

Exit codes: 0; 1 where `verify` finds a difference; 2 with one sentence on standard error for
everything that thinmaps refuses; 130 after Ctrl-C. Anything else is our bug and shows its
traceback. With `--json` standard output holds JSON and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from typer.exceptions import TyperException

from thinmaps.cli.commands import app
from thinmaps.errors import ThinmapsError

__all__ = ["app", "main", "run"]

EXTRA_PACKAGES = frozenset({"onnx", "onnxruntime"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = app(given or ["--help"], standalone_mode=False)
    except ThinmapsError as refusal:
        return _refuse(str(refusal))
    except TyperException as misuse:
        return _refuse(f"{misuse.format_message()} (thinmaps --help lists commands and options)")
    except ModuleNotFoundError as absent:
        if (absent.name or "").partition(".")[0] not in EXTRA_PACKAGES:
            raise
        return _refuse(f"this command needs {absent.name}: pip install 'thinmaps[compress]'")
    except KeyboardInterrupt:
        result = 130
    if result == 130:
        print("thinmaps: interrupted", file=sys.stderr)
    return result if isinstance(result, int) else 0


def _refuse(reason: str) -> int:
    """One sentence, one line."""
    print(f"thinmaps: {' '.join(reason.split())}", file=sys.stderr)
    return 2
