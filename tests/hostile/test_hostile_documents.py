# SPDX-License-Identifier: Apache-2.0
"""Hostile documents inside of .thin files whose bytes are in order: each is refused by name.

Every case is one edit of a good file, sealed again, and a part of the sentence that refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import Arrays, Document, edited, refusal, small_model, wide_model
from small_networks import every_operator


def node(document: Document, kind: str) -> Document:
    return next(n for n in document["source"]["nodes"] if n["operator"]["id"] == kind)


def set_at(*path: Any, to: Any) -> Callable[[Document, Arrays], None]:
    """An edit that puts `to` at a place of the document."""

    def change(document: Document, arrays: Arrays) -> None:
        inner: Any = document
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return change


def operator(kind: str, name: str, to: Any) -> Callable[[Document, Arrays], None]:
    def change(document: Document, arrays: Arrays) -> None:
        node(document, kind)["operator"][name] = to

    return change


def coded(name: str, to: Any) -> Callable[[Document, Arrays], None]:
    def change(document: Document, arrays: Arrays) -> None:
        node(document, "coded_conv")["operator"]["filters"][name] = to

    return change


def tensor(suffix: str, make: Callable[[np.ndarray], np.ndarray]) -> Callable[..., None]:
    """An edit of the first tensor whose name ends so."""

    def change(document: Document, arrays: Arrays) -> None:
        name = next(name for name in sorted(arrays) if name.endswith(suffix))
        arrays[name] = make(arrays[name])

    return change


def filled(value: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.full_like(array, value)


def as_encode(document: Document, arrays: Arrays) -> None:
    pool = node(document, "max_pool")
    pool["operator"] = {"id": "encode", "unit_rows": 1, "halo_rows": 0}


def other_channels(document: Document, arrays: Arrays) -> None:
    for name in ("step", "zero_code"):
        arrays[f"codecs/conv_1:0/{name}"] = arrays[f"codecs/conv_1:0/{name}"][:5].copy()


def cyclic(document: Document, arrays: Arrays) -> None:
    nodes = document["source"]["nodes"]
    nodes[1]["inputs"] = [nodes[3]["output"]]


def drop_tensor(document: Document, arrays: Arrays) -> None:
    del arrays["steps"]


def extra_tensor(document: Document, arrays: Arrays) -> None:
    arrays["more"] = np.zeros(3, np.uint8)


def borrowed_tensor(document: Document, arrays: Arrays) -> None:
    node(document, "conv")["operator"]["weights"] = "steps"


def smaller_ring(document: Document, arrays: Arrays) -> None:
    tallest = max(document["buffers"], key=lambda b: b["slots"])
    tallest["slots"] -= 1


def buffer(name: str, to: int) -> Callable[[Document, Arrays], None]:
    return set_at("buffers", 0, name, to=to)


def place(name: str, to: int) -> Callable[[Document, Arrays], None]:
    def change(document: Document, arrays: Arrays) -> None:
        next(iter(document["places"].values()))[name] = to

    return change


def picture_height(to: Any) -> Callable[[Document, Arrays], None]:
    return set_at("source", "maps", "picture", "height", to=to)


def window(**fields: Any) -> Document:
    """A 3 x 3 window as the document holds it, with other fields."""
    plain = {"kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1], "pads": [1, 1, 1, 1]}
    return plain | fields


DOCUMENTS: dict[str, tuple[Callable[[Document, Arrays], None], str]] = {
    "no format": (lambda d, a: d.pop("format"), "needs a format version"),
    "a format that is a text": (set_at("format", to="1"), "needs a format version"),
    "a missing key": (lambda d, a: d.pop("tail"), "'tail' is missing"),
    "an unknown key": (set_at("extra", to=1), "'extra' is unknown"),
    "an unknown key inside": (operator("conv", "speed", 1), "'speed' is unknown"),
    "an unknown operator": (operator("conv", "id", "quantum"), "got 'quantum'"),
    "an operator of a plan": (as_encode, "encode"),
    "an unknown codec": (set_at("codecs", "conv_1:0", "id", to="zip"), "no codec 'zip'"),
    "true for a number": (set_at("arena_bytes", to=True), "a whole number"),
    "a fraction for a number": (set_at("arena_bytes", to=4096.0), "a whole number"),
    "a number beyond all": (set_at("arena_bytes", to=1 << 70), "a whole number"),
    "a text for a list": (set_at("segments", to="0000"), "a list is needed"),
    "a text for a fraction": (
        set_at("source", "maps", "conv_1:0", "scale", to="1"),
        "a finite number",
    ),
    "a number for a text": (set_at("source", "nodes", 0, "name", to=7), "a text is needed"),
    "a number for a noun": (set_at("tail", to=7), "the fields of a Tail"),
    "a number for an operator": (set_at("source", "nodes", 0, "operator", to=7), "with an id"),
    "a list for names": (set_at("places", to=[]), "an object is needed"),
    "a pair of one": (operator("conv", "window", window(stride=[1])), "a list of 2"),
    "a number for a truth": (
        lambda d, a: node(d, "max_pool").update(
            operator={
                "id": "average_pool",
                "window": window(),
                "count_include_pad": 1,
                "multiplier": "x",
            }
        ),
        "true or false",
    ),
    "a scale between two floats": (
        set_at("source", "maps", "conv_1:0", "scale", to=0.1),
        "a scale that float32 holds",
    ),
    "a map of absurd bytes": (
        lambda d, a: d["source"]["maps"]["picture"].update(width=1 << 20, channels=1 << 20),
        "is too large",
    ),
    "a constant of the tail that is bytes": (
        tensor("shift", lambda c: c.astype(np.uint8)),
        "is float32 or int64",
    ),
    "a tail that grows without end": (
        lambda d, a: d["tail"]["nodes"].append(
            {
                "op_type": "Expand",
                "inputs": ["shift"],
                "outputs": ["large"],
                "attributes": {"shape": [1 << 26, 7]},
            }
        ),
        "elements",
    ),
    "an infinite scale": (set_at("source", "maps", "picture", "scale", to=1e999), "is no number"),
    "nested options": (set_at("provenance", "options", to={"a": [[[[[[[[[1]]]]]]]]]}), "nested"),
    "a picture of 2**31 rows": (picture_height(2**31), "may be 1048576 long"),
    "a picture of no rows": (picture_height(0), "sizes of at least 1"),
    "a picture of -1 rows": (picture_height(-1), "sizes of at least 1"),
    "another picture": (picture_height(17), "height and width must be"),
    "a scale of 0": (set_at("source", "maps", "conv_1:0", "scale", to=0), "positive and finite"),
    "a zero point of 256": (
        set_at("source", "maps", "conv_1:0", "zero_point", to=256),
        "lies in 0..255",
    ),
    "a missing tensor": (drop_tensor, "the tensor 'steps' is missing"),
    "one tensor too many": (extra_tensor, "the tensor 'more' belongs to nothing"),
    "a tensor used twice": (borrowed_tensor, "the tensor's name"),
    "weights of another dtype": (
        tensor("weights", lambda w: w.astype(np.uint8)),
        "must be int8, got uint8",
    ),
    "weights of another shape": (tensor("weights", np.ravel), "weights (k c r s) must be"),
    "a bias too few": (tensor("bias", lambda b: b[:-1]), "bias must be"),
    "a NaN multiplier": (tensor("multiplier", filled(np.nan)), "not finite"),
    "an infinite multiplier": (tensor("multiplier", filled(np.inf)), "not finite"),
    "a negative multiplier": (tensor("multiplier", filled(-1)), "not negative"),
    "a sum beyond int32": (tensor("bias", filled(2**31 - 1)), "which int32 does not hold"),
    "the least bias": (tensor("bias", filled(-(2**31))), "which int32 does not hold"),
    "a table too short": (tensor("table", lambda t: t[:, :255].copy()), "table must be"),
    "groups of 0": (operator("conv", "groups", 0), "0 groups do not divide"),
    "groups that do not divide": (operator("conv", "groups", 7), "7 groups do not divide"),
    "a stride of 0": (operator("conv", "window", window(stride=[0, 1])), "a stride lies in"),
    "a pad of -1": (operator("conv", "window", window(pads=[-1, 0, 0, 0])), "a pad lies in"),
    "a dilation of 2**31": (
        operator("conv", "window", window(dilation=[2**31, 1])),
        "a dilation lies in",
    ),
    "a pool that is all padding": (
        operator("max_pool", "window", window(kernel=[2, 2], stride=[3, 2], pads=[3, 0, 0, 0])),
        "a window holds no element",
    ),
    "a source channel outside": (operator("picture", "source", [0, 1, 3]), "a source channel lies"),
    "a clamp upside down": (operator("conv", "low", 256), "a clamp needs"),
    "a cyclic network": (cyclic, "which nothing makes before it"),
    "a map made twice": (
        lambda d, a: d["source"]["nodes"][2].update(output="conv_1:0"),
        "which exists already",
    ),
    "an output of nothing": (set_at("source", "outputs", to=["absent"]), "is made by no node"),
    "an output given twice": (
        lambda d, a: d["source"]["outputs"].append(d["source"]["outputs"][0]),
        "stands twice among",
    ),
    "an output that is an input": (
        set_at("source", "outputs", to=["picture"]),
        "does not read exactly",
    ),
    "no nodes": (set_at("source", "nodes", to=[]), "is made by no node"),
    "a tail of unknown operators": (
        set_at("tail", "nodes", 0, "op_type", to="Print"),
        "'Print' is unknown",
    ),
    "a tail that reads ahead": (
        set_at("tail", "nodes", 0, "inputs", to=["probabilities", "shift"]),
        "made by nothing yet",
    ),
    "a tail that does not fit": (tensor("shift", lambda c: c[:3]), "does not fit its inputs"),
    "a tail on another axis": (
        set_at("tail", "nodes", 1, "attributes", "axes", to=[9]),
        "does not fit its inputs",
    ),
    "a tail of other parameters": (
        set_at("tail", "nodes", 1, "attributes", to={"depth": 3}),
        "does not fit its inputs",
    ),
    "a tail without an output": (set_at("tail", "outputs", to=["absent"]), "made by nothing"),
    "a tail of another shape": (
        lambda d, a: d["tail"]["input_shapes"].update({d["source"]["outputs"][0]: [1, 8]}),
        "the tail reads",
    ),
    "a tail without inputs": (set_at("tail", "input_shapes", to={}), "does not read exactly"),
    "no deviation": (set_at("preprocessing", "std", to=[0.1, 0, 0.1]), "must be positive"),
    "another order": (set_at("preprocessing", "order", to="gbr"), "one of 'rgb', 'bgr'"),
    "a codec on nothing": (
        lambda d, a: d["codecs"].update(absent=d["codecs"]["conv_2:0"]),
        "which there is not",
    ),
    "a codec of 9 bits": (set_at("codecs", "conv_1:0", "bits", to=9), "an integer in 1..7"),
    "a codec of no rows": (
        set_at("codecs", "conv_2:0", "unit_rows", to=0),
        "needs unit_rows to be an integer",
    ),
    "a codec for other channels": (other_channels, "tables for 5 channels"),
    "no steps": (tensor("steps", lambda s: s[:0]), "the steps do 0"),
    "a missing step": (
        tensor("steps", lambda s: np.delete(s, 5, axis=0)),
        "starts at work row 2; the next one is 1",
    ),
    "a step done twice": (
        tensor("steps", lambda s: np.insert(s, 5, s[4], axis=0)),
        "starts at work row 2; the next one is 4",
    ),
    "a premature step": (
        tensor("steps", lambda s: s[::-1].copy()),
        "starts at work row 14; the next one is 0",
    ),
    "a step of an unknown node": (tensor("steps", filled(99)), "a node outside of 0..10"),
    "a step of a negative node": (tensor("steps", filled(-1)), "a node outside of 0..10"),
    "a step of huge rows": (tensor("steps", filled(2**31 - 1)), "a node outside of 0..10"),
    "steps of two columns": (tensor("steps", lambda s: s[:, :2].copy()), "three columns"),
    "steps of another dtype": (tensor("steps", lambda s: s.astype(np.int64)), "must be int32"),
    "a ring that is too small": (smaller_ring, "is written over entry"),
    "a buffer beyond the arena": (buffer("offset", 1 << 30), "outside of the arena's"),
    "a buffer before the arena": (buffer("offset", -64), "not a multiple of 64"),
    "a buffer of no slots": (buffer("slots", 0), "cannot have 0 slots"),
    "a buffer of negative slots": (buffer("slots", -4), "cannot have -4 slots"),
    "a buffer of huge slots": (buffer("slot_bytes", (1 << 40) - 1), "outside of the arena's"),
    "a buffer that is not aligned": (buffer("offset", 1), "not a multiple of 64"),
    "all buffers in one place": (
        lambda d, a: [b.update(offset=0) for b in d["buffers"]],
        "share bytes that live at once",
    ),
    "a place in no buffer": (place("buffer", 99), "lies in buffer 99"),
    "a place in a negative buffer": (place("buffer", -1), "lies in buffer -1"),
    "a place outside of its pixel": (place("channel", 1 << 20), "does not fit its place"),
    "a place of huge pixels": (place("pixel_bytes", 1 << 30), "does not fit its place"),
    "a place of other units": (place("unit_rows", 1000), "has units of 1 rows, not 1000"),
    "no places": (set_at("places", to={}), "needs one and has none"),
    "a place for nothing": (
        set_at(
            "places", "absent", to={"buffer": 0, "channel": 0, "pixel_bytes": 8, "unit_rows": 1}
        ),
        "has a place and needs none",
    ),
    "no states": (set_at("states", to={}), "has running sums and needs none"),
    "a state in no buffer": (
        lambda d, a: d["states"].update(dict.fromkeys(d["states"], 99)),
        "running sums share a buffer",
    ),
    "a state of nothing": (set_at("states", "absent", to=0), "has running sums and needs none"),
    "an arena of 0": (set_at("arena_bytes", to=0), "outside of the arena's 0"),
    "an arena of -1": (set_at("arena_bytes", to=-1), "an arena of -1 bytes"),
    "segments of fewer nodes": (set_at("segments", to=[0]), "nodes need as many segments"),
    "an unknown schedule": (set_at("schedule", to="sideways"), "a schedule is one of"),
    "stripes of no rows": (set_at("stripe_rows", to=0), "at least 1 row"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_hostile_document_is_refused(name: str, tmp_path: Path) -> None:
    change, sentence = DOCUMENTS[name]
    assert sentence in refusal(tmp_path / "a.thin", edited(small_model(), change))


@pytest.mark.parametrize("index", range(len(every_operator().nodes)))
@pytest.mark.parametrize("count", ["none", "twice as many"])
def test_an_operator_with_another_number_of_inputs_is_refused(
    index: int, count: str, tmp_path: Path
) -> None:
    def change(document: Document, arrays: Arrays) -> None:
        changed = document["source"]["nodes"][index]
        changed["inputs"] = [] if count == "none" else changed["inputs"] * 2

    refusal(tmp_path / "a.thin", edited(wide_model(), change))


WIDE: dict[str, tuple[Callable[[Document, Arrays], None], str]] = {
    "a resize beyond its map": (tensor("operator/rows", lambda t: t + 9), "rows lie in"),
    "a resize before its map": (tensor("operator/columns", lambda t: t - 1), "columns lie in"),
    "a resize that turns back": (
        tensor("operator/rows", lambda t: t[::-1].copy()),
        "rows must ascend",
    ),
    "a resize of other weights": (tensor("row_weight", filled(2049)), "weights lies in"),
    "codes that there are not": (coded("codes", [0, 16, 5]), "a code lies in 0..15, got 16"),
    "no codes": (coded("codes", []), "the number of codes lies in 1..9, got 0"),
    "more codes than make all filters": (
        coded("codes", [0] * 10),
        "the number of codes lies in 1..9, got 10",
    ),
    "another reduction of codes": (coded("reduction", "stride"), "one of 'crop', 'average'"),
    "fewer coefficients": (
        tensor("coefficients", lambda c: c[:, :, :2].copy()),
        "coefficients must be ('int8', (4, 4, 3)), got",
    ),
    "coefficients of bytes": (
        tensor("coefficients", lambda c: c.astype(np.uint8)),
        "must be int8, got uint8",
    ),
    "a shift of 5": (tensor("shift", filled(5)), "a shift lies in 0..4, got 5"),
    "a shift too few": (tensor("shift", lambda s: s[:-1].copy()), "shift must be"),
    "codes of another kernel": (
        operator("coded_conv", "window", window(kernel=[3, 1])),
        "the kernel must be (3, 3), got (3, 1)",
    ),
    "codes for groups of 1": (operator("coded_conv", "groups", 4), "come in fours, not 1"),
    "a slice outside of its map": (operator("slice", "row", 11), "leaves an axis"),
    "a slice that runs backwards": (operator("slice", "row_step", -1), "leaves an axis"),
    "a slice before its map": (operator("slice", "channel", -1), "leaves an axis"),
    "a border that does not fit": (operator("pad", "top", 9), "leaves an axis"),
    "a border of 256": (operator("pad", "value", 256), "the value lies in"),
    "a block of 0": (operator("depth_to_space", "block", 0), "the block lies in"),
    "a block of 3": (operator("depth_to_space", "block", 3), "the input's h w c"),
    "another mode": (operator("depth_to_space", "mode", "XYZ"), "one of 'DCR', 'CRD'"),
    "a concatenation of one less": (
        lambda d, a: node(d, "concat")["inputs"].pop(),
        "channels must be",
    ),
    "a sum of three": (
        lambda d, a: node(d, "add")["inputs"].append(node(d, "add")["inputs"][0]),
        "the number of inputs",
    ),
    "a product with itself turned": (
        lambda d, a: node(d, "mul")["inputs"].reverse(),
        "does not fit",
    ),
    "a convolution of the picture": (
        lambda d, a: node(d, "conv").update(inputs=["picture"]),
        "reads a map that a node makes",
    ),
    "a head in the middle": (
        lambda d, a: d["source"]["maps"]["add_4:0"].update(dtype="float32"),
        "which only a head may",
    ),
    "an average of other divisors": (
        lambda d, a: a.update(
            {n: x[:-1] for n, x in a.items() if x.shape == (10,) and "multiplier" in n}
        ),
        "multiplier must be",
    ),
    "a transposed convolution of nothing": (
        lambda d, a: node(d, "conv_transpose").update(inputs=[]),
        "the number of inputs must be 1",
    ),
    "a transposed convolution of another size": (
        lambda d, a: d["source"]["maps"]["conv_transpose_18:0"].update(height=99),
        "the output's height or width lies in",
    ),
    "a mean of another size": (
        lambda d, a: d["source"]["maps"]["mean_5:0"].update(width=2),
        "the output's h w c",
    ),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_hostile_operator_is_refused(name: str, tmp_path: Path) -> None:
    change, sentence = WIDE[name]
    assert sentence in refusal(tmp_path / "a.thin", edited(wide_model(), change))
