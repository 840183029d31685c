"""Execution order: a stable topological sort."""

from __future__ import annotations

import heapq

from pangu_compile.ir import Graph, IRError


def sort_nodes(graph: Graph) -> None:
    """Reorder the nodes so that values are defined before they are read, as close to their present order as that allows."""
    at = {id(node): i for i, node in enumerate(graph.nodes)}
    waiting = [0] * len(graph.nodes)
    readers: list[list[int]] = [[] for _ in graph.nodes]
    for i, node in enumerate(graph.nodes):
        for producer in {id(v.producer) for v in node.inputs if v.producer is not None}:
            if producer not in at:
                raise IRError(f"{graph.name}: {node.op} reads a value of another graph")
            readers[at[producer]].append(i)
            waiting[i] += 1
    ready = [i for i, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(graph.nodes[i])
        for reader in readers[i]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) != len(graph.nodes):
        raise IRError(f"{graph.name}: nodes depend on each other in a cycle")
    graph.nodes = order
