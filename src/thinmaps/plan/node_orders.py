# SPDX-License-Identifier: Apache-2.0
"""Orders of the nodes: branches may run one after the other in many ways, a few are tried.

Cost: linear in the network, but for the greedy order, which looks at all nodes that can run.
"""

from __future__ import annotations

from thinmaps.plan.flow import Flow


def node_orders(flow: Flow) -> list[tuple[int, ...]]:
    """Topological orders worth cutting, without repetition."""
    given = tuple(range(len(flow.nodes)))
    orders = [given, _depth_first(flow, False), _depth_first(flow, True), _least_held_first(flow)]
    return list(dict.fromkeys(orders))


def _depth_first(flow: Flow, last_input_first: bool) -> tuple[int, ...]:
    """Each node as late as the outputs allow, one input's whole past before the next one's."""
    order: list[int] = []
    seen: set[int] = set()
    ends = [v for v, node in enumerate(flow.nodes) if not flow.maps[node.output].edges]
    for end in ends:
        stack = [(end, False)]
        while stack:
            v, ready = stack.pop()
            if ready:
                order.append(v)
            elif v not in seen:
                seen.add(v)
                stack.append((v, True))
                makers = [flow.maps[edge.map].producer for edge in flow.nodes[v].edges]
                makers = makers if last_input_first else makers[::-1]
                stack.extend((u, False) for u in makers if u >= 0 and u not in seen)
    return tuple(order)


def _least_held_first(flow: Flow) -> tuple[int, ...]:
    """Of the nodes that can run, the one after which the least is held."""
    readers = [{edge.node for edge in each.edges} for each in flow.maps]
    missing = [{e.map for e in node.edges if flow.maps[e.map].producer >= 0} for node in flow.nodes]
    ready = [v for v, maps in enumerate(missing) if not maps]
    order: list[int] = []

    def growth(v: int) -> int:
        freed = {e.map for e in flow.nodes[v].edges if readers[e.map] == {v}}
        return flow.maps[flow.nodes[v].output].bytes - sum(flow.maps[m].bytes for m in freed)

    while ready:
        v = min(ready, key=lambda u: (growth(u), u))
        ready.remove(v)
        order.append(v)
        for edge in flow.nodes[v].edges:
            readers[edge.map].discard(v)
        made = flow.nodes[v].output
        for u in dict.fromkeys(edge.node for edge in flow.maps[made].edges):
            missing[u].discard(made)
            if not missing[u]:
                ready.append(u)
    return tuple(order)
