# SPDX-License-Identifier: Apache-2.0
"""Differentiable maps on weights and on feature maps that end in a hard state.

A `WeightMap` stands between the tensor that learns (stored) and the one that a layer computes with:

    attach(layer, map)      the layer's weight is map(stored) from here on
    map.stats(stored)       how many weights are kept, softly and really, and their bits
    map.harden(stored)      decisions are frozen; the map is a fixed function from here on
    bake(model)             every layer is plain again, with the weight that its map made

Maps on one layer follow each other in the order in which they were attached. An `ActivationMap`
does the same to what a layer puts out.

Source
    the mechanism is torch.nn.utils.parametrize; states, statistics and the hard end are ours.

Cost: a map computes its weight once per forward pass of the layer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from thinmaps.errors import BadArgument

FLOAT_BITS = 32.0


@dataclass(frozen=True)
class WeightStats:
    """What a map keeps of a tensor.

    Attributes:
        weights: elements of the tensor that the layer computes with.
        soft: how many of them count, a scalar with gradients.
        kept: how many are not zero, once hard.
        bits: stored bits of all of them, a scalar with gradients; tables and masks are not in it.
    """

    weights: int
    soft: Tensor
    kept: int
    bits: Tensor

    @property
    def density(self) -> float:
        """The share that is not zero."""
        return self.kept / self.weights


class SoftThenHard(nn.Module):
    """What both kinds of map are: soft while they learn, fixed once their decisions are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.is_hard = False

    def forward(self, given: Tensor) -> Tensor:
        """What the layer computes with, or what its readers get."""
        return self.frozen(given) if self.is_hard else self.soft(given)

    @abstractmethod
    def soft(self, given: Tensor, /) -> Tensor:
        """The result while the map learns."""

    @abstractmethod
    def frozen(self, given: Tensor, /) -> Tensor:
        """The result once decisions are taken; the weights that are kept still learn."""

    def _freeze(self) -> None:
        """Decisions are taken: parameters of the map learn no more."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.is_hard = True


class WeightMap(SoftThenHard):
    """From the stored tensor to the weight. Subclasses define `soft`, `decide` and `frozen`."""

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What to store so that the weight is about this one; unchanged unless a map says else."""
        return weight

    def harden(self, stored: Tensor) -> None:
        """Freeze all decisions. Parameters of the map learn no more."""
        if self.is_hard:
            return
        with torch.no_grad():
            self.decide(stored)
        self._freeze()

    @abstractmethod
    def decide(self, stored: Tensor) -> None:
        """Take the decisions that `frozen` applies."""

    @abstractmethod
    def stats(self, stored: Tensor) -> WeightStats:
        """What is kept of `stored`."""


class MaskedMap(WeightMap):
    """A weight map whose decision is a mask: 1 where a weight is kept."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", None)

    def decide(self, stored: Tensor) -> None:
        """The mask of this moment."""
        self.mask = self.kept(stored).to(stored.dtype)

    def frozen(self, stored: Tensor) -> Tensor:
        """What the mask lets through; gradients of the others are zero."""
        return self.values(stored) * self.mask

    def values(self, stored: Tensor) -> Tensor:
        """The values that kept weights have; those stored, unless a map shrinks them."""
        return stored

    @abstractmethod
    def kept(self, stored: Tensor) -> Tensor:
        """True where a weight would be kept if decisions were taken at this moment."""

    @abstractmethod
    def soft_kept(self, stored: Tensor) -> Tensor:
        """The same between 0 and 1, with gradients."""

    def stats(self, stored: Tensor) -> WeightStats:
        """Counts of the soft and of the hard mask."""
        if self.is_hard:
            soft, kept = self.mask.sum(), int(self.mask.sum())
        else:
            soft, kept = self.soft_kept(stored).sum(), int(self.kept(stored).sum())
        return WeightStats(stored.numel(), soft, kept, FLOAT_BITS * soft)


class FixedMask(MaskedMap):
    """A mask that is given. It is hard from the start."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask.float()
        self.is_hard = True

    def soft(self, stored: Tensor) -> Tensor:
        """The masked weights; there is no softer state."""
        return stored * self.mask

    def kept(self, stored: Tensor) -> Tensor:
        """The given mask."""
        return self.mask.bool()

    def soft_kept(self, stored: Tensor) -> Tensor:
        """The given mask."""
        return self.mask


