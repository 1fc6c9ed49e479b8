# SPDX-License-Identifier: Apache-2.0
"""How the models of `rans` are found: those under which the samples have the shortest code.

1. Tokens: of all ways to cut the symbols into at most 16 runs of 1, 2, 4.. 256, the cheapest under
   one distribution for all. Exact, by dynamic programming over (tokens so far, symbols so far).
2. Models: k-means in which a distance is a code length. What is grouped are histograms of tokens,
   one for each channel and each of some 30 ranges of the prediction. A group's model is its mean
   histogram. A histogram goes where its tokens are cheapest, under the rule that a channel changes
   its model at most 7 times from the lowest to the highest prediction: again dynamic programming.
3. Frequencies: rounded to 4096ths that a state can code.

Source: k-means on code lengths is the entropy-constrained clustering of Chou, Lookabaugh and Gray
(1989), as image codecs use it for context maps; the rules of 1 and 2 are ours.

Cost: one pass over the samples, of which at most `MOST_ELEMENTS` are taken, and 12 rounds over the
histograms; seconds for a map of a thousand channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import UInt8Array
from thinmaps.codecs.rans_models import (
    LEVELS,
    MOST_MODELS,
    MOST_TOKENS,
    TOTAL,
    Int32Array,
    Int64Array,
    Models,
    frequency_units,
)
from thinmaps.codecs.rans_order import predictions
from thinmaps.codecs.steps import Steps
from thinmaps.errors import BadArgument
from thinmaps.types import MapSpec

Float64Array = NDArray[np.float64]

MOST_ELEMENTS = 1 << 22
ROUNDS = 12
MOST_BITS = 8
# Distances from the zero point at which a new range of predictions begins: finer where maps are.
RANGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
# Every token is taken to have been seen a little, so that what the samples lack costs bits, not
# correctness.
PRIOR = 0.05
NEVER = 1e30


@dataclass(frozen=True)
class Seen:
    """How often each symbol came, (channels, ranges, 256), and where ranges of predictions begin.

    `largest` is the largest symbol that any byte has.
    """

    counts: Int64Array
    begins: Int64Array
    largest: int


def seen(samples: UInt8Array, spec: MapSpec, quantiser: Steps, unit_rows: int) -> Seen:
    """What `samples` (n, rows, width, channels) show, unit by unit, as a decoder sees it.

    Without samples, what maps in general would: bytes near their prediction.
    """
    zero = spec.zero_point
    begins = np.unique([edge for d in RANGES for edge in (zero + d, zero + 1 - d)])
    begins = begins[(begins > 0) & (begins < 256)]
    range_of = np.searchsorted(begins, np.arange(256), side="right")
    ranges = len(begins) + 1
    largest = int(quantiser.largest(zero).max())
    if not len(samples):
        return Seen(_assumed(spec, quantiser, begins), begins, largest)
    counts = np.zeros(spec.channels * ranges * 256, np.int64)
    taken = max(1, MOST_ELEMENTS // max(1, samples[0].size))
    for sample in samples[:: max(1, -(-len(samples) // taken))]:
        for first in range(0, len(sample), unit_rows):
            symbols = quantiser.symbols(sample[first : first + unit_rows], zero)
            prediction = predictions(quantiser.values(symbols, zero), spec)
            place = np.arange(spec.channels) * ranges + range_of[prediction]
            counts += np.bincount((place * 256 + symbols).ravel(), minlength=counts.size)
    return Seen(counts.reshape(spec.channels, ranges, 256), begins, largest)


def _assumed(spec: MapSpec, quantiser: Steps, begins: Int64Array) -> Int64Array:
    """Counts as if bytes lay near the middle of their prediction's range, as far as it is away."""
    edges = np.concatenate([[0], begins, [256]])
    middle = ((edges[:-1] + edges[1:] - 1) / 2)[None, :, None]
    symbols = np.repeat(np.arange(256, dtype=np.uint8)[:, None], spec.channels, axis=1)
    known = np.minimum(symbols, quantiser.largest(spec.zero_point)).astype(np.uint8)
    values = quantiser.values(known, spec.zero_point).T[:, None, :].astype(np.float64)
    spread = 1 + np.abs(middle - spec.zero_point) / 2
    likely = np.exp(-np.abs(values - middle) / spread) + 1e-3
    return np.where(symbols.T[:, None] == known.T[:, None], 1000 * likely, 0).astype(np.int64)


