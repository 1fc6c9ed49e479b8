# SPDX-License-Identifier: Apache-2.0
"""What a network is asked for while it learns, as losses: smaller is better, gradients throughout.

Source
    `divergence`   Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
                   arXiv:1503.02531: outputs softened by a temperature, times its square
    `map_error`    the hints of Romero et al., "FitNets", 2015, arXiv:1412.6550; relative here
    `symbol_bits`  ours: a smooth stand-in for the bits of an entropy coder

All are computed in float32, whatever precision the networks ran in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the student's classes from the teacher's, times T squared.

    Classes lie along axis 1; the mean is over pictures, and over positions where there are any.

    >>> same = torch.tensor([[1.0, 2.0, 3.0]])
    >>> float(divergence(same + 5, same, 2.0))
    0.0
    """
    ours = functional.log_softmax(student.float() / temperature, dim=1)
    wanted = functional.log_softmax(teacher.float() / temperature, dim=1)
    apart = functional.kl_div(ours, wanted, reduction="none", log_target=True).sum(dim=1)
    return apart.mean() * temperature**2


def logit_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two outputs."""
    return functional.mse_loss(student.float(), teacher.float())


def map_power(teacher: Tensor) -> Tensor:
    """Mean square of a map, what `map_error` is relative to."""
    return teacher.float().square().mean()


def map_error(student: Tensor, teacher: Tensor, power: Tensor) -> Tensor:
    """Mean squared difference of two maps, relative to the power of the teacher's.

    1 is what a map of zeros gets, whatever the map's scale, so maps can share one weight.

    >>> teacher = torch.full((2, 3), 7.0)
    >>> float(map_error(torch.zeros(2, 3), teacher, map_power(teacher)))
    1.0
    """
    least = torch.finfo(torch.float32).tiny
    return functional.mse_loss(student.float(), teacher.float()) / power.clamp_min(least)


def symbol_bits(symbols: Iterable[Tensor]) -> Tensor:
    """Mean of log2(1 + |q|) over all quantised symbols q of all maps, with gradients.

    Grows like the length of a symbol's code and is 0 for symbols that are 0, so it rewards exactly
    what entropy and zero coding reward: small symbols and many zeros.

    >>> float(symbol_bits([torch.tensor([0.0, 1.0]), torch.tensor([-3.0, 7.0])]))
    1.5
    """
    of_maps = [values.float() for values in symbols]
    nats = torch.stack([torch.log1p(values.abs()).sum() for values in of_maps]).sum()
    return nats / (math.log(2) * sum(values.numel() for values in of_maps))
