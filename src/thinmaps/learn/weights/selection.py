# SPDX-License-Identifier: Apache-2.0
"""Which layers a weight method works on, by name, and what each of them costs.

Of a module they are its convolutions and linear layers, of a `Student` those whose weights learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from thinmaps.errors import BadArgument, BadModel
from thinmaps.learn.points import LayerShape, Point
from thinmaps.learn.student import Student
from thinmaps.nearest import nearest

Layer = nn.Conv2d | nn.Linear | Point
Accept = Callable[[Layer], bool]

WILD = "*?["  # what makes a name a pattern


@dataclass(frozen=True)
class LayerCost:
    """Of one layer and one picture.

    Attributes:
        macs: multiply-adds, `cin / groups * cout * kh * kw * h * w`.
        outputs: elements that it puts out.
    """

    macs: int
    outputs: int


def shape_of(layer: Layer) -> LayerShape:
    """What a method has to know of a layer, wherever it stands."""
    if isinstance(layer, Point):
        assert layer.layer is not None, "only points with a weight are layers"
        return layer.layer
    if isinstance(layer, nn.Linear):
        return LayerShape((1, 1), 1, False)
    kernel = (layer.kernel_size[0], layer.kernel_size[1])
    return LayerShape(kernel, layer.groups, True)


def is_convolution(layer: Layer) -> bool:
    """What methods take where no layer is named."""
    return shape_of(layer).is_convolution


def selected(
    model: nn.Module, layers: Iterable[str] | None = None, accept: Accept = is_convolution
) -> dict[str, Layer]:
    """The named layers; without names all that `accept` takes, by default all convolutions.

    A name with `*`, `?` or `[` is a pattern for all layers of such names that `accept` takes.

    Raises:
        BadArgument: there is no such layer, or it is neither a convolution nor linear; all such
            names are told at once.
        BadModel: none was named and the network has none to work on.
    """
    known = _layers(model)
    accepted = [name for name, layer in known.items() if accept(layer)]
    if layers is None:
        if not accepted:
            raise BadModel(
                f"{type(model).__name__} has no convolution that this method can work on; name "
                "the layers that it shall take"
            )
        return {name: known[name] for name in accepted}
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if not wanted:
        raise BadArgument("no layer is named: name some, or leave them out for all convolutions")
    found: dict[str, Layer] = {}
    reasons: list[str] = []
    for name in wanted:
        names = _matching(name, accepted) if _is_pattern(name) and name not in known else [name]
        found |= {each: known[each] for each in names if each in known}
        if not names or names[0] not in known:
            reasons.append(_no_such_layer(name, list(known)))
    if reasons:
        raise BadArgument("; ".join(reasons))
    return found


def layer_costs(model: nn.Module, example: Tensor, layers: Iterable[str]) -> dict[str, LayerCost]:
    """What the named layers cost on one picture like `example` (n c h w).

    Runs the model once, in evaluation; a student knows its costs, at its own size. A layer that
    runs several times counts each time.

    Raises:
        BadModel: a layer does not run.
    """
    named = selected(model, layers)
    outputs = (
        model.layer_outputs()
        if isinstance(model, Student)
        else _seen_outputs(model, example, named)
    )
    for name in named:
        if not outputs.get(name):
            raise BadModel(f"layer {name!r} does not run on a picture {tuple(example.shape)}")
    return {
        name: LayerCost(layer.weight.numel() // len(layer.weight) * outputs[name], outputs[name])
        for name, layer in named.items()
    }


def _seen_outputs(model: nn.Module, example: Tensor, named: dict[str, Layer]) -> dict[str, int]:
    """Elements that each layer puts out for one picture, by running the model."""
    found: dict[str, int] = {}

    def note(name: str, made: Tensor) -> None:
        found[name] = found.get(name, 0) + made.numel() // len(made)

    hooks = [
        layer.register_forward_hook(lambda m, _, made, name=name: note(name, made))
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
    return found


def check_budget(budget: float, of_what: str) -> float:
    """A share above 0, at most 1.

    Raises:
        BadArgument: it is no such share.
    """
    if not 0 < budget <= 1:
        raise BadArgument(f"a budget of {of_what} is a share above 0, at most 1, got {budget}")
    return float(budget)


def _layers(model: nn.Module) -> dict[str, Layer]:
    """All layers that a weight map can stand on, by name."""
    if isinstance(model, Student):
        return {**model.layers()}
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in WILD)


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if fnmatchcase(name, pattern)]


def _no_such_layer(name: str, known: list[str]) -> str:
    close = nearest(name, known)
    if not close:
        return f"the network has no layer {name!r}, nor any other convolution or linear layer"
    if _is_pattern(name):
        return f"no layer that this method can work on fits {name!r}; near it: {', '.join(close)}"
    return f"no convolution or linear layer is named {name!r}; near it: {', '.join(close)}"
