# SPDX-License-Identifier: Apache-2.0
"""The float network in ONNX Runtime: what the thin one is compared with.

It sees the same fitted pictures as the thin network (`run/pictures.py`), as
`(value / 255 - mean) / std` in float32, n c h w. A file with another static input size than the
thin network's is read at the thin network's size.
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
except ImportError:
    raise MissingExtra(
        "comparing with the float network needs onnx and onnxruntime: "
        "pip install 'thinmaps[compress]'"
    ) from None

Float32Array = NDArray[np.float32]


class FloatModel:
    """Calls ONNX Runtime with one fitted picture, returns the file's outputs in its order."""

    def __init__(
        self,
        path: str | Path,
        preprocessing: Preprocessing,
        size: tuple[int, int],
        threads: int = 1,
    ) -> None:
        """Open `path` for pictures of `size` (height, width).

        Raises:
            BadModel: no such file, or ONNX Runtime refuses it.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._preprocessing = preprocessing
        try:
            self._session = onnxruntime.InferenceSession(
                _at_size(path, size), options, providers=["CPUExecutionProvider"]
            )
        except Exception as reason:  # ONNX Runtime's errors share no base but Exception
            first_line = str(reason).splitlines()[0]
            raise BadModel(f"the float network {str(path)!r} cannot be run: {first_line}") from None
        self._input: str = self._session.get_inputs()[0].name

    def __call__(self, picture: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Outputs for a fitted picture, uint8 `(h, w, c)` RGB or grey."""
        values = real_values(picture, self._preprocessing).transpose(2, 0, 1)[None]
        outputs: list[NDArray[np.float32]] = self._session.run(None, {self._input: values})
        return outputs


def real_values(picture: NDArray[np.uint8], preprocessing: Preprocessing) -> Float32Array:
    """`(value / 255 - mean) / std` in the order that the network was trained on, `(h, w, c)`."""
    ordered = picture[:, :, ::-1] if preprocessing.order == "bgr" else picture
    unit = ordered.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(
        (unit - np.array(preprocessing.mean, np.float32)) / np.array(preprocessing.std, np.float32),
        np.float32,
    )


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _at_size(path: str | Path, size: tuple[int, int]) -> bytes | str:
    """The file, or its bytes with another input size where its own is static and differs."""
    graph_input = onnx.load(path, load_external_data=False)
    initialised = {tensor.name for tensor in graph_input.graph.initializer}
    entry = next(i for i in graph_input.graph.input if i.name not in initialised)
    dims = entry.type.tensor_type.shape.dim
    static = [dims[2].dim_value, dims[3].dim_value] if len(dims) == 4 else [0, 0]
    if all(have in (0, want) for have, want in zip(static, size, strict=True)):
        return str(path)
    model = onnx.load(path)
    entry = next(i for i in model.graph.input if i.name == entry.name)
    for dim, want in zip(entry.type.tensor_type.shape.dim[2:], size, strict=True):
        dim.dim_value = want
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())
