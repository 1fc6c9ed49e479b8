# SPDX-License-Identifier: Apache-2.0
"""`"package.module:function"` and a safetensors file to a user's module with its weights.

The function is called without arguments. It runs the user's own code, as an import does; what that
code raises is not ours to explain and passes through.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from thinmaps.errors import BadArgument, BadFile, BadModel


def built_module(reference: str, weights: Path, folder: Path) -> nn.Module:
    """The module in evaluation; Python modules are looked for in `folder`, too.

    Raises:
        BadArgument: the reference names no function, or one that builds no module.
        BadFile: the weights cannot be read.
        BadModel: they are those of another module.
    """
    module = _function(reference, folder)()
    if not isinstance(module, nn.Module):
        raise BadArgument(f"{reference!r} builds a torch module, got {type(module).__name__}")
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as reason:
        raise BadFile(f"{weights} cannot be read as safetensors: {reason}") from None
    try:
        module.load_state_dict(state)
    except RuntimeError as reason:
        raise BadModel(f"{weights} does not fit {reference!r}: {reason}") from None
    return module.eval()


def _function(reference: str, folder: Path) -> Any:
    name, _, function = reference.partition(":")
    if not name or not function:
        raise BadArgument(f"a module is named as 'package.module:function', got {reference!r}")
    with _importing_from(folder):
        try:
            found = import_module(name)
        except ModuleNotFoundError as absent:
            raise BadArgument(
                f"cannot import {name!r} for the network: {absent}; run where it is installed, or "
                "put it beside the configuration"
            ) from None
    if not callable(getattr(found, function, None)):
        raise BadArgument(f"module {name!r} has no function {function!r}")
    return getattr(found, function)


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
