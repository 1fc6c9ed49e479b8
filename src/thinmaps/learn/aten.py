# SPDX-License-Identifier: Apache-2.0
"""ATen operators -> ONNX nodes: one small function per operator, for `captured.py`.

Geometry and defaults are those of the operators' own schemas; `Call` gives arguments by name. What
ONNX has no word for in our reader raises `NoSuchForm`, which the capture turns into a sentence with
the line of the user's code. Every node that keeps values only (dropout in evaluation, clone, ...)
is an Identity, which the reader drops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray


class NoSuchForm(Exception):
    """Why an operator cannot be written; the capture adds where it stands."""


@dataclass(frozen=True)
class Call:
    """One call of an ATen operator: arguments by name, tensors as ONNX value names.

    `shapes` are those of the tensor arguments, `made` that of the (first) result; `constant` and
    `value_of` reach the captured weights, `emit` writes a node and returns its output's name.
    """

    arguments: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    made: tuple[int, ...]
    constant: Callable[[NDArray[Any] | np.generic, str], str]
    value_of: Callable[[str], NDArray[Any] | None]
    emit: Callable[..., str]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument that only some overloads have."""
        return self.arguments.get(name, default)

    def scalar(self, value: Any) -> str:
        """A tensor's name as it is; a number becomes a constant."""
        return value if isinstance(value, str) else self.constant(np.float32(value), "number")

    def integers(self, values: Sequence[int]) -> str:
        """A constant of int64, for shapes and axes."""
        return self.constant(np.array(values, np.int64), "integers")


Write: TypeAlias = Callable[[Call], Any]


def _pair(values: Any) -> list[int]:
    given = [values] if isinstance(values, int) else list(values)
    return given * 2 if len(given) == 1 else given


def _convolution(call: Call) -> str:
    """conv2d, with its padding in numbers or as "same" or "valid"."""
    if call.get("transposed"):
        return _transposed(call)
    inputs = [name for name in (call["input"], call["weight"], call["bias"]) if name is not None]
    how: dict[str, Any] = {
        "strides": _pair(call["stride"]),
        "dilations": _pair(call["dilation"]),
        "group": call["groups"],
    }
    if isinstance(call["padding"], str):
        how["pads"] = _same_pads(call) if call["padding"] == "same" else [0, 0, 0, 0]
    else:
        how["pads"] = _pair(call["padding"]) * 2
    return call.emit("Conv", inputs, **how)


