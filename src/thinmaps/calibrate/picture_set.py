# SPDX-License-Identifier: Apache-2.0
"""Calibration pictures: a folder, an .npy or .npz file, or any Python iterable of arrays.

A `PictureSet` is an ordered list of names and a way to load each; pictures are decoded when they
are read, so a set costs no memory beyond the one at hand (an iterable's arrays are kept as they
are). Order is fixed: paths sorted, arrays as they come. A picture that cannot be decoded is
skipped and reported, never fatal, unless none is left.

`fitting()` and `held_out()` are the fixed 80 % and 20 % of a set: every fifth picture is held out.
What is chosen on the first is verified on the second, and never the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadData, BadPicture
from thinmaps.run.pictures import fit_picture, load_picture, picture_paths
from thinmaps.types import Preprocessing

Array = NDArray[Any]
HELD_OUT_EVERY = 5
SOURCES = "a folder of pictures, an .npy or .npz file, or an iterable of arrays"


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Names of pictures and how to load each: uint8 `(h, w, 3)` RGB or grey, or float32 arrays.

    `load(i)` raises `BadPicture` where picture `i` cannot be decoded.
    """

    names: tuple[str, ...]
    load: Callable[[int], Array]
    indices: tuple[int, ...] = field(default=())

    @classmethod
    def of_all(cls, names: Iterable[str], load: Callable[[int], Array]) -> PictureSet:
        """The set of all the named pictures."""
        kept = tuple(names)
        return cls(kept, load, tuple(range(len(kept))))

    def __len__(self) -> int:
        return len(self.indices)

    def fitting(self) -> PictureSet:
        """The 80 % to choose settings on; all of it where a set has fewer than five pictures."""
        if len(self) < HELD_OUT_EVERY:
            return self
        return self._subset(i for at, i in enumerate(self.indices) if not _is_held_out(at))

    def held_out(self) -> PictureSet:
        """The 20 % to verify on; all of it where a set has fewer than five pictures."""
        if len(self) < HELD_OUT_EVERY:
            return self
        return self._subset(i for at, i in enumerate(self.indices) if _is_held_out(at))

    def at_most(self, pictures: int) -> PictureSet:
        """No more than that many, evenly spread over the order."""
        if len(self) <= pictures:
            return self
        return self._subset(self.indices[at * len(self) // pictures] for at in range(pictures))

    def read(self, skipped: list[str] | None = None) -> Iterator[tuple[str, Array]]:
        """Each picture with its name; messages of those that cannot be decoded go to `skipped`.

        Raises:
            BadData: not one picture can be decoded.
        """
        refusals: list[str] = []
        for index in self.indices:
            try:
                picture = self.load(index)
            except BadPicture as refusal:
                refusals.append(str(refusal))
                continue
            yield self.names[index], picture
        if skipped is not None:
            skipped.extend(refusals)
        if len(refusals) == len(self):
            raise BadData(f"none of {len(self)} pictures can be used; the first: {refusals[0]}")

    def _subset(self, indices: Iterable[int]) -> PictureSet:
        return PictureSet(self.names, self.load, tuple(indices))


def open_pictures(source: str | Path | Iterable[Array] | PictureSet) -> PictureSet:
    """A set from whatever people have.

    An .npz holds pictures as its only array of rank 3 (n h w) or 4 (n h w c), or named `image` or
    `images`; or as encoded files end to end in `jpeg` with `offset` (n + 1) saying where each is.

    Raises:
        BadData: there are no pictures in it.
    """
    if isinstance(source, PictureSet):
        return source
    if not isinstance(source, str | Path):
        return _of_arrays(source)
    path = Path(source)
    if path.suffix.lower() in {".npy", ".npz"} and path.is_file():
        return _of_array_file(path)
    if path.is_file():
        raise BadData(f"{str(path)!r} is a single file; calibration needs {SOURCES}")
    paths = picture_paths(path)
    names = [found.relative_to(path).as_posix() for found in paths]
    return PictureSet.of_all(names, lambda index: load_picture(paths[index]))


def network_values(
    name: str,
    picture: Array,
    shape: tuple[int, int, int],
    preprocessing: Preprocessing | None,
) -> Array:
    """One element of a set at a network input of `shape` (h, w, c).

    Pictures (uint8) are fitted to the size; their order stays RGB. Arrays in real units (float)
    pass as float32 if they have that shape; `c h w`, as ONNX has it, is turned.

    Raises:
        BadData: another number of channels or another shape, with the picture's name.
        BadPicture: the preprocessing takes pictures of exactly the input's size only.
    """
    if picture.dtype == np.uint8 and preprocessing is not None and shape[2] in (1, 3):
        return fit_picture(_as_rgb(name, picture, shape[2]), preprocessing, shape[:2])
    if preprocessing is not None and shape[2] in (1, 3):
        raise BadData(
            f"picture {name!r}: the network takes pictures, uint8 (h, w, 3), got {picture.dtype} "
            f"{picture.shape}"
        )
    values = np.asarray(picture, np.float32)
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.shape == (shape[2], *shape[:2]) != shape:
        values = values.transpose(1, 2, 0)
    if values.shape != shape:
        raise BadData(
            f"picture {name!r}: the network takes arrays (h, w, c) = {shape}, got {picture.dtype} "
            f"{picture.shape}"
        )
    return np.ascontiguousarray(values)


def _is_held_out(position: int) -> bool:
    return position % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def _as_rgb(name: str, picture: Array, channels: int) -> Array:
    """A grey array (h, w) or (h, w, 1) as RGB for a network of one channel."""
    grey = picture[:, :, None] if picture.ndim == 2 else picture
    if grey.ndim == 3 and grey.shape[2] == 1 and channels == 1:
        return np.repeat(grey, 3, axis=2)
    if grey.ndim != 3 or grey.shape[2] != 3:
        raise BadData(
            f"picture {name!r}: the network takes {channels} channels, so a picture is uint8 "
            f"(h, w, 3){' or (h, w)' if channels == 1 else ''}, got {picture.shape}"
        )
    return grey


def _of_arrays(arrays: Iterable[Array]) -> PictureSet:
    kept = list(arrays)
    for index, array in enumerate(kept):
        if not isinstance(array, np.ndarray):
            raise BadData(
                f"picture {index} of the iterable is a {type(array).__name__}; give NumPy arrays, "
                "uint8 (h, w, 3) or float32 in the network's shape"
            )
    if not kept:
        raise BadData(f"the iterable of pictures is empty; calibration needs {SOURCES}")
    return PictureSet.of_all([str(index) for index in range(len(kept))], kept.__getitem__)


def _of_array_file(path: Path) -> PictureSet:
    found = _arrays_in(path)
    if {"jpeg", "offset"} <= found.keys():
        return _of_encoded(found["jpeg"], found["offset"])
    pictures = [array for array in found.values() if array.ndim in (3, 4)]
    named = [found[key] for key in ("image", "images") if key in found]
    if not named and len(pictures) != 1:
        shapes = [array.shape for array in found.values()]
        raise BadData(
            f"{str(path)!r} needs one array of pictures, (n, h, w) or (n, h, w, c); it holds "
            f"{shapes}"
        )
    chosen = (named or pictures)[0]
    if not len(chosen):
        raise BadData(f"{str(path)!r} holds no picture: its array is {chosen.shape}")
    return _of_arrays(chosen)


def _arrays_in(path: Path) -> dict[str, Array]:
    """The arrays of a file by name; an .npy stays on disk until its pictures are read."""
    try:
        if path.suffix.lower() == ".npy":
            return {"": np.lib.format.open_memmap(path, mode="r")}
        with path.open("rb") as stream, np.load(stream) as opened:
            return {key: opened[key] for key in opened.files}
    except (OSError, ValueError, EOFError, BadZipFile) as reason:
        raise BadData(f"{str(path)!r} cannot be read as NumPy arrays: {reason}") from None


def _of_encoded(files: Array, offsets: Array) -> PictureSet:
    """Encoded pictures end to end."""
    names = [str(index) for index in range(len(offsets) - 1)]
    ends = [int(offset) for offset in offsets]

    def load(index: int) -> Array:
        return load_picture(files[ends[index] : ends[index + 1]].tobytes())

    return PictureSet.of_all(names, load)
