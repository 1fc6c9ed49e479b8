# SPDX-License-Identifier: Apache-2.0
"""Takes out of a student's codes what they store and never changes; `codecs/dead_bits.py` says how.

Call it when learning is done, before `export`. On the pictures that it was shown the student
answers as before, bit for bit, from fewer stored bytes; on others answers may differ, the less the
more it was shown. A pruned code stays as it is: what is trained from here on is the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor

from thinmaps.codecs.dead_bits import DeadBits, Prunable
from thinmaps.errors import BadData
from thinmaps.learn.refitting import bytes_of_maps, show
from thinmaps.learn.student import Student
from thinmaps.learn.surrogates.base import Surrogate


def prune_dead_bits(student: Student, loader: Iterable[Any]) -> dict[str, int]:
    """Prune every `gf2`, `klt` and `block_code`, in place; how many bits each map lost.

    Bits of a stored pixel, or of a block; 0 where no payload would get smaller. `loader` hands out
    what `distill` takes, and is read once, to its end: a bit is dead that has one value in all of
    these pictures. Costs one exact forward pass, and encoding these maps once more.

    Raises:
        BadData: the loader hands out no pictures.
    """
    codecs = student.codecs()
    watched = {
        name: DeadBits(codec) for name, codec in codecs.items() if isinstance(codec, Prunable)
    }
    takers = {student.surrogate(name): _Watch(dead).take for name, dead in watched.items()}
    if takers and not show(student, loader, takers):
        raise BadData("dead bits show on pictures, and the loader hands out none")
    found = {}
    for name, dead in watched.items():
        codec, found[name] = dead.pruned(student.surrogate(name).spec)
        if found[name]:
            student.fix_codec(name, codec)
    return found


class _Watch:
    """Hands maps that come to a surrogate to what watches its code."""

    def __init__(self, dead: DeadBits) -> None:
        self._dead = dead

    def take(self, surrogate: Surrogate, values: tuple[Tensor]) -> None:
        """A forward hook."""
        for picture in bytes_of_maps(surrogate, values):
            height, width, _ = picture.shape
            self._dead.watch(picture, replace(surrogate.spec, height=height, width=width))
