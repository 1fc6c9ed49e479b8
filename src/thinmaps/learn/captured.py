# SPDX-License-Identifier: Apache-2.0
"""A user's module and an example input -> the float ONNX network that the one reader takes.

`torch.export` records what the module computes in evaluation; every operator becomes a node
(`aten.py`). Names are the user's: initialisers have their state-dict names, nodes and maps those of
the modules that make them (`layer1.0.conv1`; a functional call is named within its module:
`layer1.0.add`). Batch norms stay nodes here; the reader folds them.

The network has batch 1 and the example's size; other sizes pass as far as the module has no number
of them in its code. Costs one deep copy of the module while it is captured.
"""

from __future__ import annotations

import copy
import inspect
import operator
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from thinmaps.errors import BadArgument, BadModel, UnsupportedOperator
from thinmaps.graph.fresh_names import FreshNames
from thinmaps.learn.aten import OPERATORS, Call, NoSuchForm

OPSET = 18
IR_VERSION = 9
_TORCH = str(Path(torch.__file__).parent)
_WAY_OUT = (
    "choose with torch.where or a number fixed in __init__, or hand in the part of the module "
    "that always does the same"
)


@dataclass(frozen=True, eq=False)
class Captured:
    """A module as ONNX. `weights` says for each layer the state-dict names of weight and bias.

    A name is None where the layer has no such parameter of its own. `ignored` are names of the
    module's state that no output depends on (counters of batch norms). `form` says in what the
    module returns its outputs: "tensor", "tuple", or the keys of a dict.
    """

    model: onnx.ModelProto
    weights: Mapping[str, tuple[str | None, str | None]]
    ignored: frozenset[str]
    form: str | tuple[str, ...]

    def packed(self, outputs: list[Tensor]) -> Any:
        """Outputs as the module returns them."""
        if self.form == "tensor":
            return outputs[0]
        if self.form == "tuple":
            return tuple(outputs)
        return dict(zip(self.form, outputs, strict=True))

    def with_state(self, state: Mapping[str, Tensor]) -> Captured:
        """The same network with other float parameters, by their state-dict names.

        Raises:
            BadModel: a parameter is absent, or has another shape.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for initialiser in model.graph.initializer:
            if initialiser.name.startswith("/"):
                continue
            if initialiser.name not in state:
                raise BadModel(f"the state has no {initialiser.name!r}, which the network needs")
            array = _array(state[initialiser.name])
            if list(array.shape) != list(initialiser.dims):
                raise BadModel(
                    f"the state's {initialiser.name!r} has shape {array.shape}, the network needs "
                    f"{tuple(initialiser.dims)}"
                )
            initialiser.CopyFrom(numpy_helper.from_array(array, initialiser.name))
        return replace(self, model=model)


def capture(model: nn.Module, example: Tensor) -> Captured:
    """Record what `model` computes in evaluation on pictures like `example` (n c h w).

    Raises:
        BadArgument: the example is no float tensor of four axes.
        BadModel: the module cannot be recorded; the message names file and line.
        UnsupportedOperator: it uses operators that we do not have; all are named.
    """
    if not isinstance(example, Tensor) or example.ndim != 4 or not example.is_floating_point():
        came = f"{example.dtype} {tuple(example.shape)}" if isinstance(example, Tensor) else example
        raise BadArgument(f"capture needs an example of float n c h w, got {came}")
    _require_one_input(model)
    still = copy.deepcopy(model).cpu().float().eval()
    picture = example[:1].detach().cpu().float()
    try:
        program = torch.export.export(still, (picture,))
    except Exception as error:  # torch raises a dozen unrelated types here
        raise BadModel(_refusal(error)) from None
    return _Writer(program).captured(set(still.state_dict()))


def _require_one_input(model: nn.Module) -> None:
    taken = [
        name
        for name, each in inspect.signature(model.forward).parameters.items()
        if each.default is each.empty
        and each.kind in (each.POSITIONAL_OR_KEYWORD, each.POSITIONAL_ONLY)
    ]
    if len(taken) > 1:
        raise BadModel(
            f"{type(model).__name__} takes {len(taken)} inputs ({', '.join(taken)}), a network to "
            "capture takes one picture; wrap it in a module that makes the others"
        )


def _refusal(error: Exception) -> str:
    """One sentence: where the user's code stops torch.export, and what to do."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    users = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith((_TORCH, "<"))
        and frame.f_code.co_filename != __file__
    ]
    if not users:
        return f"the module cannot be captured: {reason}"
    file, line = users[-1]
    return f"the module cannot be captured: {file}:{line} depends on values ({reason}); {_WAY_OUT}"


