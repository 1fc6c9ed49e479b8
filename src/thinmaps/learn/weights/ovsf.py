# SPDX-License-Identifier: Apache-2.0
"""Filters from binary codes: stored are a few coefficients, the codes are made when needed.

Codes are rows of +1 and -1, by a tree (orthogonal variable spreading factor):

    C_1 = [1];  row 2k of C_2n is [c, c], row 2k + 1 is [c, -c], c row k of C_n;  C_n C_n^T = n I

As a set they are the rows of the Sylvester matrix H[k, j] = (-1)^popcount(k and j), which needs no
storage: OVSF(k, j) = H[bits of k reversed, j]. A filter is f = sum of alpha_j c_j over few codes.

    3x3     codes of 16 on 4x4, cropped to 3x3 or averaged over 2x2 windows; alpha per kernel
    1x1     codes along the input channels, a power of two of them; alpha per filter

Which codes: the first ones are a bad choice for 3x3. Their span has rank 5 of the first 6 in either
order, and under averaging 7 of the 16 vanish. `greedy_order` takes the code that adds most to the
span: 9 codes have rank 9, so that a share above 9/16 is never useful. For 1x1, those of the largest
energy in the trained layer.

Source
    Tseng et al., "Deterministic Binary Filters for Convolutional Neural Networks", IJCAI 2018,
    doi 10.24963/ijcai.2018/380 (abstract: learned coefficients of a predefined orthogonal binary
    basis). Crop and average are named in the literature that followed. The order and the
    projection of trained filters, alpha = w F^+, are ours.

Cost: a 3x3 layer stores 16 rho / 9 of its weights, rho the share of the 16 codes. A pass of
`walsh_hadamard` over L numbers takes L log2 L additions and no product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thinmaps.errors import BadArgument
from thinmaps.graph.filter_codes import Reduction, greedy_order, kernel_codes
from thinmaps.learn.weights.maps import FLOAT_BITS, Attached, WeightMap, WeightStats, attach_each
from thinmaps.learn.weights.selection import (
    Layer,
    check_budget,
    is_convolution,
    selected,
    shape_of,
)


def ovsf(length: int) -> Tensor:
    """All codes of a length that is a power of two, int64 (length, length), by the tree.

    >>> ovsf(4).tolist()
    [[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]
    """
    _check_length(length)
    codes = torch.ones(1, 1, dtype=torch.int64)
    while len(codes) < length:
        codes = torch.stack(
            [torch.cat([codes, codes], 1), torch.cat([codes, -codes], 1)], 1
        ).reshape(2 * len(codes), -1)
    return codes


def walsh_hadamard(values: Tensor) -> Tensor:
    """H x along the last axis, a power of two long, in Sylvester order; exact for integers.

    Its own inverse but for the length: H H = length I. Its gradient is itself.
    """
    length = values.shape[-1]
    _check_length(length)
    made, half = values, 1
    while half < length:
        pairs = made.reshape(*values.shape[:-1], -1, 2, half)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        made = torch.stack([first + second, first - second], -2).reshape(values.shape)
        half *= 2
    return made


def reduced_codes(reduction: Reduction) -> Tensor:
    """The 16 codes of 4x4, reduced to 3x3: float64 (16, 9), in OVSF order."""
    return torch.from_numpy(kernel_codes(reduction)).double()


class CodeFilter(WeightMap):
    """A layer's weight as coefficients of codes; stored and learnt are the coefficients.

    It is hard from the start. `codes` is (codes, elements); `axes` says which axes of the weight a
    code spans: the two of the kernel, or the input channels of a 1x1 kernel.
    """

    codes: Tensor
    shape: torch.Size

    def __init__(self, codes: Tensor, shape: torch.Size) -> None:
        super().__init__()
        self.register_buffer("codes", codes.float())
        self.shape = shape
        self.is_hard = True

    def frozen(self, stored: Tensor) -> Tensor:
        """Filters from coefficients (filters, groups of elements, codes)."""
        made: Tensor = (stored @ self.codes).reshape(self.shape)
        return made

    soft = frozen

    def decide(self, stored: Tensor) -> None:
        """There is nothing to decide."""

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The coefficients whose filters are nearest, by the pseudo-inverse."""
        exact = self.codes.double()
        rows = weight.detach().double().reshape(len(weight), -1, exact.shape[1])
        inverse: Tensor = torch.linalg.pinv(exact)
        return (rows @ inverse).to(weight.dtype)

    def stats(self, stored: Tensor) -> WeightStats:
        """Coefficients beside weights; codes are not stored."""
        weights = self.shape.numel()
        count = stored.new_tensor(float(stored.numel()))
        return WeightStats(weights, count, stored.numel(), FLOAT_BITS * count)


@dataclass(frozen=True)
class CodedLayer:
    """What became of a layer.

    Attributes:
        weights: that it computes with.
        coefficients: that it stores.
        error: squared error of its filters over their squares, before any training.
    """

    weights: int
    coefficients: int
    error: float

    @property
    def ratio(self) -> float:
        """Weights per stored coefficient."""
        return self.weights / self.coefficients


@dataclass(frozen=True)
class CodedFilters:
    """Make filters of codes.

    Attributes:
        share: rho, of the codes that are used, above 0, at most 1; of 3x3 at most 9 of 16 are.
        layers: names; without, all 3x3 convolutions, and 1x1 ones whose input channels are a power
            of two.
        reduction: of 4x4 codes to 3x3.
    """

    share: float
    layers: Sequence[str] | None = None
    reduction: Reduction = "crop"

    def __post_init__(self) -> None:
        check_budget(self.share, "codes")
        reduced_codes(self.reduction)

    def convert(self, model: nn.Module) -> dict[str, CodedLayer]:
        """Replace weights by coefficients, in place, starting from the filters that are there.

        Train the model on, or a fresh one from scratch; `bake` makes plain filters of it, so keep
        `attached(model)`'s coefficients to store those.

        Raises:
            BadArgument: there is no such layer, or codes do not fit it.
            BadModel: no layer was named and codes fit none.
        """
        found = selected(model, self.layers, _fits)
        for name, layer in found.items():
            if not _fits(layer):
                raise BadArgument(
                    f"codes need a 3x3 kernel, or a 1x1 one with a power of two of input channels; "
                    f"{name!r} has a weight {tuple(layer.weight.shape)}"
                )
        before = {name: layer.weight.detach().clone() for name, layer in found.items()}
        made = attach_each(found, lambda weight: CodeFilter(self._codes(weight), weight.shape))
        return {each.name: _compared(before[each.name], each) for each in made}

    def _codes(self, weight: Tensor) -> Tensor:
        """Those that a layer uses."""
        if weight.shape[-1] == 3:
            codes = reduced_codes(self.reduction)
            order = greedy_order(codes.numpy())
            return codes[order[: max(1, int(self.share * len(codes)))]]
        channels = weight.shape[1]
        spectrum = walsh_hadamard(weight.detach().double().reshape(len(weight), channels))
        order = spectrum.square().sum(0).argsort(descending=True, stable=True).tolist()
        identity = torch.eye(channels, dtype=torch.float64)
        kept = order[: max(1, int(self.share * channels))]
        return walsh_hadamard(identity)[kept]


def _fits(layer: Layer) -> bool:
    """Whether codes can make the layer's filters."""
    if not is_convolution(layer):
        return False
    channels, kernel = layer.weight.shape[1], shape_of(layer).kernel
    return kernel == (3, 3) or (kernel == (1, 1) and channels & (channels - 1) == 0)


def _compared(before: Tensor, each: Attached) -> CodedLayer:
    weight: Any = each.layer.weight
    with torch.no_grad():
        error = (weight - before).square().sum() / before.square().sum().clamp(min=1e-30)
    return CodedLayer(before.numel(), each.stored.numel(), float(error))


def _check_length(length: int) -> None:
    if length < 1 or length & (length - 1):
        raise BadArgument(f"codes have a length that is a power of two, got {length}")
