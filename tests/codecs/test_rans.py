# SPDX-License-Identifier: Apache-2.0
"""What rans owes to its models: sizes near their entropy, one verdict of all twins, damage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from thinmaps import _core
from thinmaps.codecs.native import implementations, twins
from thinmaps.codecs.rans import (
    LEAST_STATES,
    REGISTER_STATES,
    STATE_SHARE,
    Rans,
    state_count,
)
from thinmaps.codecs.rans_fit import choose_tokens
from thinmaps.codecs.rans_models import MOST_TOKENS, TOTAL, Models, frequency_units
from thinmaps.errors import BadArgument, BadShape, CorruptPayload
from thinmaps.types import MapSpec


def activations(spec: MapSpec, seed: int, maps: int = 1) -> np.ndarray:
    """Maps whose neighbours resemble each other, and whose channels differ."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(maps, spec.height + 3, spec.width + 3, spec.channels))
    smooth = sum(
        noise[:, i : i + spec.height, j : j + spec.width] for i in range(3) for j in range(3)
    )
    spread = rng.uniform(0.5, 5, spec.channels)
    return (spec.zero_point + smooth * spread).clip(0, 255).astype(np.uint8)


def drawn(channels: int, seed: int, tokens: int, models: int) -> Models:
    """Models at random, with frequencies from 1 to nearly all."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 5, tokens)
    bits[-1] = 8
    while (1 << bits).sum() > 256:
        bits[np.argmax(bits)] -= 1
    unit = frequency_units(bits.astype(np.uint8))
    assert (unit == 1).any()
    share = rng.gamma(0.2, size=(models, tokens)) + 1e-9
    frequency = np.maximum(share / share.sum(axis=1, keepdims=True) * 3000 // unit, 1) * unit
    free = int(np.argmin(unit))
    frequency[:, free] += TOTAL - frequency.sum(axis=1)
    threshold = np.sort(rng.integers(0, 256, (channels, 7)), axis=1)
    model = rng.integers(0, models, (channels, 8))
    return Models(
        bits.astype(np.uint8),
        frequency.astype(np.int32),
        threshold.astype(np.uint8),
        model.astype(np.uint8),
    )


@pytest.mark.parametrize("zero_point", [0, 128])
@pytest.mark.parametrize(
    "shape", [(9, 40, 64), (6, 41, 24), (5, 9, 96), (40, 130, 3), (3, 16, 400)]
)
@pytest.mark.parametrize("options", [{}, {"step": 48}, {"contexts": 0, "models": 1}])
def test_every_implementation_agrees_where_states_are_many(shape, zero_point, options):
    spec = MapSpec(*shape, 1.0, zero_point)
    values = activations(spec, 3, maps=2)
    codec = Rans.fit(spec, values[:1], unit_rows=spec.height, **options)
    payload = codec.encode_unit(values[1], spec)
    assert len(payload) < codec.unit_bytes(spec, spec.height)
    expected = codec.decode_unit(payload, spec, spec.height)
    if codec.lossless:
        np.testing.assert_array_equal(expected, values[1])
    for name, each in implementations(codec).items():
        assert each.encode_unit(values[1], spec) == payload, name
        np.testing.assert_array_equal(each.decode_unit(payload, spec, spec.height), expected, name)


@pytest.mark.parametrize("state_elements", [1, 300, 700, 2048, 5000, 1 << 16])
def test_any_number_of_states_holds_the_same_symbols(state_elements):
    spec = MapSpec(16, 33, 40)
    values = activations(spec, 4, maps=2)
    codec = replace(Rans.fit(spec, values[:1], unit_rows=16), state_elements=state_elements)
    payload = codec.encode_unit(values[1], spec)
    assert len(payload) < codec.unit_bytes(spec, 16)
    np.testing.assert_array_equal(codec.decode_unit(payload, spec, 16), values[1])
    for name, each in implementations(codec).items():
        assert each.encode_unit(values[1], spec) == payload, name
        np.testing.assert_array_equal(each.decode_unit(payload, spec, 16), values[1], name)


def test_states_take_a_fortieth_of_a_small_unit_at_most():
    spec = MapSpec(32, 32, 16)
    values = activations(spec, 6, maps=2)
    sizes = {}
    for step in (0, 160, 640):
        codec = Rans.fit(spec, values[:1], step=step, unit_rows=32)
        states = state_count(spec.raw_bytes, codec.elements_per_state)
        sizes[states] = len(codec.encode_unit(values[1], spec))
        share = STATE_SHARE / (2 if states == REGISTER_STATES else 1)
        assert states == LEAST_STATES or 3 * states <= sizes[states] / share * 1.1
        whole = replace(codec, state_elements=None)
        assert len(whole.encode_unit(values[1], spec)) >= sizes[states]
    assert len(sizes) == 3, "the fewer bits, the fewer states"


@pytest.mark.parametrize("chosen", [0, -1, (1 << 16) + 1, 2.5, True])
def test_elements_per_state_that_no_unit_can_have_are_refused(chosen):
    with pytest.raises(
        BadArgument, match=r"rans needs state_elements to be an integer in 1\.\.65536"
    ):
        Rans(state_elements=chosen)


@pytest.mark.parametrize("channels", [1, 20, 64, 90])
@pytest.mark.parametrize("tokens", range(2, MOST_TOKENS + 1, 3))
def test_models_at_random_take_what_is_likely_and_what_is_not(tokens, channels):
    models = drawn(channels, tokens, tokens, tokens - 1)
    spec = MapSpec(6, 3000 // channels, channels)
    values = np.random.default_rng(tokens).integers(0, models.symbols, spec.shape, np.uint8)
    # Runs of a symbol that is likely make room for the others, so that the unit is not plain.
    likely = models.base[models.frequency[0].argmax()]
    values[:, spec.width // 40 + 1 :] = likely
    models = Models(
        models.bits,
        models.frequency[:1].repeat(len(models.frequency), 0),
        models.threshold,
        models.model,
    )
    codec = Rans(spec.height, None, models)
    if models.symbols < 256:
        with pytest.raises(BadShape, match=f"tokens for symbols up to {models.symbols - 1}"):
            codec.encode_unit(values, spec)
        return
    payload = codec.encode_unit(values, spec)
    for name, each in implementations(codec).items():
        assert each.encode_unit(values, spec) == payload, name
        np.testing.assert_array_equal(each.decode_unit(payload, spec, 6), values, name)


def test_the_size_is_near_the_entropy_of_the_models():
    spec = MapSpec(100, 100, 16)
    values = activations(spec, 5)
    codec = Rans.fit(spec, values, unit_rows=spec.height, contexts=0, models=1)
    (likely,) = codec.models.frequency / TOTAL
    token = codec.models.token_of[values.ravel()]
    ideal_bits = (codec.models.bits[token] - np.log2(likely[token])).sum()
    assert 1 <= codec.encode(values[0], spec).bytes / (ideal_bits / 8) < 1.005


def test_neighbours_and_channels_choose_models_that_save():
    spec = MapSpec(32, 32, 16, 1.0, 128)
    fitting, values = activations(spec, 6, maps=2)
    sizes = [
        Rans.fit(spec, fitting[None], unit_rows=32, contexts=contexts, models=models)
        .encode(values, spec)
        .bytes
        for contexts, models in ((0, 1), (0, 16), (1, 16))
    ]
    assert sizes[1] < 0.98 * sizes[0]
    assert sizes[2] < 0.98 * sizes[1]


@pytest.mark.parametrize("zero_point", [0, 128])
def test_without_samples_bytes_are_taken_to_be_near_their_neighbours(zero_point):
    spec = MapSpec(32, 32, 16, 1.0, zero_point)
    nothing = np.zeros((0, *spec.shape), np.uint8)
    codec = Rans.fit(spec, nothing, unit_rows=32)
    assert codec.encode(activations(spec, 7)[0], spec).bytes < 0.8 * spec.raw_bytes


def test_tokens_are_the_cheapest_runs_of_symbols():
    counts = np.zeros(256, np.int64)
    counts[:40] = 1000
    peak = counts.copy()
    peak[7] = 10**6
    bits = choose_tokens(peak, 255)
    first = np.cumsum(1 << bits.astype(int)) - (1 << bits.astype(int))
    assert bits[list(first).index(7)] == 0
    assert (1 << bits.astype(int)).sum() == 256


def test_damage_is_named():
    spec = MapSpec(1, 40, 2)
    codec = Rans()
    zero = np.zeros(spec.shape, np.uint8)
    plain = codec.encode_unit(zero, spec)
    assert plain == bytes(80)
    start = bytes([0, 0, 1, 0]) * 4
    for payload, message in (
        (b"", "needs 80 bytes, or 16 for 4 states and 2 per word, got 0"),
        (start + b"\0", "got 17"),
        (plain + b"\0\0", "got 82"),
        (bytes(16), "states from 65536 on, found 0"),
        (start, "needs a word where only 0 are left"),
        (start + bytes(62), "got 78|ends with|a word where"),
    ):
        for each in implementations(codec).values():
            with pytest.raises(CorruptPayload, match=message):
                each.decode_unit(payload, spec, 1)


def test_models_that_cannot_be_are_refused():
    good = Models()
    one = np.full((1, 16), 256, np.int32)
    for change, message in (
        ({"bits": np.full(17, 1, np.uint8)}, "bits must be 1 to 16"),
        ({"bits": np.full(16, 5, np.uint8)}, "more than 256 symbols"),
        ({"frequency": one - 1}, "sum to 4096"),
        ({"frequency": one * 0}, "positive multiples"),
        ({"model": np.full((1, 8), 1, np.uint8)}, "uint8 below 1"),
        ({"threshold": np.uint8([[9, 8, 9, 9, 9, 9, 9]])}, "threshold must ascend"),
        ({"threshold": np.zeros((2, 7), np.uint8)}, r"threshold must be uint8 \(1, 7\)"),
    ):
        with pytest.raises(BadArgument, match=message):
            replace(good, **change)
    wide = np.array([8], np.uint8)
    Models(wide, np.full((1, 1), 4096, np.int32))
    with pytest.raises(BadArgument, match="multiples"):
        Models(np.uint8([7, 0]), np.int32([[4092, 4]]))
    two = replace(good, threshold=np.zeros((2, 7), np.uint8), model=np.zeros((2, 8), np.uint8))
    with pytest.raises(BadShape, match="models for 2 channels, the map has 3"):
        Rans(models=two).encode_unit(np.zeros((1, 4, 3), np.uint8), MapSpec(1, 4, 3))


@pytest.mark.parametrize("isa", list(twins(Rans())))
@pytest.mark.parametrize("count", [0, 1, 1567, 2630])
def test_a_twin_refuses_tables_of_another_size(isa, count):
    rows, payload = np.zeros((2, 3, 5), np.uint8), np.zeros(100, np.uint8)
    own, wrong = np.int32([8, 1, 0]), np.ones(count, np.uint8)
    assert _core.encode_unit("rans", isa, rows, 0, own, wrong, payload)[0] == 3
    assert _core.decode_unit("rans", isa, payload, 3, 0, 0, own, wrong, rows) == 3
