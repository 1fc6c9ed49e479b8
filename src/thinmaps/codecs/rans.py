# SPDX-License-Identifier: Apache-2.0
"""rANS codec: symbols at the length that neighbours and channel make likely, 64 at a time.

Source
    Duda, "Asymmetric numeral systems", 2013, arXiv:1311.2540; the range variant with 16-bit words
    and interleaved states is Giesen's, arXiv:1402.3392.
    Ours: static models that channel and neighbours choose (rans_models.py, rans_order.py), plain
    bits and token in one step of a state, and symbols that count from the zero point (steps.py).
    Lossless without steps.

States. A unit of n elements has the largest power of two up to n / `state_elements` as its number
of states, but 4 to 64: more of them decode faster, in registers from 16 on, fewer take fewer bytes.
The turn t of a step (rans_order.py) is coded by state t % states. A state x is a number in
2**16..2**32 - 1. To take a symbol from it, with the model that the element's prediction chooses:
    slot = x % 4096, which names a token of frequency f, and its rank (rans_models.py)
    x    = f * floor(x / 4096) + rank
    symbol = base[token] + x % 2**bits[token], then x = floor(x / 2**bits[token])
    if x < 2**16, x = x * 2**16 + the next word
Every state ends at 2**16 exactly. The encoder goes the same way back, last element first.

Payload, per unit of s states
    offset   bytes   holds
    0        4s      the states to begin with
    4s       2w      the words, in the order in which they are taken
unless that is as long as the plain form, or longer: the symbols at the bits of the largest, packed
as `bits.py` says, spare bits 0. The length tells which form it is.

Size: some 3 bytes per state more than what the models give (2 to begin with, 1 of what is not full
in the end, in the mean), which `fit` keeps within a fortieth of a whole unit's bytes where 4 states
do, or a twentieth where 16 do; the worst case is the plain form, never larger than raw. Cost: per
element some ten operations on bytes and six on 32 bits each way, a multiplication and, encoding, a
division among them. The tables are 1.6 KiB and 15 bytes per channel, and belong to the plan.

The native twins are rans.cc and rans_avx512.cc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps import bits
from thinmaps.codecs import rans_fit
from thinmaps.codecs.base import Codec, StandardOperator, UInt8Array
from thinmaps.codecs.rans_models import MOST_MODELS, TOTAL_BITS, Models
from thinmaps.codecs.rans_order import LANES, mean, neighbours, places, predictions
from thinmaps.codecs.steps import IDENTITY, MENU, Steps, fit_steps
from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec

Int64Array = NDArray[np.int64]

LEAST_STATES = 4
LEAST_STATE_ELEMENTS = 256  # that `fit` gives a state: with fewer, states decode no faster
MOST_STATE_ELEMENTS = 1 << 16
STATE_COST_BYTES = 3  # in the mean, as the page's head says
STATE_SHARE = 40  # at least so many times the bytes of all states has a unit, where `fit` can
# Those of a register; fewer are decoded in plain loops, so as many may have twice their share.
REGISTER_STATES = 16
WORD_BITS = 16
LEAST_STATE = 1 << WORD_BITS
STATE_BYTES = 4
WORD_BYTES = 2


def state_count(elements: int, state_elements: int = LEAST_STATE_ELEMENTS) -> int:
    """States of a unit.

    >>> [state_count(elements) for elements in (1, 2047, 2048, 8191, 1 << 20)]
    [4, 4, 8, 16, 64]
    """
    share = max(LEAST_STATES, elements // state_elements)
    return min(LANES, 1 << share.bit_length() - 1)


def state_elements_of(elements: int, mean_bits: float) -> int:
    """Elements per state, for units of so many elements that take `mean_bits` each.

    >>> [state_elements_of(16384, mean_bits) for mean_bits in (4.0, 1.1, 0.3)]
    [256, 1024, 4096]
    """
    found, unit_bytes = LEAST_STATE_ELEMENTS, elements * mean_bits / 8
    while (count := state_count(elements, found)) > LEAST_STATES and found < MOST_STATE_ELEMENTS:
        share = STATE_SHARE // 2 if count == REGISTER_STATES else STATE_SHARE
        if STATE_COST_BYTES * count * share <= unit_bytes:
            break
        found *= 2
    return found


@dataclass(frozen=True, eq=False)
class Rans(Codec):
    """Range asymmetric numeral systems over the symbols that `steps` makes."""

    id: ClassVar[str] = "rans"
    rate: ClassVar[Literal["fixed", "variable"]] = "variable"
    settings: ClassVar[tuple[Mapping[str, int], ...]] = (
        {},
        {"step": 40},
    )
    menu: ClassVar[tuple[Mapping[str, int], ...]] = ({}, *({"step": s} for s in MENU))

    steps: Steps | None = None
    models: Models = field(default_factory=Models)
    # None is LEAST_STATE_ELEMENTS.
    state_elements: int | None = field(default=None, metadata={"optional": True})

    @classmethod
    def fit(
        cls,
        spec: MapSpec,
        samples: UInt8Array,
        weights: NDArray[np.floating] | None = None,
        **options: Any,
    ) -> Rans:
        """Models that give `samples` the fewest bytes.

        Options: `step` in sixteenths of a byte, 0 for lossless; `contexts`, whether neighbours
        choose the model (1) or the channel alone (0); `models`, 1 to 16; `unit_rows`. `weights`
        (channels,) shape the steps as `steps.fit_steps` says.
        """
        settings = cls.checked_options(options, step=0, contexts=1, models=MOST_MODELS, unit_rows=1)
        steps = fit_steps(settings.pop("step"), 8, spec.channels, weights)
        unfitted = cls(unit_rows=settings.pop("unit_rows"))
        return unfitted.refitted(spec, samples, steps, **settings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.steps.symbol_bits != 8:
            raise BadArgument(f"{self.id} needs symbols of 8 bits, got {self.steps.symbol_bits}")
        chosen = self.elements_per_state
        if type(chosen) is not int or not 1 <= chosen <= MOST_STATE_ELEMENTS:
            raise BadArgument(
                f"{self.id} needs state_elements to be an integer in 1..{MOST_STATE_ELEMENTS}, "
                f"got {chosen!r}"
            )

    def refitted(
        self,
        spec: MapSpec,
        samples: UInt8Array,
        steps: Steps | None,
        contexts: int = 1,
        models: int = MOST_MODELS,
    ) -> Rans:
        """The same with other steps, and with models that give `samples` the fewest bytes."""
        changed = replace(self, steps=steps)
        seen = rans_fit.seen(samples, spec, changed.quantiser, self.unit_rows)
        found = rans_fit.fit_models(seen, contexts, models)
        elements = min(self.unit_rows, spec.height) * spec.row_bytes
        states = state_elements_of(elements, rans_fit.mean_bits(seen, found))
        own = None if states == LEAST_STATE_ELEMENTS else states
        return replace(changed, models=found, state_elements=own)

    @property
    def lossless(self) -> bool:
        """Without steps."""
        return self.steps is None

    @property
    def elements_per_state(self) -> int:
        """How many elements of a unit share a state, at least."""
        return LEAST_STATE_ELEMENTS if self.state_elements is None else self.state_elements

    @property
    def quantiser(self) -> Steps:
        """What makes symbols of bytes."""
        return self.steps or IDENTITY

    def check_spec(self, spec: MapSpec) -> None:
        """Refuse maps of other channels, or with symbols that no token stands for."""
        super().check_spec(spec)
        self.quantiser.check_spec(spec, self.id)
        if self.models.channels not in (1, spec.channels):
            raise BadShape(
                f"{self.id} has models for {self.models.channels} channels, "
                f"the map has {spec.channels}"
            )
        largest = self._largest(spec)
        if largest >= self.models.symbols:
            raise BadShape(
                f"{self.id} has tokens for symbols up to {self.models.symbols - 1}, "
                f"the map has up to {largest}"
            )

    def unit_bytes(self, spec: MapSpec, rows: int) -> int:
        """The plain form, which no other exceeds."""
        return bits.packed_bytes(rows * spec.row_bytes, self._plain_bits(spec))

    def encode_unit(self, rows: UInt8Array, spec: MapSpec) -> bytes:
        """States and words, or plain symbols where these are no more."""
        self.check_rows(rows, spec)
        symbols = self.quantiser.symbols(rows, spec.zero_point)
        coded = self._coded(symbols, spec)
        if len(coded) < self.unit_bytes(spec, len(rows)):
            return coded
        return bits.pack(symbols.ravel(), self._plain_bits(spec)).tobytes()

    def decode_unit(
        self, payload: bytes, spec: MapSpec, rows: int, column: int = 0, columns: int | None = None
    ) -> UInt8Array:
        """The rows; variable rate, so always whole ones."""
        self.checked_columns(spec, rows, column, columns)
        elements, plain_bits = rows * spec.row_bytes, self._plain_bits(spec)
        if len(payload) != self.unit_bytes(spec, rows):
            return self._decoded(payload, spec, rows)
        stream = np.frombuffer(payload, np.uint8)
        if bits.has_spare_bits_set(stream, elements * plain_bits):
            raise CorruptPayload(f"{self.id} found a spare bit set behind {elements} symbols")
        symbols = bits.unpack(stream, plain_bits, elements)
        symbols = symbols.reshape(rows, spec.width, spec.channels)
        self.quantiser.check_symbols(symbols, spec.zero_point, self.id)
        return self.quantiser.values(symbols, spec.zero_point)

    def standard_operators(self, spec: MapSpec) -> tuple[StandardOperator, ...]:
        """A table per channel where there are steps."""
        self.check_spec(spec)
        return () if self.steps is None else self.steps.standard_operators(spec.zero_point)

    def native_integers(self, spec: MapSpec) -> NDArray[np.int32]:
        """Bits of a plain symbol, models, whether predictions matter, and elements per state."""
        model = self.models.model
        contexts = bool(np.any(model != model[:, :1]))
        models = len(self.models.frequency)
        return np.array(
            (self._plain_bits(spec), models, contexts, self.elements_per_state), np.int32
        )

    def native_tables(self, spec: MapSpec) -> UInt8Array:
        """Those of the models, then those of steps.h; none of these where a symbol is its byte."""
        models = self.models.native_tables(spec.channels)
        if self.steps is None and spec.zero_point == 0:
            return models
        return np.concatenate([models, self.quantiser.native_tables(spec)])

    def _largest(self, spec: MapSpec) -> int:
        return int(self.quantiser.largest(spec.zero_point).max())

    def _plain_bits(self, spec: MapSpec) -> int:
        return self._largest(spec).bit_length()

    def _coded(self, symbols: UInt8Array, spec: MapSpec) -> bytes:
        """States and words of a unit's symbols (rows, width, channels), last element first."""
        known = self.quantiser.values(symbols, spec.zero_point)
        channel = np.arange(spec.channels) % self.models.channels
        model = self.models.model_of[channel, predictions(known, spec)].ravel()
        entries = self._entries(model, symbols.ravel())
        count = state_count(symbols.size, self.elements_per_state)
        states = np.full(count, LEAST_STATE, np.int64)
        words: list[bytes] = []
        for turn in places(spec, len(symbols)).reshape(-1, len(states))[::-1]:
            lane = np.flatnonzero(turn >= 0)
            if len(lane):
                states[lane], word = self._put(states[lane], entries[:, turn[lane]])
                words.append(word)
        return states.astype("<u4").tobytes() + b"".join(words[::-1])

    def _entries(self, model: Int64Array, symbol: UInt8Array) -> Int64Array:
        """What coding an element needs: its model, frequency, first rank, bits and plain bits."""
        token = self.models.token_of[symbol]
        frequency = self.models.frequency.astype(np.int64)
        first = np.cumsum(frequency, axis=1) - frequency
        plain_bits = self.models.bits[token].astype(np.int64)
        plain = symbol - self.models.base[token]
        own = (model, token)
        return np.stack([model, frequency[own], first[own], plain_bits, plain])

    def _put(self, state: Int64Array, entries: Int64Array) -> tuple[Int64Array, bytes]:
        """States that hold one symbol more each, and the words that made room for it."""
        model, frequency, first, plain_bits, plain = entries
        full = state >= frequency << 2 * WORD_BITS - TOTAL_BITS >> plain_bits
        words = (state[full] % LEAST_STATE).astype("<u2").tobytes()
        state = (np.where(full, state >> WORD_BITS, state) << plain_bits) + plain
        slot = self.models.alias_tables.slots[model, first + state % frequency]
        return (state // frequency << TOTAL_BITS) + slot, words

    def _decoded(self, payload: bytes, spec: MapSpec, rows: int) -> UInt8Array:
        """The rows of a payload that is not plain."""
        states, words = self._split(payload, spec, rows)
        left, upper = neighbours(spec, rows)
        known = np.full(rows * spec.row_bytes + 1, spec.zero_point, np.uint8)
        for step in places(spec, rows):
            turn = np.flatnonzero(step >= 0)
            here = step[turn]
            channel = here % spec.channels
            prediction = mean(known[left[here]], known[upper[here]])
            model = self.models.model_of[channel % self.models.channels, prediction]
            symbols, taken = self._take_step(states, words, turn, model)
            words = words[taken:]
            known[here] = self._value(symbols, channel, spec)
        self._check_end(states, words)
        return known[:-1].reshape(rows, spec.width, spec.channels)

    def _take_step(
        self, states: Int64Array, words: Int64Array, turn: Int64Array, model: Int64Array
    ) -> tuple[UInt8Array, int]:
        """Symbols of a step's turns; changes `states`, and says how many words they took."""
        symbols = np.empty(len(turn), np.uint8)
        taken = 0
        for first in range(0, LANES, len(states)):
            part = slice(*np.searchsorted(turn, (first, first + len(states))))
            lane = turn[part] - first
            if not len(lane):
                continue
            symbols[part], state = self._take(states[lane], model[part])
            empty = np.flatnonzero(state < LEAST_STATE)
            if taken + len(empty) > len(words):
                raise CorruptPayload(
                    f"{self.id} needs a word where only {len(words)} are left for a step"
                )
            state[empty] = (state[empty] << WORD_BITS) + words[taken : taken + len(empty)]
            states[lane] = state
            taken += len(empty)
        return symbols, taken

    def _take(self, state: Int64Array, model: Int64Array) -> tuple[Int64Array, Int64Array]:
        """One symbol from each state, and the states without it, before any word."""
        alias = self.models.alias_tables
        token, rank = alias.read(model, state % (1 << TOTAL_BITS))
        state = alias.frequency[model, token] * (state >> TOTAL_BITS) + rank
        plain_bits = self.models.bits[token].astype(np.int64)
        symbol = self.models.base[token] + (state & (1 << plain_bits) - 1)
        return symbol, state >> plain_bits

    def _value(self, symbol: UInt8Array, channel: Int64Array, spec: MapSpec) -> UInt8Array:
        """Bytes of symbols of any channels, all of which some byte has."""
        quantiser = self.quantiser
        if quantiser.step.size > 1:
            own = quantiser.step[channel]
            quantiser = Steps(own, quantiser.rounding, quantiser.symbol_bits)
        quantiser.check_symbols(symbol, spec.zero_point, self.id)
        return quantiser.values(symbol, spec.zero_point)

    def _split(self, payload: bytes, spec: MapSpec, rows: int) -> tuple[Int64Array, Int64Array]:
        """States and words, after every check of the length."""
        count = state_count(rows * spec.row_bytes, self.elements_per_state)
        most, least = self.unit_bytes(spec, rows), STATE_BYTES * count
        if not least <= len(payload) < most or (len(payload) - least) % WORD_BYTES:
            raise CorruptPayload(
                f"{self.id} needs {most} bytes, or {least} for {count} states and 2 per word, "
                f"got {len(payload)}"
            )
        states = np.frombuffer(payload[:least], "<u4").astype(np.int64)
        if states.min() < LEAST_STATE:
            raise CorruptPayload(
                f"{self.id} has states from {LEAST_STATE} on, found {states.min()}"
            )
        return states, np.frombuffer(payload[least:], "<u2").astype(np.int64)

    def _check_end(self, states: Int64Array, words: Int64Array) -> None:
        """Refuse what no encoder began with."""
        if len(words):
            raise CorruptPayload(f"{self.id} ends with {len(words)} words left")
        if np.any(states != LEAST_STATE):
            wrong = states[states != LEAST_STATE][0]
            raise CorruptPayload(f"{self.id} ends with states of {LEAST_STATE}, found {wrong}")
