# SPDX-License-Identifier: Apache-2.0
"""The student: the torch twin of a uint8 `Network`, to be trained where its user's module was.

It takes what the module takes, float `n c h w` in real units, and gives what the module gives, in
the same form. Its parameters carry the module's state-dict names, batch norms folded into them (so
a layer that had none has a bias). Every map stands on its calibrated grid; a map with a codec is
what the codec's surrogate restores.

    train()   float32, rounding with straight-through gradients; with `exact(True)` the integers of
              inference forwards
    eval()    exact: integer sums in float64, one float32 multiplication, half to even; equal to
              `run/interpret.py` and the engine on what `export` writes, bit for bit

Parameters of single functions (a PReLU's slopes, a batch norm that nothing can take in) are tables
and stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thinmaps.calibrate.equalise import equalised
from thinmaps.codecs import Codec
from thinmaps.errors import BadArgument, BadModel, BadShape
from thinmaps.graph.filter_codes import FilterCoefficients, Reduction
from thinmaps.graph.float_network import FloatConv, FloatNetwork, MapQuantisation, Tail
from thinmaps.graph.network import Network
from thinmaps.graph.onnx_reader import normalise
from thinmaps.graph.quantise import quantise
from thinmaps.graph.weights import codes_of
from thinmaps.learn.captured import Captured
from thinmaps.learn.fake_quantisation import Codes, IntegerLayer, integer_layer, requantised
from thinmaps.learn.operators import Layer, Twin, twin_of
from thinmaps.learn.points import LayerShape, Point, point_at, set_tensor, tensor_at
from thinmaps.learn.surrogates import StraightThrough, Surrogate, surrogate_of
from thinmaps.learn.surrogates.base import bytes_to_values, values_to_bytes
from thinmaps.learn.tail import TailTwin
from thinmaps.nearest import nearest
from thinmaps.types import MapSpec

Factors = Mapping[str, NDArray[np.float32]]
GRID = "_grid"


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What a student is made of. `start` is the network whose weights it begins with.

    `factors` are what calibration divided each map's channels by; None where that is not known.
    """

    captured: Captured
    start: FloatNetwork
    maps: Mapping[str, MapQuantisation]
    factors: Factors | None


