# SPDX-License-Identifier: Apache-2.0
"""The surrogate of `gf2`: layers of bits with real weights, and the codec that they fold into.

Source
    Gudovskiy, Hodgkinson, Rigazio, 2018, arXiv:1808.05285: convolutions over bit planes whose
    outputs are rounded to bits, straight through backwards, from an identity. The derivatives of
    both ends, with each plane's weight, are those that the method's description speaks of; the
    authors' program has simpler ones (`authors`, below). Rounding weights straight through: Bengio
    et al., 2013, arXiv:1308.3432; ternary weights: Li et al., 2016, arXiv:1605.04711; binary
    ones: Rastegari et al., 2016, arXiv:1603.05279. Ours: training computes with the very integers
    and thresholds that are folded, so that it sees what will run.

    a = scale * sum of integer weights of the set bits + bias, normalised or not
    bit = [a >= 1/2] = [sum >= threshold],  threshold = ceil((1/2 - bias) / scale)

Gradients. The bytes' planes: plane b of a byte relaxes to a triangle wave t_b that is 0 amid its
runs of zeros and 1 amid its runs of ones, so dx = sum_b d(bit_b) * t_b'(x) / step. Planes to bytes
is linear: d(bit_b) = step * 2**b * dy. A threshold passes the gradient where |a - 1/2| <= 1.
With `authors=True`: dx = 2 / planes * sum_b d(bit_b), d(bit_b) = dy where the bit is set, and a
threshold passes the gradient where its bit is set, as their program computes on a GPU.

Cost: while training, two convolutions with as many channels as the map has bits.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thinmaps.codecs.base import Codec
from thinmaps.codecs.bit_layers import EXACT, STRIDE, BitLayer
from thinmaps.codecs.gf2 import Gf2
from thinmaps.errors import BadArgument
from thinmaps.learn.surrogates.base import Surrogate
from thinmaps.types import MapSpec

Kind = Literal["int8", "ternary", "binary"]
KINDS: tuple[Kind, ...] = ("int8", "ternary", "binary")
HALF = 0.5
IDLE = 8  # the plane that no byte sets
TERNARY_CUT = 0.7  # of the mean magnitude, below which a ternary weight is 0


def straight(soft: Tensor, hard: Tensor, passes: Tensor) -> Tensor:
    """`hard` forwards; the gradient goes to `soft` where `passes` is 1."""
    made: Tensor = _Straight.apply(soft, hard, passes)  # type: ignore[no-untyped-call]
    return made


def to_planes(values: Tensor, ends: Ends) -> Tensor:
    """Values `n c h w` on the map's grid -> bits `n groups planes c/groups h w`."""
    made: Tensor = _ToPlanes.apply(values, ends)  # type: ignore[no-untyped-call]
    return made


def from_planes(bits: Tensor, ends: Ends) -> Tensor:
    """The reverse."""
    made: Tensor = _FromPlanes.apply(bits, ends)  # type: ignore[no-untyped-call]
    return made


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, soft: Tensor, hard: Tensor, passes: Tensor) -> Tensor:
        ctx.save_for_backward(passes)
        return hard

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (passes,) = ctx.saved_tensors
        return gradients[0] * passes, None, None


class _ToPlanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, ends: Ends) -> Tensor:
        levels = (torch.round(values / ends.step) + ends.zero_point).to(torch.int32)
        codes = levels.clamp(0, ends.largest)
        ctx.ends = ends
        ctx.save_for_backward(codes, codes == levels)
        return ends.bits(codes).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        codes, inside = ctx.saved_tensors
        ends, (gradient,) = ctx.ends, gradients
        if ends.authors:
            return gradient.sum(dim=2).reshape(codes.shape) * (2 / ends.planes), None
        slopes = ends.slopes(codes).to(gradient.dtype) / ends.step
        return (gradient * slopes).sum(dim=2).reshape(codes.shape) * inside, None


