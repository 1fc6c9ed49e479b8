# SPDX-License-Identifier: Apache-2.0
"""Arrays that are views of a mapped file: they take memory only where somebody has read them.

A page of such an array is resident from the moment it is touched, and brings up to 2 MiB of
neighbours with it. So who wants a whole array for a moment, as an engine that packs weights does,
takes a copy with `fetched`, which touches none, and lets it go.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

import numpy as np

from thinmaps.errors import BadFile


class MappedFile(mmap.mmap):
    """A whole file, read-only, for `np.frombuffer`."""

    descriptor: int

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> MappedFile:
        """Map a file that is not empty.

        Raises:
            OSError: as `open`.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            mapped = cls(descriptor, 0, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(descriptor)
            raise
        mapped.descriptor = descriptor
        weakref.finalize(mapped, os.close, descriptor)
        return mapped

    def release(self) -> None:
        """Give the memory of all pages back; they come from the file again when they are read."""
        self.madvise(mmap.MADV_DONTNEED)


def fetched(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy in memory of a C-contiguous view of a `MappedFile`; another array as it is.

    Raises:
        BadFile: the file has been cut short since it was mapped.
    """
    mapped: object = array
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    if isinstance(mapped, memoryview):
        mapped = mapped.obj
    if not isinstance(mapped, MappedFile) or array.nbytes == 0:
        return array
    start = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
    offset = array.__array_interface__["data"][0] - start
    # Pages of its own: the heap would keep them when the copy goes.
    own = mmap.mmap(-1, array.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    rest = memoryview(own)
    while rest:
        count = os.preadv(mapped.descriptor, [rest], offset)
        if count == 0:
            raise BadFile("the file was cut short while its arrays were in use")
        rest, offset = rest[count:], offset + count
    return np.frombuffer(own, array.dtype).reshape(array.shape)
