# SPDX-License-Identifier: Apache-2.0
"""Normalisation by constraints: no operator holds means and variances, multipliers do.

Every batch norm goes. What a convolution puts out in channel k shall have mean m_k and variance
t_k, the shift and squared gain of the batch norm that was there: a wish, so that nothing normalises
at inference, nothing depends on the batch, and batches of 1 train.

    "published"  c = (mean - m, variance - t) of the batch, squared, a multiplier each: the loss
                 gains l1 c1^2 + l2 c2^2 and each l rises by r c^2. With n elements of a channel,
                 dL'/dx = 2 l1 c1 / n + 4 l2 c2 (x - mean) / n: it needs x
    "signed"     c = ((mean - m) / sqrt t, log(variance / t)) of moving averages, with an augmented
                 Lagrangian. Ours: x = gain (w * input) + bias, and means and variances pass
                 gradients to gain and bias alone, where they are exact and follow from themselves:
                 d mean / d bias = 1,  d mean / d gain = (mean - bias) / gain,
                 d log variance / d gain = 2 / gain

A batch norm keeps its input for the backward pass. The published form keeps it too, whatever its
claims say of the forward one. The signed form keeps two numbers per channel.

Source
    US patent 11645535 (claims: multipliers per channel on squared means and squared deviations of
    variances, batches of at most 8). The multipliers' ascent in the published form is by analogy
    with its sister family; the signed form, its truncated gradients, moving averages and the start
    from data (after Mishkin and Matas, "All you need is a good init", 2016, arXiv:1511.06422) are
    ours.

Cost: two sums per channel and step. Weights are multiplied by the gain once per forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from thinmaps.errors import BadArgument, BadModel
from thinmaps.learn.options import TrainingOptions
from thinmaps.learn.weights.constraint import Constraint, ConstraintOptions, Violation
from thinmaps.learn.weights.maps import (
    FLOAT_BITS,
    ActivationMap,
    WeightMap,
    WeightStats,
    attach,
    attach_behind,
)
from thinmaps.learn.weights.recipe import Recipe

Form = Literal["signed", "published"]

CHANNELS = (0, 2, 3)  # what is averaged over
MOMENTUM = 0.9


class ChannelGain(WeightMap):
    """A factor per filter; nothing to decide, so its hard state is the same."""

    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(gain.detach().clone())

    def soft(self, stored: Tensor) -> Tensor:
        """gain w."""
        return self.gain[:, None, None, None] * stored

    frozen = soft

    def decide(self, stored: Tensor) -> None:
        """Nothing."""

    def stats(self, stored: Tensor) -> WeightStats:
        """All weights are kept."""
        count = stored.new_tensor(float(stored.numel()))
        return WeightStats(stored.numel(), count, stored.numel(), FLOAT_BITS * count)


class ChannelStatistics(ActivationMap):
    """Passes a convolution's output on as it is, and remembers its means and variances."""

    mean: Tensor
    variance: Tensor
    wanted_mean: Tensor
    wanted_variance: Tensor

    def __init__(self, mean: Tensor, variance: Tensor, form: Form, gain: nn.Parameter) -> None:
        super().__init__()
        for name, value in {"mean": mean, "variance": variance}.items():
            self.register_buffer(f"wanted_{name}", value.detach().clone())
            self.register_buffer(name, value.detach().clone())
        self.form = form
        self._gain = [gain]  # in a list, so that it is the weight map's parameter, not this one's
        self.live: tuple[Tensor, Tensor] | None = None
        self.on_start: Callable[[Tensor], Tensor] | None = None

    def soft(self, made: Tensor) -> Tensor:
        """The same tensor."""
        if self.on_start is not None:
            return self.on_start(made)
        if not self.training:
            return made
        if self.form == "published":
            self.live = (made.mean(CHANNELS), made.var(CHANNELS, correction=0))
            return made
        with torch.no_grad():
            mean, variance = made.mean(CHANNELS), made.var(CHANNELS, correction=0)
            self.mean.lerp_(mean.to(self.mean.dtype), 1 - MOMENTUM)
            self.variance.lerp_(variance.to(self.variance.dtype), 1 - MOMENTUM)
        return made

    def frozen(self, made: Tensor) -> Tensor:
        """The same tensor."""
        return made

    def decide(self) -> None:
        """Nothing."""

    def missed(self, bias: Tensor) -> tuple[Tensor, Tensor]:
        """c1 and c2 of every channel, with gradients. Statistics of a step are taken once."""
        if self.form == "published":
            assert self.live is not None, "the forward pass comes before its violations"
            (mean, variance), self.live = self.live, None
            return mean - self.wanted_mean, variance - self.wanted_variance
        gain = self._gain[0]
        grown = gain / gain.detach()
        mean = (self.mean - bias.detach()) * grown + bias
        wanted = self.wanted_variance
        log_ratio = (self.variance.clamp(min=1e-12) / wanted).log() + 2 * grown.abs().log()
        return (mean - self.wanted_mean) / wanted.sqrt(), log_ratio


@dataclass(frozen=True)
class Moments:
    """Violations of all channels of some convolutions, means first."""

    layers: Sequence[nn.Conv2d]

    def __call__(self) -> Violation:
        """Flat."""
        pairs = []
        for layer in self.layers:
            statistics: Any = layer.activation_map
            assert layer.bias is not None
            pairs.append(statistics.missed(layer.bias))
        means, variances = zip(*pairs, strict=True)
        return Violation(torch.cat([*means, *variances]))


