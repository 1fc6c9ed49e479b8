# SPDX-License-Identifier: Apache-2.0
"""What `rans` knows about a map beforehand: tokens, up to 16 distributions of them, and when each.

No codec by itself. A symbol (steps.py) is a token and plain bits: token t stands for the
`2**bits[t]` symbols behind those of token t - 1. Rare, large symbols share tokens, so that 16 are
enough for 256 symbols; within a token all symbols are taken as equally likely. Up to 16 models each
give the tokens frequencies that sum to 4096. Which model codes an element depends on its channel
and on `prediction`, a byte guessed from neighbours: with `level` the number of the channel's
thresholds that prediction reaches, it is `model[channel, level]`.

Source
    Tokens with plain bits: JPEG's categories (ITU-T T.81, annex F) and JPEG XL's hybrid integers.
    Alias tables, so that 12 bits of a state name a token by two small look-ups: Walker, "An
    Efficient Method for Generating Discrete Random Variables", 1977; in rANS: Giesen, 2014.
    Ours: models shared by channels and levels, fitted together (rans_fit.py), which keeps the
    tables near 2 KiB a map where one of 256 frequencies for each channel would take 512 bytes each.

Alias tables of a model. The 4096 slots are 16 buckets of 256. Bucket b holds first `divider[b]`
slots of token b, then slots of token `alias[b]`. They are dealt so: while a token has fewer slots
left than a bucket, the first such fills the rest of its bucket with the first token that has more.
A token's slots have ranks, those in its own bucket first, then bucket by bucket. Byte `low` of a
slot is of token b with rank `low`, or from `divider[b]` on of token `alias[b]` with rank
`low + offset[b]`. A bucket that belongs to its token alone has divider 0 and is its own alias.

A frequency is at least 1 and a multiple of 2**(bits - 4), so that one 16-bit word is all that a
symbol, plain bits included, can ask for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import UInt8Array
from thinmaps.codecs.steps import TABLE_LOOKAHEAD
from thinmaps.errors import BadArgument

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]

TOTAL_BITS = 12
TOTAL = 1 << TOTAL_BITS
MOST_TOKENS = 16
MOST_MODELS = 16
LEVELS = 8
BUCKET = TOTAL // MOST_TOKENS
FREE_BITS = 4  # plain bits that a token of any frequency may have


def frequency_units(bits: UInt8Array) -> Int64Array:
    """What each token's frequency is a multiple of."""
    return np.int64(1) << np.maximum(bits.astype(np.int64) - FREE_BITS, 0)


