# SPDX-License-Identifier: Apache-2.0
"""The random generators of Python, NumPy and torch: seeded, read and set back together.

A state consists of numbers, tuples and tensors only, so that `torch.load(weights_only=True)`
reads it back.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

RandomStates = dict[str, Any]


def seed_all(seed: int) -> None:
    """Start all generators of this process, those of every GPU included, from `seed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states(device: torch.device) -> RandomStates:
    """Where the generators stand; of GPUs only that of `device`, the process's own."""
    kind, keys, *rest = np.random.get_state()
    found = {
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def set_random_states(states: RandomStates, device: torch.device) -> None:
    """Put the generators where `random_states` found them."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
