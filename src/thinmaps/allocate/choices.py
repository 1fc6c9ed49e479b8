# SPDX-License-Identifier: Apache-2.0
"""What each codec would make of one map: bytes stored, and how much the output would feel it.

The error of a choice is predicted, not measured: for map errors `e = restored - byte` that are
small, the mean squared error of the network's outputs grows by about

    scale^2 * sum over channels of  positions * M_c * (mean(e^2) - b^2) + positions^2 * S_c * b^2

with `b` the mean of `e` over a picture's positions, `M_c` the second moment of the outputs'
gradient and `S_c` that of its mean over positions (`calibrate/sensitivity.py`). What is left of `e`
without its mean is taken to have no correlation. A transform shifts whole channels, a quantiser to
the nearest level hardly does: on six maps of ResNet-20 `klt` at 2 bits moved the outputs by 0.9 to
5.4 times the prediction (without the second term 1.0 to 16), `mixed_width` at 2 bits by 0.6 to 2.6
(0.8 to 15), `rans` with steps of 10 bytes by 0.9 to 2.1 (1.5 to 2.4). Bytes are measured: the codec
encodes samples of the map, headers, tables and padding counted.

Cost: every choice encodes and, if lossy, decodes the samples once with its native twin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from thinmaps import codecs
from thinmaps.calibrate.sensitivity import Felt
from thinmaps.codecs.base import Codec
from thinmaps.codecs.native import fastest, twins
from thinmaps.errors import BadArgument, BadShape
from thinmaps.plan.flow import LENGTH_PREFIX_BYTES
from thinmaps.types import MapSpec

UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Choice:
    """One way to hold a map; `codec` None holds it as it is.

    `mean_bytes` is the mean of the stored size over the samples, times `moves`, how often it is
    written and read; `worst_bytes` what the arena must reserve, `error` the predicted mean squared
    error of the outputs, in output units.
    """

    codec: Codec | None
    request: str
    mean_bytes: float
    worst_bytes: int
    error: float
    moves: int = 1

    @property
    def codec_bytes(self) -> float:
        """The mean of the stored size."""
        return self.mean_bytes / self.moves


@dataclass(frozen=True, eq=False)
class Observed:
    """Samples of one map, whole maps `(n, h, w, c)`, and what the outputs feel of it."""

    spec: MapSpec
    samples: UInt8Array
    felt: Felt


def menu(
    rates: Collection[str] = ("fixed", "variable", "capped"), only: Collection[str] = ()
) -> list[tuple[type[Codec], dict[str, int]]]:
    """Every codec of these rates with each of its settings; `only` names the ids that count.

    A variable rate with a cap is "capped" here, because it bounds an arena as a fixed one does.
    A codec that is named counts also where rate control would leave it out by itself.
    """
    found = [codecs.get(codec_id) for codec_id in only or codecs.ids()]
    return [
        (codec, dict(setting))
        for codec in found
        if ("capped" if codec.has_cap else codec.rate) in rates and codec.id != "raw"
        for setting in codec.menu or (codec.settings if only else ())
    ]


def choices_of(
    seen: Observed,
    settings: Sequence[tuple[type[Codec], Mapping[str, int]]],
    unit_rows: int,
) -> tuple[Choice, ...]:
    """Every choice for a map, itself among them; what a codec refuses is no choice.

    The first half of the samples fits a codec's tables, the second measures it (a single sample
    does both).
    """
    half = len(seen.samples) // 2
    fitting, measuring = (seen.samples[:half], seen.samples[half:]) if half else 2 * (seen.samples,)
    spec = seen.spec
    found = [Choice(None, "raw", spec.raw_bytes, spec.raw_bytes, 0.0)]
    fitters = {kind: kind.fitter(spec, fitting, seen.felt.element) for kind, _ in settings}
    for kind, options in settings:
        codec = _fitted(partial(fitters[kind], **options, unit_rows=unit_rows), spec)
        if codec is not None:
            found.append(_measured(codec, _request(kind.id, options), seen, measuring))
    return tuple(found)


def _fitted(fit: Callable[[], Codec], spec: MapSpec) -> Codec | None:
    """The codec; None if it cannot hold the map, or has no native twin."""
    try:
        codec = fit()
        codec.check_spec(spec)
    except (BadArgument, BadShape):
        return None
    return codec if twins(codec) else None


def _measured(codec: Codec, request: str, seen: Observed, measuring: UInt8Array) -> Choice:
    """Bytes and error of a fitted codec on samples that it has not seen."""
    twin = fastest(codec)
    prefix_bytes = LENGTH_PREFIX_BYTES if codec.rate == "variable" else 0
    stored, error = 0, 0.0
    for values in measuring:
        restored = []
        for first in range(0, seen.spec.height, codec.unit_rows):
            rows = values[first : first + codec.unit_rows]
            payload = twin.encode_unit(rows, seen.spec)
            stored += len(payload) + prefix_bytes
            if not codec.lossless:
                restored.append(twin.decode_unit(payload, seen.spec, len(rows)))
        if restored:
            error += _felt_error(np.concatenate(restored).astype(np.int32) - values, seen)
    return Choice(
        codec,
        request,
        stored / len(measuring),
        codec.max_bytes(seen.spec) + codec.unit_count(seen.spec) * prefix_bytes,
        error / len(measuring),
    )


def _felt_error(differences: NDArray[np.int32], seen: Observed) -> float:
    """What the outputs feel of one map's differences (h, w, c), as the page's head says."""
    positions = seen.spec.height * seen.spec.width
    shift = differences.mean(axis=(0, 1))
    noise = np.square(differences).sum(axis=(0, 1)) - positions * np.square(shift)
    alone = seen.felt.element.astype(np.float64) @ noise
    shared = seen.felt.shift.astype(np.float64) @ np.square(positions * shift)
    return float(alone + shared) * seen.spec.scale**2


def _request(codec_id: str, options: Mapping[str, int]) -> str:
    """The choice as `--codec` writes it.

    >>> _request("narrow", {"bits": 4})
    'narrow:bits=4'
    """
    parts = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{codec_id}:{parts}" if parts else codec_id


def rescaled(choice: Choice, moves: int) -> Choice:
    """The choice of a map that is written and read `moves` times."""
    return dataclasses.replace(choice, mean_bytes=choice.codec_bytes * moves, moves=moves)
