# SPDX-License-Identifier: Apache-2.0
"""`verify`: everything that an engine takes for granted about a plan, checked.

An engine decides nothing and checks nothing, so a plan from a file is hostile until this page has
agreed to it. In this order: the lowered network is the one that source and codecs give; every
node's work rows are done once, in order, in whole coding units; no row is read before it is made;
every map has a place that fits it, inside the arena; nothing writes into a row that is still
needed, neither through the same buffer nor through another one that shares its bytes.

A buffer may be shared in two ways. The slice of a concatenation is not copied by the
concatenation's step; it lives until the last read of the slice and of the concatenation. The result
of an element-wise operator may be written over an operand, if that dies in the very step.

Cost: a few look-ups per work row and edge, and per pair of buffers that share addresses; a second
for 60,000 steps.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from thinmaps.errors import BadFile
from thinmaps.graph.network import Network
from thinmaps.graph.operators import Concat, Decode, Encode
from thinmaps.plan.flow import Flow, IntArray, flow_of
from thinmaps.plan.lifetimes import Lives, lives_of, state_lives, steps_of_work
from thinmaps.plan.lower import lower
from thinmaps.plan.pack import Block, forbidden
from thinmaps.plan.plan import ALIGNMENT_BYTES, Place, Plan
from thinmaps.plan.schedule import Order

# Far above every real map, low enough that tables of all rows stay small.
MOST_ROWS = 1 << 20
MOST_BYTES = 1 << 48


def verify(plan: Plan) -> None:
    """Return if an engine may run `plan`.

    Raises:
        BadFile: the plan breaks a rule; the message says which node, map or buffer.
        PlanImpossible: codecs or geometry do not fit the network.
    """
    for name, spec in plan.source.maps.items():
        if spec.height > MOST_ROWS:
            raise BadFile(f"map {name!r} has {spec.height:,} rows, a plan at most {MOST_ROWS:,}")
    lowered = lower(plan.source, plan.codecs)
    _check_network(plan.network, lowered)
    flow = flow_of(lowered, plan.codecs, plan.skipping, plan.winograd)
    order = _checked_order(plan, flow)
    work = steps_of_work(flow, order)
    _check_reads(flow, work)
    _check_buffers(plan)
    _check_places(plan, flow)
    _check_states(plan, flow)
    lives = lives_of(flow, work, range(len(flow.maps)))
    groups = _check_sharing(plan, flow, lives)
    for v, life in state_lives(flow, work, range(len(flow.nodes))).items():
        groups[plan.states[flow.nodes[v].name]] = life
    _check_addresses(plan, groups)


def _check_network(network: Network, expected: Network) -> None:
    """The stored lowered network is wired as `lower` wires it."""
    if (network.inputs, network.outputs) != (expected.inputs, expected.outputs):
        raise BadFile("the plan's inputs or outputs are not those of its source network")
    if len(network.nodes) != len(expected.nodes) or dict(network.maps) != dict(expected.maps):
        raise BadFile("the plan's nodes or maps are not those of its source network and codecs")
    for found, wanted in zip(network.nodes, expected.nodes, strict=True):
        same = (found.name, found.inputs, found.output) == (
            wanted.name,
            wanted.inputs,
            wanted.output,
        )
        codec = isinstance(wanted.operator, (Encode, Decode))
        if not same or type(found.operator) is not type(wanted.operator):
            raise BadFile(f"node {found.name!r} is not {wanted.name!r} of the source network")
        if codec and vars(found.operator) != vars(wanted.operator):
            raise BadFile(f"node {found.name!r} has other coding units than its codec")


def _checked_order(plan: Plan, flow: Flow) -> Order:
    """The steps as arrays: every work row of every node once, in order, in whole units."""
    try:
        order = Order.of_steps(plan.steps)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadFile(f"the plan's steps are not triples of integers: {error}") from None
    count = len(flow.nodes)
    if len(order) and not (order.node.min() >= 0 and order.node.max() < count):
        raise BadFile(f"a step names a node outside of 0..{count - 1}")
    tallest = max(node.work_rows for node in flow.nodes)
    if np.any((order.rows < 1) | (order.rows > tallest)):
        raise BadFile(f"a step does fewer than 1 or more than {tallest} rows")
    by_node = np.argsort(order.node, kind="stable")
    node, first, rows = order.node[by_node], order.first[by_node], order.rows[by_node]
    done = np.cumsum(rows) - rows
    starts = np.searchsorted(node, np.arange(count), "left")
    base = np.append(done, rows.sum())[starts]
    wrong = np.flatnonzero(first != done - base[node])
    if len(wrong):
        at = int(wrong[0])
        raise BadFile(
            f"a step of node {flow.nodes[int(node[at])].name!r} starts at work row "
            f"{int(first[at])}; the next one is {int((done - base[node])[at])}"
        )
    totals = np.bincount(order.node, order.rows, count).astype(np.int64)
    for v, each in enumerate(flow.nodes):
        if totals[v] != each.work_rows:
            raise BadFile(
                f"node {each.name!r} has {each.work_rows} work rows, the steps do {totals[v]}"
            )
    grain = np.array([each.grain for each in flow.nodes])[order.node]
    ends = np.array([each.work_rows for each in flow.nodes])[order.node]
    torn = (order.first % grain != 0) | (
        (order.rows % grain != 0) & (order.first + order.rows != ends)
    )
    if np.any(torn):
        name = flow.nodes[int(order.node[np.argmax(torn)])].name
        raise BadFile(f"a step of node {name!r} splits a coding unit")
    return order


def _check_reads(flow: Flow, work: list[IntArray]) -> None:
    """Every row is made in an earlier step than the one that reads it."""
    for this in flow.maps:
        if this.producer < 0:
            continue
        born = work[this.producer][this.made_after]
        for edge in this.edges:
            reads = edge.stop > edge.first
            early = reads & (born[np.maximum(edge.stop, 1) - 1] >= work[edge.node])
            if np.any(early):
                row = int(np.argmax(early))
                raise BadFile(
                    f"node {flow.nodes[edge.node].name!r} reads entry {int(edge.stop[row]) - 1} "
                    f"of map {this.name!r} for its work row {row} before it is made"
                )


def _check_buffers(plan: Plan) -> None:
    """Buffers have positive sizes, aligned offsets, and end before the arena's slack."""
    if not 0 <= plan.arena_bytes <= MOST_BYTES:
        raise BadFile(f"an arena of {plan.arena_bytes} bytes cannot be")
    for buffer in plan.buffers:
        if not (1 <= buffer.slots <= MOST_ROWS and 1 <= buffer.slot_bytes <= MOST_BYTES):
            raise BadFile(
                f"buffer {buffer.name!r} cannot have {buffer.slots} slots of "
                f"{buffer.slot_bytes} bytes"
            )
        if buffer.offset < 0 or buffer.offset % ALIGNMENT_BYTES:
            raise BadFile(
                f"buffer {buffer.name!r} starts at byte {buffer.offset}, which is not a multiple "
                f"of {ALIGNMENT_BYTES}"
            )
        if buffer.offset + buffer.bytes + ALIGNMENT_BYTES > plan.arena_bytes:
            raise BadFile(
                f"buffer {buffer.name!r} ends at byte {buffer.offset + buffer.bytes}; with "
                f"{ALIGNMENT_BYTES} of slack that is outside of the arena's {plan.arena_bytes}"
            )


