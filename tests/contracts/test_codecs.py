# SPDX-License-Identifier: Apache-2.0
"""What every codec promises (`codecs/base.py`), asked of all that exist.

Each question goes to the reference and to every native twin that this machine runs, so that all
instruction sets are held to the same bytes in one process.
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from codec_cases import (
    Setting,
    costliest,
    fitted,
    implementation_names,
    maps,
    read_back,
    settings,
    units,
    written,
)
from golden.regenerate import golden_files, read_golden

from thinmaps import codecs
from thinmaps.codecs import Codec
from thinmaps.codecs.native import Implementation, implementations
from thinmaps.errors import BadArgument, BadFile, BadShape, CorruptPayload
from thinmaps.types import MapSpec, Packed

EACH_SETTING = pytest.mark.parametrize(
    "setting", [pytest.param(setting, id=setting.name) for setting in settings()]
)
EACH_IMPLEMENTATION = pytest.mark.parametrize(
    ("setting", "name"),
    [
        pytest.param(setting, name, id=f"{setting.name}-{name}")
        for setting in settings()
        for name in implementation_names(setting)
    ],
)
EACH_PAIR = pytest.mark.parametrize(
    ("setting", "encoder", "decoder"),
    [
        pytest.param(setting, encoder, decoder, id=f"{setting.name}-{encoder}->{decoder}")
        for setting in settings()
        for encoder, decoder in itertools.product(implementation_names(setting), repeat=2)
    ],
)

SMALL = MapSpec(3, 5, 3, 1.0, 128)


def convolved(
    x: np.ndarray, weights: np.ndarray, sizes: tuple[int, int] | None = None
) -> np.ndarray:
    """A convolution whose stride is its kernel, or stride and padding of `sizes`."""
    _, channels, rows, columns = weights.shape
    if sizes is not None:
        stride, padding = sizes
        padded = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), (0, 1))
        return np.einsum("yxcij,kcij->yxk", windows[::stride, ::stride], weights)
    blocks = x.reshape(len(x) // rows, rows, x.shape[1] // columns, columns, channels)
    return np.einsum("yixjc,kcij->yxk", blocks, weights, dtype=np.float32)


def spread(x: np.ndarray, weights: np.ndarray, sizes: tuple[int, int] | None = None) -> np.ndarray:
    """The transpose of that."""
    high, wide, _ = x.shape
    _, channels, rows, columns = weights.shape
    if sizes is not None:
        stride, padding = sizes
        full = np.zeros((high * stride + rows, wide * stride + columns, channels), np.float32)
        for i, j in np.ndindex(rows, columns):
            here = full[i : i + stride * high : stride, j : j + stride * wide : stride]
            here += x @ weights[:, :, i, j]
        return full[padding:, padding:][: stride * high, : stride * wide]
    blocks = np.einsum("yxk,kcij->yixjc", x, weights, dtype=np.float32)
    return blocks.reshape(high * rows, wide * columns, channels)


COMPUTE = {
    "Mul": np.multiply,
    "Add": np.add,
    "Floor": np.floor,
    "Clip": np.clip,
    "Min": np.minimum,
    "Max": np.maximum,
    "Gather": lambda x, table: table[x.astype(np.int64), np.arange(x.shape[2]) % table.shape[1]],
    "Conv": convolved,
    "ConvTranspose": spread,
    "Pad": lambda x, sizes: np.pad(x, ((0, sizes[0]), (0, sizes[1]), (0, 0)), mode="edge"),
    "Crop": lambda x, sizes: x[: sizes[0], : sizes[1]],
}


def implementation(codec: Codec, name: str) -> Implementation:
    return implementations(codec)[name]


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(actual, expected, strict=True)


def one_unit(setting: Setting, kind: str = "sparse") -> tuple[Codec, bytes]:
    """A codec and the payload of a whole small map in one unit."""
    codec = setting.fit(SMALL, SMALL.height)
    return codec, codec.encode_unit(maps(SMALL)[kind], SMALL)


@EACH_PAIR
def test_any_encoder_with_any_decoder_restores_the_map(setting, encoder, decoder):
    for spec in (SMALL, MapSpec(2, 9, 7), MapSpec(3, 1, 257, 1.0, 128)):
        codec = setting.fit(spec, 2)
        encode, decode = implementation(codec, encoder), implementation(codec, decoder)
        for values in maps(spec).values():
            reference = codec.decode(codec.encode(values, spec))
            for unit, expected in zip(units(codec, values), units(codec, reference), strict=True):
                payload = encode.encode_unit(unit, spec)
                same(decode.decode_unit(payload, spec, len(unit)), expected)


@EACH_SETTING
def test_every_map_comes_back_and_from_a_lossless_codec_unchanged(setting):
    for codec, spec in fitted(setting):
        for values in maps(spec).values():
            restored = codec.decode(codec.encode(values, spec))
            assert restored.shape == spec.shape
            assert restored.dtype == np.uint8
            if codec.lossless:
                same(restored, values)


@EACH_SETTING
def test_the_zero_point_is_always_restored(setting):
    for codec, spec in fitted(setting):
        zero = maps(spec)["zero"]
        same(codec.decode(codec.encode(zero, spec)), zero)


@EACH_IMPLEMENTATION
def test_an_encoder_writes_the_bytes_of_the_reference(setting, name):
    for codec, spec in fitted(setting):
        encoder = implementation(codec, name)
        for values in maps(spec).values():
            for unit in units(codec, values):
                assert encoder.encode_unit(unit, spec) == codec.encode_unit(unit, spec)


@EACH_IMPLEMENTATION
def test_a_decoder_restores_any_unit_alone(setting, name):
    for codec, spec in fitted(setting):
        decoder = implementation(codec, name)
        for values in maps(spec).values():
            packed = codec.encode(values, spec)
            whole = units(codec, codec.decode(packed))
            for payload, rows in reversed(list(zip(packed.units, whole, strict=True))):
                same(decoder.decode_unit(payload, spec, len(rows)), rows)


@EACH_IMPLEMENTATION
def test_rows_may_lie_apart_in_memory(setting, name):
    for codec, spec in fitted(setting):
        around = np.full((spec.height, spec.width, spec.channels + 5), 77, np.uint8)
        slot = around[:, :, 2 : 2 + spec.channels]
        slot[:] = maps(spec)["dense"]
        for unit in units(codec, slot):
            payload = implementation(codec, name).encode_unit(unit, spec)
            assert payload == codec.encode_unit(np.ascontiguousarray(unit), spec)


@EACH_SETTING
def test_a_payload_is_at_most_what_was_announced(setting):
    for codec, spec in fitted(setting):
        for values in maps(spec).values():
            packed = codec.encode(values, spec)
            assert packed.bytes <= codec.max_bytes(spec)
            assert codec.rate == "variable" or packed.bytes == codec.max_bytes(spec)
            assert len(packed.units) == codec.unit_count(spec)


@EACH_SETTING
def test_the_worst_case_of_a_variable_rate_is_reached_by_some_map(setting):
    for codec, spec in fitted(setting):
        tried = [*maps(spec).values(), costliest(codec, spec)]
        largest = max(codec.encode(values, spec).bytes for values in tried)
        for value in (0, 255 - spec.zero_point, 255):
            constant = np.full(spec.shape, value, np.uint8)
            largest = max(largest, codec.encode(constant, spec).bytes)
        # A cap is chosen, and hit only by chance.
        assert largest == codec.max_bytes(spec) or (
            codec.has_cap and largest < codec.max_bytes(spec)
        )


@EACH_IMPLEMENTATION
def test_a_fixed_rate_unit_decodes_any_column_range(setting, name):
    for spec in (SMALL, MapSpec(2, 9, 7), MapSpec(1, 3, 300, 1.0, 128)):
        codec = setting.fit(spec, spec.height)
        decoder = implementation(codec, name)
        payload = codec.encode_unit(maps(spec)["dense"], spec)
        whole = codec.decode_unit(payload, spec, spec.height)
        for first, stop in itertools.combinations(range(spec.width + 1), 2):
            asked = (payload, spec, spec.height, first, stop - first)
            if codec.rate == "fixed" or stop - first == spec.width:
                same(decoder.decode_unit(*asked), whole[:, first:stop])
            else:
                with pytest.raises(BadShape, match="whole units only"):
                    decoder.decode_unit(*asked)


@EACH_IMPLEMENTATION
@pytest.mark.parametrize(("column", "columns"), [(-1, 2), (0, 0), (0, 6), (5, 1), (3, 3)])
def test_a_column_range_outside_of_the_map_is_refused(setting, name, column, columns):
    codec, payload = one_unit(setting)
    with pytest.raises(BadShape, match="columns"):
        implementation(codec, name).decode_unit(payload, SMALL, SMALL.height, column, columns)


@EACH_IMPLEMENTATION
@pytest.mark.parametrize("kind", ["zero", "sparse", "dense"])
def test_every_truncation_and_every_extension_is_refused(setting, name, kind):
    codec, payload = one_unit(setting, kind)
    damaged = [payload[:length] for length in range(len(payload))] + [payload + b"\0"]
    for wrong in damaged:
        with pytest.raises(CorruptPayload, match=codec.id):
            implementation(codec, name).decode_unit(wrong, SMALL, SMALL.height)


@EACH_IMPLEMENTATION
@pytest.mark.parametrize("kind", ["zero", "sparse", "dense"])
def test_every_flipped_bit_is_refused_or_visible(setting, name, kind):
    codec, payload = one_unit(setting, kind)
    restored = codec.decode_unit(payload, SMALL, SMALL.height)
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        verdict = outcome(implementation(codec, name), bytes(flipped))
        assert verdict is None or not codec.unique or not np.array_equal(verdict, restored)
        expected = outcome(codec, bytes(flipped))
        assert (verdict is None) == (expected is None)
        if verdict is not None:
            same(verdict, expected)


@EACH_IMPLEMENTATION
def test_random_bytes_get_the_verdict_of_the_reference(setting, name):
    rng = np.random.default_rng(3)
    codec = setting.fit(SMALL, SMALL.height)
    refused = 0
    for _ in range(200):
        length = int(rng.integers(0, codec.unit_bytes(SMALL, SMALL.height) + 1))
        length = rng.choice([length, codec.unit_bytes(SMALL, SMALL.height)])
        payload = rng.bytes(int(length))
        verdict = outcome(implementation(codec, name), payload)
        expected = outcome(codec, payload)
        refused += verdict is None
        assert (verdict is None) == (expected is None)
        if verdict is not None:
            same(verdict, expected)
    assert refused


def outcome(decoder: Implementation, payload: bytes) -> np.ndarray | None:
    """The decoded rows, or None where the payload is refused."""
    try:
        return decoder.decode_unit(payload, SMALL, SMALL.height)
    except CorruptPayload:
        return None


@EACH_IMPLEMENTATION
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 5, 3), np.int8),
        np.zeros((3, 5, 3), np.float32),
        np.zeros((3, 5, 4), np.uint8),
        np.zeros((3, 4, 3), np.uint8),
        np.zeros((4, 5, 3), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_rows_of_a_wrong_dtype_or_shape_are_named(setting, name, wrong):
    encoder = implementation(setting.fit(SMALL, SMALL.height), name)
    with pytest.raises(BadShape) as caught:
        encoder.encode_unit(wrong, SMALL)
    assert f"{wrong.dtype} {wrong.shape}" in str(caught.value)


@EACH_SETTING
def test_a_whole_map_of_a_wrong_shape_or_unit_count_is_named(setting):
    codec = setting.fit(SMALL, 2)
    with pytest.raises(BadShape, match="float32"):
        codec.encode(np.zeros(SMALL.shape, np.float32), SMALL)
    packed = codec.encode(maps(SMALL)["dense"], SMALL)
    with pytest.raises(CorruptPayload, match="2 units for 3 rows, got 1"):
        codec.decode(Packed(codec.id, SMALL, packed.units[:1]))
    with pytest.raises(BadArgument, match="other"):
        codec.decode(Packed("other", SMALL, packed.units))


@EACH_SETTING
def test_a_float_map_is_refused(setting):
    spec = MapSpec(3, 5, 3, dtype="float32")
    with pytest.raises(BadShape, match="needs a uint8 map, got float32"):
        setting.fit(SMALL, 1).encode_unit(np.zeros((1, 5, 3), np.uint8), spec)


@EACH_SETTING
def test_the_configuration_survives_json(setting):
    codec, payload = one_unit(setting)
    values, arrays = written(codec)
    again = read_back(json.loads(json.dumps(values)), arrays)
    assert type(again) is type(codec)
    assert_same_codec(again, codec)
    same(
        again.decode_unit(payload, SMALL, SMALL.height),
        codec.decode_unit(payload, SMALL, SMALL.height),
    )


def assert_same_codec(one: Codec, two: Codec) -> None:
    (values, arrays), (other_values, other_arrays) = written(one), written(two)
    assert values == other_values
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        same(array, other_arrays[name])


@EACH_SETTING
def test_a_damaged_configuration_is_refused(setting):
    values, arrays = written(setting.fit(SMALL, 1))
    for unit_rows in (0, -1, 1 << 20):
        with pytest.raises(BadArgument, match=r"unit_rows to be an integer in 1\.\."):
            read_back({**values, "unit_rows": unit_rows}, arrays)
    for unit_rows in (True, 1.0, "1", None, 1 << 50):
        with pytest.raises(BadFile, match="codec/unit_rows: a whole number"):
            read_back({**values, "unit_rows": unit_rows}, arrays)
    with pytest.raises(BadFile, match="'surprise' is unknown"):
        read_back({**values, "surprise": 1}, arrays)
    for name in arrays:
        rest = {other: array for other, array in arrays.items() if other != name}
        with pytest.raises(BadFile, match=f"{name}' is missing"):
            read_back(values, rest)
        with pytest.raises(BadFile, match=f"{name}' must be"):
            read_back(values, {**arrays, name: arrays[name].astype(np.int64)})
        with pytest.raises(BadArgument, match=name.rpartition("/")[2]):
            read_back(values, {**arrays, name: arrays[name][:0]})


@EACH_SETTING
def test_an_unknown_option_is_refused_and_the_known_ones_are_named(setting):
    samples = maps(SMALL)["dense"][None]
    with pytest.raises(BadArgument, match=r"no option 'colour'; its options: .*unit_rows"):
        codecs.get(setting.codec_id).fit(SMALL, samples, colour=3)


@EACH_SETTING
def test_fitting_twice_gives_the_same_codec(setting):
    samples = np.stack([maps(SMALL)["sparse"], maps(SMALL)["dense"]])
    kind, options = codecs.get(setting.codec_id), dict(setting.options)
    one, two = (kind.fit(SMALL, samples, **options) for _ in range(2))
    assert_same_codec(one, two)


@pytest.mark.parametrize("codec_id", [name for name in codecs.ids() if codecs.get(name).menu])
def test_settings_fitted_together_are_those_fitted_alone(codec_id):
    samples = np.stack([maps(SMALL)["sparse"], maps(SMALL)["dense"]])
    kind, costs = codecs.get(codec_id), np.array([1.0, 4.0, 0.5])
    together = kind.fitter(SMALL, samples, costs)
    for options in kind.menu:
        alone = kind.fitter(SMALL, samples, costs)(**options)
        assert_same_codec(together(**options), alone)


@EACH_SETTING
def test_standard_operators_in_float32_equal_the_reference(setting):
    if codecs.get(setting.codec_id).has_cap:
        with pytest.raises(
            BadArgument, match=r"cannot be exported to ONNX: .* depends on its bytes"
        ):
            setting.fit(SMALL, 1).standard_operators(SMALL)
        return
    for spec in (MapSpec(1, 256, 9), MapSpec(1, 256, 9, 1.0, 128), MapSpec(1, 256, 9, 1.0, 255)):
        codec = setting.fit(spec, 1)
        every_byte = np.repeat(np.arange(256, dtype=np.uint8), 9).reshape(1, 256, 9)
        same(computed(codec, every_byte, spec), codec.decode(codec.encode(every_byte, spec)))
    for spec in (MapSpec(2, 6, 20, 1.0, 128), MapSpec(5, 7, 3)):
        codec = exportable(setting, spec)
        for values in maps(spec).values():
            same(computed(codec, values, spec), codec.decode(codec.encode(values, spec)))


def exportable(setting: Setting, spec: MapSpec) -> Codec:
    """The codec in units of two rows, or of the whole map where it asks for that."""
    codec = setting.fit(spec, 2)
    try:
        codec.standard_operators(spec)
    except BadArgument as refusal:
        if "in whole maps only" not in str(refusal):
            raise
        return setting.fit(spec, spec.height)
    return codec


def computed(codec: Codec, values: np.ndarray, spec: MapSpec) -> np.ndarray:
    """What the standard operators make of a map, every value of which float32 holds exactly."""
    x = values.astype(np.float32)
    for operator in codec.standard_operators(spec):
        x = COMPUTE[operator.name](
            x, *operator.operands, *([operator.sizes] if any(operator.sizes) else [])
        )
        assert x.dtype == np.float32
        assert np.abs(x).max() < 2**24
    return x.astype(np.uint8)


@EACH_IMPLEMENTATION
def test_golden_bytes_never_change(setting, name):
    files = golden_files(setting)
    missing = [file for file in files if not file.exists()]
    assert not missing, f"run python -m golden.regenerate {setting.codec_id}: {missing}"
    for file in files:
        golden = read_golden(file)
        codec = implementation(golden.codec, name)
        for kind, case in golden.cases.items():
            assert codec.encode_unit(case.rows, golden.spec) == case.payload, kind
            restored = codec.decode_unit(case.payload, golden.spec, len(case.rows))
            same(restored, case.restored)