def _same_pads(call: Call) -> list[int]:
    """torch puts the odd one of "same" behind."""
    kernel = call.shapes["weight"][2:]
    total = [d * (k - 1) for d, k in zip(_pair(call["dilation"]), kernel, strict=True)]
    return [t // 2 for t in total] + [t - t // 2 for t in total]


def _transposed(call: Call) -> str:
    inputs = [name for name in (call["input"], call["weight"], call["bias"]) if name is not None]
    return call.emit(
        "ConvTranspose",
        inputs,
        strides=_pair(call["stride"]),
        dilations=_pair(call["dilation"]),
        group=call["groups"],
        pads=_pair(call["padding"]) * 2,
        output_padding=_pair(call["output_padding"]),
    )


def _linear(call: Call) -> str:
    if len(call.shapes["input"]) != 2:
        raise NoSuchForm(
            f"a fully connected layer over shape {call.shapes['input']}; one vector per picture "
            "is supported, so flatten the map first"
        )
    inputs = [name for name in (call["input"], call["weight"], call["bias"]) if name is not None]
    return call.emit("Gemm", inputs, transB=1)


def _batch_norm(call: Call) -> str:
    if call["running_mean"] is None:
        raise NoSuchForm("a batch norm without running statistics; train it with them")
    channels = call.shapes["input"][1]
    weight = call["weight"] or call.constant(np.ones(channels, np.float32), "ones")
    bias = call["bias"] or call.constant(np.zeros(channels, np.float32), "zeros")
    inputs = [call["input"], weight, bias, call["running_mean"], call["running_var"]]
    return call.emit("BatchNormalization", inputs, epsilon=call["eps"])


def _clip(low: str | float | None, high: str | float | None) -> Write:
    """A clip whose bounds are numbers, or arguments by name."""

    def write(call: Call) -> str:
        bounds = [call[b] if isinstance(b, str) else b for b in (low, high)]
        names = ["" if b is None else call.constant(np.float32(b), "bound") for b in bounds]
        return call.emit("Clip", [call["self"], *names])

    return write


def _prelu(call: Call) -> str:
    slope = call.value_of(call["weight"])
    if slope is None:
        raise NoSuchForm("a PReLU whose slope is computed")
    return call.emit("PRelu", [call["self"], call.constant(slope.reshape(-1, 1, 1), "slope")])


def _silu(call: Call) -> str:
    gate = call.emit("Sigmoid", [call["self"]], inner="gate")
    return call.emit("Mul", [call["self"], gate])


def _gelu(call: Call) -> str:
    if call["approximate"] != "none":
        raise NoSuchForm("GELU by tanh; use the exact one, nn.GELU()")
    scaled = call.emit("Mul", [call["self"], call.scalar(2**-0.5)], inner="scaled")
    erf = call.emit("Erf", [scaled], inner="erf")
    gate = call.emit("Add", [erf, call.scalar(1.0)], inner="gate")
    halved = call.emit("Mul", [gate, call.scalar(0.5)], inner="halved")
    return call.emit("Mul", [call["self"], halved])


def _elu(call: Call) -> str:
    if call["scale"] != 1 or call["input_scale"] != 1:
        raise NoSuchForm("SELU; ELU is supported")
    return call.emit("Elu", [call["self"]], alpha=float(call["alpha"]))


def _arithmetic(op_type: str) -> Write:
    def write(call: Call) -> str:
        if call.get("alpha", 1) != 1 or call.get("rounding_mode") is not None:
            raise NoSuchForm(f"{op_type} with alpha or rounding_mode")
        return call.emit(op_type, [call.scalar(call["self"]), call.scalar(call["other"])])

    return write


def _max_pool(call: Call) -> str:
    return call.emit(
        "MaxPool",
        [call["self"]],
        kernel_shape=_pair(call["kernel_size"]),
        strides=_pair(call["stride"] or call["kernel_size"]),
        pads=_pair(call["padding"]) * 2,
        dilations=_pair(call["dilation"]),
        ceil_mode=int(call["ceil_mode"]),
    )


def _average_pool(call: Call) -> str:
    if call["divisor_override"] is not None:
        raise NoSuchForm("an average pool with divisor_override")
    return call.emit(
        "AveragePool",
        [call["self"]],
        kernel_shape=_pair(call["kernel_size"]),
        strides=_pair(call["stride"] or call["kernel_size"]),
        pads=_pair(call["padding"]) * 2,
        ceil_mode=int(call["ceil_mode"]),
        count_include_pad=int(call["count_include_pad"]),
    )


def _adaptive(whole: str, windowed: str) -> Write:
    """To one place, or to places that divide the map."""

    def write(call: Call) -> str:
        have, want = call.shapes["self"][2:], tuple(_pair(call["output_size"]))
        if want == (1, 1):
            return call.emit(whole, [call["self"]])
        if any(h % w for h, w in zip(have, want, strict=True)):
            raise NoSuchForm(f"adaptive pooling of {have} to {want}, which does not divide it")
        kernel = [h // w for h, w in zip(have, want, strict=True)]
        return call.emit(windowed, [call["self"]], kernel_shape=kernel, strides=kernel)

    return write


def _mean(call: Call) -> str:
    rank = len(call.shapes["self"])
    axes = call.integers([d % rank for d in call["dim"] or range(rank)])
    return call.emit("ReduceMean", [call["self"], axes], keepdims=int(call["keepdim"]))


def _flatten(call: Call) -> str:
    rank = len(call.shapes["self"])
    if call["start_dim"] == 1 and call["end_dim"] % rank == rank - 1:
        return call.emit("Flatten", [call["self"]], axis=1)
    return _reshape(call)


def _reshape(call: Call) -> str:
    """To the shape that came out; axes that stay are written as 0, so that other sizes pass."""
    before = call.shapes["self"]
    sizes = [
        0 if at < len(before) and before[at] == size else size for at, size in enumerate(call.made)
    ]
    free = [at for at, size in enumerate(sizes) if size != 0]
    if len(free) == 1:
        sizes[free[0]] = -1
    return call.emit("Reshape", [call["self"], call.integers(sizes)])


def _transpose(call: Call) -> str:
    order = list(range(len(call.shapes["self"])))
    a, b = call["dim0"] % len(order), call["dim1"] % len(order)
    order[a], order[b] = order[b], order[a]
    return call.emit("Transpose", [call["self"]], perm=order)


def _permute(call: Call) -> str:
    rank = len(call.shapes["self"])
    return call.emit("Transpose", [call["self"]], perm=[d % rank for d in call["dims"]])


def _cat(call: Call) -> str:
    axis = call["dim"] % len(call.made)
    return call.emit("Concat", list(call["tensors"]), axis=axis)


def _split(call: Call) -> list[str]:
    axis = call["dim"] % len(call.shapes["self"])
    extent = call.shapes["self"][axis]
    if "chunks" in call.arguments:
        step = -(-extent // call["chunks"])
        sizes = [min(step, extent - first) for first in range(0, extent, step)]
    else:
        given = call.get("split_size", call.get("split_sizes"))
        step = given if isinstance(given, int) else 0
        sizes = (
            [min(step, extent - first) for first in range(0, extent, step)] if step else list(given)
        )
    made: list[str] = call.emit(
        "Split", [call["self"], call.integers(sizes)], outputs=len(sizes), axis=axis
    )  # type: ignore[assignment]
    return made


def _slice(call: Call) -> str:
    start, end = call["start"] or 0, call["end"]
    bounds = ([start], [2**31 - 1 if end is None else end], [call["dim"]], [call["step"]])
    return call.emit("Slice", [call["self"], *(call.integers(b) for b in bounds)])


def _pad(call: Call) -> str:
    """torch lists pads from the last axis back, before and after; ONNX all before, all after."""
    if call.get("mode", "constant") != "constant":
        raise NoSuchForm(f"padding by {call['mode']}; constant padding is supported")
    rank, pads = len(call.shapes["self"]), list(call["pad"])
    before, after = [0] * rank, [0] * rank
    for at in range(len(pads) // 2):
        before[rank - 1 - at], after[rank - 1 - at] = pads[2 * at], pads[2 * at + 1]
    value = call.scalar(call["value"] or 0.0)
    return call.emit("Pad", [call["self"], call.integers(before + after), value])


def _resize(mode: str) -> Write:
    def write(call: Call) -> str:
        aligned = bool(call.get("align_corners", False))
        linear = "align_corners" if aligned else "pytorch_half_pixel"
        how = {"mode": mode, "coordinate_transformation_mode": linear}
        if mode == "nearest":
            how |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        if call.get("scale_factors"):
            scales = call.constant(np.array([1, 1, *call["scale_factors"]], np.float32), "scales")
            return call.emit(
                "Resize", [call["self" if "self" in call.arguments else "input"], "", scales], **how
            )
        name = call["self" if "self" in call.arguments else "input"]
        return call.emit("Resize", [name, "", "", call.integers(call.made)], **how)

    return write


def _softmax(op_type: str) -> Write:
    return lambda call: call.emit(op_type, [call["self"]], axis=call["dim"])


def _pixel_shuffle(call: Call) -> str:
    block = call["upscale_factor"]
    return call.emit("DepthToSpace", [call["self"]], blocksize=block, mode="CRD")


def _plain(op_type: str, **attributes: float) -> Write:
    """One input, attributes that are always the same."""
    return lambda call: call.emit(
        op_type, [call["self" if "self" in call.arguments else "input"]], **attributes
    )


def _leaky_relu(call: Call) -> str:
    return call.emit("LeakyRelu", [call["self"]], alpha=float(call["negative_slope"]))


# By name without overload; in-place forms (`relu_`) are looked up without their underscore.
OPERATORS: dict[str, Write] = {
    "adaptive_avg_pool2d": _adaptive("GlobalAveragePool", "AveragePool"),
    "adaptive_max_pool2d": _adaptive("GlobalMaxPool", "MaxPool"),
    "add": _arithmetic("Add"),
    "avg_pool2d": _average_pool,
    "batch_norm": _batch_norm,
    "cat": _cat,
    "chunk": _split,
    "clamp": _clip("min", "max"),
    "clamp_max": _clip(None, "max"),
    "clamp_min": _clip("min", None),
    "constant_pad_nd": _pad,
    "conv2d": _convolution,
    "conv_transpose2d": _transposed,
    "convolution": _convolution,
    "div": _arithmetic("Div"),
    "elu": _elu,
    "flatten": _flatten,
    "gelu": _gelu,
    "hardsigmoid": _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish": _plain("HardSwish"),
    "hardtanh": _clip("min_val", "max_val"),
    "leaky_relu": _leaky_relu,
    "linear": _linear,
    "log_softmax": _softmax("LogSoftmax"),
    "max_pool2d": _max_pool,
    "mean": _mean,
    "mul": _arithmetic("Mul"),
    "pad": _pad,
    "permute": _permute,
    "pixel_shuffle": _pixel_shuffle,
    "prelu": _prelu,
    "relu": _plain("Relu"),
    "relu6": _clip(0.0, 6.0),
    "silu": _silu,
    "slice": _slice,
    "softmax": _softmax("Softmax"),
    "split": _split,
    "split_with_sizes": _split,
    "sub": _arithmetic("Sub"),
    "transpose": _transpose,
    "upsample_bilinear2d": _resize("linear"),
    "upsample_nearest2d": _resize("nearest"),
    **dict.fromkeys(("reshape", "squeeze", "unsqueeze", "view", "_unsafe_view"), _reshape),
    **{name: _plain(name.title()) for name in ("abs", "exp", "neg", "sigmoid", "softplus", "tanh")},
    **dict.fromkeys(
        ("alias", "clone", "contiguous", "detach", "dropout", "feature_dropout", "lift_fresh_copy"),
        _plain("Identity"),
    ),
}
