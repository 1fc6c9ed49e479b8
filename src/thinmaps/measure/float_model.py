# SPDX-License-Identifier: Apache-2.0
"""The float network in ONNX Runtime: what the thin one is compared with.

It sees the same fitted pictures as the thin network (`run/pictures.py`), as
`(value / 255 - mean) / std` in float32, n c h w. A file whose static input size is another than
the thin network's is brought to that size.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thinmaps.errors import BadModel, MissingExtra
from thinmaps.types import Preprocessing

try:
    import onnx
    import onnxruntime

    from thinmaps.graph.onnx_clean import IR_VERSION, clean
    from thinmaps.graph.onnx_reader import read_model
    from thinmaps.graph.quantise import real_values
except ImportError as absent:
    raise MissingExtra(
        f"comparing with another network needs ONNX Runtime ({absent}): "
        "pip install 'thinmaps[compress]'"
    ) from None


class FloatModel:
    """Calls ONNX Runtime with one fitted picture, returns the file's outputs in its order."""

    def __init__(
        self,
        source: str | Path | onnx.ModelProto,
        preprocessing: Preprocessing,
        size: tuple[int, int],
        threads: int = 1,
    ) -> None:
        """Open a file or a loaded model for pictures of `size` (height, width).

        Raises:
            BadModel: no such file, or ONNX Runtime refuses it.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._preprocessing = preprocessing
        opened = _at_size(source, size)
        try:
            self._session = onnxruntime.InferenceSession(
                opened, options, providers=["CPUExecutionProvider"]
            )
        except Exception as reason:  # ONNX Runtime's errors share no base but Exception
            first_line = str(reason).splitlines()[0]
            name = "" if isinstance(source, onnx.ModelProto) else f" {str(source)!r}"
            raise BadModel(f"the float network{name} cannot be run: {first_line}") from None
        self._input: str = self._session.get_inputs()[0].name

    def __call__(self, picture: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Outputs for a fitted picture, uint8 `(h, w, c)` RGB or grey."""
        values = real_values(picture, self._preprocessing)[None]
        try:
            outputs: list[NDArray[np.float32]] = self._session.run(None, {self._input: values})
        except Exception as reason:  # as above
            first_line = str(reason).splitlines()[0]
            raise BadModel(f"the float network cannot be run: {first_line}") from None
        return outputs


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _at_size(source: str | Path | onnx.ModelProto, size: tuple[int, int]) -> bytes | str:
    """The file, or a model's bytes; brought to `size`, and to a version that runtimes read."""
    model = source if isinstance(source, onnx.ModelProto) else read_model(source)
    initialised = {tensor.name for tensor in model.graph.initializer}
    entry = next(i for i in model.graph.input if i.name not in initialised)
    sides = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    # Batch 1; the channels are not ours to change.
    fits = all(
        side in (0, want) for side, want in zip(sides[:1] + sides[2:], (1, *size), strict=False)
    )
    if not fits or model.ir_version > IR_VERSION:
        return bytes(clean(model, size)[0].SerializeToString())
    return bytes(model.SerializeToString()) if source is model else str(source)
