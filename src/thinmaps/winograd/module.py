# SPDX-License-Identifier: Apache-2.0
"""Winograd convolutions in PyTorch, on the CPU, in float32. Needs torch.

    accelerate(model, example)          # in place: 3x3 convolutions of stride 1 where it pays
    WinogradConv2d.from_conv(conv)      # one of them

A `WinogradConv2d` is an `nn.Conv2d`: it has its parameters, its state dict and its answers up to
rounding (at most 5e-5 of the output's root mean square). Its filters are transformed when they
change, and held beside the plain ones: (mu / 3)^2 times their bytes, four times for F(4,3).

In training mode, for other dtypes and devices, and where the direct convolution is predicted to be
faster (`choice.py`), it is the plain convolution. In evaluation mode gradients pass through it:
they are those of the plain convolution. One thread convolves; scratch is one block of tiles, below
1 MiB for up to 64 channels, and each calling thread keeps the largest that it needed.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thinmaps import _core
from thinmaps.errors import BadArgument
from thinmaps.winograd.choice import (
    DEFAULT_ALGORITHM,
    Convolved,
    direct_seconds,
    faster,
    fastest,
    kernel,
    rates_here,
    seconds,
)

CHANNELS_LAST = torch.channels_last


@dataclass(frozen=True)
class Replacement:
    """What `accelerate` put in: the module's name, its algorithm, its time beside the direct one's,
    as predicted, and whether it does the ReLU behind it too."""

    name: str
    algorithm: str
    predicted_ratio: float
    relu: bool


def _rows(map_: Tensor) -> np.ndarray[Any, Any]:
    """A map (n, c, h, w) that lies channels last, as the kernel takes it: (n, h, w, c)."""
    n, c, h, w = map_.shape
    lying: np.ndarray[Any, Any] = map_.detach().as_strided((n * c * h * w,), (1,)).numpy()
    return lying.reshape(n, h, w, c)


_of_thread = threading.local()


def _scratch(floats: int) -> np.ndarray[Any, Any]:
    """The thread's, kept between calls: fresh pages would cost a tenth of a small layer."""
    kept: Tensor | None = getattr(_of_thread, "scratch", None)
    if kept is None or kept.numel() < floats:
        kept = _of_thread.scratch = torch.empty(floats)
    return kept.numpy()


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    filters: Tensor,
    algorithm: int,
    padding: list[int],
    relu: bool,
) -> Tensor:
    """Convolve x (n, c, h, w), float32, with `filters` that were packed from `weight` (k, c, 3, 3).

    `weight` is read by gradients only. The result lies channels last.
    """
    y = _empty_output(x, weight, bias, filters, algorithm, padding, relu)
    if y.numel() == 0:
        return y
    outputs, inputs = weight.shape[:2]
    floats = _core.winograd_scratch_floats(algorithm, "", inputs, outputs)
    _core.winograd_convolve(
        algorithm,
        "",
        _rows(x.contiguous(memory_format=CHANNELS_LAST)),
        filters.detach().numpy(),
        None if bias is None else bias.detach().contiguous().numpy(),
        (*padding, *padding),
        relu,
        _scratch(floats),
        _rows(y),
    )
    return y


