# SPDX-License-Identifier: Apache-2.0
"""A progress bar on standard error for whatever takes longer than two seconds."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE_SECONDS = 2.0


class LateBar:
    """Called with (what, done, of); draws nothing before its time and nothing into a file."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._progress: Progress | None = None
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> LateBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, what: str, done: int, of: int) -> None:
        """Show that `done` of `of` pieces of the work named `what` are done."""
        if self._progress is None:
            console = Console(stderr=True)
            if not console.is_terminal or time.monotonic() - self._start < PATIENCE_SECONDS:
                return
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._progress.start()
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=of)
        task = next(t for t in self._progress.tasks if t.id == self._tasks[what])
        self._progress.update(task.id, completed=done, total=of)
