# SPDX-License-Identifier: Apache-2.0
"""A student becomes a standard ONNX QDQ file, its codecs functions of standard operators.

What any ONNX runtime computes of it, and what `thinmaps compress` makes of it as it is, are the
answers of `student.eval()`; the room `export` says how exact a runtime is.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from thinmaps.export.onnx_qdq import to_onnx
from thinmaps.file import write_atomically
from thinmaps.learn.student import Student


def export(student: Student, path: str | Path, *, size: tuple[int, int] | None = None) -> None:
    """Write the student as ONNX to `path`, whole or not at all, at (height, width).

    Raises:
        BadModel: a weight is not finite, or a sum could leave int32.
        BadArgument: the path cannot be written, or a codec cannot be expressed in ONNX.
    """
    drawn = as_onnx(student, size)
    write_atomically(Path(path), drawn.SerializeToString(deterministic=True))


def as_onnx(student: Student, size: tuple[int, int] | None = None) -> onnx.ModelProto:
    """The same in memory; raises the same, so worth asking before hours of training."""
    return to_onnx(student.network(size), student.codecs(), student.tail(size))
