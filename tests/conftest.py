# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real networks and pictures beside the checkout; skips, saying so, where they are absent."""
    folder = Path(os.environ.get("THINMAPS_ASSETS", CHECKOUT.parent / "shared" / "assets"))
    if not folder.is_dir():
        pytest.skip("the networks and pictures beside the checkout are absent")
    return folder
