# SPDX-License-Identifier: Apache-2.0
"""The surrogate of every codec that holds `Steps`: `rans`, `block_width`, `zero_bitmap`.

A step per channel learns, in logarithms, from what its rounding costs the answers and from what its
symbols cost in bits: `symbols()` hands them to the rate term of the loop (`rate_weight`). A codec
of one step for all channels gets one for each; a lossless codec stays so, and its symbols teach the
network alone to make maps that are short.

Restored in training as in evaluation is what `codecs/steps.py` defines for the steps rounded to
1/128 of a byte, in float32, which is exact there: products stay below 2**24, and a shift to the
right is a multiplication by a power of two, then a floor. Symbols are handed out as signed
distances from the zero point, before the fold, which is 0 to 255 for most maps (behind a ReLU).

What else a codec has, the models of `rans`, does not learn: `refit` finds them for samples of the
maps. Until then, models stay as given where they cover the symbols of the steps, else they are
those of maps in general. What is restored does not depend on them. They are no part of a state
dict.

Source: `learned_steps.py` has the gradients. Cost: some ten passes over the map.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from thinmaps.codecs.base import Codec, UInt8Array
from thinmaps.codecs.block_width import BlockWidth
from thinmaps.codecs.rans import Rans
from thinmaps.codecs.steps import MOST, ONE, Steps
from thinmaps.codecs.zero_bitmap import ZeroBitmap
from thinmaps.errors import BadArgument
from thinmaps.learn.surrogates.base import Surrogate
from thinmaps.learn.surrogates.learned_steps import Hard, exact_table, quantised
from thinmaps.types import MapSpec

STEP_BITS = ONE.bit_length() - 1

Held = Rans | BlockWidth | ZeroBitmap


class StepsSurrogate(Surrogate):
    """Learns the steps of a codec; `codec()` has them rounded. Final classes name the codecs."""

    takes_codes = True
    log_step: Tensor | None

    def __init__(self, codec: Codec, spec: MapSpec) -> None:
        super().__init__(spec)
        self.require(codec)
        assert isinstance(codec, Held)
        self._codec = codec
        self._seen: Tensor | None = None
        if codec.steps is None:
            self.log_step = None
        else:
            steps = np.broadcast_to(codec.steps.step, spec.channels) / ONE
            self.log_step = nn.Parameter(torch.from_numpy(np.log(steps).astype(np.float32)))

    def __getstate__(self) -> dict[str, Any]:
        """Without the last symbols: torch copies no tensor that has a history."""
        return {**self.__dict__, "_seen": None}

    def codec(self) -> Codec:
        """The codec with the steps as they are."""
        return self._with(self.steps())

    def steps(self) -> Steps | None:
        """The steps as integers; None of a lossless codec."""
        if self._codec.steps is None:
            return None
        return replace(self._codec.steps, step=self._integers().to(torch.int32).cpu().numpy())

    def symbols(self) -> Tensor:
        """Distances from the zero point in steps, of the last forward pass in training.

        Raises:
            BadArgument: there was none.
        """
        if self._seen is None:
            raise BadArgument(f"{self.codec_id} has seen no map in training, so it has no symbols")
        return self._seen

    def restored(self, values: Tensor) -> Tensor:
        """What a reader sees, with gradients for values and steps."""
        return self._quantised(values, self.spec.scale)

    def restored_codes(self, codes: Tensor) -> Tensor:
        """The same between centred codes."""
        return self._quantised(codes, 1.0)

    def _quantised(self, values: Tensor, scale: float) -> Tensor:
        if self.log_step is None:
            self._seen = values / scale
            return values
        made, self._seen = quantised(values, self.log_step, scale, self._hard)
        return made

    def restored_bytes(self, codes: Tensor) -> Tensor:
        """As `Steps.values(Steps.symbols(..))`, on whole batches."""
        if self.log_step is None:
            return codes
        zero_point = self.spec.zero_point
        made = self._hard(codes.float() - zero_point).restored + zero_point
        return made.to(torch.uint8)

    @torch.no_grad()
    def _hard(self, centred: Tensor) -> Hard:
        """Distances and restored bytes, both from the zero point on, by the codec's rule."""
        assert self._codec.steps is not None
        zero_point = self.spec.zero_point
        tables = _Tables.of(self._integers(), self._codec.steps.rounding)
        distance = tables.distance(centred.abs() if zero_point else centred)
        inside = None
        limit = self._codec.steps.symbol_limit
        if zero_point or limit < 255:
            bound = torch.where(centred > 0, *tables.most(zero_point, limit))
            inside = (distance <= bound).to(distance.dtype)
            distance = torch.minimum(distance, bound)
        restored = torch.addcmul(tables.half, distance, tables.step).floor_().clamp_(max=255)
        if not zero_point:
            return Hard(distance, restored, inside)
        sign = centred.sign()
        return Hard(distance * sign, (restored * sign).clamp(-zero_point, 255 - zero_point), inside)

    def _integers(self) -> Tensor:
        assert self.log_step is not None
        return (self.log_step.detach().double().exp() * ONE).round().clamp(ONE, MOST).long()

    def _with(self, steps: Steps | None) -> Held:
        return replace(self._codec, steps=steps)


class RansSteps(StepsSurrogate):
    """Steps of `rans`, whose models are found again by `refit`."""

    codec_id = "rans"

    def refit(self, samples: UInt8Array) -> None:
        """Models for the steps as they are, that give `samples` the fewest bytes."""
        self._codec = self._rans.refitted(self.spec, samples, self.steps())

    def _with(self, steps: Steps | None) -> Held:
        held, spec = self._rans, self.spec
        if steps is not None and held.models.symbols <= int(steps.largest(spec.zero_point).max()):
            return held.refitted(spec, np.zeros((0, *spec.shape), np.uint8), steps)
        return replace(held, steps=steps)

    @property
    def _rans(self) -> Rans:
        assert isinstance(self._codec, Rans)
        return self._codec


class BlockWidthSteps(StepsSurrogate):
    """Steps of `block_width`."""

    codec_id = "block_width"


class ZeroBitmapSteps(StepsSurrogate):
    """Steps of `zero_bitmap`, whose symbols may have 4 bits: what lies beyond is clipped."""

    codec_id = "zero_bitmap"


class _Tables(NamedTuple):
    """The constants of `codecs/steps.py` in float32, (channels, 1, 1) each."""

    factor: Tensor
    offset: Tensor
    step: Tensor
    half: Tensor

    @classmethod
    def of(cls, step: Tensor, rounding: int) -> _Tables:
        """For steps in 1/128 of a byte, int64 (channels,)."""
        multiplier = torch.div((1 << 19) + step // 2, step, rounding_mode="floor")
        offset = step * rounding >> 11
        return cls(
            exact_table(16 * multiplier, 16),
            exact_table(offset * multiplier, 16),
            exact_table(step, STEP_BITS),
            step.new_full((), 0.5, dtype=torch.float32),
        )

    def distance(self, size: Tensor) -> Tensor:
        """Steps that a difference of so many bytes is rounded to."""
        return torch.addcmul(self.offset, size, self.factor).floor_()

    def most(self, zero_point: int, symbol_limit: int) -> tuple[Tensor, Tensor]:
        """The most distances that symbols have above and below the zero point."""
        near, far = sorted((zero_point, 255 - zero_point))
        fold = self.distance(self.step.new_full((), near)).clamp(max=symbol_limit // 2)
        farther = torch.minimum(self.distance(self.step.new_full((), far)), symbol_limit - fold)
        return (farther, fold) if zero_point < 128 else (fold, farther)
