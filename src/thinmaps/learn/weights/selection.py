# SPDX-License-Identifier: Apache-2.0
"""Which layers of a user's network a method works on, and what each of them costs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinmaps.errors import BadArgument, BadModel

Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class LayerCost:
    """Of one layer and one picture.

    Attributes:
        macs: multiply-adds, `cin / groups * cout * kh * kw * h * w`.
        outputs: elements that it puts out.
    """

    macs: int
    outputs: int


def selected(
    model: nn.Module,
    layers: Iterable[str] | None = None,
    accept: Callable[[Layer], bool] = lambda layer: isinstance(layer, nn.Conv2d),
) -> dict[str, Layer]:
    """The named layers; without names all that `accept` takes, by default all convolutions.

    Raises:
        BadArgument: there is no such layer, or it is neither a convolution nor linear.
        BadModel: none was named and the network has none to work on.
    """
    known = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    if layers is None:
        found = {name: layer for name, layer in known.items() if accept(layer)}
        if not found:
            raise BadModel(
                f"{type(model).__name__} has no convolution that this method can work on; name "
                "the layers that it shall take"
            )
        return found
    wanted = [layers] if isinstance(layers, str) else list(layers)
    for name in wanted:
        if name not in known:
            raise BadArgument(_no_such_layer(name, list(known)))
    return {name: known[name] for name in wanted}


def layer_costs(model: nn.Module, example: Tensor, layers: Iterable[str]) -> dict[str, LayerCost]:
    """What the named layers cost on one picture like `example` (n c h w).

    Runs the model once, in evaluation. A layer that runs several times counts each time.

    Raises:
        BadModel: a layer does not run.
    """
    named = selected(model, layers)
    found: dict[str, LayerCost] = {}

    def note(name: str, layer: nn.Module, made: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        before = found.get(name, LayerCost(0, 0))
        outputs = made.numel() // len(made)
        filters = len(layer.weight)
        macs = layer.weight.numel() // filters * outputs
        found[name] = LayerCost(before.macs + macs, before.outputs + outputs)

    hooks = [
        layer.register_forward_hook(lambda m, _, made, name=name: note(name, m, made))
        for name, layer in named.items()
    ]
    is_training = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        model.train(is_training)
        for hook in hooks:
            hook.remove()
    for name in named:
        if name not in found:
            raise BadModel(f"layer {name!r} does not run on a picture {tuple(example.shape)}")
    return found


def check_budget(budget: float, of_what: str) -> float:
    """A share above 0, at most 1.

    Raises:
        BadArgument: it is no such share.
    """
    if not 0 < budget <= 1:
        raise BadArgument(f"a budget of {of_what} is a share above 0, at most 1, got {budget}")
    return float(budget)


def _no_such_layer(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 3, cutoff=0.0) or known[:3]
    if not close:
        return f"the network has no layer {name!r}, nor any other convolution or linear layer"
    return f"no convolution or linear layer is named {name!r}; near it: {', '.join(close)}"