def fit_models(seen: Seen, contexts: int, models: int) -> Models:
    """Tokens, models and who uses which, for what was seen."""
    for name, value, least, most in (("contexts", contexts, 0, 1), ("models", models, 1, 16)):
        if type(value) is not int or not least <= value <= most:
            raise BadArgument(f"{name} must be an integer in {least}..{most}, got {value!r}")
    bits = choose_tokens(seen.counts.sum(axis=(0, 1)), seen.largest)
    first = np.cumsum(1 << bits.astype(np.int64)) - (1 << bits.astype(np.int64))
    histograms = np.add.reduceat(seen.counts, first, axis=2).astype(np.float64)
    if not contexts:
        histograms = histograms.sum(axis=1, keepdims=True)
    group = _grouped(histograms, min(models, MOST_MODELS), LEVELS if contexts else 1)
    frequency = _frequencies(_distributions(histograms, group, models), bits)
    threshold, model = _levels(group, seen.begins)
    return Models(bits, frequency, threshold, model)


def mean_bits(seen: Seen, models: Models) -> float:
    """Of a symbol of what was seen, states and words not counted."""
    of_token = models.bits - np.log2(models.frequency / TOTAL)
    # Symbols that no byte has were not seen.
    of_symbol = np.zeros((len(of_token), 256))
    of_symbol[:, : models.symbols] = of_token[:, models.token_of]
    chosen = models.model_of[:, np.concatenate([[0], seen.begins])]
    bits = sum(
        float(seen.counts[chosen == model].sum(axis=0) @ lengths)
        for model, lengths in enumerate(of_symbol)
    )
    return bits / max(1, int(seen.counts.sum()))


def choose_tokens(counts: Int64Array, largest: int) -> UInt8Array:
    """Bits of the tokens under which symbols that came `counts` (256,) times cost the least.

    >>> choose_tokens(np.array([90, 9, 1, *[0] * 253]), 2).tolist()
    [0, 0, 0]
    """
    sums = np.concatenate([[0.0], np.cumsum(counts + 1e-3 * (np.arange(256) <= largest))])
    best = np.full((MOST_TOKENS + 1, 257), NEVER)
    best[0, 0] = 0
    last = np.zeros((MOST_TOKENS + 1, 257), np.int64)
    for tokens in range(1, MOST_TOKENS + 1):
        for token_bits in range(MOST_BITS + 1):
            after = np.arange(1 << token_bits, 257)
            before = after - (1 << token_bits)
            mass = np.maximum(sums[after] - sums[before], 1e-3)
            cost = best[tokens - 1, before] + mass * (token_bits - np.log2(mass / sums[-1]))
            better = cost < best[tokens, after]
            best[tokens, after[better]] = cost[better]
            last[tokens, after[better]] = token_bits
    whole = best[:, largest + 1 :]
    tokens, stop = (int(i) for i in np.unravel_index(np.argmin(whole), whole.shape))
    stop += largest + 1
    found = []
    for left in range(tokens, 0, -1):
        found.append(last[left, stop])
        stop -= 1 << last[left, stop]
    return np.array(found[::-1], np.uint8)


def _grouped(histograms: Float64Array, models: int, levels: int) -> Int64Array:
    """(channels, ranges): the group of each histogram (channels, ranges, tokens)."""
    group = _first_groups(histograms, models)
    for _ in range(ROUNDS if models > 1 else 0):
        # Not cheaper than the rarest frequency can be, so that what is rounded up later counts.
        likely = np.maximum(_distributions(histograms, group, models), 1 / TOTAL)
        group = _cheapest(histograms @ -np.log2(likely).T, levels)
    return group