def _empty_output(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    filters: Tensor,
    algorithm: int,
    padding: list[int],
    relu: bool,
) -> Tensor:
    n, _, h, w = x.shape
    shape = (n, weight.shape[0], h + 2 * padding[0] - 2, w + 2 * padding[1] - 2)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=CHANNELS_LAST)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, _, _, ctx.padding, relu = inputs
    ctx.bias_sizes = None if bias is None else list(bias.shape)
    ctx.save_for_backward(x, weight, output if relu else None)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Those of the plain convolution."""
    x, weight, rectified = ctx.saved_tensors
    if rectified is not None:
        gradient = gradient * (rectified > 0)
    needed = list(ctx.needs_input_grad[:3])
    found = torch.ops.aten.convolution_backward(
        gradient, x, weight, ctx.bias_sizes, [1, 1], ctx.padding, [1, 1], False, [0, 0], 1, needed
    )
    return (*found, None, None, None, None)


winograd_conv2d = torch.library.custom_op(
    "thinmaps::winograd_conv2d", _convolve, mutates_args=(), device_types="cpu"
)
winograd_conv2d.register_fake(_empty_output)
winograd_conv2d.register_autograd(_gradients, setup_context=_keep)


class WinogradConv2d(nn.Conv2d):
    """A convolution of 3x3 taps and stride 1, an `nn.Conv2d` in all but speed.

    >>> plain = nn.Conv2d(8, 8, 3, padding=1)
    >>> fast = WinogradConv2d.from_conv(plain).eval()
    >>> fast.load_state_dict(plain.state_dict())
    <All keys matched successfully>

    `algorithm` is one of `choice.KERNELS`; `relu` rectifies the output too.

    Raises:
        BadArgument: there is no such algorithm.
    """

    filters: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        padding: int | tuple[int, int] | str = 0,
        bias: bool = True,
        *,
        algorithm: str = DEFAULT_ALGORITHM,
        relu: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, 3, padding=padding, bias=bias)
        self.relu = relu
        self._kernel = kernel(algorithm)
        self._rates = rates_here()
        sides = {"same": (1, 1), "valid": (0, 0)}
        self._pads = sides[self.padding] if isinstance(self.padding, str) else self.padding
        self._packed_from: tuple[int, int] | None = None
        self.register_buffer("filters", torch.empty(0), persistent=False)

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, algorithm: str = DEFAULT_ALGORITHM, relu: bool = False
    ) -> WinogradConv2d:
        """With the parameters and the mode of `conv`, which both then share.

        Raises:
            BadArgument: it is not 3x3 with stride 1, or dilated, grouped, or padded by other than
                zeros; or there is no such algorithm.
        """
        if reasons := _unfit(conv):
            raise BadArgument(f"WinogradConv2d needs {', '.join(reasons)}: keep the nn.Conv2d")
        sides = conv.padding
        padding = sides if isinstance(sides, str) else (sides[0], sides[1])
        biased = conv.bias is not None
        with torch.device("meta"):
            made = cls(conv.in_channels, conv.out_channels, padding, biased, algorithm=algorithm)
        made.relu = relu
        made.weight, made.bias = conv.weight, conv.bias
        made.filters = torch.empty(0)
        made.train(conv.training)
        made.pack()
        return made

    def pack(self) -> None:
        """Transform the filters, if they changed; eager calls do it by themselves.

        A compiled call does not look: after changing weights in place, call this.
        """
        weight = self.weight.detach()
        if self._rates is None or not _native(weight):
            return
        key = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        if key == self._packed_from:
            return
        outputs, inputs = weight.shape[:2]
        algorithm = self._kernel.index
        floats = _core.winograd_filter_floats(algorithm, "", inputs, outputs)
        if self.filters.shape != (floats,) or not _native(self.filters):
            self.filters = torch.empty(floats)
        _core.winograd_pack(algorithm, "", weight.contiguous().numpy(), self.filters.numpy())
        self._packed_from = key

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv2d, and rectified where `relu` says so."""
        if not self._pays(x):
            y = super().forward(x)
            return torch.relu(y) if self.relu else y
        seen = torch.compiler.is_compiling()
        if not seen:
            self.pack()
        # The dispatcher costs some 30 microseconds, which only gradients and compilers need.
        convolve = winograd_conv2d if seen or torch.is_grad_enabled() else _convolve
        algorithm = self._kernel.index
        return convolve(
            x, self.weight, self.bias, self.filters, algorithm, [*self._pads], self.relu
        )

    def _pays(self, x: Tensor) -> bool:
        if self.training or x.dim() != 4 or x.shape[1] != self.in_channels:
            return False  # a wrong shape is refused by the plain convolution
        if not (_native(x) and _native(self.weight)):
            return False
        shape = _made(x, self.out_channels, self._pads)
        return shape.height > 0 and shape.width > 0 and faster(self._kernel, shape, self._rates)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy packs for the machine that it is on."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._rates, self._packed_from = rates_here(), None
        self.pack()