def _check_places(plan: Plan, flow: Flow) -> None:
    """Every map of the arena has one place, whose slots hold its rows."""
    wanted = {this.name for this in flow.maps if this.in_arena}
    if wanted != set(plan.places):
        odd = min(wanted ^ set(plan.places))
        raise BadFile(f"map {odd!r} has a place and needs none, or needs one and has none")
    for this in flow.maps:
        if this.in_arena:
            _check_place(plan, flow, this.name)


def _check_place(plan: Plan, flow: Flow, name: str) -> None:
    this, spec, place = flow.maps[flow.index[name]], flow.network.maps[name], plan.places[name]
    if not 0 <= place.buffer < len(plan.buffers):
        raise BadFile(f"map {name!r} lies in buffer {place.buffer}, of {len(plan.buffers)}")
    slot_bytes = plan.buffers[place.buffer].slot_bytes
    if place.unit_rows != this.unit_rows:
        raise BadFile(f"map {name!r} has units of {this.unit_rows} rows, not {place.unit_rows}")
    if this.coded:
        fits = (place.channel, place.pixel_bytes) == (0, 0) and slot_bytes == this.slot_bytes
    else:
        fits = (
            slot_bytes == spec.width * place.pixel_bytes
            and 0 <= place.channel <= place.pixel_bytes - spec.channels
        )
    if not fits:
        raise BadFile(
            f"map {name!r} of {spec.shape} does not fit its place: slots of {slot_bytes} bytes, "
            f"pixels of {place.pixel_bytes} bytes, from byte {place.channel} on"
        )