@dataclass(frozen=True)
class LagrangianNorm:
    """Take batch norms out of a network, and hold its statistics by constraints.

    Attributes:
        form: "signed" (ours) or "published".
        step: of the multipliers, and in the signed form the weight of the quadratic term.
        limit: of the multipliers.
        begin: the share of the run from which multipliers move.
    """

    form: Form = "signed"
    step: float = 0.01
    limit: float = 1.0
    begin: float = 0.05

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise BadArgument(f"statistics are held by one of {get_args(Form)}, got {self.form!r}")

    def convert(self, model: nn.Module, example: Tensor) -> list[nn.Conv2d]:
        """Fold each batch norm into the convolution in front of it, in place; those convolutions.

        The model answers as before in evaluation. Batch norms without a convolution of their own
        in front stay.

        Raises:
            BadModel: there is none to take out.
        """
        pairs = _pairs(model, example)
        if not pairs:
            raise BadModel(
                f"{type(model).__name__} has no batch norm behind a convolution of its own"
            )
        for convolution, name in pairs:
            norm = model.get_submodule(name)
            assert isinstance(norm, nn.BatchNorm2d)
            self._fold(convolution, norm)
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, nn.Identity())
        return [convolution for convolution, _ in pairs]

    def recipe(
        self,
        model: nn.Module,
        example: Tensor,
        steps: int,
        options: TrainingOptions | None = None,
    ) -> Recipe:
        """Convert the model, and say how to train it.

        Raises:
            As `convert`.
        """
        form: Any = "augmented" if self.form == "signed" else "squared"
        kept = ConstraintOptions("eq", form, self.step, self.limit, self.begin)
        moments = Constraint("moments", Moments(self.convert(model, example)), kept)
        return Recipe(steps, 0, [moments], options or TrainingOptions())

    def _fold(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        """A gain and a bias that compute what the batch norm did, and its wishes behind them."""
        assert norm.running_var is not None
        assert norm.running_mean is not None
        filters = len(norm.running_var)
        scale = torch.ones(filters) if norm.weight is None else norm.weight.detach()
        shift = torch.zeros(filters) if norm.bias is None else norm.bias.detach()
        gain = scale / (norm.running_var + norm.eps).sqrt()
        gain = torch.where(gain == 0, torch.full_like(gain, 1e-6), gain)
        before = 0 if convolution.bias is None else convolution.bias.detach()
        convolution.bias = nn.Parameter(shift + gain * (before - norm.running_mean))
        made = ChannelGain(gain)
        attach(convolution, made)
        variance = (scale * scale).clamp(min=1e-6)
        attach_behind(convolution, ChannelStatistics(shift, variance, self.form, made.gain))


def start_from(model: nn.Module, layers: Sequence[nn.Conv2d], batch: Tensor) -> None:
    """Give gains and biases the values with which this batch meets every wish, layer by layer.

    For a network that is not trained; one forward pass.
    """
    for layer in layers:
        statistics: Any = layer.activation_map
        statistics.on_start = _starting(layer, statistics)
    try:
        with torch.no_grad():
            model(batch)
    finally:
        for layer in layers:
            statistics = layer.activation_map
            statistics.on_start = None


def saved_bytes(forward: Callable[[], Tensor], kept: Sequence[Tensor] = ()) -> int:
    """Bytes that autograd keeps of a forward pass until the backward one; shared ones once.

    `kept`, such as parameters and pictures, are there anyway and do not count.
    """
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        made = forward()  # alive until the count, so that no storage is given out twice
    for tensor in kept:
        found.pop(tensor.untyped_storage().data_ptr(), None)
    del made
    return sum(found.values())


def _starting(layer: nn.Conv2d, statistics: ChannelStatistics) -> Callable[[Tensor], Tensor]:
    """Sets gain and bias by what the layer made, and passes on what it would make with them."""

    def start(made: Tensor) -> Tensor:
        mean, variance = made.mean(CHANNELS), made.var(CHANNELS, correction=0)
        grown = (statistics.wanted_variance / variance.clamp(min=1e-12)).sqrt()
        assert layer.bias is not None
        layer.bias.copy_(statistics.wanted_mean + grown * (layer.bias - mean))
        statistics._gain[0].mul_(grown)
        shape = (1, -1, 1, 1)
        centred = (made - mean.reshape(shape)) * grown.reshape(shape)
        return centred + statistics.wanted_mean.reshape(shape)

    return start


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, str]]:
    """Convolutions whose output a batch norm takes as it is, with that batch norm's name."""
    makers: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    found: list[tuple[nn.Conv2d, str]] = []

    def made(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        makers[id(output)] = (layer, output)  # held, so that no other tensor gets its id

    def taken(name: str, inputs: tuple[Tensor, ...]) -> None:
        maker = makers.get(id(inputs[0]))
        if maker is not None and all(maker[0] is not each for each, _ in found):
            found.append((maker[0], name))

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(made))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            hooks.append(
                module.register_forward_pre_hook(lambda m, inputs, name=name: taken(name, inputs))
            )
    is_training = model.training
    with torch.no_grad():
        model.eval()(example)
    model.train(is_training)
    for hook in hooks:
        hook.remove()
    return found