class _FromPlanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bits: Tensor, ends: Ends) -> Tensor:
        ctx.ends = ends
        ctx.save_for_backward(bits)
        n, _, _, _, h, w = bits.shape
        levels = (bits * ends.values_of_planes(bits)).sum(dim=2) + ends.zero_point
        return (levels.clamp(max=255) - ends.zero_point).reshape(n, -1, h, w) * ends.step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (bits,) = ctx.saved_tensors
        ends = ctx.ends
        n, groups, _, channels, h, w = bits.shape
        gradient = gradients[0].reshape(n, groups, 1, channels, h, w)
        if ends.authors:
            return gradient * bits, None
        worth = ends.values_of_planes(bits)
        inside = (bits * worth).sum(dim=2, keepdim=True) + ends.zero_point <= 255
        return gradient * inside * worth * ends.step, None


class Ends:
    """Both transformations, between values on a map's grid and bits, as `bit_planes.py` has them.

    `step` is the grid's, `authors` chooses the gradients of the authors' program.
    """

    def __init__(self, codec: Gf2, spec: MapSpec, authors: bool) -> None:
        self.planes, self.groups, self.authors = codec.planes, codec.groups, authors
        self.zero_point, self.step = spec.zero_point, spec.scale
        self.largest = min(255, (1 << codec.planes) - 1)

    def _level(self, like: Tensor) -> Tensor:
        return torch.arange(self.planes, device=like.device).reshape(-1, 1, 1, 1)

    def _grouped(self, codes: Tensor) -> Tensor:
        n, _, h, w = codes.shape
        return codes.reshape(n, self.groups, 1, -1, h, w)

    def bits(self, codes: Tensor) -> Tensor:
        """Integer codes `n c h w` -> bits `n groups planes c/groups h w`."""
        return (self._grouped(codes) ^ self.zero_point) >> self._level(codes) & 1

    def slopes(self, codes: Tensor) -> Tensor:
        """t_b'(x) of every plane, from the right: 2**-b up or down; the idle plane has none."""
        level = self._level(codes)
        half_period = 2 << level  # in halves of a byte
        phase = (2 * self._grouped(codes) - ((1 << level) - 1)) % (2 * half_period)
        rises = (phase < half_period) ^ (self.zero_point >> level & 1 == 1)
        slope = torch.where(rises, 1.0, -1.0) / (1 << level)
        return torch.where(level < IDLE, slope, 0.0)

    def values_of_planes(self, bits: Tensor) -> Tensor:
        """What a set bit adds to the byte: 2**b, less where the zero point has that bit."""
        level = self._level(bits)
        signed = (1 << level) * (1 - 2 * (self.zero_point >> level & 1))
        return signed.to(bits.dtype)