def _check_states(plan: Plan, flow: Flow) -> None:
    """Every node with running sums has a buffer of its own for them, as have some for scratch."""
    own = {node.name: node.state_bytes or node.scratch_bytes for node in flow.nodes}
    wanted = {name: count for name, count in own.items() if count}
    if set(wanted) != set(plan.states):
        odd = min(set(wanted) ^ set(plan.states))
        raise BadFile(f"node {odd!r} has running sums and needs none, or scratch, or the reverse")
    used = [*{place.buffer for place in plan.places.values()}, *plan.states.values()]
    if sorted(used) != list(range(len(plan.buffers))):
        raise BadFile("a buffer is used by nothing, or scratch or running sums share a buffer")
    for name, number in plan.states.items():
        buffer = plan.buffers[number]
        if (buffer.slots, buffer.slot_bytes) != (1, wanted[name]):
            raise BadFile(f"sums or scratch of node {name!r} need one slot of {wanted[name]}")


def _check_sharing(plan: Plan, flow: Flow, lives: dict[int, Lives]) -> dict[int, Lives]:
    """The lives of each buffer's slots, once nothing in it writes into what is still needed."""
    slices = _slices(plan, flow)
    needed = dict(lives)
    # Backwards, so that a slice of a slice hears of every reader behind it.
    for m, parent in sorted(slices, key=lambda pair: -flow.maps[pair[1]].producer):
        needed[m] = Lives(lives[m].born, np.maximum(needed[m].dies, needed[parent].dies))
    members: dict[int, list[int]] = {}
    for m in lives:
        members.setdefault(plan.places[flow.maps[m].name].buffer, []).append(m)
    groups: dict[int, Lives] = {}
    for buffer, maps in members.items():
        if len({(flow.maps[m].entries, flow.maps[m].coded) for m in maps}) > 1:
            raise BadFile(f"maps of different heights share buffer {plan.buffers[buffer].name!r}")
        for m in maps:
            for writer in maps:
                _check_writes(plan, flow, m, writer, needed, set(slices))
        groups[buffer] = Lives.joint(needed[m] for m in maps)
    return groups


def _slices(plan: Plan, flow: Flow) -> list[tuple[int, int]]:
    """Pairs of a map and a concatenation whose rows already hold it where it belongs."""
    found = []
    for v, node in enumerate(flow.nodes):
        operator = flow.network.nodes[v].operator
        parent = plan.places.get(flow.maps[node.output].name)
        if not isinstance(operator, Concat) or parent is None:
            continue
        channel = parent.channel
        for i, edge in enumerate(node.edges):
            name = flow.maps[edge.map].name
            here = Place(parent.buffer, channel, parent.pixel_bytes)
            if plan.places.get(name) == here and operator.is_copy(i):
                found.append((edge.map, node.output))
            channel += flow.network.maps[name].channels
    return found