def accelerate(
    model: nn.Module, example: Tensor, *, fuse_relu: bool = False
) -> tuple[Replacement, ...]:
    """Replace, in place, 3x3 convolutions of stride 1 that are predicted to get faster.

    The model runs once on `example`, which tells the sizes of its maps. With `fuse_relu`, an
    `nn.ReLU` right behind a replaced convolution of an `nn.Sequential` becomes part of it. Nothing
    else is touched: convolutions with hooks, of derived classes, or whose shapes do not pay stay.
    Fold batch normalisation before.

    Raises:
        BadArgument: the model is in training mode, or is itself a convolution.
    """
    if model.training:
        raise BadArgument("accelerate needs a model in evaluation mode: call model.eval() first")
    if isinstance(model, nn.Conv2d):
        raise BadArgument(
            "accelerate replaces convolutions inside a module, got one: WinogradConv2d.from_conv"
        )
    rates, replaced = rates_here(), []
    for conv, shapes in _seen_shapes(model, example).items():
        chosen = fastest(shapes, rates)
        if chosen is None or rates is None:
            continue
        places = _places(model, conv)
        fused = fuse_relu and _take_relu(places)
        fast = WinogradConv2d.from_conv(conv, chosen.name, fused)
        for parent, name in places:
            setattr(parent, name, fast)
        direct = sum(direct_seconds(shape, rates) for shape in shapes)
        ratio = sum(seconds(chosen, shape, rates) for shape in shapes) / direct
        names = [name for name, each in model.named_modules() if each is fast]
        replaced.append(Replacement(names[0], chosen.name, ratio, fused))
    return tuple(replaced)


def _native(tensor: Tensor) -> bool:
    """Whether it holds what the kernel computes with."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def _made(x: Tensor, outputs: int, pads: tuple[int, ...]) -> Convolved:
    n, c, h, w = x.shape
    return Convolved(n, h + 2 * pads[0] - 2, w + 2 * pads[1] - 2, c, outputs)


def _unfit(conv: nn.Conv2d) -> list[str]:
    """What it would need to be, and is not."""
    needs = {
        "kernel_size": (3, 3),
        "stride": (1, 1),
        "dilation": (1, 1),
        "groups": 1,
        "padding_mode": "zeros",
    }
    found = {name: getattr(conv, name) for name in needs}
    return [
        f"{name} {needs[name]}, got {found[name]}" for name in needs if found[name] != needs[name]
    ]


def _seen_shapes(model: nn.Module, example: Tensor) -> dict[nn.Conv2d, tuple[Convolved, ...]]:
    """Outputs of every convolution that may be replaced, in one run."""
    seen: dict[nn.Conv2d, tuple[Convolved, ...]] = {}

    def note(conv: nn.Module, _: Any, y: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        n, k, h, w = y.shape
        seen[conv] = (*seen.get(conv, ()), Convolved(n, h, w, conv.in_channels, k))

    plain = [
        each
        for each in model.modules()
        if type(each) is nn.Conv2d and not _unfit(each) and _native(each.weight)
        if not (each._forward_hooks or each._forward_pre_hooks)
    ]
    hooks = [each.register_forward_hook(note) for each in plain]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _places(model: nn.Module, conv: nn.Conv2d) -> list[tuple[nn.Module, str]]:
    """Parents of `conv`, and its name in each."""
    return [
        (parent, name)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if child is conv
    ]


def _take_relu(places: list[tuple[nn.Module, str]]) -> bool:
    """Take the nn.ReLU right behind the convolution out of its nn.Sequential, if there is one."""
    (parent, name), *others = places
    if others or not isinstance(parent, nn.Sequential):
        return False
    names = list(parent._modules)
    behind = names[names.index(name) + 1 :][:1]
    if not behind or type(parent._modules[behind[0]]) is not nn.ReLU:
        return False
    setattr(parent, behind[0], nn.Identity())
    return True
