# SPDX-License-Identifier: Apache-2.0
"""A float ONNX file as the network that a student is made of, and as its teacher.

Who has no PyTorch module learns from the file alone: `read_network` hands `prepare` what `capture`
makes of a module, and `OnnxTeacher` answers as the file does. Parameters are named after the file's
nodes, maps keep the file's names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thinmaps.calibrate.float_maps import session_of
from thinmaps.errors import BadModel
from thinmaps.graph.float_network import FloatConv
from thinmaps.graph.onnx_reader import normalise, read_model
from thinmaps.learn.captured import Captured
from thinmaps.learn.points import point_at


def read_network(path: str | Path, size: tuple[int, int] | None = None) -> Captured:
    """The float network in a file, at (height, width).

    Raises:
        BadModel: it cannot be read, is quantised, or has several inputs.
        UnsupportedOperator: names all operators that we do not have.
    """
    model = read_model(path)
    try:
        network, clean = normalise(model, size)
    except BadModel as error:
        raise type(error)(f"{path}: {error}") from None
    if network.kind != "float":
        raise BadModel(f"{path} is quantised; a student learns from a float network")
    if len(network.inputs) != 1:
        raise BadModel(f"{path} has inputs {list(network.inputs)}; a student takes one")
    layers = [node.name for node in network.nodes if isinstance(node.operator, FloatConv)]
    names = network.tail.outputs
    form = "tensor" if len(names) == 1 else tuple(names)
    return Captured(clean, dict.fromkeys(layers, (None, None)), frozenset(), form)


class OnnxTeacher(nn.Module):
    """Answers float pictures `n c h w` as the file does, without gradients, on the processor.

    A map of the file that someone hooks, by its name, is computed too. ONNX Runtime works one
    picture at a time on one thread, so a teacher costs about a student's forward pass.
    """

    def __init__(self, network: Captured) -> None:
        super().__init__()
        self._captured = network
        self._outputs = [each.name for each in network.model.graph.output]
        self._sessions: dict[tuple[Any, ...], Any] = {}
        real = normalise(network.model)[0]
        self._input = real.inputs[0]
        for node in real.nodes:
            point_at(self, node.output)
        self._maps = {node.output: self.get_submodule(node.output) for node in real.nodes}

    def forward(self, pictures: Tensor) -> Any:
        """Outputs as the student's, on the pictures' device."""
        wanted = [name for name, point in self._maps.items() if point._forward_hooks]
        session = self._session(pictures.shape[2:], wanted)
        names = [*self._outputs, *wanted]
        batch = pictures.detach().float().cpu().numpy()
        each = [session.run(names, {self._input: one[None]}) for one in batch]
        made = [
            torch.from_numpy(np.concatenate(parts)).to(pictures.device)
            for parts in zip(*each, strict=True)
        ]
        for name, values in zip(wanted, made[len(self._outputs) :], strict=True):
            self._maps[name](values)
        return self._captured.packed(made[: len(self._outputs)])

    def _session(self, size: Any, wanted: list[str]) -> Any:
        key = (*size, *wanted)
        if key not in self._sessions:
            model = normalise(self._captured.model, tuple(size))[1]
            self._sessions[key] = session_of(model, [*self._outputs, *wanted])
        return self._sessions[key]
