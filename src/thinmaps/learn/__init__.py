# SPDX-License-Identifier: Apache-2.0
"""Everything that needs torch: networks learn to live with small maps. Needs `thinmaps[learn]`.

    capture      a user's module -> the float network that the one reader takes
    surrogates   what stands for a codec while a network learns

Nothing below this room imports it, and running a `.thin` file never loads torch.
"""

from __future__ import annotations

from importlib.util import find_spec

from thinmaps.errors import MissingExtra

if find_spec("torch") is None:
    raise MissingExtra(
        "thinmaps.learn needs torch, which is not installed: pip install 'thinmaps[learn]'"
    )
