# SPDX-License-Identifier: Apache-2.0
"""Batches without end from whatever hands out batches, at a position that can be saved.

A loader is anything that can be iterated more than once: a `PictureLoader`, a torch `DataLoader`,
a list. It hands out `pictures`, or `(pictures, labels)`. When an epoch ends the next one begins.

Going back to a position
    A loader with `batches_from(epoch, batch)` is asked for it. Any other one is read again from
    the beginning of the epoch, with the random generators as they were then, so that it shuffles
    and augments alike; the caller sets the generators to where they stood afterwards.

Several processes
    A loader with `shared(rank, processes)` is asked for the share of this process. A `DataLoader`
    needs a sampler that does it, torch's `DistributedSampler`. Of anything else, process `rank`
    takes every `processes`-th batch from its own on; a rest at the end of an epoch stays out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from thinmaps.errors import BadArgument, BadData
from thinmaps.learn.random_states import RandomStates, random_states, set_random_states


@dataclass(frozen=True)
class Batch:
    """Pictures, float n c h w, and their labels where the loader has any."""

    pictures: Tensor
    labels: Any = None


class EndlessBatches:
    """Reads a loader over and over; `state` and `restore` save and find a position."""

    def __init__(
        self, loader: Iterable[Any], device: torch.device, rank: int = 0, processes: int = 1
    ) -> None:
        self._loader = _share_of(loader, rank, processes)
        self._device = device
        self._rank, self._processes = rank, processes
        self._epoch = 0
        self._taken = 0
        self._states: dict[str, Any] = {}
        self._open: Iterator[Any] | None = None

    def take(self) -> Batch:
        """The next batch, on the CPU.

        Raises:
            BadData: the loader is empty, can be read only once, or hands out something else.
        """
        if self._open is None:
            self._open = self._begin()
        handed = next(self._open, None)
        if handed is None:
            self._refuse_an_empty_epoch()
            self._epoch, self._taken = self._epoch + 1, 0
            self._open = self._begin()
            handed = next(self._open, None)
        if handed is None:
            self._refuse_an_empty_epoch()
        self._taken += 1
        return as_batch(handed)

    def state(self) -> dict[str, Any]:
        """The position: epoch, batches taken from it, generators as the epoch began."""
        return {"epoch": self._epoch, "taken": self._taken, "states": self._states}

    def restore(self, state: dict[str, Any]) -> None:
        """Stand at a saved position. Moves the generators of this process."""
        self._epoch, self._taken = state["epoch"], state["taken"]
        self._states = state["states"]
        if self._states:
            self._set_states(self._states)
        self._open = self._begin(self._taken)

    def _begin(self, skipped: int = 0) -> Iterator[Any]:
        """The epoch's batches behind the first `skipped`."""
        if hasattr(self._loader, "batches_from"):
            positioned: Iterator[Any] = self._loader.batches_from(self._epoch, skipped)
            return positioned
        self._states = self._all_states()
        for sampler in _samplers(self._loader):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(self._epoch)
        batches: Iterator[Any] = iter(self._loader)
        if self._processes > 1 and not isinstance(self._loader, DataLoader):
            batches = _every(batches, self._rank, self._processes)
        for _ in range(skipped):
            next(batches, None)
        return batches

    def _refuse_an_empty_epoch(self) -> None:
        if self._taken:
            return
        if self._epoch == 0:
            raise BadData("the loader is empty: training needs at least one batch of pictures")
        raise BadData(
            f"the loader hands out nothing in epoch {self._epoch + 1}, though it did before: "
            "training needs one that can be read again, such as a list or a DataLoader"
        )

    def _all_states(self) -> dict[str, Any]:
        """Of the process's generators, and of those that the loader has of its own."""
        found: dict[str, Any] = {"process": random_states(self._device)}
        own = [generator.get_state() for generator in self._generators()]
        return {**found, "loader": own}

    def _set_states(self, states: dict[str, Any]) -> None:
        process: RandomStates = states["process"]
        set_random_states(process, self._device)
        for generator, state in zip(self._generators(), states["loader"], strict=True):
            generator.set_state(state)

    def _generators(self) -> list[torch.Generator]:
        owners = (self._loader, *_samplers(self._loader))
        found = [getattr(owner, "generator", None) for owner in owners]
        return [generator for generator in found if isinstance(generator, torch.Generator)]


def as_batch(handed: Any) -> Batch:
    """What a loader hands out: pictures, or (pictures, labels).

    Raises:
        BadData: it is neither, or the pictures are not floating-point numbers.
    """
    parts = handed if isinstance(handed, tuple | list) else (handed,)
    if not parts or not isinstance(parts[0], Tensor):
        raise BadData(
            "a loader hands out tensors of pictures, or (pictures, labels), got "
            f"{type(parts[0] if parts else handed).__name__}"
        )
    pictures = parts[0]
    if not pictures.is_floating_point() or not len(pictures):
        raise BadData(
            "pictures of a batch are float n c h w, n at least 1, as the network takes them; got "
            f"{pictures.dtype} {tuple(pictures.shape)}"
        )
    return Batch(pictures, parts[1] if len(parts) > 1 else None)


def _share_of(loader: Any, rank: int, processes: int) -> Any:
    """The loader, or the share of one process."""
    if processes == 1:
        return loader
    if hasattr(loader, "shared"):
        return loader.shared(rank, processes)
    splits = any(hasattr(sampler, "set_epoch") for sampler in _samplers(loader))
    if isinstance(loader, DataLoader) and not splits:
        raise BadArgument(
            f"{processes} processes would read the same pictures: give the DataLoader a "
            "torch.utils.data.DistributedSampler"
        )
    return loader


def _samplers(loader: Any) -> list[Any]:
    """What decides the order of a `DataLoader`; nothing of other loaders."""
    return [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]


def _every(batches: Iterator[Any], rank: int, processes: int) -> Iterator[Any]:
    """One batch of each full group of `processes`."""
    while len(group := list(islice(batches, processes))) == processes:
        yield group[rank]
