# SPDX-License-Identifier: Apache-2.0
"""Sensitivities: every operator's gradient against differences, and what the figures mean."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from onnx_models import between_convolutions, model, node, session, weights
from run_float import compute

from thinmaps.calibrate.gradient_graph import gradient_graph
from thinmaps.calibrate.sensitivity import (
    Block,
    Probe,
    felt,
    moments,
    of_maps,
    random_signs,
    sensitivities,
)
from thinmaps.calibrate.sensitivity_proxy import weights_only_proxy
from thinmaps.errors import BadArgument, BadModel
from thinmaps.graph.float_network import FloatNetwork
from thinmaps.graph.onnx_reader import normalise
from thinmaps.graph.quantise import quantise
from thinmaps.graph.scales import Range


def real_maps(network: FloatNetwork, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every map that follows from the given ones, h w c in float64."""
    maps = dict(given)
    for each in network.nodes:
        if each.output not in given and all(name in maps for name in each.inputs):
            inputs = [maps[name] for name in each.inputs]
            made = compute(each.operator, inputs, network.shapes[each.output])
            maps[each.output] = np.clip(made, each.low, each.high)
    return maps


def behind(network: FloatNetwork, name: str) -> set[str]:
    """The maps that depend on a map."""
    found = {name}
    for each in network.nodes:
        if found & set(each.inputs):
            found.add(each.output)
    return found - {name}


def differences(network: FloatNetwork, maps, name: str, projection) -> np.ndarray:
    """Central differences of the projected outputs by every element of a map, h w c.

    The network is piecewise smooth; with steps of 2^-17 in float64 neither kinks nor rounding
    matter at 1e-4.
    """
    moving = behind(network, name)
    still = {key: values for key, values in maps.items() if key not in moving}
    step = 2.0**-17
    gradient = np.zeros(maps[name].shape)

    def projected(values: np.ndarray) -> float:
        moved = real_maps(network, {**still, name: values})
        return sum(float((moved[key] * v).sum()) for key, v in projection.items())

    for place in np.ndindex(*gradient.shape):
        values = maps[name].copy()
        values[place] += step
        above = projected(values)
        values[place] -= 2 * step
        gradient[place] = (above - projected(values)) / (2 * step)
    return gradient


def assert_gradients(proto) -> None:
    """Gradients of every map equal central differences."""
    network, _ = normalise(proto)
    graph = gradient_graph(network, batch=2)
    names = list(graph.gradients)
    assert set(names) == set(network.shapes)
    rng = np.random.default_rng(7)
    pictures = {
        name: rng.normal(size=network.shapes[name]).astype(np.float32) for name in network.inputs
    }
    signs = random_signs(network, graph, rng)
    feed = {graph.pictures[name]: x.transpose(2, 0, 1)[None] for name, x in pictures.items()}
    judge = session(graph.writer.model([graph.gradients[name] for name in names]))
    found = dict(zip(names, judge.run(None, {**feed, **signs}), strict=True))
    maps = real_maps(network, {name: x.astype(np.float64) for name, x in pictures.items()})
    for turn in range(2):
        projection = {
            name: signs[graph.projections[name]][turn].transpose(1, 2, 0)
            for name in network.outputs
        }
        for name in names:
            expected = differences(network, maps, name, projection)
            ours = found[name][turn].transpose(1, 2, 0)
            worst = np.abs(ours - expected).max()
            assert worst <= 1e-3 * np.abs(expected).max() + 1e-7, (name, turn, worst)


def unary(op_type: str, **attributes):
    return [node(op_type, ["a"], ["b"], **attributes)], {}


