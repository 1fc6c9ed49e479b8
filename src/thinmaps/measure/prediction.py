# SPDX-License-Identifier: Apache-2.0
"""`run`: what a thin network says about a picture, for people: best classes, or a picture.

Outputs `(1, c, h, w)` with 1 or 3 channels are pictures. They are taken to be in the units of the
input, so the same mean and std lead back to 0..255.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thinmaps.calibrate.picture_set import network_values
from thinmaps.errors import BadArgument, BadData
from thinmaps.file import Model, check_writable, write_atomically
from thinmaps.measure.accuracy import best, judge_all
from thinmaps.measure.answers import blank_outputs, final_outputs
from thinmaps.run.engine import Engine
from thinmaps.run.pictures import load_picture
from thinmaps.types import Preprocessing

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]
SHOWN_CLASSES = 5


@dataclass(frozen=True)
class Guess:
    """A class with its score, as the network gives it. `name` is None without class names."""

    class_index: int
    name: str | None
    score: float


@dataclass(frozen=True)
class Prediction:
    """One picture's answer. `top` is empty where the network does not classify."""

    picture: str
    milliseconds: float
    top: tuple[Guess, ...]
    outputs: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Predictions:
    """Answers to all pictures that could be opened; `skipped` says which could not, and why."""

    arena_bytes: int
    pictures: tuple[Prediction, ...]
    skipped: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values under the field names."""
        return dataclasses.asdict(self)


def predict_all(
    model: Model,
    paths: Sequence[str],
    *,
    output: str | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Predictions:
    """Answer every picture; with `output` write what the network makes of the only one.

    Raises:
        BadPicture: the only picture cannot be opened.
        BadData: none of several can.
        BadArgument: `output` for several pictures, or one that cannot be written.
    """
    if output is not None and len(paths) != 1:
        raise BadArgument(f"-o takes the output of one picture, got {len(paths)} pictures")
    if output is not None:
        check_writable(Path(output))
    predictor = Predictor(model, threads)
    if len(paths) == 1:
        prediction, outputs = predictor.predict(paths[0])
        if output is not None:
            write_outputs(output, outputs, model.preprocessing)
        return Predictions(predictor.engine.arena_bytes, (prediction,), ())

    def told() -> Iterator[str]:
        for done, path in enumerate(paths):
            if progress:
                progress("answering", done, len(paths))
            yield path

    found, skipped = judge_all(told(), lambda path: predictor.predict(path)[0])
    return Predictions(predictor.engine.arena_bytes, tuple(found), skipped)


class Predictor:
    """An engine and all that turns files into answers."""

    def __init__(self, model: Model, threads: int = 1) -> None:
        """Pack the network.

        Raises:
            BadArgument: it takes several inputs.
        """
        if len(model.plan.source.inputs) != 1:
            names = ", ".join(model.plan.source.inputs)
            raise BadArgument(f"run feeds networks of one input, this one takes {names}")
        self.model = model
        self.engine = Engine(model.plan, threads=threads)
        self._warm = False

    def read(self, path: str | Path) -> Array:
        """The network's input from a picture, or from an .npy array.

        Raises:
            BadPicture: a picture that cannot be opened, or of the wrong size where none may fit.
            BadData: an array that cannot be read or does not fit.
        """
        source = self.model.plan.source
        values = _array(path) if Path(path).suffix == ".npy" else load_picture(path)
        shape = source.maps[source.inputs[0]].shape
        return network_values(str(path), values, shape, self.model.preprocessing)

    def predict(self, path: str | Path) -> tuple[Prediction, dict[str, Array]]:
        """The answer, and the outputs of the model file by name."""
        fitted = self.read(path)
        if not self._warm:
            self.engine.maps(fitted)  # the first run meets cold caches
            self._warm = True
        start = time.perf_counter()
        maps = self.engine.maps(fitted)
        milliseconds = 1000 * (time.perf_counter() - start)
        outputs = final_outputs(self.model, maps)
        shapes = {name: values.shape for name, values in outputs.items()}
        first = next(iter(outputs.values()))
        return (
            Prediction(str(path), milliseconds, top_classes(first, self.model.labels), shapes),
            outputs,
        )


def top_classes(scores: Array, names: Sequence[str] = ()) -> tuple[Guess, ...]:
    """The best classes of `(1, classes)` scores, best first; none if they are something else."""
    if not _are_classes(scores):
        return ()
    flat = scores.reshape(-1)
    return tuple(
        Guess(int(i), names[i] if i < len(names) else None, float(flat[i]))
        for i in best(flat, SHOWN_CLASSES)
    )


def check_names(model: Model) -> None:
    """Refuse names that are more or fewer than the classes of a network that classifies.

    Raises:
        BadArgument: with both numbers.
    """
    first = blank_outputs(model)[0]
    if model.labels and _are_classes(first) and first.size != len(model.labels):
        raise BadArgument(
            f"the network has {first.size} classes, but {len(model.labels)} names are given "
            "(--names)"
        )


def _are_classes(scores: Array) -> bool:
    return scores.size == max(scores.shape, default=0) and scores.size > 1


def picture_of(output: Array, preprocessing: Preprocessing | None) -> NDArray[np.uint8]:
    """A `(1, c, h, w)` output as a picture, uint8 `(h, w, c)` RGB or grey.

    Raises:
        BadArgument: the output is no picture, or the network takes none.
    """
    if output.ndim != 4 or output.shape[1] not in (1, 3) or preprocessing is None:
        raise BadArgument(
            f"the network's output {output.shape} is no picture (1, 1 or 3, h, w); save it as .npz"
        )
    values = np.moveaxis(output[0], 0, -1)
    channels = values.shape[2]
    if channels == len(preprocessing.mean):
        values = values * np.array(preprocessing.std) + np.array(preprocessing.mean)
        values = values[:, :, ::-1] if preprocessing.order == "bgr" else values
    return np.asarray(np.clip(np.rint(255 * values), 0, 255), np.uint8)


def write_outputs(
    path: str | Path, outputs: Mapping[str, Array], preprocessing: Preprocessing | None
) -> None:
    """The first output as a picture, or all outputs as .npz, by the suffix of `path`.

    Raises:
        BadArgument: the path cannot be written, no such kind of file, or the output is no picture.
    """
    target = Path(path)
    stream = io.BytesIO()
    if target.suffix == ".npz":
        named = {name.replace("/", "_"): values for name, values in outputs.items()}
        np.savez(stream, allow_pickle=False, **named)
        write_atomically(target, stream.getvalue())
        return
    kind = Image.registered_extensions().get(target.suffix.lower())
    if kind not in Image.SAVE:
        raise BadArgument(f"cannot write {target}: no picture format ends in {target.suffix!r}")
    pixels = picture_of(next(iter(outputs.values())), preprocessing)
    shown = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    Image.fromarray(shown).save(stream, kind)
    write_atomically(target, stream.getvalue())


def _array(path: str | Path) -> Array:
    """An .npy file's array."""
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as reason:
        raise BadData(f"the array {str(path)!r} cannot be read: {reason}") from None
