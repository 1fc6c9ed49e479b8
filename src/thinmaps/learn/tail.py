# SPDX-License-Identifier: Apache-2.0
"""The tail of a network in torch, for batches: what follows the last maps, with gradients.

The twin of `graph/tail.py`, whose canonical form it runs. That form was made for one picture: a
shape's leading 1 is the batch. An operator that is not here is refused when the student is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinmaps.errors import BadModel, UnsupportedOperator
from thinmaps.graph.float_network import Tail


class TailTwin(nn.Module):
    """Runs a `Tail`: last maps by name, float32 `n c h w` -> outputs by name."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self.tail = tail
        self._places: dict[str, str] = {}
        for at, (name, array) in enumerate(tail.constants.items()):
            self._places[name] = f"constant_{at}"
            held = torch.from_numpy(np.array(array))
            self.register_buffer(self._places[name], held, persistent=False)
        if unknown := sorted({node.op_type for node in tail.nodes} - OPERATORS.keys()):
            raise UnsupportedOperator(
                f"a student cannot compute {', '.join(unknown)} behind its last map; capture the "
                "part of the module that ends before it"
            )
        for node in tail.nodes:
            if node.op_type == "Reshape" and node.attributes["shape"][:1] != (1,):
                raise BadModel(
                    f"the reshape that makes {node.outputs[0]!r} mixes pictures of a batch; keep "
                    "the batch as the first axis"
                )

    def forward(self, maps: dict[str, Tensor]) -> list[Tensor]:
        """The outputs in the module's order."""
        values = {name: self.get_buffer(place) for name, place in self._places.items()}
        for name, shape in self.tail.input_shapes.items():
            values[name] = maps[name].reshape(-1, *shape[1:])
        for node in self.tail.nodes:
            made = OPERATORS[node.op_type](*(values[n] for n in node.inputs), **node.attributes)
            parts = made if isinstance(made, tuple) else (made,)
            values.update(zip(node.outputs, parts, strict=False))
        return [values[name] for name in self.tail.outputs]


def _slice(x: Tensor, **how: Any) -> Tensor:
    places: list[Any] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(
        how["axes"], how["starts"], how["ends"], how["steps"], strict=True
    ):
        places[axis] = slice(start, end, step)
    return x[tuple(places)]


def _clip(x: Tensor, low: float | None, high: float | None) -> Tensor:
    return x if low is None and high is None else x.clamp(low, high)


def _over(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(x: Tensor, axes: Any, keepdims: bool) -> Tensor:
        return function(x, dim=tuple(range(x.ndim)) if axes is None else axes, keepdim=keepdims)

    return reduce


def _gemm(a: Tensor, b: Tensor, c: Tensor | None = None, **how: Any) -> Any:
    product = how["alpha"] * ((a.T if how["flip_a"] else a) @ (b.T if how["flip_b"] else b))
    return product if c is None else product + how["beta"] * c


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Clip": _clip,
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Div": torch.div,
    "Exp": torch.exp,
    "Gemm": _gemm,
    "HardSigmoid": lambda x, alpha, beta: (x * alpha + beta).clamp(0, 1),
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "LeakyRelu": lambda x, alpha: F.leaky_relu(x, alpha),
    "Log": torch.log,
    "LogSoftmax": lambda x, axes: F.log_softmax(x, axes[0]),
    "MatMul": torch.matmul,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "PRelu": lambda x, slope: torch.where(x < 0, x * slope, x),
    "ReduceMax": _over(torch.amax),
    "ReduceMean": _over(torch.mean),
    "ReduceSum": _over(torch.sum),
    "Relu": F.relu,
    "Reshape": lambda x, shape: x.reshape(-1, *shape[1:]),
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Softmax": lambda x, axes: F.softmax(x, axes[0]),
    "Softplus": F.softplus,
    "Split": lambda x, axis, sizes: tuple(torch.split(x, sizes, axis)),
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Transpose": lambda x, perm: x.permute(perm),
}
