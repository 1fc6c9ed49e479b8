# SPDX-License-Identifier: Apache-2.0
"""Shuffled batches of pictures from a folder, an array file or arrays, as a network takes them.

The order of an epoch follows from the seed and the epoch's number alone, so training goes on in the
middle of an epoch without reading its beginning, and several processes split it without a word:
the batch of one process with P times the pictures is the batches of P processes together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from thinmaps.calibrate.picture_set import PictureSet, network_values, open_pictures
from thinmaps.errors import BadArgument, BadData
from thinmaps.graph.quantise import real_values
from thinmaps.types import Preprocessing


@dataclass(frozen=True, eq=False)
class PictureLoader:
    """Hands out float32 n c h w, or (that, int64 labels) where there are labels.

    Attributes:
        source: as `calibrate` takes it: a folder, an .npy or .npz file, arrays, or a `PictureSet`,
            such as the fitting part of one.
        batch: pictures per batch of one process. What does not fill a batch at the end of an epoch
            stays out; a set smaller than a batch is one batch.
        size: height and width of the network's input.
        preprocessing: how a picture meets that input.
        labels: the class of each picture of the source, in its order (a part of a set is given
            those of the whole).
        seed: of the order.
        workers: processes that decode ahead; 0 decodes in this one.
        rank: of this process among `processes`; `distill` and `fit` set both under torchrun.

    Raises:
        BadData: there are no pictures, or not as many labels.
        BadArgument: a batch of no picture.
    """

    source: str | Path | Iterable[Any] | PictureSet
    batch: int
    size: tuple[int, int]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: Sequence[int] | None = None
    seed: int = 0
    workers: int = 0
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", open_pictures(self.source))
        if self.batch < 1 or self.seed < 0 or self.workers < 0:
            raise BadArgument(
                "a loader takes batches of 1 picture or more, and a seed and workers of 0 or more, "
                f"got {self.batch}, {self.seed} and {self.workers}"
            )
        named, have = len(self._pictures.names), self.labels
        if have is not None and len(have) != named:
            raise BadData(f"{named} pictures need as many labels, got {len(have)}")
        if len(self._pictures) < self.processes:
            raise BadData(f"{self.processes} processes cannot share {len(self._pictures)} pictures")

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._pictures) // (self._taken * self.processes)

    def __iter__(self) -> Iterator[Any]:
        """The first epoch; `batches_from` has the others."""
        return self.batches_from(0, 0)

    def batches_from(self, epoch: int, batch: int) -> Iterator[Any]:
        """The batches of an epoch, from one on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self._pictures.indices)
        shares = [
            order[(at * self.processes + self.rank) * self._taken :][: self._taken].tolist()
            for at in range(batch, len(self))
        ]
        loader = DataLoader(
            _Values(self),
            batch_sampler=shares,
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(self.seed),
        )
        return iter(loader)

    def shared(self, rank: int, processes: int) -> PictureLoader:
        """The part of one process."""
        return replace(self, rank=rank, processes=processes)

    def values(self, index: int) -> Tensor:
        """One picture of the set, by its number there: float32 c h w."""
        picture = self._pictures.load(index)
        channels = len(self.preprocessing.mean)
        name = self._pictures.names[index]
        codes = network_values(name, picture, (*self.size, channels), self.preprocessing)
        return torch.from_numpy(real_values(codes, self.preprocessing))

    @property
    def _pictures(self) -> PictureSet:
        assert isinstance(self.source, PictureSet)
        return self.source

    @property
    def _taken(self) -> int:
        """Pictures per batch, where the set has so many."""
        return min(self.batch, len(self._pictures) // self.processes)


class _Values(Dataset[Any]):
    """Single pictures, with their labels where there are any, for torch to batch."""

    def __init__(self, loader: PictureLoader) -> None:
        self._loader = loader

    def __getitem__(self, index: int) -> Any:
        values = self._loader.values(index)
        labels = self._loader.labels
        return values if labels is None else (values, int(labels[index]))