@dataclass(frozen=True)
class AliasTables:
    """One row per model, one column per bucket; `frequency` one per token."""

    divider: Int64Array
    alias: Int64Array
    offset: Int64Array
    frequency: Int64Array

    @cached_property
    def slots(self) -> Int64Array:
        """(models, TOTAL): the slot of each token's ranks, the tokens one behind the other."""
        slot = np.arange(TOTAL)
        token, rank = self.read(np.arange(len(self.divider))[:, None], slot)
        first = np.cumsum(self.frequency, axis=1) - self.frequency
        slots = np.empty_like(token)
        np.put_along_axis(slots, np.take_along_axis(first, token, 1) + rank, slot[None], axis=1)
        return slots

    def read(self, model: Int64Array, slot: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Token and rank of slots."""
        bucket, low = slot >> 8, slot & 255
        beyond = low >= self.divider[model, bucket]
        token = np.where(beyond, self.alias[model, bucket], bucket)
        return token, low + np.where(beyond, self.offset[model, bucket], 0)


@dataclass(frozen=True, eq=False)
class Models:
    """Plain bits per token, (tokens,); frequencies, (models, tokens); and who uses which model.

    `threshold` is (channels, LEVELS - 1), ascending, and `model` (channels, LEVELS); one row serves
    all channels. By default every symbol is as likely as any other.
    """

    bits: UInt8Array = field(default_factory=lambda: np.full(MOST_TOKENS, 4, np.uint8))
    frequency: Int32Array = field(
        default_factory=lambda: np.full((1, MOST_TOKENS), BUCKET, np.int32)
    )
    threshold: UInt8Array = field(default_factory=lambda: np.full((1, LEVELS - 1), 255, np.uint8))
    model: UInt8Array = field(default_factory=lambda: np.zeros((1, LEVELS), np.uint8))

    def __post_init__(self) -> None:
        self._check_tokens()
        self._check_frequencies()
        channels = len(self.model) if self.model.ndim == 2 else 0
        if channels < 1 or self.model.shape != (channels, LEVELS):
            raise BadArgument(f"model must be (channels, {LEVELS}), got {self.model.shape}")
        if self.model.dtype != np.uint8 or self.model.max() >= len(self.frequency):
            raise BadArgument(f"model must be uint8 below {len(self.frequency)}")
        if self.threshold.shape != (channels, LEVELS - 1) or self.threshold.dtype != np.uint8:
            raise BadArgument(
                f"threshold must be uint8 {(channels, LEVELS - 1)}, got {self.threshold.shape}"
            )
        if np.any(self.threshold[:, 1:] < self.threshold[:, :-1]):
            raise BadArgument("threshold must ascend in every channel")

    @property
    def channels(self) -> int:
        """Channels that the tables are for; 1 serves all."""
        return len(self.model)

    @property
    def symbols(self) -> int:
        """Symbols that have a token: 0 to one less than this."""
        return int(self.base[-1]) + (1 << int(self.bits[-1]))

    @cached_property
    def base(self) -> Int64Array:
        """The first symbol of each token."""
        widths = np.int64(1) << self.bits.astype(np.int64)
        return np.asarray(np.cumsum(widths) - widths, np.int64)

    @cached_property
    def token_of(self) -> Int64Array:
        """The token of each symbol."""
        widths = np.int64(1) << self.bits.astype(np.int64)
        return np.asarray(np.repeat(np.arange(len(self.bits)), widths), np.int64)

    @cached_property
    def model_of(self) -> Int64Array:
        """(channels, 256): the model for each prediction."""
        reached = np.arange(256)[:, None, None] >= self.threshold
        level = np.count_nonzero(reached, axis=2).T
        return np.asarray(np.take_along_axis(self.model, level, axis=1), np.int64)

    @cached_property
    def alias_tables(self) -> AliasTables:
        """As the docstring of this file says."""
        padded = np.zeros((len(self.frequency), MOST_TOKENS), np.int64)
        padded[:, : len(self.bits)] = self.frequency
        rows = [_alias_row(frequency) for frequency in padded]
        divider, alias, offset = (np.stack(column) for column in zip(*rows, strict=True))
        return AliasTables(divider, alias, offset, padded)

    def native_tables(self, channels: int) -> UInt8Array:
        """Tables of rans.h: bytes, in the order in which it reads them."""
        alias = self.alias_tables
        offset = alias.offset & 0xFFFF
        by_model = [alias.divider, alias.alias, offset, offset >> 8]
        by_model += [alias.frequency, alias.frequency >> 8]
        rows = np.zeros((len(by_model), MOST_MODELS * MOST_TOKENS), np.uint8)
        for row, table in zip(rows, by_model, strict=True):
            row[: table.size] = (table & 255).ravel()
        tokens = np.zeros((2, MOST_TOKENS), np.uint8)
        tokens[:, : len(self.bits)] = self.bits, self.base
        channel = np.arange(channels + TABLE_LOOKAHEAD) % channels % self.channels
        own = [*self.threshold.T[:, channel], *(self.model.T[:, channel] << 4)]
        return np.concatenate([rows.ravel(), tokens.ravel(), *own])

    def _check_tokens(self) -> None:
        if self.bits.dtype != np.uint8 or self.bits.ndim != 1:
            raise BadArgument(f"bits must be uint8 (tokens,), got {self.bits.dtype}")
        if not 1 <= len(self.bits) <= MOST_TOKENS or self.bits.max() > 8:
            raise BadArgument(f"bits must be 1 to {MOST_TOKENS} numbers up to 8")
        if (1 << self.bits.astype(np.int64)).sum() > 256:
            raise BadArgument("bits must not give tokens to more than 256 symbols")

    def _check_frequencies(self) -> None:
        frequency = self.frequency
        if frequency.dtype != np.int32 or frequency.ndim != 2:
            raise BadArgument(f"frequency must be int32 (models, tokens), got {frequency.dtype}")
        if not 1 <= len(frequency) <= MOST_MODELS or frequency.shape[1] != len(self.bits):
            raise BadArgument(
                f"frequency must be (1 to {MOST_MODELS}, {len(self.bits)}), got {frequency.shape}"
            )
        if frequency.min() < 1 or np.any(frequency % frequency_units(self.bits)):
            raise BadArgument(
                f"frequency must be positive multiples of 2**(bits - {FREE_BITS}), "
                f"got {frequency.min()} at least"
            )
        if np.any(frequency.sum(axis=1, dtype=np.int64) != TOTAL):
            raise BadArgument(f"frequency must sum to {TOTAL} in every model")


def _alias_row(frequency: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Dividers, aliases and offsets of one model, from its 16 frequencies."""
    left = frequency.copy()
    divider = np.zeros(MOST_TOKENS, np.int64)
    alias = np.arange(MOST_TOKENS)
    waiting = np.ones(MOST_TOKENS, bool)
    while np.any(short := waiting & (left < BUCKET)):
        bucket = int(np.argmax(short))
        giver = int(np.argmax(left > BUCKET))
        divider[bucket], alias[bucket] = left[bucket], giver
        left[giver] -= BUCKET - left[bucket]
        waiting[bucket] = False
    rank = np.where(waiting, BUCKET, divider)  # the first one behind those of the own bucket
    offset = np.zeros(MOST_TOKENS, np.int64)
    for bucket in np.flatnonzero(~waiting).tolist():
        offset[bucket] = rank[alias[bucket]] - divider[bucket]
        rank[alias[bucket]] += BUCKET - divider[bucket]
    return divider, alias, offset
