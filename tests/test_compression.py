# SPDX-License-Identifier: Apache-2.0
"""`compress` and `Engine` from Python, on networks and pictures made here."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx_models import model, node, weights

import thinmaps as tm
from thinmaps.compression import parse_codec
from thinmaps.errors import (
    BadArgument,
    BadData,
    BadPicture,
    BadShape,
    PlanImpossible,
    UnknownCodec,
)
from thinmaps.graph.network import Network, Node
from thinmaps.graph.onnx_reader import read
from thinmaps.graph.operators import Add
from thinmaps.plan.build import build
from thinmaps.plan.held import held_maps
from thinmaps.types import MapSpec

LAYERS = [
    node("Conv", ["x", "w1"], ["a"], name="stem", pads=[1, 1, 1, 1]),
    node("Relu", ["a"], ["b"], name="relu"),
    node("Conv", ["b", "w2"], ["c"], name="body", pads=[1, 1, 1, 1]),
    node("Add", ["b", "c"], ["d"], name="sum"),
    node("GlobalAveragePool", ["d"], ["e"], name="pool"),
    node("Flatten", ["e"], ["f"], name="flat"),
    node("Gemm", ["f", "w3"], ["y"], name="head", transB=1),
]


def classifier(channels: int = 3, side: int = 12) -> onnx.ModelProto:
    constants = {
        "w1": weights(8, channels, 3, 3, seed=1),
        "w2": weights(8, 8, 3, 3, seed=2) / 8,
        "w3": weights(5, 8, seed=3),
    }
    return model(LAYERS, constants, shape=(1, channels, side, side))


def pictures(count: int = 10, side: int = 12) -> list[np.ndarray]:
    random = np.random.default_rng(7)
    return [random.integers(0, 256, (side, side, 3), np.uint8) for _ in range(count)]


def test_a_network_compresses_and_answers_like_the_float_one():
    compressed = tm.compress(classifier(), pictures())
    assert compressed.drop == 0
    engine = tm.Engine(compressed)
    answers = engine(np.stack(pictures(3)))
    assert answers.shape == (3, 5)
    np.testing.assert_array_equal(answers[1], engine(pictures(3)[1])[0])
    assert engine.arena_bytes == compressed.plan.arena_bytes
    assert engine.report().arena_bytes == engine.report().counted.arena_bytes


def test_one_mean_serves_all_channels_and_another_number_is_refused():
    one = tm.compress(classifier(), pictures(), preprocessing=tm.Preprocessing((0.5,), (0.5,)))
    assert one.preprocessing.mean == (0.5, 0.5, 0.5)
    with pytest.raises(BadArgument, match=r"3 channels, preprocessing is for 2"):
        tm.compress(classifier(), pictures(), preprocessing=tm.Preprocessing((0, 0), (1, 1)))
    with pytest.raises(BadArgument, match=r"1 channels, preprocessing is for 3.*--mean"):
        tm.compress(classifier(channels=1), pictures())


def test_a_network_of_other_inputs_takes_arrays_in_real_units():
    random = np.random.default_rng(3)
    arrays = [random.standard_normal((12, 12, 4)).astype(np.float32) for _ in range(6)]
    compressed = tm.compress(classifier(channels=4), arrays)
    assert compressed.preprocessing is None
    assert compressed.drop is None
    assert any("the drop was not measured" in note for note in compressed.notes)
    assert tm.Engine(compressed)(arrays[0]).shape == (1, 5)


def test_a_network_of_one_convolution_compresses():
    proto = model(
        [node("Conv", ["x", "w"], ["y"], name="only")],
        {"w": weights(2, 3, 3, 3)},
        shape=(1, 3, 6, 6),
    )
    made = tm.Engine(tm.compress(proto, pictures(5, 6)))(pictures(1, 6)[0])
    assert made.shape == (1, 2, 4, 4)


def test_a_file_format_newer_than_the_runtime_is_read():
    newest = classifier()
    newest.ir_version = onnx.IR_VERSION
    assert tm.compress(newest, pictures()).drop == 0


def test_ranges_and_drop_belong_to_the_files_own_size_when_another_is_asked_for():
    fully_convolutional = model(LAYERS[:4], dict(_constants()), shape=(1, 3, 12, 12), outputs=["d"])
    own = tm.compress(fully_convolutional, pictures())
    wide = tm.compress(fully_convolutional, pictures(), size=(24, 40))
    assert wide.plan.source.maps["x"].shape == (24, 40, 3)
    assert wide.drop == own.drop
    for name in ("b", "c"):
        assert wide.plan.source.maps[name].scale == own.plan.source.maps[name].scale


def _constants() -> list[tuple[str, np.ndarray]]:
    return [("w1", weights(8, 3, 3, 3, seed=1)), ("w2", weights(8, 8, 3, 3, seed=2) / 8)]


def test_convolutions_within_an_error_are_done_by_tiles_and_the_file_says_so(tmp_path):
    direct = tm.compress(classifier(), pictures())
    tiled = tm.compress(classifier(), pictures(), winograd=0.3)
    kinds = {node.name: node.operator.id for node in tiled.plan.source.nodes}
    assert (kinds["stem"], kinds["body"]) == ("conv", "winograd_conv")  # 3 channels are too few
    assert any("1 convolutions are done by scaled Winograd tiles" in n for n in tiled.notes)
    assert tiled.provenance.options["winograd"] == 0.3
    tm.save(tiled, tmp_path / "tiled.thin")
    picture = pictures(1)[0]
    made = tm.Engine(tmp_path / "tiled.thin")(picture)
    np.testing.assert_array_equal(made, tm.Engine(tiled)(picture))
    exact = tm.Engine(direct)(picture)
    assert 0 < np.abs(made - exact).max() < 0.1 * np.abs(exact).max()


def test_exact_tiles_get_scratch_where_it_pays_and_give_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("THINMAPS_ISA", "portable")
    options = {"size": (48, 48), "schedule": "layer", "machine": "portable"}
    direct = tm.compress(classifier(), pictures(), **options)
    tiled = tm.compress(classifier(), pictures(), winograd="exact", **options)
    assert direct.plan.winograd == ()
    assert tiled.plan.winograd
    assert tiled.plan.arena_bytes > direct.plan.arena_bytes
    assert tiled.provenance.options["winograd"] == "exact"
    tm.save(tiled, tmp_path / "tiled.thin")
    picture = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    found = tm.Engine(tmp_path / "tiled.thin")(picture)
    np.testing.assert_array_equal(found, tm.Engine(direct)(picture))
    with pytest.raises(BadArgument, match="as 'exact', or as a relative error"):
        tm.compress(classifier(), pictures(), winograd="roughly")


def test_without_being_asked_or_within_no_error_nothing_is_done_by_tiles():
    for options in ({}, {"winograd": 1e-6}):
        made = tm.compress(classifier(), pictures(), **options)
        assert all(node.operator.id != "winograd_conv" for node in made.plan.source.nodes)


@pytest.mark.parametrize("limit", [0, -0.1, 1.5, float("nan")])
def test_an_error_that_is_no_share_is_refused(limit):
    with pytest.raises(BadArgument, match=r"above 0 and at most at 1"):
        tm.compress(classifier(), pictures(), winograd=limit)


@pytest.mark.parametrize("codec", ["zero_bitmap", "narrow:6", "narrow:bits=5,unit_rows=2"])
def test_a_codec_for_all_held_maps_goes_on_the_maps_that_the_plan_holds(codec):
    bare = tm.compress(classifier(), pictures(), schedule="layer")
    compressed = tm.compress(classifier(), pictures(), schedule="layer", codec=codec)
    held = held_maps(bare.plan)
    assert held
    assert list(compressed.plan.codecs) == list(held)
    assert {c.id for c in compressed.plan.codecs.values()} == {codec.split(":")[0]}
    if codec.startswith("narrow"):
        assert compressed.plan.arena_bytes < bare.plan.arena_bytes
    assert tm.Engine(compressed)(pictures(1)[0]).shape == (1, 5)


def test_codec_requests_that_make_no_sense_are_refused():
    with pytest.raises(UnknownCodec, match=r"lz4.*zero_bitmap"):
        tm.compress(classifier(), pictures(), codec="lz4")
    with pytest.raises(BadArgument, match=r"no map 'bb'.*near it: b"):
        tm.compress(classifier(), pictures(), codec={"bb": "raw"})
    with pytest.raises(BadArgument, match=r"'narrow:x'.*whole number"):
        parse_codec("narrow:x")
    for digits in ("--4", "²", "9" * 5000):
        with pytest.raises(BadArgument, match=r"whole number"):
            parse_codec(f"narrow:{digits}")
    with pytest.raises(BadArgument, match=r"bits.*1..7, got 9"):
        tm.compress(classifier(), pictures(), codec={"b": "narrow:9"})


def test_codec_requests_are_refused_for_all_reasons_at_once():
    with pytest.raises(BadArgument, match=r"no map 'bb'.*near it: b; no map 'cc'"):
        tm.compress(classifier(), pictures(), codec={"bb": "raw", "cc": "raw"})
    with pytest.raises(BadArgument, match=r"bits.*got 9; no codec 'lz4'"):
        tm.compress(classifier(), pictures(), codec={"a": "narrow:9", "b": "lz4"})


def test_a_codec_is_refused_for_all_maps_that_it_does_not_suit():
    # Without a Relu behind them their zero points lie in the middle, which one plane does not hold.
    one_plane = dict.fromkeys(("c", "d"), "gf2:planes=1,keep=1")
    with pytest.raises(
        BadArgument, match=r"map 'c': gf2 has 1 plane.*; map 'd': gf2 has"
    ) as caught:
        tm.compress(classifier(), pictures(), codec=one_plane)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("picture", "preprocessing", "says"),
    [
        (
            np.zeros((20, 12, 3), np.uint8),
            tm.Preprocessing(fit="none"),
            r"exactly 12x12 .*got 20x12.*--fit",
        ),
        (np.zeros((12, 12, 4), np.uint8), None, r"picture '5'.* 3 channels.*got \(12, 12, 4\)"),
        (np.zeros((12, 12), np.uint8), None, r"picture '5'.* 3 channels.*got \(12, 12\)"),
        (np.zeros((12, 12, 3), np.uint16), None, r"picture '5'.*uint8 \(h, w, 3\), got uint16"),
    ],
)
def test_calibration_pictures_of_another_size_or_depth_are_refused_in_a_sentence(
    picture, preprocessing, says
):
    given = [*pictures(5), picture]
    with pytest.raises((BadData, BadPicture), match=says) as caught:
        tm.compress(classifier(), given, preprocessing=preprocessing)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", [{}, {"codec": "narrow:4"}, {"codec": {"b": "narrow:4"}}])
def test_an_arena_of_nothing_is_refused_whatever_else_is_asked(asked):
    with pytest.raises(BadArgument, match="arena needs a budget of 1 byte or more, got 0"):
        tm.compress(classifier(), pictures(), arena_bytes=0, **asked)


def test_a_codec_that_has_nothing_to_do_says_so():
    compressed = tm.compress(classifier(), pictures(), schedule="stream", codec="narrow:4")
    assert not compressed.plan.codecs
    assert any("narrow:4 has nothing to do" in note for note in compressed.notes)


def test_a_network_exported_for_a_larger_batch_is_compressed_for_one_picture():
    two = classifier()
    two.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    del two.graph.output[0].type.tensor_type.shape.dim[:]
    assert tm.compress(two, pictures()).drop == 0


def test_arrays_in_real_units_are_no_pictures():
    arrays = [picture.astype(np.float32) for picture in pictures()]
    with pytest.raises(BadData, match=r"takes pictures, uint8 .h, w, 3., got float32"):
        tm.compress(classifier(), arrays)


def test_pictures_may_be_views_but_not_empty():
    engine = tm.Engine(tm.compress(classifier(), pictures()))
    mirrored = pictures(1)[0][:, ::-1]
    np.testing.assert_array_equal(engine(mirrored), engine(mirrored.copy()))
    for shape in ((0, 12, 12, 3), (0, 12, 3)):
        with pytest.raises(BadShape):
            engine(np.zeros(shape, np.uint8))
    with pytest.raises(BadShape, match="got list"):
        engine([1, 2])


def test_a_network_of_several_inputs_takes_them_by_name():
    maps = {name: MapSpec(4, 4, 2, 0.5, 128) for name in ("a", "b", "c")}
    node = Node("sum", Add(np.ones(2, np.float32)), ("a", "b"), "c")
    engine = tm.Engine(build(Network((node,), maps, ("a", "b"), ("c",))))
    values = {name: np.full((4, 4, 2), 130, np.uint8) for name in ("a", "b")}
    np.testing.assert_array_equal(engine(values), np.full((4, 4, 2), 2.0))
    with pytest.raises(BadShape, match="needs inputs a, b, got a"):
        engine({"a": values["a"]})


def test_an_output_that_nodes_also_read_cannot_carry_a_codec():
    proto = model(
        [*LAYERS[:4], node("Conv", ["d", "w2"], ["z"], name="last")],
        dict(_constants()),
        shape=(1, 3, 12, 12),
        outputs=["d", "z"],
    )
    assert set(tm.Engine(tm.compress(proto, pictures()))(pictures(1)[0])) == {"d", "z"}
    with pytest.raises(BadArgument, match="'d'"):
        tm.compress(proto, pictures(), codec={"d": "raw"})


def test_what_calibration_needs_is_said_when_it_is_missing():
    with pytest.raises(BadArgument, match=r"needs calibration pictures.*--calibrate"):
        tm.compress(classifier())
    with pytest.raises(BadData):
        tm.compress(classifier(), [])
    with pytest.raises(BadArgument, match="labels name files"):
        tm.compress(classifier(), pictures(), labels="labels.csv")
    with pytest.raises(PlanImpossible, match=r"\d"):
        tm.compress(classifier(), pictures(), arena_bytes=100)


def test_a_clone_shares_weights_and_answers_alike():
    engine = tm.Engine(tm.compress(classifier(), pictures()))
    twin = engine.clone()
    assert twin.native.weights is engine.native.weights
    np.testing.assert_array_equal(twin(pictures(1)[0]), engine(pictures(1)[0]))


def test_pictures_of_another_size_are_fitted_as_the_file_says():
    engine = tm.Engine(tm.compress(classifier(), pictures()))
    assert engine(pictures(1, 40)[0]).shape == (1, 5)
    assert engine.fit(pictures(1, 40)[0]).shape == (12, 12, 3)


def test_rows_stream_through_without_a_whole_picture():
    model_ = tm.compress(
        model(LAYERS[:4], dict(_constants()), shape=(1, 3, 12, 12), outputs=["d"]), pictures()
    )
    engine, picture = tm.Engine(model_), pictures(1)[0]
    whole = engine.native.maps(picture)["d"]
    np.testing.assert_array_equal(np.stack(list(engine.rows(iter(picture)))), whole)


def test_the_networks_maps_are_named_as_in_the_file():
    assert {"b", "c", "d"} <= set(read(classifier()).shapes)


def test_running_a_file_needs_neither_onnx_nor_torch(tmp_path):
    tm.save(tm.compress(classifier(), pictures()), tmp_path / "a.thin")
    code = f"""
import sys
for name in ("onnx", "onnxruntime", "torch"):
    sys.modules[name] = None
import numpy as np, thinmaps as tm
engine = tm.Engine({str(tmp_path / "a.thin")!r})
assert engine(np.zeros((12, 12, 3), np.uint8)).shape == (1, 5)
engine.report()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_offers_exactly_what_it_says():
    for name in tm.__all__:
        assert getattr(tm, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = tm.nothing
