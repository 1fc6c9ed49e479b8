# SPDX-License-Identifier: Apache-2.0
"""`NetworkProfile`: what the maps of a network cost and how well each would compress.

For every map between nodes, in execution order:

    bytes     of the uint8 map, and what a machine moves that runs layer by layer from external
              memory: the map written once and read by each node that reads it. A concatenation is
              no map of its own: its readers read its parts
    stored    whether a machine keeps it that fuses what is free: outputs of convolutions behind
              their activation, and sums instead of the convolution in front of them
    peak      the node at which most lives while this map does, and the bytes that live there
    zeros     share of elements equal to the zero point
    entropy   order-0 entropy of the bytes less the zero point, bits per element: no code of single
              elements with one table can be shorter
    ratios    uint8 bytes / stored bytes of every lossless codec, one unit per map, headers and
              padding counted

The last three need pictures, and are means over some of them. Without pictures a float network is
calibrated on noise, which settles nothing but shapes; those columns are then empty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinmaps.codecs.base import Codec
from thinmaps.codecs.native import fastest
from thinmaps.graph.network import Network, Node
from thinmaps.graph.operators import Add, CodedConv, Concat, Conv
from thinmaps.types import MapSpec

# The maps worth treating make up this share of the traffic.
WORTH_SHARE = 0.8


@dataclass(frozen=True)
class MapProfile:
    """One map; the page's head says what each figure is."""

    name: str
    shape: tuple[int, int, int]
    raw_bytes: int
    traffic_bytes: int
    peak_node: str
    peak_bytes: int
    stored: bool = True
    zeros: float | None = None
    entropy_bits: float | None = None
    ratios: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def best(self) -> tuple[str, float] | None:
        """The lossless codec with the highest ratio, and that ratio; None without pictures."""
        return max(self.ratios.items(), key=lambda item: item[1]) if self.ratios else None


