# SPDX-License-Identifier: Apache-2.0
"""`bench --profile`: which nodes the time of an inference goes to, and what the machine allows.

An engine of one thread is timed step by step (`Engine.profile`); a node has the time of its steps.
Beside it stands a limit, from two figures that the native core measures in the same process:

    products     int8 by uint8, a second, with operands in registers (`products_per_second`)
    bytes        read and written, a second, when a block is copied within the second-level cache
                 (`copied_bytes_per_second`)

A node's limit is the longer of the times that its products and its bytes take at these rates. Its
bytes are those of every input and of its output, once, and of its filters, once per step, since
other nodes' rows displace them in between. It is no law: rows that still lie in the first-level
cache may beat it, and depthwise convolutions, whose products do not fill the multipliers, cannot
come near.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinmaps import _core
from thinmaps.file import Model
from thinmaps.graph.network import Node
from thinmaps.graph.operators import CodedConv, Concat, Conv, ConvTranspose, WinogradConv
from thinmaps.measure.own_side import Images, network_inputs, our_run
from thinmaps.measure.timing import Progress, interleaved, spread
from thinmaps.plan.plan import Plan
from thinmaps.run.engine import Engine
from thinmaps.run.step_times import NodeTime

ROUNDS = 9
FILTERS = Conv | ConvTranspose | WinogradConv

KINDS = {
    "conv": "convolution", "winograd_conv": "convolution", "coded_conv": "convolution",
    "conv_transpose": "convolution",
    "max_pool": "pooling", "average_pool": "pooling", "mean": "pooling",
    "add": "elementwise", "mul": "elementwise", "lookup": "elementwise",
    "picture": "input", "quantise": "input",
    "concat": "rearrangement", "slice": "rearrangement", "pad": "rearrangement",
    "resize": "rearrangement", "depth_to_space": "rearrangement",
    "encode": "codec", "decode": "codec",
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What one core of this machine does at most with the loops of `isa`."""

    isa: str
    products_per_second: float
    copied_bytes_per_second: float

    @classmethod
    def measured(cls) -> Limits:
        """Takes some tens of milliseconds."""
        isa = _core.isa()
        return cls(isa, _core.products_per_second(isa), _core.copied_bytes_per_second())

    def ms(self, products: int, moved_bytes: int) -> float:
        """The time that so much work takes at least, as the page's head defines it."""
        computing = products / self.products_per_second
        return 1000 * max(computing, moved_bytes / self.copied_bytes_per_second)


@dataclass(frozen=True)
class Share:
    """The part of some steps in an inference: `share` of its `ms`, and what the limits allow."""

    steps: int
    rows: int
    ms: float
    share: float
    products: int
    moved_bytes: int
    limit_ms: float


@dataclass(frozen=True)
class NodeShare(Share):
    """A node's part."""

    node: str
    operator: str
    kind: str


@dataclass(frozen=True)
class KindShare(Share):
    """What all nodes of a kind take together."""

    kind: str


@dataclass(frozen=True)
class Profile:
    """Nodes and kinds, each the longest first. `run_ms` is the median of the CPU time that whole
    runs take, not timed step by step; the nodes' times together come close to it.
    """

    machine: str
    limits: Limits
    rounds: int
    run_ms: float
    nodes: tuple[NodeShare, ...]
    kinds: tuple[KindShare, ...]

    @property
    def total(self) -> Share:
        """All nodes together."""
        return together(self.nodes)

    def to_json(self) -> dict[str, Any]:
        """JSON values under the field names, with the total."""
        return {**dataclasses.asdict(self), "total": dataclasses.asdict(self.total)}