MIDDLES = {
    "relu": unary("Relu"),
    "clip": ([node("Clip", ["a", "low", "high"], ["b"])], {"low": -0.5, "high": 0.7}),
    "leaky_relu": unary("LeakyRelu", alpha=0.2),
    "prelu": ([node("PRelu", ["a", "slope"], ["b"])], {"slope": weights(4, 1, 1)}),
    "larger_line": (
        [
            node("Mul", ["a", "slope"], ["p"]),
            node("Add", ["p", "shift"], ["q"]),
            node("Neg", ["a"], ["r"]),
            node("Min", ["q", "r"], ["b"]),
        ],
        {"slope": weights(4, 1, 1), "shift": weights(4, 1, 1, seed=3)},
    ),
    "sigmoid": unary("Sigmoid"),
    "tanh": unary("Tanh"),
    "hard_sigmoid": unary("HardSigmoid", alpha=0.3, beta=0.4),
    "hard_swish": unary("HardSwish"),
    "elu": unary("Elu", alpha=0.6),
    "softplus": unary("Softplus"),
    "erf": unary("Erf"),
    "exp": unary("Exp"),
    "abs": unary("Abs"),
    "silu": (
        [node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["b"])],
        {},
    ),
    "gelu": (
        [
            node("Div", ["a", "root"], ["t"]),
            node("Erf", ["t"], ["e"]),
            node("Add", ["e", "one"], ["f"]),
            node("Mul", ["a", "f"], ["g"]),
            node("Mul", ["g", "half"], ["b"]),
        ],
        {"root": 1.4142135, "one": 1.0, "half": 0.5},
    ),
    "batch_norm": (
        [node("Relu", ["a"], ["t"]), node("BatchNormalization", ["t", "s", "h", "m", "v"], ["b"])],
        {"s": weights(4), "h": weights(4, seed=3), "m": weights(4, seed=4), "v": np.full(4, 2.0)},
    ),
    "convolution": (
        [node("Conv", ["a", "w", "h"], ["b"], pads=[1, 2, 0, 1], strides=[2, 1], dilations=[1, 2])],
        {"w": weights(4, 4, 3, 2), "h": weights(4)},
    ),
    "strided with a rest": (
        [node("Conv", ["a", "w"], ["b"], strides=[3, 2], group=2)],
        {"w": weights(4, 2, 2, 2)},
    ),
    "depthwise": (
        [node("Conv", ["a", "w"], ["b"], pads=[1, 1, 1, 1], group=4)],
        {"w": weights(4, 1, 3, 3)},
    ),
    "wide pads": ([node("Conv", ["a", "w"], ["b"], pads=[3, 2, 3, 2])], {"w": weights(4, 4, 2, 2)}),
    "transposed": (
        [
            node(
                "ConvTranspose", ["a", "w", "h"], ["b"],
                strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 1], group=2,
            )
        ],
        {"w": weights(4, 2, 3, 3), "h": weights(4)},
    ),
    "max_pool": unary("MaxPool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "max_pool rounding up": unary("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "average_pool": unary("AveragePool", kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1]),
    "average_pool with pads counted": unary(
        "AveragePool", kernel_shape=[2, 2], strides=[2, 2], count_include_pad=1, ceil_mode=1
    ),
    "squeeze and excite": (
        [
            node("GlobalAveragePool", ["a"], ["m"]),
            node("Conv", ["m", "w"], ["t"]),
            node("Sigmoid", ["t"], ["s"]),
            node("Mul", ["a", "s"], ["b"]),
        ],
        {"w": weights(4, 4, 1, 1)},
    ),
    "sum with a broadcast": (
        [
            node("GlobalAveragePool", ["a"], ["m"]),
            node("Conv", ["m", "w"], ["t"]),
            node("Add", ["a", "t"], ["u"]),
            node("Relu", ["u"], ["b"]),
        ],
        {"w": weights(4, 4, 1, 1)},
    ),
    "square": ([node("Conv", ["a", "w"], ["t"]), node("Mul", ["t", "t"], ["b"])],
        {"w": weights(4, 4, 1, 1)}),
    "concat and shortcut": (
        [
            node("Conv", ["a", "w"], ["t"]),
            node("Concat", ["t", "a"], ["u"], axis=1),
            node("Conv", ["u", "v"], ["s"]),
            node("Add", ["s", "a"], ["b"]),
        ],
        {"w": weights(3, 4, 1, 1), "v": weights(4, 7, 1, 1)},
    ),
    "slice": (
        [
            node("Slice", ["a", "starts", "ends", "axes", "steps"], ["t"]),
            node("Pad", ["t", "pads", "value"], ["b"]),
        ],
        {
            "starts": np.int64([1, 1, 0]), "ends": np.int64([3, 7, 5]),
            "axes": np.int64([1, 2, 3]), "steps": np.int64([1, 2, 2]),
            "pads": np.int64([0, 1, 1, 0, 0, 1, 0, 2]), "value": np.float32(0),
        },
    ),
    "resize": (
        [node("Resize", ["a", "", "scales"], ["b"], mode="linear")],
        {"scales": np.float32([1, 1, 2, 1.6])},
    ),
    "upsample": (
        [node("Resize", ["a", "", "scales"], ["b"], mode="nearest")],
        {"scales": np.float32([1, 1, 2, 3])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("middle", MIDDLES)
def test_every_gradient_is_that_of_central_differences(middle: str) -> None:
    nodes, constants = MIDDLES[middle]
    assert_gradients(between_convolutions(nodes, constants))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_takes_gradients_back_to_their_channels(mode: str) -> None:
    shuffle = node("DepthToSpace", ["a"], ["b"], blocksize=2, mode=mode)
    assert_gradients(between_convolutions([shuffle], shape=(1, 12, 3, 2), channels=3))


def two_outputs():
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "v"], ["y"], strides=[2, 2]),
        node("GlobalAveragePool", ["r"], ["m"]),
        node("Flatten", ["m"], ["f"]),
        node("Gemm", ["f", "u", "b"], ["z"], transB=1),
    ]
    constants = {
        "w": weights(4, 4, 1, 1), "v": weights(3, 4, 2, 2), "u": weights(5, 4), "b": weights(5),
    }  # fmt: skip
    return model(nodes, constants, outputs=("y", "z"))


