# SPDX-License-Identifier: Apache-2.0
"""`FloatNetwork`: what the reader makes of an ONNX file, before ranges are known.

Normalised: constants folded, batch-norm folded into convolutions (or an affine scalar function
where it cannot fold), Relu and Clip fused into the node that feeds them, Gemm and MatMul heads
turned into convolutions, every shape static and batch 1. Its nodes have the same names, inputs and
outputs as the nodes of the `Network` that `graph/quantise.py` builds from it, so a map's range can
be looked up by the map's name. Map names are the ONNX value names after fusion.

For a QDQ file, `quantisation` holds the scale and zero point of every map and each convolution
carries its integer weights with their scales; for a float file both are absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from thinmaps.graph.filter_codes import FilterCoefficients
from thinmaps.graph.operators import Operator, Window

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FloatConv:
    """Convolution, transposed convolution or fully connected layer; weights `k c r s`."""

    window: Window
    groups: int
    weights: FloatArray
    bias: FloatArray
    transposed: bool = False
    # From a QDQ file: int8 weights and their scale per output channel, exactly as stored.
    # `integer_bias` is the stored int32 bias, at scale input scale * weight scale.
    integer_weights: NDArray[np.int8] | None = None
    weight_scale: FloatArray | None = None
    integer_bias: NDArray[np.int32] | None = None
    # What the integer weights are made of, where the network shall make them when it runs.
    coded: FilterCoefficients | None = None


@dataclass(frozen=True, eq=False)
class FloatAdd:
    """Sum of two maps."""


@dataclass(frozen=True, eq=False)
class FloatMul:
    """Product of two maps, the second may be 1 x 1."""


@dataclass(frozen=True, eq=False)
class FloatMean:
    """Mean over height and width."""


@dataclass(frozen=True, eq=False)
class FloatAveragePool:
    """Windowed average; see `operators.AveragePool` for the divisor."""

    window: Window
    count_include_pad: bool


@dataclass(frozen=True, eq=False)
class FloatConcat:
    """Maps side by side in channels."""


@dataclass(frozen=True, eq=False)
class ScalarFunction:
    """A chain of functions of one variable, applied left to right; becomes a lookup table.

    Each step is `(name, parameters)`. Parameters are arrays of 1 or `channels` elements:
    "affine" (scale, shift), "leaky_relu" / "prelu" (slope), "clip" (low, high),
    "hard_sigmoid" (alpha, beta), "elu" (alpha), "larger_line" (slope, shift, slope, shift), and
    without parameters "sigmoid", "tanh", "hard_swish", "silu", "abs", "erf", "exp", "softplus".
    "hold" remembers the value so far and "times_held" multiplies by the one remembered last:
    `x * f(x)` as one chain.
    """

    steps: tuple[tuple[str, tuple[FloatArray, ...]], ...]

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Apply to an array whose last axis is channels, in float64."""
        result = held = np.asarray(values, np.float64)
        for name, parameters in self.steps:
            if name == "hold":
                held = result
            elif name == "times_held":
                result = result * held
            else:
                result = SCALAR_FUNCTIONS[name](result, *parameters)
        return result

    @property
    def channels(self) -> int:
        """1 when one table serves all channels, else the number of channels."""
        return max((np.size(p) for _, ps in self.steps for p in ps), default=1)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


SCALAR_FUNCTIONS: dict[str, Any] = {
    "affine": lambda x, scale, shift: x * scale + shift,
    "leaky_relu": lambda x, slope: np.where(x < 0, x * slope, x),
    "prelu": lambda x, slope: np.where(x < 0, x * slope, x),
    "clip": lambda x, low, high: np.clip(x, low, high),
    "hard_sigmoid": lambda x, alpha, beta: np.clip(x * alpha + beta, 0, 1),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "silu": lambda x: x * _sigmoid(x),
    "elu": lambda x, alpha: np.where(x < 0, np.expm1(np.minimum(x, 0)) * alpha, x),
    "larger_line": lambda x, a, b, c, d: np.maximum(x * a + b, x * c + d),
    "abs": np.abs,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "exp": np.exp,
    "softplus": lambda x: np.logaddexp(x, 0.0),
}


@dataclass(frozen=True, eq=False)
class FloatPad:
    """A border of `value`, in real units."""

    top: int
    left: int
    channel: int
    value: float


FloatOperator = (
    FloatConv | FloatAdd | FloatMul | FloatMean | FloatAveragePool | FloatConcat
    | ScalarFunction | FloatPad | Operator  # Operator: MaxPool, Slice, Resize, DepthToSpace as is
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FloatNode:
    """One operator between maps. `low` and `high` are the fused Relu or Clip, in real units.

    Conv, add, mul and average_pool may carry a clamp; elsewhere it is a ScalarFunction.
    """

    name: str
    operator: FloatOperator
    inputs: tuple[str, ...]
    output: str
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class MapQuantisation:
    """Scale and zero point of a map."""

    scale: float
    zero_point: int


@dataclass(frozen=True, eq=False)
class TailNode:
    """One float operator behind the last maps: ONNX op type, inputs, outputs and attributes."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Tail:
    """What follows the last maps, in NumPy. `constants` are float32 or int64 arrays by name.

    Reads the network's outputs by map name, each as ONNX had it (float32, n c h w or n c, see
    `input_shapes`) and makes the arrays named in `outputs`, in the model file's order.
    Attributes are JSON values: numbers, strings, and tuples of them.
    """

    nodes: tuple[TailNode, ...]
    constants: Mapping[str, NDArray[Any]]
    outputs: tuple[str, ...]
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class FloatNetwork:
    """A normalised float network of batch 1.

    `shapes` gives `(height, width, channels)` of every map. `float_outputs` are those of `outputs`
    whose node ends in float: heads (fully connected, or a mean behind which no map follows).
    `notes` are sentences for the user, such as a size that the reader had to choose. `codecs` are
    configurations that the file brings, by map name (`file/codec_text.py` reads them).
    """

    nodes: tuple[FloatNode, ...]
    shapes: Mapping[str, tuple[int, int, int]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    float_outputs: frozenset[str]
    tail: Tail
    quantisation: Mapping[str, MapQuantisation] | None = None
    kind: Literal["float", "qdq"] = "float"
    notes: tuple[str, ...] = ()
    codecs: Mapping[str, str] = field(default_factory=dict)
