# SPDX-License-Identifier: Apache-2.0
"""Fits anew what a student's codecs have and no gradient finds: the models of `rans`.

The maps of pictures, as the student makes them, codecs in place, before each codec. Call it when
learning is done, before `export`; a state that is loaded needs it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinmaps.codecs.base import UInt8Array
from thinmaps.errors import BadData
from thinmaps.learn.batches import as_batch
from thinmaps.learn.student import Student
from thinmaps.learn.surrogates.base import Surrogate, values_to_bytes

SAMPLE_BYTES = 1 << 23  # of a map, at most

Take = Callable[[Surrogate, tuple[Tensor]], None]


def refit(student: Student, loader: Iterable[Any], pictures: int = 512) -> None:
    """Give every codec tables for the maps of about that many pictures, in place.

    `loader` hands out what `distill` takes. Costs one exact forward pass and the codecs' own fit, a
    second for a map of 64 channels.

    Raises:
        BadData: the loader hands out no pictures.
    """
    seen = {each: _Samples() for each in student.modules() if isinstance(each, Surrogate)}
    shown = show(student, loader, {each: found.take for each, found in seen.items()}, pictures)
    if not shown:
        raise BadData("tables are fitted on pictures, and the loader hands out none")
    for each, samples in seen.items():
        each.refit(samples.taken())


def show(
    student: Student,
    loader: Iterable[Any],
    takers: Mapping[Surrogate, Take],
    pictures: int | None = None,
) -> int:
    """Pass that many pictures through, or all, exactly; takers see what comes to surrogates.

    Returns how many there were. The student is left in the mode that it was in.
    """
    hooks = [each.register_forward_pre_hook(take) for each, take in takers.items()]
    was_training, done = student.training, 0
    device = next(student.parameters()).device
    student.eval()
    try:
        with torch.no_grad():
            for handed in loader:
                batch = as_batch(handed).pictures
                batch = batch if pictures is None else batch[: pictures - done]
                student(batch.to(device))
                done += len(batch)
                if done == pictures:
                    break
    finally:
        student.train(was_training)
        for hook in hooks:
            hook.remove()
    return done


def bytes_of_maps(surrogate: Surrogate, values: tuple[Tensor]) -> UInt8Array:
    """What comes to a surrogate as bytes (n, h, w, c)."""
    found = values_to_bytes(values[0], surrogate.spec).permute(0, 2, 3, 1)
    # A copy in C order: torch leaves odd strides on axes of length 1, which the twins refuse.
    return np.array(found.cpu().numpy(), order="C", copy=True)


class _Samples:
    """Maps that come to a surrogate, (n, h, w, c) each, until they are enough."""

    def __init__(self) -> None:
        self._maps: list[UInt8Array] = []
        self._bytes = 0

    def take(self, surrogate: Surrogate, values: tuple[Tensor]) -> None:
        """A forward hook."""
        if self._bytes < SAMPLE_BYTES:
            found = bytes_of_maps(surrogate, values)
            self._maps.append(found)
            self._bytes += found.size

    def taken(self) -> UInt8Array:
        """All of them; pictures of the first one's size only."""
        same = [maps for maps in self._maps if maps.shape[1:] == self._maps[0].shape[1:]]
        return np.concatenate(same)