def test_every_output_counts() -> None:
    assert_gradients(two_outputs())


def pictures(network: FloatNetwork, count: int = 3) -> list[np.ndarray]:
    shape = network.shapes[network.inputs[0]]
    return list(np.random.default_rng(3).normal(size=(count, *shape)).astype(np.float32))


def test_small_noise_moves_the_outputs_as_much_as_predicted() -> None:
    network, _ = normalise(two_outputs())
    shown = pictures(network, 1)
    found = sensitivities(network, shown, probe=Probe(projections=4096))
    rng = np.random.default_rng(11)
    maps = real_maps(network, {network.inputs[0]: shown[0].astype(np.float64)})
    name = network.nodes[0].output
    amplitude = 1e-4 * np.arange(1, 5)
    measured = []
    for _ in range(4096):
        noise = rng.normal(size=maps[name].shape) * amplitude
        moved = real_maps(network, {name: maps[name] + noise, "x": maps["x"]})
        measured.append(sum(np.mean((moved[key] - maps[key]) ** 2) for key in network.outputs))
    positions = maps[name][..., 0].size
    predicted = positions * (found[name] * amplitude**2).sum()
    # The mean of 4096 draws of a sum of squares: its spread is below 1.5 % on either side.
    assert np.mean(measured) == pytest.approx(predicted, rel=0.06)


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not() -> None:
    network, _ = normalise(two_outputs())
    first, again, other = (
        sensitivities(network, pictures(network), probe=Probe(seed=seed)) for seed in (1, 1, 2)
    )
    for name in network.shapes:
        np.testing.assert_array_equal(first[name], again[name], strict=True)
        assert first[name].dtype == np.float32
        assert first[name].shape == (network.shapes[name][2],)
    hidden = network.nodes[0].output
    assert (first[hidden] != other[hidden]).all()


def test_few_projections_at_once_give_what_all_at_once_give(monkeypatch) -> None:
    # One output only: then the signs are drawn in the same order however many go at once.
    network, _ = normalise(between_convolutions(*MIDDLES["max_pool"]))
    shown, probe = pictures(network), Probe(projections=4)
    wide = sensitivities(network, shown, probe=probe)
    monkeypatch.setattr("thinmaps.calibrate.sensitivity.AT_ONCE_BYTES", 1)
    narrow = sensitivities(network, shown, probe=probe)
    for name, values in wide.items():
        np.testing.assert_allclose(narrow[name], values, rtol=1e-5)


def test_moments_hold_the_sensitivities_in_their_diagonal() -> None:
    network, _ = normalise(two_outputs())
    name = network.nodes[0].output
    shown, probe = pictures(network), Probe(seed=5)
    found = sensitivities(network, shown, probe=probe)[name]
    first, rest = moments(network, shown, {name: Block(channels=3)}, probe=probe)[name]
    assert (first.shape, rest.shape) == ((3, 3), (1, 1))
    np.testing.assert_allclose(np.diag(first), found[:3], rtol=1e-5)
    np.testing.assert_allclose(rest[0], found[3:], rtol=1e-5)
    np.testing.assert_allclose(first, first.T)
    assert np.linalg.eigvalsh(first).min() > -1e-6 * first.max()


def test_a_shift_meets_the_mean_gradient_of_a_channel() -> None:
    # Behind one filter of the map's size, the gradient of an element is its weight.
    filters = weights(1, 4, 2, 2)
    nodes = [node("Conv", ["x", "u"], ["a"]), node("Conv", ["a", "w"], ["y"])]
    proto = model(nodes, {"u": weights(4, 4, 1, 1), "w": filters}, shape=(1, 4, 2, 2))
    network, _ = normalise(proto)
    found = felt(network, pictures(network))["a"]
    np.testing.assert_allclose(found.element, (filters[0] ** 2).mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.shift, filters[0].mean(axis=(1, 2)) ** 2, rtol=1e-4)


