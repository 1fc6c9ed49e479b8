# SPDX-License-Identifier: Apache-2.0
"""Writes native/winograd_transforms.h from the polynomials that native kernels are compiled for.

python tools/winograd_header.py
"""

from __future__ import annotations

from pathlib import Path

from thinmaps.winograd.emit import native_header

if __name__ == "__main__":
    header = Path(__file__).resolve().parent.parent / "native" / "winograd_transforms.h"
    header.write_text(native_header())
