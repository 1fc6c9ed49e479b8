# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from thinmaps.run import cores, describe

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real networks and pictures beside the checkout; skips, saying so, where they are absent."""
    folder = Path(os.environ.get("THINMAPS_ASSETS", CHECKOUT.parent / "shared" / "assets"))
    if not folder.is_dir():
        pytest.skip("the networks and pictures beside the checkout are absent")
    return folder


@pytest.fixture
def every_step_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines have as many threads as asked for, which share steps however short."""
    monkeypatch.setattr(cores, "usable_cores", lambda: cores.MOST_THREADS)
    monkeypatch.setattr(
        describe, "step_nanoseconds", lambda plan, steps, cost: np.full(len(steps), 2**30, np.int32)
    )
