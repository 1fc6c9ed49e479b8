# SPDX-License-Identifier: Apache-2.0
"""Fast convolutions derived from polynomials, in exact rationals, verified by identity.

    algorithm = thinmaps.winograd.derive(outputs=4, taps=3)     # x, x-1, x+1, x^2+1, infinity
    algorithm.at, algorithm.g, algorithm.bt                     # y = A^T ((G g) . (B^T d))

Names are resolved when they are first used.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from thinmaps.errors import MissingExtra
from thinmaps.first_use import resolve

if TYPE_CHECKING:
    from thinmaps.winograd.algorithm import Algorithm, arrays, derive
    from thinmaps.winograd.emit import cpp, latex, python
    from thinmaps.winograd.identity import Triple, verify, verify_2d
    from thinmaps.winograd.module import Replacement, WinogradConv2d, accelerate
    from thinmaps.winograd.pareto import search
    from thinmaps.winograd.polynomial import Polynomial

_HOMES = {
    "Algorithm": "thinmaps.winograd.algorithm",
    "Polynomial": "thinmaps.winograd.polynomial",
    "Replacement": "thinmaps.winograd.module",
    "Triple": "thinmaps.winograd.identity",
    "WinogradConv2d": "thinmaps.winograd.module",
    "accelerate": "thinmaps.winograd.module",
    "arrays": "thinmaps.winograd.algorithm",
    "cpp": "thinmaps.winograd.emit",
    "derive": "thinmaps.winograd.algorithm",
    "latex": "thinmaps.winograd.emit",
    "python": "thinmaps.winograd.emit",
    "search": "thinmaps.winograd.pareto",
    "verify": "thinmaps.winograd.identity",
    "verify_2d": "thinmaps.winograd.identity",
}

__all__ = [
    "Algorithm",
    "Polynomial",
    "Replacement",
    "Triple",
    "WinogradConv2d",
    "accelerate",
    "arrays",
    "cpp",
    "derive",
    "latex",
    "python",
    "search",
    "verify",
    "verify_2d",
]


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use."""
    if _HOMES.get(name, "").endswith(".module") and find_spec("torch") is None:
        raise MissingExtra(
            f"thinmaps.winograd.{name} needs torch, which is not installed: "
            "pip install 'thinmaps[learn]'"
        )
    return resolve(__name__, _HOMES, name)
