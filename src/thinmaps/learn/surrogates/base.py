# SPDX-License-Identifier: Apache-2.0
"""The contract of a surrogate: the torch module that stands for a codec while a network learns.

Values are those of a map's readers, float32 `n c h w` on the map's grid: `(byte - zero_point) *
scale`. Training gives restored values with a gradient; evaluation gives exactly what the codec's
reference restores, picture by picture. A surrogate that learns keeps its real parameters in itself,
and `codec()` says which codec they amount to; that codec is what is exported.

A codec with a surrogate of its own names it in a class of this folder. Every other codec gets
`StraightThrough`: its reference forwards, the identity backwards (Bengio et al., "Estimating or
Propagating Gradients Through Stochastic Neurons", 2013, arXiv:1308.3432).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from thinmaps.codecs import Codec
from thinmaps.codecs.base import UInt8Array
from thinmaps.codecs.native import fastest
from thinmaps.errors import BadArgument
from thinmaps.learn.standard_operators import Restored
from thinmaps.types import MapSpec


class Surrogate(nn.Module):
    """Stands for the codec of one map. Abstract but for `forward` and `restored_bytes`.

    `spec` gives the grid (scale and zero point) and the channels; height and width are those of the
    values that come, so pictures of other sizes pass.
    """

    codec_id: ClassVar[str] = ""
    takes_codes: ClassVar[bool] = False  # whether it has `restored_codes`
    registered: ClassVar[dict[str, type[Surrogate]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.codec_id in Surrogate.registered:
            raise BadArgument(f"two surrogates stand for codec {cls.codec_id!r}")
        if cls.codec_id:
            Surrogate.registered[cls.codec_id] = cls

    def __init__(self, spec: MapSpec) -> None:
        super().__init__()
        self.spec = spec

    @abstractmethod
    def codec(self) -> Codec:
        """The codec as the parameters have it at this moment."""

    @abstractmethod
    def restored(self, values: Tensor) -> Tensor:
        """What a reader sees of `values`, with a gradient for `values` and the parameters."""

    def require(self, codec: Codec) -> None:
        """Refuse a codec of another id, or one that these maps cannot have.

        Raises:
            BadArgument: it has another id.
            BadShape: it does not fit the maps.
        """
        if codec.id != self.codec_id:
            raise BadArgument(f"the surrogate of {self.codec_id} was given codec {codec.id!r}")
        codec.check_spec(self.spec)

    def restored_codes(self, codes: Tensor) -> Tensor:
        """`restored` between centred codes, exact: for surrogates that compute in these anyway."""
        raise NotImplementedError

    def refit(self, samples: UInt8Array) -> None:
        """Fit what the codec has and no gradient finds, to maps (n, h, w, c); here nothing."""

    def forward(self, values: Tensor) -> Tensor:
        """`restored(values)` while training; else, exactly, what the codec restores."""
        if self.training:
            return self.restored(values)
        restored: Tensor = self.restored_bytes(values_to_bytes(values, self.spec))
        return bytes_to_values(restored, self.spec)

    def restored_bytes(self, codes: Tensor) -> Tensor:
        """Bytes of a map, uint8 `n c h w`, encoded and decoded by the codec."""
        restored: Tensor = through_reference(self.codec(), self.spec, codes)
        return restored

    def straight_through(self, values: Tensor) -> Tensor:
        """Exactly the decoded values; their gradient is passed to `values` unchanged."""
        with torch.no_grad():
            codes = self.restored_bytes(values_to_bytes(values, self.spec))
            change = bytes_to_values(codes, self.spec) - values
        return values + change


class StraightThrough(Surrogate):
    """Any codec: its reference forwards, the identity backwards. Nothing to learn.

    A codec that defines standard operators is computed by these, in torch; any other leaves torch
    for its reference or native twin, picture by picture.
    """

    def __init__(self, codec: Codec, spec: MapSpec) -> None:
        super().__init__(spec)
        self._codec = codec
        self._sizes = nn.ModuleDict()
        self._is_standard = not codec.lossless
        try:
            self._add_size(spec.height, spec.width)
        except BadArgument:
            self._is_standard = False

    def codec(self) -> Codec:
        """The codec as given."""
        return self._codec

    def restored(self, values: Tensor) -> Tensor:
        """Exactly the decoded values; their gradient is passed to `values` unchanged."""
        return values if self._codec.lossless else self.straight_through(values)

    def restored_bytes(self, codes: Tensor) -> Tensor:
        """Bytes of a map, uint8 `n c h w`, encoded and decoded by the codec."""
        if not self._is_standard:
            return super().restored_bytes(codes)
        key = f"{codes.shape[2]}x{codes.shape[3]}"
        if key not in self._sizes:
            self._add_size(int(codes.shape[2]), int(codes.shape[3]))
        made: Tensor = self._sizes[key](codes.float())
        return made.to(torch.uint8)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _add_size(self, height: int, width: int) -> None:
        sized = replace(self.spec, height=height, width=width)
        made = Restored(self._codec, sized)
        like = next(self.buffers(), None)
        self._sizes[f"{height}x{width}"] = made if like is None else made.to(like.device)


def values_to_bytes(values: Tensor, spec: MapSpec) -> Tensor:
    """Values on a map's grid -> its bytes, uint8.

    >>> values_to_bytes(torch.tensor([-1.0, 0.0, 0.5]), MapSpec(1, 3, 1, 0.5, 4)).tolist()
    [2, 4, 5]
    """
    codes = torch.round(values.detach() / spec.scale) + spec.zero_point
    return codes.clamp(0, 255).to(torch.uint8)


def bytes_to_values(codes: Tensor, spec: MapSpec) -> Tensor:
    """Bytes of a map -> float32 values on its grid, as `quant.dequantise` has them."""
    return (codes.to(torch.float32) - spec.zero_point) * spec.scale


@torch.compiler.disable  # type: ignore[untyped-decorator]
def through_reference(codec: Codec, spec: MapSpec, codes: Tensor) -> Tensor:
    """Each map of a batch, uint8 `n c h w`, encoded and decoded, by the native twin where one is.

    The twin restores what the reference does: `tests/contracts/test_codecs.py` holds it to that.
    """
    if codec.lossless:
        return codes
    sized = replace(spec, height=codes.shape[2], width=codes.shape[3])
    able = fastest(codec)
    # A copy in C order: torch leaves odd strides on axes of length 1, which the twins refuse.
    pictures = np.array(codes.detach().permute(0, 2, 3, 1).cpu().numpy(), order="C", copy=True)
    restored = np.empty(pictures.shape, np.uint8)
    for picture, out in zip(pictures, restored, strict=True):
        for first in range(0, sized.height, codec.unit_rows):
            rows = picture[first : first + codec.unit_rows]
            payload = able.encode_unit(rows, sized)
            out[first : first + len(rows)] = able.decode_unit(payload, sized, len(rows))
    return torch.from_numpy(restored).permute(0, 3, 1, 2).to(codes.device)
