# SPDX-License-Identifier: Apache-2.0
"""Modules that stand where the user's module has submodules: parameters and maps have names there.

A student computes by its network's nodes, not by these; they hold what carries the user's names.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from thinmaps.errors import BadModel


class LayerShape(NamedTuple):
    """What a weight method asks of a layer; its weight is `k c r s`, or (k, c) where it is linear.

    `kernel` is (height, width), `groups` those of input channels.
    """

    kernel: tuple[int, int]
    groups: int
    is_convolution: bool


class Point(nn.Module):
    """What stands where the user's module has a submodule: its parameters, and its map.

    A forward hook on it sees the map of that name, as its readers do and in the units of the user's
    module; what the hook returns is read in its place, rounded to the map's grid. `layer` is set
    where a `weight` is, on which weight maps can stand.
    """

    layer: LayerShape | None = None
    weight: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """The map itself."""
        return values


def point_at(module: nn.Module, path: str) -> nn.Module:
    """The module at a dotted name, made on the way where there is none."""
    for part in path.split(".") if path else ():
        if part not in module._modules:
            if hasattr(module, part):
                raise BadModel(f"the module's name {path!r} is taken in a student; rename it")
            module.add_module(part, Point())
        found = module._modules[part]
        assert found is not None
        module = found
    return module


def tensor_at(module: nn.Module, path: str) -> Tensor:
    """The tensor at a dotted name; through the weight maps that stand behind it."""
    *parts, last = path.split(".")
    for part in parts:
        module = getattr(module, part)
    found: Tensor = getattr(module, last)
    return found


def set_tensor(module: nn.Module, path: str, value: Tensor, is_learnt: bool) -> None:
    """Put a parameter (or, not learnt, a buffer) at a dotted name."""
    parent, _, last = path.rpartition(".")
    holder = point_at(module, parent)
    if is_learnt:
        setattr(holder, last, nn.Parameter(value))
    else:
        holder.register_buffer(last, value)
