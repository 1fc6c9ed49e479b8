# SPDX-License-Identifier: Apache-2.0
"""The surrogates of `narrow` and `mixed_width`: the step between two levels of a channel learns.

Bits and zero codes stay, so that a map keeps its bytes. Restored in training as in evaluation is
what `codecs/levels.py` defines for the steps rounded to 1/32768 of a byte, in float32, which is
exact there. Beyond the last level a value has no gradient, its step that of the level.

A step is bounded so that all levels reach over at most two maps' ranges: beyond that it could only
coarsen, and the export's float32 would no longer be exact.

Source: `learned_steps.py` has the gradients. Cost: some ten passes over the map.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from thinmaps.codecs.base import Codec
from thinmaps.codecs.levels import FRACTION_BITS, ONE
from thinmaps.codecs.mixed_width import MixedWidth
from thinmaps.codecs.narrow import Narrow
from thinmaps.learn.surrogates.base import Surrogate
from thinmaps.learn.surrogates.learned_steps import Hard, exact_table, quantised
from thinmaps.types import MapSpec

MOST = 255 * ONE
MOST_REACH = 2 * MOST  # of all levels of a channel, so that their float32 stays below 2**24

Held = Narrow | MixedWidth


class LevelsSurrogate(Surrogate):
    """Learns the steps of a codec; `codec()` has them rounded. Final classes name the codecs."""

    takes_codes = True
    zero_code: Tensor
    largest_code: Tensor

    def __init__(self, codec: Codec, spec: MapSpec) -> None:
        super().__init__(spec)
        self.require(codec)
        assert isinstance(codec, Held)
        self._codec = codec
        self.log_step = nn.Parameter(torch.from_numpy(np.log(codec.step / ONE).astype(np.float32)))
        for name in ("zero_code", "largest_code"):
            table = np.broadcast_to(getattr(codec, name), codec.step.shape).astype(np.float32)
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def codec(self) -> Held:
        """The codec with the steps as they are."""
        return replace(self._codec, step=self._integers().to(torch.int32).cpu().numpy())

    def restored(self, values: Tensor) -> Tensor:
        """What a reader sees, with gradients for values and steps."""
        return quantised(values, self.log_step, self.spec.scale, self._hard)[0]

    def restored_codes(self, codes: Tensor) -> Tensor:
        """The same between centred codes."""
        return quantised(codes, self.log_step, 1.0, self._hard)[0]

    def restored_bytes(self, codes: Tensor) -> Tensor:
        """As `Levels.restored(Levels.codes(..))`, on whole batches."""
        zero_point = self.spec.zero_point
        return (self._hard(codes.float() - zero_point).restored + zero_point).to(torch.uint8)

    def _integers(self) -> Tensor:
        """Steps in 1/32768 of a byte."""
        reach = (MOST_REACH // self.largest_code.long().clamp(min=1)).clamp(ONE, MOST)
        wide = (self.log_step.detach().double().exp() * ONE).round().long()
        return torch.minimum(wide.clamp(min=ONE), reach)

    @torch.no_grad()
    def _hard(self, centred: Tensor) -> Hard:
        """Codes less the zero code, and restored bytes less the zero point, by the codec's rule."""
        integers = self._integers()
        reciprocal = torch.div(
            (1 << 2 * FRACTION_BITS) + integers // 2, integers, rounding_mode="floor"
        )
        factor, step = (exact_table(each, FRACTION_BITS) for each in (reciprocal, integers))
        zero_code, largest = (
            each.reshape(-1, 1, 1) for each in (self.zero_code, self.largest_code)
        )
        half = centred.new_full((), 0.5)
        exact = torch.addcmul(half, centred, factor).floor_()
        code = torch.clamp(exact, -zero_code, largest - zero_code)
        restored = torch.addcmul(half, code, step).floor_()
        low, high = -self.spec.zero_point, 255 - self.spec.zero_point
        return Hard(code, restored.clamp_(low, high), (code == exact).to(code.dtype))


class NarrowLevels(LevelsSurrogate):
    """Steps of `narrow`."""

    codec_id = "narrow"


class MixedWidthLevels(LevelsSurrogate):
    """Steps of `mixed_width`."""

    codec_id = "mixed_width"