def _first_groups(histograms: Float64Array, models: int) -> Int64Array:
    """Groups of equal numbers of elements, from those of small symbols to those of large ones."""
    rows = histograms.reshape(-1, histograms.shape[-1])
    elements = rows.sum(axis=1)
    centre = rows @ np.arange(rows.shape[1]) - rows[:, 0]
    order = np.argsort(centre / np.maximum(elements, 1), kind="stable")
    before = np.cumsum(elements[order]) - elements[order] / 2
    group = np.empty(len(rows), np.int64)
    group[order] = np.minimum(before * models / max(1.0, elements.sum()), models - 1)
    return group.reshape(histograms.shape[:-1])


def _distributions(histograms: Float64Array, group: Int64Array, models: int) -> Float64Array:
    """(models, tokens): each group's share of every token."""
    total = np.full((models, histograms.shape[-1]), PRIOR)
    np.add.at(total, group, histograms)
    return np.asarray(total / total.sum(axis=1, keepdims=True))


def _cheapest(cost: Float64Array, levels: int) -> Int64Array:
    """For each channel the models of its ranges, at most `levels` runs, of least total cost.

    `cost` is (channels, ranges, models). Viterbi's algorithm over (runs so far, model).
    """
    channels, ranges, models = cost.shape
    best = np.full((channels, levels, models), NEVER)
    best[:, 0] = cost[:, 0]
    came_from = np.zeros((ranges, channels, levels, models), np.int64)
    for i in range(1, ranges):
        cheapest = best.argmin(axis=2)
        changed = np.full_like(best, NEVER)
        changed[:, 1:] = best.min(axis=2)[:, :-1, None]
        stays = best <= changed
        before = np.zeros((channels, levels), np.int64)
        before[:, 1:] = cheapest[:, :-1]
        came_from[i] = np.where(stays, -1, before[:, :, None])
        best = np.where(stays, best, changed) + cost[:, i, None]
    level, model = np.unravel_index(best.reshape(channels, -1).argmin(axis=1), (levels, models))
    found = np.empty((channels, ranges), np.int64)
    for i in range(ranges - 1, -1, -1):
        found[:, i] = model
        source = came_from[i, np.arange(channels), level, model]
        change = (source >= 0) & (i > 0)
        model, level = np.where(change, source, model), level - change
    return found


def _frequencies(likely: Float64Array, bits: UInt8Array) -> Int32Array:
    """Frequencies that sum to TOTAL, each the multiple that its token's bits ask for."""
    unit = frequency_units(bits)
    least = int(unit.min())
    frequency = np.maximum(np.rint(likely * TOTAL / unit), 1).astype(np.int64) * unit
    for row in frequency:
        while (short := TOTAL - int(row.sum())) != 0:
            if short > 0:
                row[np.argmax(np.where(unit == least, row, 0))] += least
            else:
                fits = (unit <= -short) & (row > unit)
                row_unit = np.where(row > unit, row, 0)
                token = int(np.argmax(np.where(fits, row, 0) if fits.any() else row_unit))
                row[token] -= unit[token]
    return frequency.astype(np.int32)


def _levels(group: Int64Array, begins: Int64Array) -> tuple[UInt8Array, UInt8Array]:
    """Thresholds and models per channel from the models of its ranges."""
    channels, ranges = group.shape
    threshold = np.full((channels, LEVELS - 1), 255, np.uint8)
    model = np.repeat(group[:, -1:], LEVELS, axis=1).astype(np.uint8)
    for channel, own in enumerate(group):
        changes = np.flatnonzero(own[1:] != own[:-1])
        threshold[channel, : len(changes)] = begins[changes] if ranges > 1 else 255
        model[channel, : len(changes)] = own[changes]
    return threshold, model