class BitConvolution(nn.Module):
    """One layer with real weights and biases; `fold()` gives its integers.

    Starts as the given layer, with each output's largest weight at 1. `norm` are running
    statistics of the sums, if it has any.
    """

    norm: nn.BatchNorm2d | None
    lowest: Tensor
    highest: Tensor

    def __init__(self, layer: BitLayer, kind: Kind, *, restores: bool, authors: bool) -> None:
        super().__init__()
        self.kind, self.restores, self.authors = kind, restores, authors
        self.groups, self.kernel = layer.groups, layer.kernel
        weights = torch.from_numpy(layer.weights.astype(np.float32))
        largest = weights.abs().amax(dim=(1, 2, 3)).clamp(min=1)
        threshold = torch.from_numpy(layer.threshold.astype(np.float32))
        self.weight = nn.Parameter(weights / largest.reshape(-1, 1, 1, 1))
        self.bias = nn.Parameter(HALF - (threshold - HALF) / largest)
        self.norm = None
        self.register_buffer("lowest", torch.ones(layer.outputs), persistent=False)
        self.register_buffer("highest", torch.zeros(layer.outputs), persistent=False)

    def integers(self) -> tuple[Tensor, Tensor]:
        """Weights rounded to the kind's integers, and what one of an output's is worth."""
        size = self.weight.detach().abs()
        if self.kind == "int8":
            largest = size.amax(dim=(1, 2, 3), keepdim=True)
            scale = torch.where(largest > 0, largest, 127.0) / 127
            return torch.round(self.weight.detach() / scale), scale.flatten()
        sign = torch.where(self.weight.detach() < 0, -1.0, 1.0)
        cut = TERNARY_CUT * size.mean(dim=(1, 2, 3), keepdim=True)
        kept = (size > cut if self.kind == "ternary" else torch.ones_like(size)).to(size.dtype)
        kept_count = kept.sum(dim=(1, 2, 3))
        worth = (size * kept).sum(dim=(1, 2, 3)) / kept_count.clamp(min=1)
        return sign * kept, torch.where(worth > 0, worth, 1.0)

    def forward(self, bits: Tensor, rows: int, columns: int) -> Tensor:
        """Bits `n inputs h w` -> bits of the next layer; with stride 2 undone, of that size."""
        integers, scale = self.integers()
        real = self.weight / scale.reshape(-1, 1, 1, 1)
        weight = straight(real, integers, torch.ones_like(scale[:1]))
        with torch.autocast(bits.device.type, enabled=False):
            sums = self._convolved(bits.float(), weight, rows, columns)
        soft = sums * scale.reshape(-1, 1, 1)
        soft = (soft if self.norm is None else self.norm(soft)) + self.bias.reshape(-1, 1, 1)
        if self.norm is None:
            sign, threshold = (each.reshape(-1, 1, 1) for each in self.thresholds(scale))
            hard = (sums * sign >= threshold).to(soft.dtype)
        else:  # by the statistics of this batch, which are not those that are folded
            hard = (soft >= HALF).to(soft.dtype)
        self._watch(hard)
        passes = hard if self.authors else ((soft - HALF).abs() <= 1).to(soft.dtype)
        return straight(soft, hard, passes)

    def _convolved(self, bits: Tensor, weight: Tensor, rows: int, columns: int) -> Tensor:
        stride, padding = (1, 0) if self.kernel == 1 else (STRIDE, 1)
        if not self.restores:
            return functional.conv2d(bits, weight, None, stride, padding, groups=self.groups)
        outputs, inputs, kernel, _ = weight.shape
        grouped = weight.reshape(self.groups, outputs // self.groups, inputs, kernel, kernel)
        turned = grouped.transpose(1, 2).reshape(-1, outputs // self.groups, kernel, kernel)
        high, wide = (stride * size for size in bits.shape[2:])
        extra = (rows - high + 1, columns - wide + 1) if self.kernel == 3 else (0, 0)
        return functional.conv_transpose2d(
            bits, turned, None, stride, padding, extra, groups=self.groups
        )

    def _watch(self, hard: Tensor) -> None:
        with torch.no_grad():
            self.lowest.copy_(torch.minimum(self.lowest, hard.amin(dim=(0, 2, 3))))
            self.highest.copy_(torch.maximum(self.highest, hard.amax(dim=(0, 2, 3))))

    def dead_bits(self) -> int:
        """Outputs that had one value in all that was seen since `forget`."""
        return int((self.lowest >= self.highest).sum())

    def forget(self) -> None:
        """Begin anew to watch for dead bits."""
        self.lowest.fill_(1)
        self.highest.fill_(0)

    @torch.no_grad()
    def thresholds(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Of every output the sign of its sum, and the least such sum that makes it 1.

        `gain * scale * sum + offset >= 1/2` solved for the sum, in float64; gain and offset are
        those of the running statistics. An output of gain 0 is constant.
        """
        gain, offset = torch.ones_like(scale).double(), self.bias.double()
        if self.norm is not None:
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            deviation = torch.sqrt(self.norm.running_var.double() + self.norm.eps)
            gain = self.norm.weight.double() / deviation
            offset = offset + self.norm.bias.double() - gain * self.norm.running_mean.double()
        sums = (HALF - offset) / (scale.double() * gain.abs())
        never = torch.where(offset >= HALF, -torch.inf, torch.inf)
        sums = torch.where(gain == 0, never, sums).ceil().clamp(1 - EXACT, EXACT - 1)
        return torch.where(gain < 0, -1.0, 1.0).to(scale), sums.to(scale)

    def fold(self) -> BitLayer:
        """Integer weights and thresholds; an output whose gain is negative has negated weights."""
        integers, scale = self.integers()
        sign, threshold = self.thresholds(scale)
        weights = (integers * sign.reshape(-1, 1, 1, 1)).to(torch.int8).cpu().numpy()
        return BitLayer(self.groups, weights, threshold.to(torch.int32).cpu().numpy())


class Gf2Surrogate(Surrogate):
    """Layers of bits that learn. Starts as the codec it stands for, whose units it keeps.

    `kind` are the integers that weights round to, `authors` chooses the gradients of the authors'
    program, `normalises` puts batch normalisation before the thresholds.
    """

    codec_id = "gf2"

    def __init__(
        self,
        codec: Codec,
        spec: MapSpec,
        kind: Kind = "int8",
        *,
        authors: bool = False,
        normalises: bool = False,
    ) -> None:
        super().__init__(spec)
        self.require(codec)
        assert isinstance(codec, Gf2)
        if kind not in KINDS:
            raise BadArgument(f"weights of gf2 are one of {', '.join(KINDS)}, got {kind!r}")
        self.unit_rows = codec.unit_rows
        self.halvings = codec.halvings
        self.ends = Ends(codec, spec, authors)
        self.project, self.restore = (
            nn.ModuleList(
                BitConvolution(layer, kind, restores=restores, authors=authors) for layer in layers
            )
            for layers, restores in ((codec.project, False), (codec.restore, True))
        )
        if normalises:
            for layer in self.layers():
                layer.norm = nn.BatchNorm2d(len(layer.bias))

    def layers(self) -> list[BitConvolution]:
        """Those that project, then those that restore."""
        both = (*self.project, *self.restore)
        return [layer for layer in both if isinstance(layer, BitConvolution)]

    def codec(self) -> Gf2:
        """The codec that the parameters fold into."""
        project, restore = (
            tuple(layer.fold() for layer in self.layers() if layer.restores == restores)
            for restores in (False, True)
        )
        return Gf2(self.unit_rows, self.ends.planes, self.ends.groups, project, restore)

    def restored(self, values: Tensor) -> Tensor:
        """The restored map, unit by unit where windows would reach over their borders.

        Where no parameter learns, as of any codec: exactly, its gradient straight through.
        """
        if not any(parameter.requires_grad for parameter in self.parameters()):
            return self.straight_through(values)
        rows = self.unit_rows if self.halvings else values.shape[2]
        return torch.cat([self._unit(unit) for unit in torch.split(values, rows, dim=2)], dim=2)

    def _unit(self, values: Tensor) -> Tensor:
        planes = to_planes(values, self.ends)
        bits = planes.reshape(len(values), -1, *values.shape[2:])
        sizes = [(bits.shape[2], bits.shape[3])]
        for layer in self.layers():
            if not layer.restores:
                bits = layer(bits, 0, 0)
                if layer.kernel == 3:
                    sizes.append((bits.shape[2], bits.shape[3]))
                continue
            if layer.kernel == 3:
                sizes.pop()
            bits = layer(bits, *sizes[-1])
        return from_planes(bits.reshape(planes.shape), self.ends)

    def dead_bits(self) -> list[int]:
        """Of each layer, outputs that never changed since training began or `forget`."""
        return [layer.dead_bits() for layer in self.layers()]

    def forget(self) -> None:
        """Begin anew to watch for dead bits."""
        for layer in self.layers():
            layer.forget()
