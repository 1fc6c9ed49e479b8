# SPDX-License-Identifier: Apache-2.0
"""What a codec restores, as torch operators: its `standard_operators`, run on whole batches.

The same list makes the functions of the ONNX export. Values are bytes in float32 and stay below
2**24, where it is exact; products are summed in float64, because some devices round the factors of
float32 convolutions. Restores what the reference does, many times faster than unit by unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinmaps.codecs import Codec, StandardOperator
from thinmaps.types import MapSpec


class Restored(nn.Module):
    """`decode(encode(x))` of a codec at one map size, on bytes in float32 `n c h w`.

    Raises:
        BadArgument: the codec does not define standard operators.
    """

    def __init__(self, codec: Codec, spec: MapSpec) -> None:
        super().__init__()
        self.operators = codec.standard_operators(spec)
        for place, operator in enumerate(self.operators):
            for i, operand in enumerate(operator.operands):
                held = torch.from_numpy(np.array(operand, np.float32))
                self.register_buffer(f"operand_{place}_{i}", held, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """The restored bytes."""
        for place, operator in enumerate(self.operators):
            operands = [
                self.get_buffer(f"operand_{place}_{i}") for i in range(len(operator.operands))
            ]
            values = _RUN[operator.name](values, operands, operator)
        return values


Run = Callable[[Tensor, list[Tensor], StandardOperator], Tensor]


def _elementwise(function: Callable[..., Tensor]) -> Run:
    """Operands `()` or `(channels,)` beside `n c h w`."""

    def run(x: Tensor, operands: list[Tensor], operator: StandardOperator) -> Tensor:
        return function(x, *(o.reshape(o.shape + (1, 1) * o.ndim) for o in operands))

    return run


def _looked_up(x: Tensor, operands: list[Tensor], operator: StandardOperator) -> Tensor:
    """A table `(256, channels or 1)`."""
    (table,) = operands
    channel = torch.arange(table.shape[1], device=x.device).reshape(-1, 1, 1)
    return table[x.long(), channel]


def _convolved(x: Tensor, operands: list[Tensor], operator: StandardOperator) -> Tensor:
    """A convolution that steps by its kernel, or by `sizes`; or its transpose."""
    weights, wide = operands[0].double(), x.double()
    stride, padding = tuple(weights.shape[2:]), 0
    if any(operator.sizes):
        stride, padding = (operator.sizes[0],) * 2, operator.sizes[1]
    if operator.name == "Conv":
        return F.conv2d(wide, weights, None, stride, padding).float()
    beyond = int(any(operator.sizes))
    return F.conv_transpose2d(wide, weights, None, stride, padding, beyond).float()


def _padded(x: Tensor, operands: list[Tensor], operator: StandardOperator) -> Tensor:
    """The last row and column again."""
    below, right = operator.sizes
    return F.pad(x, (0, right, 0, below), mode="replicate")


def _cropped(x: Tensor, operands: list[Tensor], operator: StandardOperator) -> Tensor:
    rows, columns = operator.sizes
    return x[:, :, :rows, :columns]


_RUN: Mapping[str, Run] = {
    "Mul": _elementwise(torch.mul),
    "Add": _elementwise(torch.add),
    "Floor": _elementwise(torch.floor),
    "Clip": _elementwise(torch.clamp),
    "Min": _elementwise(torch.minimum),
    "Max": _elementwise(torch.maximum),
    "Gather": _looked_up,
    "Conv": _convolved,
    "ConvTranspose": _convolved,
    "Pad": _padded,
    "Crop": _cropped,
}