class ActivationMap(SoftThenHard):
    """From what a layer puts out to what its readers get. Subclasses define the three."""

    def harden(self) -> None:
        """Freeze all decisions. Parameters of the map learn no more."""
        if self.is_hard:
            return
        with torch.no_grad():
            self.decide()
        self._freeze()

    @abstractmethod
    def decide(self) -> None:
        """Take the decisions that `frozen` applies."""


@dataclass(frozen=True, eq=False)
class Attached:
    """A weight map where it stands: the layer's name, the layer, and which of its maps it is."""

    name: str
    layer: nn.Module
    position: int

    @property
    def map(self) -> WeightMap:
        """The map itself."""
        found = _maps(self.layer)[self.position]
        assert isinstance(found, WeightMap)
        return found

    @property
    def stored(self) -> Tensor:
        """What the map is given: the tensor that learns, through the maps before this one."""
        tensor: Tensor = _maps(self.layer).original
        for earlier in list(_maps(self.layer))[: self.position]:
            tensor = earlier(tensor)
        return tensor

    def stats(self) -> WeightStats:
        """Of this map, now."""
        return self.map.stats(self.stored)


def attach(layer: nn.Module, made: WeightMap) -> None:
    """Put a map behind the layer's weight and the maps that it has.

    Raises:
        BadArgument: the layer has no weight.
    """
    if not isinstance(getattr(layer, "weight", None), Tensor):
        raise BadArgument(f"a weight map needs a layer with a weight, got {type(layer).__name__}")
    parametrize.register_parametrization(layer, "weight", made)


def attach_each(
    layers: Mapping[str, nn.Module], make: Callable[[Tensor], WeightMap]
) -> list[Attached]:
    """Put the map that `make` makes of each layer's weight behind it; where those maps stand."""
    found = []
    for name, layer in layers.items():
        weight: Any = layer.weight
        attach(layer, make(weight.detach().clone()))
        found.append(Attached(name, layer, len(_maps(layer)) - 1))
    return found


def attach_behind(layer: nn.Module, made: ActivationMap) -> None:
    """Put a map behind what the layer puts out.

    Raises:
        BadArgument: it has one.
    """
    if hasattr(layer, "activation_map"):
        raise BadArgument(f"this {type(layer).__name__} has an activation map already")
    layer.add_module("activation_map", made)
    layer.register_forward_hook(_through_activation_map)


def attached(model: nn.Module) -> list[Attached]:
    """All weight maps of a model, in the order of its layers."""
    return [
        Attached(name, layer, position)
        for name, layer in model.named_modules()
        if parametrize.is_parametrized(layer, "weight")
        for position, found in enumerate(_maps(layer))
        if isinstance(found, WeightMap)
    ]


def activation_maps(model: nn.Module) -> Iterator[tuple[str, ActivationMap]]:
    """All activation maps of a model, with the names of the layers in front of them."""
    for name, module in model.named_modules():
        found = getattr(module, "activation_map", None)
        if isinstance(found, ActivationMap):
            yield name, found


def harden(model: nn.Module) -> None:
    """Freeze the decisions of all maps, on each layer in the order of its maps."""
    for each in attached(model):
        each.map.harden(each.stored)
    for _, found in activation_maps(model):
        found.harden()


def bake(model: nn.Module) -> nn.Module:
    """Remove all maps in place; layers keep the weights that their maps made. Returns the model.

    Activation maps that are not hard are refused, hard ones go: a feature map is quantised again
    by what reads the model, `prepare` or `compress`.

    Raises:
        BadArgument: a map is not hard yet.
    """
    found = attached(model)
    soft = [each.name for each in found if not each.map.is_hard]
    soft += [name for name, each in activation_maps(model) if not each.is_hard]
    if soft:
        raise BadArgument(f"harden the maps before they go: {soft[0]!r} still has a soft one")
    for layer in {id(each.layer): each.layer for each in found}.values():
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    for name, _ in list(activation_maps(model)):
        layer = model.get_submodule(name)
        for key, hook in list(layer._forward_hooks.items()):
            if hook is _through_activation_map:
                del layer._forward_hooks[key]
        del layer.activation_map
    return model


def _maps(layer: nn.Module) -> Any:
    """The list of maps on a layer's weight, with the stored tensor as `original`."""
    parametrisations: Any = layer.parametrizations
    return parametrisations.weight


def _through_activation_map(layer: Any, inputs: Any, made: Tensor) -> Tensor:
    passed: Tensor = layer.activation_map(made)
    return passed