def _array(tensor: Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


class _Writer:
    """Walks through the recorded graph and writes ONNX nodes."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.graph = program.graph
        self.form = _form(program)
        signature = program.graph_signature
        self.state_names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        tensors = {**program.state_dict, **program.constants}
        self.tensors = {key: tensors[name] for key, name in self.state_names.items()}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.values: dict[fx.Node, Any] = {}  # ONNX names: one, or a list
        self.names = FreshNames(self.state_names.values())
        self.weights: dict[str, tuple[str | None, str | None]] = {}
        self.refused: list[str] = []

    def captured(self, state: set[str]) -> Captured:
        """The finished network."""
        inputs = []
        for node in self.graph.nodes:
            if node.op == "placeholder" and node.name not in self.state_names:
                self.values[node] = self.names.take(node.name)
                shape = [*node.meta["val"].shape]
                inputs.append(helper.make_tensor_value_info(self.values[node], 1, shape))
            elif node.op == "call_function":
                self._write(node)
        if self.refused:
            raise UnsupportedOperator("the module cannot be captured: " + "; ".join(self.refused))
        names = [self.values[node] for node in self._outputs()]
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names]
        used = {name for node in self.nodes for name in node.input}
        initialisers = [
            numpy_helper.from_array(array, name)
            for name, array in self.constants.items()
            if name in used
        ]
        graph = helper.make_graph(self.nodes, "captured", inputs, outputs, initialisers)
        opset = [helper.make_opsetid("", OPSET)]
        made = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        return Captured(made, self.weights, frozenset(state - used), self.form)

    def _outputs(self) -> list[fx.Node]:
        """The nodes that the module returns, in order; tuples and dicts are flattened."""
        (last,) = (node for node in self.graph.nodes if node.op == "output")
        return [item for item in last.args[0] if isinstance(item, fx.Node)]

    def _write(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            source, index = node.args
            self.values[node] = self.values.get(source, ["?"] * 64)[index]  # type: ignore[arg-type]
            return
        packet = getattr(node.target, "overloadpacket", None)
        name = str(getattr(packet, "__name__", node.target))
        write = OPERATORS.get(name) or OPERATORS.get(name.removesuffix("_"))
        if write is None and not node.users:  # an assertion of torch.export's own
            return
        try:
            if write is None:
                raise NoSuchForm(f"operator {name}, which thinmaps does not have")
            self.values[node] = write(self._call(node))
        except NoSuchForm as why:
            self.refused.append(f"{_line(node)} uses {why}")
            self.values[node] = "?"

    def _call(self, node: fx.Node) -> Call:
        """The node's arguments by name, with the schema's defaults."""
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        given = dict(zip((a.name for a in schema), node.args, strict=False)) | node.kwargs
        arguments = {a.name: given.get(a.name, a.default_value) for a in schema}
        shapes = {
            name: tuple(value.meta["val"].shape)
            for name, value in arguments.items()
            if isinstance(value, fx.Node) and hasattr(value.meta.get("val"), "shape")
        }
        named = {name: fx.node.map_arg(value, self._name) for name, value in arguments.items()}
        made = node.meta["val"]
        made = made[0] if isinstance(made, tuple | list) else made
        title = self._title(node)

        def emit(op_type: str, inputs: list[str], **how: Any) -> Any:
            inner, count = how.pop("inner", None), how.pop("outputs", 1)
            hint = title if inner is None else f"{title}.{inner}"
            hints = [hint] if count == 1 else [f"{hint}.{i}" for i in range(count)]
            outputs = [self.names.take(h) for h in hints]
            self.nodes.append(helper.make_node(op_type, inputs, outputs, outputs[0], **how))
            self._remember(op_type, outputs[0], inputs)
            return outputs[0] if count == 1 else outputs

        return Call(named, shapes, tuple(made.shape), self._constant, self.constants.get, emit)

    def _remember(self, op_type: str, name: str, inputs: list[str]) -> None:
        """Which parameters a layer has."""
        if op_type in ("Conv", "ConvTranspose", "Gemm"):
            own = [n if n in self.state_names.values() else None for n in inputs[1:]]
            self.weights[name] = (own[0], own[1] if len(own) > 1 else None)

    def _name(self, node: fx.Node) -> Any:
        """The ONNX name of a tensor argument; weights become initialisers when first used."""
        if node in self.values:
            return self.values[node]
        name = self.state_names[node.name]
        self.constants.setdefault(name, _array(self.tensors[node.name]))
        self.values[node] = name
        return name

    def _constant(self, array: NDArray[Any] | np.generic, hint: str) -> str:
        """An initialiser of ours; a leading slash tells it from the user's."""
        name = self.names.take(f"/{hint}")
        self.constants[name] = np.asarray(array)
        return name

    def _title(self, node: fx.Node) -> str:
        """The module's path; with the operator's name where a module's own code calls it."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, kind = stack[-1] if stack else ("", "")
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__name__}"
        is_leaf = kind.startswith("torch.nn.modules.") and "container" not in kind
        packet = getattr(node.target, "overloadpacket", None)
        called = str(getattr(packet, "__name__", node.name)).rstrip("_")
        if is_leaf and path:
            return path
        return f"{path}.{called}" if path else called


def _form(program: torch.export.ExportedProgram) -> str | tuple[str, ...]:
    """A tensor, a tuple of tensors, or a dict of them; anything deeper is refused."""
    tree = program.call_spec.out_spec
    assert tree is not None
    if tree.is_leaf():
        return "tensor"
    if tree.type in (tuple, list) and all(child.is_leaf() for child in tree.children()):
        return "tuple"
    if tree.type is dict and all(child.is_leaf() for child in tree.children()):
        return tuple(str(key) for key in tree.context)
    raise BadModel(
        f"the module returns a {tree.type.__name__} that nests others; return a tensor, a tuple or "
        "a dict of tensors"
    )


def _line(node: fx.Node) -> str:
    """File and line of the user's code that made the node."""
    trace = str(node.meta.get("stack_trace") or "")
    places = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    own = [place for place in places if _TORCH not in place] or places
    if not own:
        return f"node {node.name!r}"
    file, line = own[-1].split(", ")[:2]
    return f"{file.removeprefix('File ').strip(chr(34))}:{line.removeprefix('line ')}"
