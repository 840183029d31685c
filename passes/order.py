"""Execution order: a stable topological sort."""

from __future__ import annotations

import networkx as nx

from pangu_compile.ir import Graph, IRError


def sort_nodes(graph: Graph) -> None:
    """Reorder the nodes so that values are defined before they are read, as close to their present order as that allows."""
    at = {id(node): i for i, node in enumerate(graph.nodes)}
    edges: nx.DiGraph[int] = nx.DiGraph()
    edges.add_nodes_from(range(len(graph.nodes)))
    for i, node in enumerate(graph.nodes):
        for producer in (v.producer for v in node.inputs if v.producer is not None):
            if id(producer) not in at:
                raise IRError(f"{graph.name}: {node.op} reads a value of another graph")
            edges.add_edge(at[id(producer)], i)
    try:
        graph.nodes = [graph.nodes[i] for i in nx.lexicographical_topological_sort(edges)]
    except nx.NetworkXUnfeasible:
        raise IRError(f"{graph.name}: nodes depend on each other in a cycle") from None