def test_moments_of_pixel_blocks_count_pixels_first() -> None:
    # A map of one block whose gradient is known: with one 2 x 2 filter it is that filter.
    filters = weights(1, 4, 2, 2)
    nodes = [node("Conv", ["x", "u"], ["a"]), node("Conv", ["a", "w"], ["y"])]
    proto = model(nodes, {"u": weights(4, 4, 1, 1), "w": filters}, shape=(1, 4, 2, 2))
    network, _ = normalise(proto)
    (found,) = moments(network, pictures(network), {"a": Block(2, 2, 4)})["a"]
    flat = filters[0].transpose(1, 2, 0).ravel()
    np.testing.assert_allclose(found, np.outer(flat, flat), rtol=1e-5)


def test_a_uint8_network_has_a_sensitivity_for_every_map_it_may_store() -> None:
    network, _ = normalise(two_outputs())
    found = sensitivities(network, pictures(network))
    ranges = {name: Range(-4.0, 4.0) for name in network.shapes}
    small = quantise(network, ranges)
    named = of_maps(found, small)
    assert set(named) == set(small.maps) - set(small.inputs)
    np.testing.assert_array_equal(named["x_quantised"], found["x"])


def test_torch_agrees_about_a_network_with_a_shortcut() -> None:
    torch = pytest.importorskip("torch")
    nodes, constants = MIDDLES["concat and shortcut"]
    network, _ = normalise(between_convolutions(nodes, constants))
    shown = pictures(network, 2)
    found = sensitivities(network, shown, probe=Probe(projections=2, seed=9))
    graph, rng = gradient_graph(network, 2), np.random.default_rng(9)
    filters = {
        each.output: torch.tensor(each.operator.weights)
        for each in network.nodes
        if hasattr(each.operator, "weights")
    }
    sums = np.zeros(4)
    for picture in shown:
        signs = random_signs(network, graph, rng)[graph.projections["y"]]
        for sign in signs:
            x = torch.tensor(picture.transpose(2, 0, 1)[None])
            a = torch.conv2d(x, filters["a"]).requires_grad_()
            joined = torch.cat([torch.conv2d(a, filters["t"]), a], dim=1)
            b = torch.conv2d(joined, torch.tensor(constants["v"])) + a
            y = torch.conv2d(b, filters["y"])
            (y * torch.tensor(sign[None])).sum().backward()
            sums += (a.grad**2).mean(dim=(0, 2, 3)).numpy()
    np.testing.assert_allclose(found["a"], sums / 4, rtol=1e-4)


def test_the_proxy_is_exact_where_gradients_are_independent() -> None:
    # One layer in front of the outputs: the signs are independent, so only edges could differ.
    nodes, constants = MIDDLES["depthwise"]
    network, _ = normalise(between_convolutions(nodes, constants))
    guessed = weights_only_proxy(network)
    found = sensitivities(network, pictures(network, 1), probe=Probe(projections=4096))
    np.testing.assert_allclose(guessed["b"], found["b"], rtol=0.05)
    assert {name: values.shape for name, values in guessed.items()} == {
        name: values.shape for name, values in found.items()
    }


@pytest.mark.parametrize("middle", MIDDLES)
def test_the_proxy_knows_every_operator(middle: str) -> None:
    nodes, constants = MIDDLES[middle]
    network, _ = normalise(between_convolutions(nodes, constants))
    for name, values in weights_only_proxy(network).items():
        assert values.shape == (network.shapes[name][2],)
        assert (values >= 0).all()
        assert values.any()


def test_what_cannot_be_asked_is_refused() -> None:
    network, _ = normalise(two_outputs())
    with pytest.raises(BadArgument, match="1 projection or more, got 0"):
        Probe(projections=0)
    with pytest.raises(BadArgument, match="no map 'nowhere'"):
        moments(network, pictures(network), {"nowhere": Block()})
    with pytest.raises(BadArgument, match="7x5 has no block of 8x1"):
        moments(network, pictures(network), {"x": Block(rows=8)})
    with pytest.raises(BadModel, match="one input"):
        sensitivities(dataclasses.replace(network, inputs=("x", "y")), pictures(network))
