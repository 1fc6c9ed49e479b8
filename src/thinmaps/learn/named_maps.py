# SPDX-License-Identifier: Apache-2.0
"""Reads what named submodules put out in a forward pass, and can put others in their place."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from thinmaps.errors import BadArgument
from thinmaps.nearest import alike


class NamedMaps:
    """Hooks on submodules of `module`, from `with` to its end.

    Attributes:
        maps: what each named submodule put out since `clear`.
        replaced: a map that stands here is what the readers of that submodule get instead.

    Raises:
        BadArgument: a name that the module has not, with near ones.
    """

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        self._named = {name: _submodule(module, name) for name in names}
        self.maps: dict[str, Tensor] = _Seen()
        self.replaced: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> NamedMaps:
        for name, submodule in self._named.items():
            self._handles.append(submodule.register_forward_hook(self._hook(name)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def clear(self) -> None:
        """Before each forward pass."""
        self.maps.clear()
        self.replaced.clear()

    def _hook(self, name: str) -> Any:
        def keep(module: nn.Module, arguments: Any, output: Any) -> Tensor | None:
            if not isinstance(output, Tensor):
                raise BadArgument(
                    f"a map to learn from is one tensor, {name!r} puts out "
                    f"{type(output).__name__}; name another submodule"
                )
            if name in self.maps:
                raise BadArgument(
                    f"a map to learn from has one maker, {name!r} runs more than once in a forward "
                    "pass; name another submodule"
                )
            self.maps[name] = output
            return self.replaced.get(name)

        return keep


class _Seen(dict[str, Tensor]):
    """Maps by name; one that no forward pass has made is named."""

    def __missing__(self, name: str) -> Tensor:
        raise BadArgument(
            f"submodule {name!r} puts out no map: a student folds layers into one, which has the "
            "last one's name (its batch norm's or activation's); see its map_names"
        )


def _submodule(module: nn.Module, name: str) -> nn.Module:
    named = dict(module.named_modules())
    if name not in named or not name:
        near = alike(name, filter(None, named))
        cure = f"; near: {', '.join(near)}" if near else ""
        raise BadArgument(f"{type(module).__name__} has no submodule {name!r}{cure}")
    found: nn.Module = named[name]
    return found
