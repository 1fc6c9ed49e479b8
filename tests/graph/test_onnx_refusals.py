# SPDX-License-Identifier: Apache-2.0
"""What the reader does not take: one sentence, who and why, every reason at once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_models import assert_computes_the_same, between_convolutions, model, node, weights

from thinmaps.errors import BadArgument, BadModel, UnsupportedOperator
from thinmaps.graph.onnx_reader import read, read_model

CONV = node("Conv", ["x", "w"], ["y"], name="conv")
FILTERS = {"w": weights(3, 4, 1, 1)}


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# What is wrong -> nodes from "a" to "b" between two convolutions, constants, words of the message.
BETWEEN = {
    "a one-dimensional convolution": (
        [node("Reshape", ["a", "to"], ["r"]), node("Conv", ["r", "f"], ["c"], name="n"),
         node("Reshape", ["c", "back"], ["b"])],
        {"to": integers(1, 4, 35), "f": weights(4, 4, 1), "back": integers(1, 4, 7, 5)},
        r"node 'n'.*\(1, 4, 35\)",
    ),
    "weights made at run time": (
        [node("Conv", ["a", "a"], ["b"], name="n")], {}, "'n'.*weights 'a' is computed at run time",
    ),
    "pool indices": (
        [node("MaxPool", ["a"], ["b", "i"], kernel_shape=[1, 1], name="n"),
         node("Cast", ["i"], ["f"], to=1), node("Add", ["f", "b"], ["c"])],
        {}, "'n'.*indices",
    ),
    "a backwards slice": (
        [node("Slice", ["a", "s", "e", "at", "by"], ["b"], name="n")],
        {"s": integers(-1), "e": integers(-99), "at": integers(2), "by": integers(-1)},
        "'n'.*backwards",
    ),
    "a step in channels": (
        [node("Slice", ["a", "s", "e", "at", "by"], ["p"], name="n"),
         node("Concat", ["p", "p"], ["b"], axis=1)],
        {"s": integers(0), "e": integers(4), "at": integers(1), "by": integers(2)},
        "'n'.*every 2th channel",
    ),
    "a reflecting border": (
        [node("Pad", ["a", "p"], ["b"], mode="reflect", name="n")],
        {"p": integers(0, 0, 1, 1, 0, 0, 1, 1)}, "'n'.*mode 'reflect'",
    ),
    "a negative border": (
        [node("Pad", ["a", "p"], ["b"], name="n")],
        {"p": integers(0, 0, -1, 0, 0, 0, 0, 0)}, "'n'.*negative",
    ),
    "a cubic resize": (
        [node("Resize", ["a", "", "s"], ["b"], mode="cubic", name="n")],
        {"s": np.float32([1, 1, 2, 2])}, "'n'.*'cubic'",
    ),
    "a resize with a filter": (
        [node("Resize", ["a", "", "s"], ["b"], mode="linear", antialias=1, name="n")],
        {"s": np.float32([1, 1, 0.5, 0.5])}, "'n'.*antialias",
    ),
    "a resize of a part": (
        [node("Resize", ["a", "roi", "s"], ["b"], mode="linear", name="n",
              coordinate_transformation_mode="tf_crop_and_resize")],
        {"s": np.float32([1, 1, 2, 2]), "roi": np.float32([0, 0, 0, 0, 1, 1, 1, 1])},
        "'n'.*'tf_crop_and_resize'",
    ),
    "a resize that rounds strangely": (
        [node("Resize", ["a", "", "s"], ["b"], nearest_mode="up", name="n")],
        {"s": np.float32([1, 1, 2, 2])}, "'n'.*'up'",
    ),
    "a resize that keeps the aspect ratio": (
        [node("Resize", ["a", "", "", "s"], ["b"], name="n", axes=[2, 3],
              keep_aspect_ratio_policy="not_larger")],
        {"s": integers(14, 14)}, "'n'.*aspect ratio",
    ),
    "a difference of vectors": (
        [node("GlobalAveragePool", ["a"], ["g"]), node("Flatten", ["g"], ["f"]),
         node("Sigmoid", ["f"], ["s"]), node("Sub", ["f", "s"], ["d"], name="n"),
         node("Reshape", ["d", "to"], ["b"])],
        {"to": integers(1, 4, 1, 1)}, "'n'.*two flattened maps",
    ),
    "a quotient of maps": ([node("Div", ["a", "x"], ["b"], name="n")], {}, "'n'.*divides by a map"),
    "a division by zero": (
        [node("Div", ["a", "zero"], ["b"], name="n")], {"zero": np.float32(0)}, "'n'.*zero",
    ),
    "a constant map": (
        [node("Add", ["a", "c"], ["b"], name="n")], {"c": weights(1, 4, 7, 5)},
        r"'n'.*\(1, 4, 7, 5\).*one per channel",
    ),
    "maps that do not match": (
        [node("MaxPool", ["a"], ["p"], kernel_shape=[7, 1]),
         node("Add", ["a", "p"], ["b"], name="n")],
        {}, r"'n'.*\(7, 5, 4\) and \(1, 5, 4\)",
    ),
    "a mean over channels": (
        [node("ReduceMean", ["a", "at"], ["m"], name="n"),
         node("Concat", ["m"] * 4, ["b"], axis=1)],
        {"at": integers(1)}, r"'n'.*axes \[1\]",
    ),
    "a join along height": (
        [node("Concat", ["a", "a"], ["b"], axis=2, name="n")], {}, "'n'.*another axis than",
    ),
    "another order of axes": (
        [node("Transpose", ["a"], ["b"], perm=[0, 1, 3, 2], name="n")], {}, "'n'.*order",
    ),
    "a reshaped map": (
        [node("Reshape", ["a", "to"], ["b"])], {"to": integers(1, 4, 5, 7)}, "'after'.*reshaped",
    ),
    "bounds made at run time": (
        [node("ReduceMax", ["a"], ["m"], keepdims=0, name="n"),
         node("Clip", ["a", "", "m"], ["b"])],
        {}, r"'n' \(ReduceMax\): .*behind the last map only \(node 'b' \(Clip\) follows\)",
    ),
    "the larger of two maps": (
        [node("Sigmoid", ["a"], ["s"]), node("Max", ["a", "s"], ["b"], name="n")],
        {}, "'n'.*compares two maps; .* two lines",
    ),
    "the larger of three": (
        [node("Max", ["a", "a", "a"], ["b"], name="n")], {}, "'n'.*compares 3 values",
    ),
    "an operator that nobody has": (
        [node("LRN", ["a"], ["b"], size=3, name="n")], {}, r"'n' \(LRN\).*not supported",
    ),
    "an operator of another house": (
        [node("Gelu", ["a"], ["b"], domain="com.microsoft", name="n")], {},
        r"'n' \(com.microsoft.Gelu\).*not supported",
    ),
    "batch-norm in training": (
        [node("BatchNormalization", ["a", *"gggv"], ["b", "m2", "v2"], training_mode=1, name="n")],
        {"g": weights(4), "v": np.abs(weights(4))}, "'n'.*training",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BETWEEN)
def test_a_form_that_we_do_not_have_is_named_with_its_node_and_reason(case):
    nodes, constants, message = BETWEEN[case]
    with pytest.raises(UnsupportedOperator, match=message) as refusal:
        read(between_convolutions(nodes, constants))
    assert "\n" not in str(refusal.value)


def test_all_unsupported_operators_are_named_at_once():
    nodes = [
        node("LRN", ["a"], ["l"], size=3, name="first"),
        node("Softmax", ["a"], ["s"], axis=1, name="second"),
        node("Conv", ["s", "w"], ["c"], name="behind"),
        node("Mod", ["a", "x"], ["m"], name="third", fmod=1),
        node("Sum", ["l", "c", "m"], ["b"], name="lost"),
    ]
    with pytest.raises(UnsupportedOperator) as refusal:
        read(between_convolutions(nodes, {"w": weights(4, 4, 1, 1)}))
    message = str(refusal.value)
    assert message.startswith("3 operators are not supported")
    for words in (
        "'first' (LRN)",
        "'second' (Softmax)",
        "'behind' (Conv) follows",
        "'third' (Mod)",
    ):
        assert words in message
    assert "lost" not in message


def test_a_nameless_node_is_named_by_its_output():
    with pytest.raises(UnsupportedOperator, match="node 'b'"):
        read(between_convolutions([node("LRN", ["a"], ["b"], size=3)]))


def test_a_network_without_a_convolution_is_refused():
    with pytest.raises(BadModel, match="no convolution"):
        read(model([node("GlobalAveragePool", ["x"], ["y"])]))


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        ([CONV], {"w": weights(3, 5, 1, 1)}, r"'conv' \(Conv\) has weights for 5 .*has 4"),
        (
            [node("Conv", ["x", "w"], ["y"], name="conv", group=4)],
            {"w": weights(3, 1, 1, 1)},
            r"'conv' \(Conv\) has 3 filters, not divisible by 4 groups",
        ),
        (
            [node("Conv", ["x", "w", "c"], ["y"], name="conv")],
            {**FILTERS, "c": weights(2)},
            "'conv'.* 2 bias values for 3",
        ),
        (
            [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "m"], ["y"], name="head")],
            {"m": weights(99, 3)},
            "'head'.*99",
        ),
        ([node("Add", ["x", "w"], ["y"], name="sum")], {"w": weights(9, 1, 3)}, "'sum'.*not fit"),
    ],
)
def test_sizes_that_do_not_fit_are_named_with_their_node(nodes, constants, message):
    with pytest.raises(BadModel, match=message):
        read(model(nodes, constants))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(value):
    filters = weights(3, 4, 1, 1)
    filters[1, 2] = value
    what = "NaN" if np.isnan(value) else "an infinite value"
    with pytest.raises(BadModel, match=f"tensor 'w' of node 'conv' .*{what}"):
        read(model([CONV], {"w": filters}))


def test_an_infinite_bound_is_no_damage():
    nodes = [node("Clip", ["a", "low", "high"], ["b"])]
    constants = {"low": np.float32(0), "high": np.float32(np.inf)}
    network = assert_computes_the_same(between_convolutions(nodes, constants))
    assert network.nodes[0].high == np.inf


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 7), "four axes"),
        ((1, "c", 7, 5), "fixed number of channels"),
    ],
)
def test_an_input_that_is_no_map_is_refused(shape, message):
    with pytest.raises(BadModel, match=f"input 'x' .*{message}"):
        read(model([CONV], FILTERS, shape=shape))


def test_an_input_of_another_type_is_refused():
    proto = model([CONV], FILTERS)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    with pytest.raises(BadModel, match="input 'x' must be float32, got uint8"):
        read(proto)


def test_an_output_that_is_the_input_is_refused():
    proto = model([CONV, node("Softmax", ["x"], ["z"])], FILTERS, outputs=("y", "z"))
    with pytest.raises(UnsupportedOperator, match=r"'z' \(Softmax\).*reads the input 'x'"):
        read(proto)


@pytest.mark.parametrize("batch", [0, "n", 3])
def test_any_batch_becomes_one(batch):
    network = read(model([CONV], FILTERS, shape=(batch, 4, 7, 5)))
    assert network.shapes["y"] == (7, 5, 3)


def test_a_batch_that_a_reshape_fixes_is_refused():
    nodes = [CONV, node("Reshape", ["y", "to"], ["z"], name="flat")]
    proto = model(nodes, {**FILTERS, "to": integers(3, -1)}, shape=(3, 4, 7, 5), outputs=("z",))
    with pytest.raises(BadModel, match=r"'flat' \(Reshape\) fixes the batch to 3"):
        read(proto)


def test_dynamic_sizes_take_the_default_and_say_so_or_the_given_size():
    proto = model([CONV], FILTERS, shape=(1, 4, "h", "w"))
    network = read(proto)
    assert network.shapes["x"] == (224, 224, 4)
    assert "--size" in network.notes[0]
    chosen = read(proto, size=(9, 11))
    assert (chosen.shapes["x"], chosen.notes) == ((9, 11, 4), ())


def test_a_given_size_overrides_a_static_one():
    assert read(model([CONV], FILTERS), size=(9, 11)).shapes["y"] == (9, 11, 3)


def head(form: str) -> onnx.ModelProto:
    """A network whose head fits 7 x 5 maps only."""
    nodes = {
        "Gemm": [node("Flatten", ["y"], ["f"]), node("Gemm", ["f", "m"], ["z"], name="head")],
        "Reshape": [
            node("Reshape", ["y", "to"], ["f"], name="head"), node("MatMul", ["f", "m"], ["z"]),
        ],
    }[form]  # fmt: skip
    constants = {**FILTERS, "m": weights(105, 2), "to": integers(1, 105)}
    return model([CONV, *nodes], constants, outputs=("z",))


@pytest.mark.parametrize("form", ["Gemm", "Reshape"])
def test_a_size_that_a_node_cannot_take_is_refused_by_that_nodes_name(form):
    assert_computes_the_same(head(form))
    with pytest.raises(BadModel, match="'head'"):
        read(head(form), size=(9, 11))


def test_a_default_size_that_does_not_fit_asks_for_the_networks_own():
    proto = head("Reshape")
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "n"
    with pytest.raises(BadModel, match=r"'head'.*own size is needed \(--size HxW\)"):
        read(proto)
    assert read(proto, size=(7, 5)).outputs == ("z",)


def test_a_size_without_extent_is_refused():
    with pytest.raises(BadArgument, match="height and a width"):
        read(model([CONV], FILTERS), size=(0, 5))


def test_a_size_smaller_than_a_kernel_is_refused():
    proto = model([CONV], {"w": weights(3, 4, 5, 5)})
    with pytest.raises(BadModel, match="conv"):
        read(proto, size=(3, 3))


def test_a_size_that_shape_inference_rounds_up_to_one_place_is_refused():
    # (1 + 1 - 3) / 2 + 1 is 1 in ONNX's shape inference, which rounds towards zero.
    layers = [
        node("Conv", ["x", "w"], ["a"], name="first"),
        node("Conv", ["a", "v"], ["y"], name="second", strides=[2, 2], pads=[0, 0, 1, 1]),
    ]
    constants = {"w": weights(4, 3, 3, 3), "v": weights(4, 4, 3, 3)}
    proto = model(layers, constants, shape=(1, 3, 9, 9))
    read(proto)
    with pytest.raises(BadModel, match=r"'second'.*3x3 over a padded map of 2x2"):
        read(proto, size=(3, 3))


def test_a_file_is_read_and_its_name_leads_every_message(tmp_path):
    path = tmp_path / "network.onnx"
    onnx.save(model([CONV], FILTERS), path)
    assert read(path).outputs == ("y",)
    onnx.save(model([CONV], {"w": weights(3, 5, 1, 1)}), path)
    with pytest.raises(BadModel, match=r"network\.onnx: node 'conv'"):
        read(str(path))


def test_what_is_no_file_is_refused_in_one_sentence(tmp_path):
    empty, text, cut = (tmp_path / name for name in ("empty.onnx", "text.onnx", "cut.onnx"))
    empty.touch()
    text.write_text("this is not a network")
    cut.write_bytes(model([CONV], FILTERS).SerializeToString()[:-9])
    nodeless = tmp_path / "nodeless.onnx"
    nodeless.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    for path, words in [
        (tmp_path / "absent.onnx", "does not exist"),
        (tmp_path, "is a directory"),
        (empty, "is empty"),
        (text, "not an ONNX file"),
        (cut, "not an ONNX file"),
        (nodeless, "no nodes"),
    ]:
        with pytest.raises(BadModel, match=words) as refusal:
            read_model(path)
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_weights_in_another_file_are_read_and_missed(tmp_path):
    path = tmp_path / "network.onnx"
    proto = model([CONV], {"w": weights(300, 4, 1, 1)})
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert read(path).nodes[0].operator.weights.shape == (300, 4, 1, 1)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(BadModel, match=r"network\.onnx.*missing"):
        read(path)


def test_initialisers_listed_as_inputs_are_no_inputs():
    proto = model([CONV], FILTERS, opset=9)
    proto.graph.input.append(
        onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [3, 4, 1, 1])
    )
    assert read(proto).inputs == ("x",)


def test_two_inputs_become_two_maps():
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Concat", ["c", "z"], ["k"], axis=1),
        node("Conv", ["k", "v"], ["y"]),
    ]
    proto = model(nodes, {"w": weights(3, 4, 1, 1), "v": weights(2, 5, 1, 1)})
    proto.graph.input.append(
        onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 2, 7, 5])
    )
    network = read(proto)
    assert network.inputs == ("x", "z")
    assert network.shapes["z"] == (7, 5, 2)


def test_chains_of_shapes_fold_to_constants():
    nodes = [
        CONV,
        node("Shape", ["y"], ["s"]),
        node("Gather", ["s", "first"], ["g"], axis=0),
        node("Unsqueeze", ["g", "at"], ["u"]),
        node("Concat", ["u", "rest"], ["to"], axis=0),
        node("Reshape", ["y", "to"], ["z"]),
    ]
    constants = {
        **FILTERS, "first": np.array(0), "at": integers(0), "rest": integers(-1),
    }  # fmt: skip
    network = assert_computes_the_same(model(nodes, constants, outputs=("z",)))
    assert [item.op_type for item in network.tail.nodes] == ["Reshape"]


def test_functions_inside_the_file_are_unfolded():
    proto = model([node("Twice", ["x", "w"], ["y"], domain="ours")], {"w": weights(4, 4, 1, 1)})
    body = [node("Conv", ["p", "q"], ["r"]), node("Conv", ["r", "q"], ["t"])]
    opset = [onnx.helper.make_opsetid("", 18)]
    proto.functions.append(
        onnx.helper.make_function("ours", "Twice", ["p", "q"], ["t"], body, opset)
    )
    proto.opset_import.append(onnx.helper.make_opsetid("ours", 1))
    network = assert_computes_the_same(proto)
    assert len(network.nodes) == 2


def test_what_is_not_valid_onnx_is_refused_in_one_sentence():
    cycle = model([node("Conv", ["z", "w"], ["y"]), node("Relu", ["y"], ["z"])], FILTERS)
    short = model([CONV], FILTERS)
    short.graph.initializer[0].raw_data = short.graph.initializer[0].raw_data[:-4]
    headless = model([node("MaxPool", ["x"], ["y"], name="pool")])
    for proto in (cycle, short, headless):
        with pytest.raises(BadModel, match=r"valid ONNX|damaged") as refusal:
            read(proto)
        assert "\n" not in str(refusal.value)


def test_batch_norm_with_an_impossible_variance_or_length_is_named():
    middle = [node("BatchNormalization", ["a", *"ggg", "v"], ["b"], name="norm")]
    negative = {"g": weights(4), "v": np.float32([1, -1, 1, 1])}
    with pytest.raises(BadModel, match=r"'norm'.*variance that is not positive: -1"):
        read(between_convolutions(middle, negative))
    with pytest.raises(BadModel, match="'norm'"):
        read(between_convolutions(middle, {"g": weights(4), "v": np.float32([1, 1, 1])}))


def every_kind_of_node() -> onnx.ModelProto:
    middle = [
        node("Pad", ["a", "pads"], ["p"]),
        node("AveragePool", ["p"], ["v"], kernel_shape=[2, 2], strides=[1, 1], pads=[0, 1, 1, 0]),
        node("ConvTranspose", ["v", "up"], ["t"], strides=[2, 2], group=2),
        node("Split", ["t", "sizes"], ["l", "r"], axis=1),
        node("LeakyRelu", ["l"], ["k"], alpha=0.5),
        node("Clip", ["r", "low"], ["q"]),
        node("Concat", ["k", "q"], ["c"], axis=1),
        node("Resize", ["c", "", "scales"], ["b"], mode="linear"),
    ]
    constants = {
        "pads": integers(0, 0, 1, 1, 0, 0, 1, 1), "up": weights(4, 2, 2, 2),
        "sizes": integers(1, 3), "low": np.float32(0), "scales": np.float32([1, 1, 2, 2]),
    }  # fmt: skip
    return between_convolutions(middle, constants)


def damaged(proto: onnx.ModelProto) -> list[onnx.ModelProto]:
    """Copies in which one attribute or input is missing, or one number is another."""
    copies = []

    def copy(place: int) -> onnx.NodeProto:
        copies.append(onnx.ModelProto())
        copies[-1].CopyFrom(proto)
        return copies[-1].graph.node[place]

    for place, item in enumerate(proto.graph.node):
        for index in range(len(item.input)):
            del copy(place).input[index]
        for index, attribute in enumerate(item.attribute):
            del copy(place).attribute[index]
            for value in (-1, 0, 3, 2**40):
                if attribute.ints:
                    copy(place).attribute[index].ints[-1] = value
                elif attribute.i:
                    copy(place).attribute[index].i = value
    return copies


def test_any_single_damage_is_read_or_refused_but_never_crashes():
    outcomes = []
    for proto in damaged(every_kind_of_node()):
        try:
            outcomes.append(len(read(proto).nodes) > 0)
        except BadModel:
            outcomes.append(False)
    assert any(outcomes)
    assert not all(outcomes)
