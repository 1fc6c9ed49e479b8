# SPDX-License-Identifier: Apache-2.0
"""Device, precision and processes of a run, by Lightning Fabric.

Under `torchrun` a run takes all processes that were started, each with its device; otherwise one
process and one device.
"""

from __future__ import annotations

import os
from typing import Any

from lightning_fabric import Fabric
from torch import distributed

from thinmaps.errors import BadArgument
from thinmaps.learn.options import TrainingOptions


def open_fabric(options: TrainingOptions) -> Fabric:
    """A launched Fabric.

    Raises:
        BadArgument: there is no such accelerator here, or it has no such precision.
    """
    many = distributed.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1
    devices = int(os.environ["LOCAL_WORLD_SIZE"]) if many else 1
    try:
        fabric = Fabric(
            accelerator=options.accelerator,
            # What is unused differs by phase: the exact one may need fewer parameters.
            strategy="ddp_find_unused_parameters_true" if many else "auto",
            devices=devices,
            num_nodes=int(os.environ["WORLD_SIZE"]) // devices if many else 1,
            precision=options.precision,
        )
    except (ValueError, RuntimeError) as reason:
        raise BadArgument(f"training on {options.accelerator!r} is impossible: {reason}") from None
    fabric.launch()
    return fabric


def gathered(fabric: Fabric, value: Any) -> list[Any]:
    """What every process has, by rank, for every process."""
    if fabric.world_size == 1:
        return [value]
    found: list[Any] = [None] * fabric.world_size
    distributed.all_gather_object(found, value)
    return found


def is_first_process() -> bool:
    """Whether this process is the one that speaks and writes files."""
    return not distributed.is_torchelastic_launched() or os.environ["RANK"] == "0"