class Place(NamedTuple):
    """Where a layer's parameters live, and the shape `k c r s` that the network gives them.

    `groups` is above 0 for a transposed convolution, whose module has them as `c k r s`.
    """

    weight: str
    bias: str
    shape: tuple[int, ...]
    groups: int

    def as_network(self, weight: Tensor) -> Tensor:
        """The module's weights as `k c r s`."""
        return self._turned(weight).reshape(self.shape)

    def as_module(self, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Weights `k c r s` as the module has them."""
        return self._turned(weight).reshape(shape)

    def _turned(self, weight: Tensor) -> Tensor:
        if not self.groups:
            return weight
        return weight.reshape(self.groups, -1, *weight.shape[1:]).transpose(1, 2)


class Execution(nn.Module):
    """The network at one picture size: a twin per node, and which maps die behind each."""

    def __init__(self, network: Network, real: FloatNetwork) -> None:
        super().__init__()
        self.network = network
        self.real = real
        self.twins = nn.ModuleList(
            twin_of(node.operator, network.input_specs(node), network.output_spec(node))
            for node in network.nodes
        )
        self.tail = TailTwin(real.tail)
        last = {name: at for at, node in enumerate(network.nodes) for name in node.inputs}
        self.dying = [
            tuple(name for name in dict.fromkeys(node.inputs) if last[name] == at)
            for at, node in enumerate(network.nodes)
        ]


class Student(nn.Module):
    """See the module's page. Made by `prepare`."""

    def __init__(self, made_of: Calibrated, codecs: Mapping[str, Codec]) -> None:
        super().__init__()
        self.captured = made_of.captured
        self.quantisation = dict(made_of.maps)
        self.factors = made_of.factors
        self.size = made_of.start.shapes[made_of.start.inputs[0]][:2]
        self._places = self._add_parameters(made_of.start)
        self._codes = {
            node.name: (node.operator.coded.reduction, node.operator.coded.codes)
            for node in made_of.start.nodes
            if isinstance(node.operator, FloatConv) and node.operator.coded is not None
        }
        self._wanted: dict[str, Tensor] | None = None
        self._wanted_names: frozenset[str] = frozenset()
        grid = [(q.scale, q.zero_point) for _, q in sorted(self.quantisation.items())]
        self.register_buffer(GRID, torch.tensor(grid, dtype=torch.float64))
        self._is_exact = False
        self._executions = nn.ModuleDict()
        self._surrogates = nn.ModuleDict()
        self._add_execution(*self.size)
        for name in self.map_names:
            point_at(self, name)
        for name, codec in codecs.items():
            self.check_map(name)
            if name in self._own.network.outputs:
                raise BadArgument(f"map {name!r} is an output, which no codec can hold")
            spec = self._own.network.maps[name]
            self._surrogates[_key(name)] = surrogate_of(codec, spec)

    def forward(self, pictures: Tensor) -> Any:
        """The module's outputs for pictures `n c h w` of any size that the module takes.

        Raises:
            BadShape: no float tensor of four axes.
        """
        if pictures.ndim != 4 or not pictures.is_floating_point():
            raise BadShape(
                f"a student takes float n c h w, got {pictures.dtype} {tuple(pictures.shape)}"
            )
        key = f"{pictures.shape[2]}x{pictures.shape[3]}"
        if key not in self._executions:
            self._add_execution(int(pictures.shape[2]), int(pictures.shape[3]))
        execution: Any = self._executions[key]
        last = self._run(execution, pictures, exact=not self.training)
        return self.captured.packed(execution.tail(last))

    def _run(self, execution: Any, pictures: Tensor, exact: bool) -> dict[str, Tensor]:
        """The network's outputs as real values."""
        network = execution.network
        codes: dict[str, Tensor] = {network.inputs[0]: pictures}
        outputs: dict[str, Tensor] = {}
        steps = zip(network.nodes, execution.twins, execution.dying, strict=True)
        for node, twin, dying in steps:
            made = self._computed(twin, node.name, [codes[name] for name in node.inputs], exact)
            spec = network.maps[node.output]
            if node.output in network.outputs:
                outputs[node.output] = made if spec.dtype == "float32" else made * spec.scale
            if _key(node.output) in self._surrogates:
                made = self._restored(self.surrogate(node.output), made, spec)
            codes[node.output] = self._shown(node.output, made, spec)
            for name in dying:
                del codes[name]
        return outputs

    def _computed(self, twin: Twin, name: str, inputs: list[Tensor], exact: bool) -> Tensor:
        made = self._computed_once(twin, name, inputs, exact)
        if exact or not (self._is_exact and twin.sums):
            return made
        with torch.no_grad():
            sure = self._computed_once(twin, name, inputs, exact=True)
        return made + (sure - made).detach()

    def _computed_once(self, twin: Twin, name: str, inputs: list[Tensor], exact: bool) -> Tensor:
        if not isinstance(twin, Layer):
            made: Tensor = twin(inputs, exact)
            return made
        return twin.compute(inputs[0], *self._layer(name), exact)

    def _restored(self, surrogate: Surrogate, codes: Tensor, spec: MapSpec) -> Tensor:
        """What the readers of a map with a codec see."""
        if self.training and surrogate.takes_codes:
            return surrogate.restored_codes(codes)
        values = codes * spec.scale
        made = surrogate(values)
        if self.training and self._is_exact:
            with torch.no_grad():
                sure = surrogate.restored_bytes(values_to_bytes(values, spec))
                change = bytes_to_values(sure, spec) - made
            made = made + change
        return requantised(made / spec.scale, spec)

    def _shown(self, name: str, codes: Tensor, spec: MapSpec) -> Tensor:
        """The map, seen by those who asked: `maps` and forward hooks, which may replace it."""
        point = point_at(self, name)
        is_wanted = self._wanted is not None and name in self._wanted_names
        if not is_wanted and not point._forward_hooks:
            return codes
        unit = self._factor(name, codes) * spec.scale
        values = codes * unit
        seen = point(values)
        if self._wanted is not None and is_wanted:
            self._wanted[name] = seen
        if seen is values or spec.dtype == "float32":
            return codes
        return requantised(seen / unit, spec)

    def _layer(self, node: str) -> tuple[Tensor, Tensor]:
        """Weights `k c r s` and bias of a layer."""
        place = self._places[node]
        return place.as_network(tensor_at(self, place.weight)), tensor_at(self, place.bias)

    @property
    def _own(self) -> Any:
        """The execution at the size that the student was made for."""
        return self._executions[f"{self.size[0]}x{self.size[1]}"]

    def exact(self, on: bool) -> None:
        """While on, training computes the integers of inference forwards, at about twice the time.

        Gradients stay those of the float32 pass. Mixed precision has to be off.
        """
        self._is_exact = on

    def find_codes(self) -> None:
        """Round coefficients in place of filters, in layers whose filters codes make as they are.

        From here on such a layer stays in the span of its codes (`graph/filter_codes.py`).
        """
        for node in self._own.real.nodes:
            if isinstance(node.operator, FloatConv):
                weight = self._layer(node.name)[0].detach().cpu().numpy()
                codes = codes_of(replace(node.operator, weights=weight))
                if codes is not None:
                    self._codes[node.name] = codes
        self._renew()

    # What it amounts to

    def network(self, size: tuple[int, int] | None = None) -> Network:
        """The uint8 network of the weights as they are, at (height, width).

        Raises:
            BadModel: a weight is not finite, or a sum could leave int32.
        """
        real = self._real_network(size or self.size)
        return quantise(self._with_integers(real), self.quantisation)

    def tail(self, size: tuple[int, int] | None = None) -> Tail:
        """What follows the network's last maps, at (height, width)."""
        return self._real_network(size or self.size).tail

    def codecs(self) -> dict[str, Codec]:
        """The codec of each map that has one, as trained so far."""
        return {_name(key): each.codec() for key, each in self._each_surrogate()}

    @property
    def map_names(self) -> tuple[str, ...]:
        """Maps that a codec may hold and that `maps` hands out, in execution order."""
        return tuple(node.output for node in self._own.network.nodes)

    def surrogate(self, name: str) -> Surrogate:
        """The surrogate on a map; `BadArgument` where there is none."""
        if _key(name) not in self._surrogates:
            raise BadArgument(f"map {name!r} has no codec; those that have: {list(self.codecs())}")
        found = self._surrogates[_key(name)]
        assert isinstance(found, Surrogate)
        return found

    def fix_codec(self, name: str, codec: Codec) -> None:
        """Put `codec` in the place of a map's own, to stay as it is: gradients pass it by.

        Raises:
            BadArgument: the map has no codec.
            BadShape: the codec does not fit the map.
        """
        spec = self.surrogate(name).spec
        codec.check_spec(spec)
        made = StraightThrough(codec, spec).to(tensor_at(self, GRID).device)
        self._surrogates[_key(name)] = made.train(self.training)

    def layers(self) -> dict[str, Point]:
        """Layers whose weights learn, by name: where weight maps can stand.

        Transposed convolutions, whose weights lie otherwise, are not among them.
        """
        named = {name: each for name, each in self.named_modules() if isinstance(each, Point)}
        return {name: each for name, each in named.items() if each.layer is not None}

    def layer_outputs(self) -> dict[str, int]:
        """Elements that each layer puts out for a picture of the student's own size.

        Of a layer that runs several times, all of them.
        """
        network, found = self._own.network, dict.fromkeys(self.layers(), 0)
        for node in network.nodes:
            name = _owner(self._places[node.name].weight) if node.name in self._places else ""
            if name in found:
                found[name] += math.prod(network.output_spec(node).shape)
        return found

    @contextmanager
    def maps(self, *names: str) -> Iterator[dict[str, Tensor]]:
        """While inside, each forward leaves the named maps in the dict, with their gradients.

        They are float32 `n c h w` as their readers see them, in the units of the user's module.
        Without names, all of them.
        """
        for name in names:
            self.check_map(name)
        self._wanted, self._wanted_names = {}, frozenset(names or self.map_names)
        try:
            yield self._wanted
        finally:
            self._wanted, self._wanted_names = None, frozenset()

    def check_map(self, name: str) -> None:
        """`BadArgument` names the nearest maps where there is no such map."""
        if name not in self.map_names:
            near = ", ".join(nearest(name, self.map_names))
            raise BadArgument(f"the student has no map {name!r}; near it: {near}")

    def _factor(self, name: str, like: Tensor) -> Tensor:
        factors = (self.factors or {}).get(name)
        if factors is None or (factors == 1).all():
            return torch.ones((), device=like.device)
        return torch.from_numpy(factors).to(like.device)[:, None, None]

    def _each_surrogate(self) -> Iterator[tuple[str, Surrogate]]:
        for key, each in self._surrogates.items():
            assert isinstance(each, Surrogate)
            yield key, each

    # How it is made

    def _add_parameters(self, network: FloatNetwork) -> dict[str, Place]:
        """Parameters under the module's names, from the network's layers."""
        shapes = {t.name: tuple(t.dims) for t in self.captured.model.graph.initializer}
        kinds = {node.name: node.op_type for node in self.captured.model.graph.node}
        places: dict[str, Place] = {}
        held: dict[str, FloatConv] = {}
        for node in network.nodes:
            if not isinstance(node.operator, FloatConv):
                continue
            conv = node.operator
            own, bias = self.captured.weights.get(node.name, (None, None))
            if own in held and not _same(held[own], conv):
                own = bias = None  # called twice, with something else folded in: two layers
            weight = own or f"{node.name}.weight"
            stem = weight.removesuffix(".weight").removesuffix(".weights")
            groups = conv.groups if conv.transposed else 0
            place = Place(weight, bias or f"{stem}.bias", conv.weights.shape, groups)
            places[node.name] = place
            if own not in held:
                is_learnt = node.name in self.captured.weights
                made = place.as_module(_start_of(conv), shapes.get(weight, conv.weights.shape))
                set_tensor(self, weight, made.clone(), is_learnt)
                set_tensor(self, place.bias, torch.from_numpy(conv.bias.copy()), is_learnt)
                if is_learnt and weight.endswith(".weight") and not conv.transposed:
                    kernel = (conv.window.kernel[0], conv.window.kernel[1])
                    shape = LayerShape(kernel, conv.groups, kinds.get(node.name) == "Conv")
                    holder: Any = point_at(self, _owner(weight))
                    holder.layer = shape
                held[weight] = conv
        return places

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _add_execution(self, height: int, width: int) -> None:
        """Read the captured network at a size, quantise it with the calibrated scales."""
        real = self._real_network((height, width))
        network = quantise(self._with_integers(real), self.quantisation)
        device = tensor_at(self, GRID).device
        self._executions[f"{height}x{width}"] = Execution(network, real).to(device)

    def _real_network(self, size: tuple[int, int]) -> FloatNetwork:
        key = f"{size[0]}x{size[1]}"
        if key in self._executions:
            execution: Any = self._executions[key]
            real: FloatNetwork = execution.real
            return real
        return normalise(self.captured.model, size)[0]

    def _with_integers(self, network: FloatNetwork) -> FloatNetwork:
        """The network with the student's weights as integers."""
        nodes = []
        for node in network.nodes:
            if isinstance(node.operator, FloatConv):
                weight, bias = (t.detach().cpu() for t in self._layer(node.name))
                source_scale = self.quantisation[node.inputs[0]].scale
                chosen = self._codes.get(node.name)
                codes = None if chosen is None else Codes.of(*chosen)
                made = integer_layer(weight, bias, source_scale, codes)
                operator = replace(
                    node.operator,
                    weights=weight.numpy(),
                    bias=bias.numpy(),
                    integer_weights=made.weights.to(torch.int8).numpy(),
                    weight_scale=made.scale.numpy(),
                    coded=None if chosen is None else _coded(*chosen, made),
                )
                node = replace(node, operator=operator)
            nodes.append(node)
        return replace(network, nodes=tuple(nodes))

    # Loading

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """A student's state, or a float state of the user's module, whose batch norms are folded.

        Raises:
            BadModel: a float state lacks a parameter, or one has another shape or is unknown.
            BadArgument: a float state, where calibration's channel factors are not known.
        """
        if GRID not in state_dict:
            return self._load_float(state_dict, strict)
        found = super().load_state_dict(state_dict, strict, assign)
        self._adopt_grid()
        return found

    def _load_float(self, state: Mapping[str, Any], strict: bool) -> Any:
        if self.factors is None:
            raise BadArgument(
                "a float state cannot be loaded into a student made of a plan, which has its "
                "channels rescaled; prepare it with calibrate=pictures instead"
            )
        captured = self.captured.with_state(state)
        known = {t.name for t in captured.model.graph.initializer} | captured.ignored
        if strict and (unknown := sorted(set(state) - known)):
            raise BadModel(f"the state has {unknown[0]!r}, which the network has not")
        network = equalised(normalise(captured.model)[0], self.factors)
        with torch.no_grad():
            for node in network.nodes:
                if isinstance(node.operator, FloatConv):
                    place = self._places[node.name]
                    weight = tensor_at(self, place.weight)
                    real = torch.from_numpy(node.operator.weights.copy())
                    weight.copy_(place.as_module(real, tuple(weight.shape)))
                    tensor_at(self, place.bias).copy_(torch.from_numpy(node.operator.bias.copy()))
        self.captured = captured
        self._renew()
        return nn.modules.module._IncompatibleKeys([], [])

    def _adopt_grid(self) -> None:
        """Scales and zero points as the loaded state has them."""
        names = sorted(self.quantisation)
        rows = tensor_at(self, GRID).cpu().tolist()
        loaded = {
            name: MapQuantisation(scale, int(zero))
            for name, (scale, zero) in zip(names, rows, strict=True)
        }
        if loaded != self.quantisation:
            self.quantisation = loaded
            self._renew()
            for key, each in self._each_surrogate():
                each.spec = self._own.network.maps[_name(key)]

    def _renew(self) -> None:
        """Forget what was made of other constants."""
        self._executions = nn.ModuleDict()
        self._add_execution(*self.size)


def _coded(reduction: Reduction, codes: tuple[int, ...], made: IntegerLayer) -> FilterCoefficients:
    """The coefficients that the student would store."""
    assert made.coefficients is not None
    assert made.shift is not None
    coefficients = made.coefficients.to(torch.int8).numpy()
    return FilterCoefficients(reduction, codes, coefficients, made.shift.to(torch.uint8).numpy())


def _start_of(conv: FloatConv) -> Tensor:
    """Calibration's rounded weights where it has rounded them, in real units.

    Of filters that codes make, what the rounded coefficients make in real numbers: only there are
    the coefficients found again.
    """
    if conv.integer_weights is None or conv.weight_scale is None:
        return torch.from_numpy(conv.weights.copy())
    scale = conv.weight_scale.astype(np.float64)[:, None, None, None]
    if conv.coded is None:
        return torch.from_numpy((conv.integer_weights * scale).astype(np.float32))
    return torch.from_numpy((conv.coded.unrounded() * scale).astype(np.float32))


def _same(a: FloatConv, b: FloatConv) -> bool:
    return np.array_equal(_start_of(a), _start_of(b)) and np.array_equal(a.bias, b.bias)


def _owner(parameter: str) -> str:
    """The module that has a parameter, by name."""
    return parameter.rpartition(".")[0]


def _key(name: str) -> str:
    """A map's name as the name of a module, which holds no dot."""
    return name.replace("~", "~0").replace(".", "~1")


def _name(key: str) -> str:
    return key.replace("~1", ".").replace("~0", "~")