def _check_writes(
    plan: Plan,
    flow: Flow,
    m: int,
    writer: int,
    needed: dict[int, Lives],
    slices: set[tuple[int, int]],
) -> None:
    """No row of `writer` is written into a slot of `m` while that row of `m` is needed."""
    if not _overlaps(plan, flow, m, writer, slices):
        return
    lives, writes = needed[m], needed[writer].born
    slots = plan.buffers[plan.places[flow.maps[m].name].buffer].slots
    entries = np.arange(len(lives.born))
    last = np.searchsorted(writes, lives.dies, "right") - 1
    last -= (last - entries) % slots
    own = last == entries
    if m == writer:
        last = np.where(own, last - slots, last)
    elif any(_over(plan, flow, whole, writer) for whole in _wholes(m, slices)):
        last = np.where(own & (writes >= lives.dies), last - slots, last)
    hit = (last >= 0) & (writes[np.maximum(last, 0)] >= lives.born)
    if np.any(hit):
        row = int(np.argmax(hit))
        raise BadFile(
            f"map {flow.maps[writer].name!r} is written over entry {row} of map "
            f"{flow.maps[m].name!r} while that is needed, in buffer "
            f"{plan.buffers[plan.places[flow.maps[m].name].buffer].name!r} of {slots} slots"
        )


def _overlaps(plan: Plan, flow: Flow, m: int, writer: int, slices: set[tuple[int, int]]) -> bool:
    """Whether the bytes that `writer`'s steps write lie in the pixels of map `m`."""
    place = plan.places[flow.maps[m].name]
    first = place.channel
    stop = first + flow.network.maps[flow.maps[m].name].channels
    if flow.maps[m].coded:
        return True
    node = flow.nodes[flow.maps[writer].producer]
    start = plan.places[flow.maps[writer].name].channel
    if not isinstance(flow.network.nodes[flow.maps[writer].producer].operator, Concat):
        end = start + flow.network.maps[flow.maps[writer].name].channels
        return first < end and start < stop
    for edge in node.edges:
        end = start + flow.network.maps[flow.maps[edge.map].name].channels
        if (edge.map, writer) not in slices and first < end and start < stop:
            return True
        start = end
    return False


def _wholes(m: int, slices: set[tuple[int, int]]) -> set[int]:
    """Map `m` and the concatenations in whose rows it lies."""
    found = {m}
    while more := {parent for each, parent in slices if each in found} - found:
        found |= more
    return found


def _over(plan: Plan, flow: Flow, m: int, writer: int) -> bool:
    """Whether the step that makes `writer` may write over the operand `m` it reads."""
    v = flow.maps[writer].producer
    operands = [flow.nodes[v].edges[i].map for i in flow.network.nodes[v].operator.in_place]
    shapes = [flow.network.maps[flow.maps[each].name].shape for each in (m, writer)]
    places = [plan.places[flow.maps[each].name] for each in (m, writer)]
    return m in operands and shapes[0] == shapes[1] and places[0] == places[1]


def _check_addresses(plan: Plan, groups: dict[int, Lives]) -> None:
    """Slots of different buffers that live in one step have no byte in common."""
    blocks = [
        Block(buffer.name, buffer.slots, buffer.slot_bytes, groups[i])
        for i, buffer in enumerate(plan.buffers)
    ]
    for i, j in combinations(range(len(blocks)), 2):
        a, b = plan.buffers[i], plan.buffers[j]
        if a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes:
            low, high = forbidden(blocks[i], blocks[j])
            apart = (b.offset - a.offset) // ALIGNMENT_BYTES
            if np.any((low <= apart) & (apart <= high)):
                raise BadFile(f"buffers {a.name!r} and {b.name!r} share bytes that live at once")
