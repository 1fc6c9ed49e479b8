# SPDX-License-Identifier: Apache-2.0
"""What a run says of itself: rows of numbers, as JSON lines, and for TensorBoard where that is.

`training.jsonl` holds one JSON object per row. A run that goes on drops rows of steps that it
repeats, so each step is there once. TensorBoard's events lie in the same folder.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinmaps.errors import BadArgument
from thinmaps.file.atomic import write_atomically


@dataclass(frozen=True)
class TrainingRow:
    """One step, seen from outside.

    Attributes:
        step: steps done, this one included.
        loss: the sum of `parts`, each with its weight; the mean over processes.
        network_rate: learning rate of the network's weights.
        codec_rate: that of codec parameters.
        map_rate: that of parameters of weight and activation maps.
        watched: what companions show, by name.
        gradient_norm: before it was clipped.
        dead_bits: bits that never changed since the last row, of the surrogates that count them.
        exact: whether the student computed the integers of inference.
        pictures_per_second: since the last row, over all processes.
    """

    step: int
    loss: float
    parts: dict[str, float]
    network_rate: float
    codec_rate: float
    map_rate: float
    watched: dict[str, float]
    gradient_norm: float
    dead_bits: int | None
    exact: bool
    pictures_per_second: float


class Meter:
    """Pictures per second since the last time someone asked."""

    def __init__(self) -> None:
        self._since, self._pictures = time.perf_counter(), 0

    def count(self, pictures: int) -> None:
        """So many more were seen."""
        self._pictures += pictures

    def rate(self) -> float:
        """Of the time since it was last asked."""
        now = time.perf_counter()
        found = self._pictures / max(now - self._since, 1e-9)
        self._since, self._pictures = now, 0
        return found


class TrainingLog:
    """Keeps rows, and writes them to `folder` if there is one. `steps_done` steps went before."""

    def __init__(self, folder: str | Path | None, steps_done: int) -> None:
        self.rows: list[TrainingRow] = []
        self._file: Path | None = None
        self._board: Any = None
        if folder is None:
            return
        self._file = _open_lines(Path(folder), steps_done)
        with suppress(ImportError):
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(folder), purge_step=steps_done + 1)

    def write(self, row: TrainingRow) -> None:
        """Keep a row, and make it readable for others at once."""
        self.rows.append(row)
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(row)) + "\n")
        if self._board is not None:
            for name, value in _scalars(row):
                self._board.add_scalar(name, value, row.step)
            self._board.flush()

    def close(self) -> None:
        """No row comes any more."""
        if self._board is not None:
            self._board.close()


def _open_lines(folder: Path, steps_done: int) -> Path:
    """The file of rows, without those behind `steps_done`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "training.jsonl"
        lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    except OSError as reason:
        raise BadArgument(f"cannot log to {folder}: {reason.strerror or reason}") from None
    kept = "".join(line for line in lines if _step_of(line) <= steps_done)
    write_atomically(path, kept.encode())
    return path


def _step_of(line: str) -> float:
    """A row's step; infinite for what is no row, such as a line cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _scalars(row: TrainingRow) -> list[tuple[str, float]]:
    """A row as TensorBoard has it: single numbers, parts and what is watched in groups."""
    whole = asdict(row)
    groups = {name: whole.pop(name) for name in ("parts", "watched")}
    del whole["step"]
    found = [(name, float(value)) for name, value in whole.items() if value is not None]
    return found + [
        (f"{group}/{name}", value)
        for group, values in groups.items()
        for name, value in values.items()
    ]
