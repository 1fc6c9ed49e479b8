# SPDX-License-Identifier: Apache-2.0
"""Public names of a package that are imported when they are first used (PEP 562).

So `import thinmaps` loads NumPy and little else, and what runs a `.thin` file never loads onnx or
torch, though one package offers all of it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any


def resolve(package: str, homes: Mapping[str, str], name: str) -> Any:
    """The object `name` of `package`, from the module that `homes` gives; found once, then kept.

    >>> resolve("thinmaps", {"ONE": "thinmaps.codecs.steps"}, "TWO")
    Traceback (most recent call last):
        ...
    AttributeError: module 'thinmaps' has no attribute 'TWO'
    """
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value = getattr(import_module(homes[name]), name)
    setattr(sys.modules[package], name, value)
    return value