def profile(
    model: Model,
    images: Images | None = None,
    *,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> Profile:
    """Profile `model` on the first of the pictures that `network_inputs` makes of `images`.

    Costs `rounds` runs step by step and as many whole ones; `rounds` is at least 2.

    Raises:
        BadArgument: the network takes several inputs.
        BadData: no picture can be used.
    """
    picture = network_inputs(model, images)[0]
    limits = Limits.measured()
    times = Engine(model.plan).profile(picture, rounds)
    (whole,) = interleaved([our_run(model.plan, picture)], rounds, progress)
    all_seconds = max(sum(time.seconds for time in times), 1e-9)
    nodes = sorted(
        (_node_share(model.plan, time, limits, all_seconds) for time in times),
        key=lambda node: -node.ms,
    )
    return Profile(
        machine=machine_name(),
        limits=limits,
        rounds=rounds,
        run_ms=spread(whole.cpu).median,
        nodes=tuple(nodes),
        kinds=_kinds(nodes),
    )


def together(shares: Sequence[Share]) -> Share:
    """The sum of all figures."""
    names = [field.name for field in dataclasses.fields(Share)]
    return Share(*(sum(getattr(share, name) for share in shares) for name in names))


def machine_name() -> str:
    """The processor, as the system calls it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def products_of(plan: Plan, node: Node) -> int:
    """Products of a convolution, those with padding too; 0 for other operators."""
    operator = node.operator
    if isinstance(operator, WinogradConv):
        down, across = (
            -(-n // operator.step_rows) for n in plan.network.output_spec(node).shape[:2]
        )
        return down * across * operator.weights.size
    if not isinstance(operator, Conv | CodedConv | ConvTranspose):
        return 0
    transposed = isinstance(operator, ConvTranspose)
    spec = plan.network.input_specs(node)[0] if transposed else plan.network.output_spec(node)
    shape = (
        operator.weights.shape if not isinstance(operator, CodedConv) else operator.filters.shape
    )
    _, per_group, height, width = shape
    if transposed:
        per_group = shape[0] // operator.groups
    return spec.height * spec.width * spec.channels * int(per_group * height * width)


def moved_bytes_of(plan: Plan, node: Node, steps: int) -> int:
    """Bytes that a node reads and writes at least; see the page's head."""
    operator = node.operator
    filters = 0
    if isinstance(operator, CodedConv):
        filters = operator.filters.coefficients.nbytes
    elif isinstance(operator, FILTERS):
        filters = operator.weights.nbytes
    read = [name for name in dict.fromkeys(node.inputs) if not _written_in_place(plan, node, name)]
    maps = sum(_stored_bytes(plan, name) for name in read)
    if isinstance(operator, Concat):
        return 2 * maps  # what is written is what is read
    return maps + _stored_bytes(plan, node.output) + filters * steps


def _written_in_place(plan: Plan, node: Node, name: str) -> bool:
    """Whether `name` lies in the rows of the concatenation `node` before it runs."""
    own, made = plan.places.get(name), plan.places.get(node.output)
    if own is None or made is None or not isinstance(node.operator, Concat):
        return False
    return own.buffer == made.buffer


def _stored_bytes(plan: Plan, name: str) -> int:
    """Bytes of a whole map as it is stored; of an encoded one at worst."""
    spec, place = plan.network.maps[name], plan.places.get(name)
    if place is None or place.pixel_bytes:
        return spec.raw_bytes
    return plan.codecs[plan.network.producer[name].inputs[0]].max_bytes(spec)


def _node_share(plan: Plan, time: NodeTime, limits: Limits, all_seconds: float) -> NodeShare:
    node = next(node for node in plan.network.nodes if node.name == time.node)
    products = products_of(plan, node)
    moved_bytes = moved_bytes_of(plan, node, time.steps)
    return NodeShare(
        steps=time.steps,
        rows=time.rows,
        ms=1000 * time.seconds,
        share=time.seconds / all_seconds,
        products=products,
        moved_bytes=moved_bytes,
        limit_ms=limits.ms(products, moved_bytes),
        node=time.node,
        operator=time.operator,
        kind=_kind(node, plan),
    )


def _kind(node: Node, plan: Plan) -> str:
    """The kind of a node; a convolution of one channel per group is a depthwise one."""
    operator = node.operator
    if isinstance(operator, Conv) and operator.groups == plan.network.input_specs(node)[0].channels:
        return "depthwise" if operator.groups > 1 else "convolution"
    return KINDS[operator.id]


def _kinds(nodes: Sequence[NodeShare]) -> tuple[KindShare, ...]:
    """Sums of the nodes of each kind, the longest first."""
    of_kind: dict[str, list[NodeShare]] = {}
    for node in nodes:
        of_kind.setdefault(node.kind, []).append(node)
    kinds = [
        KindShare(**dataclasses.asdict(together(shares)), kind=kind)
        for kind, shares in of_kind.items()
    ]
    return tuple(sorted(kinds, key=lambda kind: -kind.ms))