@dataclass(frozen=True)
class NetworkProfile:
    """All maps, the network's peak, and which maps are worth treating."""

    maps: tuple[MapProfile, ...]
    pictures: int

    @property
    def peak_node(self) -> str:
        """The node at which most bytes live, layer by layer; none in a network of one node."""
        return max(self.maps, key=lambda row: row.peak_bytes).peak_node if self.maps else ""

    @property
    def peak_bytes(self) -> int:
        """Bytes of maps that live there."""
        return max((row.peak_bytes for row in self.maps), default=0)

    @property
    def raw_bytes(self) -> int:
        """Bytes of all maps."""
        return sum(row.raw_bytes for row in self.maps)

    @property
    def traffic_bytes(self) -> int:
        """Bytes that a layer-by-layer machine moves for all maps in one inference."""
        return sum(row.traffic_bytes for row in self.maps)

    @property
    def ratios(self) -> dict[str, float]:
        """Every codec's ratio over all maps together."""
        return ratios_of(self.maps)

    @property
    def worth_treating(self) -> tuple[str, ...]:
        """Maps that live at the peak, and those with the most traffic up to 80 % of it all."""
        chosen, moved = set(), 0
        for row in sorted(self.maps, key=lambda row: -row.traffic_bytes):
            if moved >= WORTH_SHARE * self.traffic_bytes:
                break
            moved += row.traffic_bytes
            chosen.add(row.name)
        return tuple(
            row.name for row in self.maps if row.name in chosen or row.peak_node == self.peak_node
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values under the field names."""
        return {
            **dataclasses.asdict(self),
            "peak_node": self.peak_node,
            "peak_bytes": self.peak_bytes,
            "raw_bytes": self.raw_bytes,
            "traffic_bytes": self.traffic_bytes,
            "ratios": self.ratios,
            "worth_treating": self.worth_treating,
        }


def ratios_of(rows: Sequence[MapProfile]) -> dict[str, float]:
    """Every codec's ratio over some maps together."""
    raw = sum(row.raw_bytes for row in rows)
    ids = rows[0].ratios if rows else {}
    return {codec: raw / sum(row.raw_bytes / row.ratios[codec] for row in rows) for codec in ids}


def profile_of_shapes(network: Network) -> list[MapProfile]:
    """What shapes alone say, of every uint8 map that a node makes and another reads."""
    lives = _lives(network)
    live_bytes = [
        sum(network.maps[name].raw_bytes for name, life in lives.items() if at in life)
        for at in range(len(network.nodes))
    ]
    stored = stored_maps(network)
    rows = []
    for name, life in lives.items():
        spec = network.maps[name]
        peak = max(life, key=live_bytes.__getitem__)
        rows.append(
            MapProfile(
                name=name,
                shape=spec.shape,
                raw_bytes=spec.raw_bytes,
                traffic_bytes=spec.raw_bytes * (1 + len(_readers(network, name))),
                peak_node=network.nodes[peak].name,
                peak_bytes=live_bytes[peak],
                stored=name in stored,
            )
        )
    return rows


def stored_maps(network: Network) -> tuple[str, ...]:
    """Outputs of convolutions, and of sums instead of the convolution in front, in order."""

    def counts(name: str) -> bool:
        readers = network.readers[name]
        summed = len(readers) == 1 and isinstance(readers[0].operator, Add)
        made_by = network.producer[name].operator
        return isinstance(made_by, Add) or (isinstance(made_by, Conv | CodedConv) and not summed)

    made = (node.output for node in network.nodes)
    return tuple(name for name in made if network.readers[name] and counts(name))


def _lives(network: Network) -> dict[str, range]:
    """Map between nodes -> the nodes during which it lives, layer by layer."""
    place = {node.name: at for at, node in enumerate(network.nodes)}
    lives = {}
    for at, node in enumerate(network.nodes):
        readers = _readers(network, node.output)
        bytes_between = readers and network.maps[node.output].dtype == "uint8"
        if bytes_between and not isinstance(node.operator, Concat):
            lives[node.output] = range(at, max(place[reader.name] for reader in readers) + 1)
    return lives


def _readers(network: Network, name: str) -> list[Node]:
    """The nodes that read a map, through concatenations."""
    found: list[Node] = []
    for node in network.readers[name]:
        joined = isinstance(node.operator, Concat)
        found += _readers(network, node.output) if joined else [node]
    return list(dict.fromkeys(found))


class SeenMap:
    """Sums over the pictures seen so far of one map, for those `kinds` that lose nothing."""

    def __init__(self, spec: MapSpec, kinds: Sequence[type[Codec]]) -> None:
        self.spec = spec
        self.counts = np.zeros(256, np.int64)
        self.encoders = {codec.id: fastest(codec) for codec in _lossless(spec, kinds)}
        self.stored_bytes = dict.fromkeys(self.encoders, 0)

    def add(self, values: NDArray[np.uint8]) -> None:
        """One picture's map."""
        self.counts += np.bincount(values.ravel(), minlength=256)
        for codec_id, encoder in self.encoders.items():
            self.stored_bytes[codec_id] += len(encoder.encode_unit(values, self.spec))

    def on(self, row: MapProfile) -> MapProfile:
        """The row with what the pictures showed."""
        elements = int(self.counts.sum())
        shares = self.counts[self.counts > 0] / elements
        return dataclasses.replace(
            row,
            zeros=float(self.counts[self.spec.zero_point] / elements),
            entropy_bits=float(-(shares * np.log2(shares)).sum()),
            ratios={
                codec_id: elements / max(stored, 1)
                for codec_id, stored in self.stored_bytes.items()
            },
        )


def _lossless(spec: MapSpec, kinds: Sequence[type[Codec]]) -> list[Codec]:
    """Every codec that loses nothing as it comes, with the whole map as one unit."""
    empty = np.zeros((0, *spec.shape), np.uint8)
    fitted = [kind.fit(spec, empty) for kind in kinds]
    return [
        dataclasses.replace(codec, unit_rows=spec.height)
        for codec in fitted
        if codec.lossless and codec.id != "raw"
    ]
