"""sort -> topk: a stable descending sort of which only the first k are read is a selection."""

from __future__ import annotations

from pangu_compile.ir import Graph, Module, Node, Value, make_node
from pangu_compile.ir.types import same_dim

from .canonicalise import dead_code


def _wanted(node: Node, users: dict[Value, list[Node]], outputs: set[Value]) -> object | None:
    """k if every use of the sort's results is slice [0:k] of the last axis with one and the same k."""
    wanted: list[object] = []
    for value in node.outputs:
        if value in outputs:
            return None
        for user in users.get(value, []):
            if user.op != "slice" or user.attrs["axis"] != value.type.rank - 1 or user.attrs["start"] != 0:
                return None
            wanted.append(user.attrs["stop"])
    if not wanted or any(not same_dim(w, wanted[0]) for w in wanted):
        return None
    return wanted[0]


def _rewrite(graph: Graph) -> None:
    users, outputs = graph.users(), set(graph.outputs)
    mapping: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        k = _wanted(node, users, outputs) if node.op == "sort" and node.attrs["descending"] else None
        if k is None:
            nodes.append(node)
            continue
        selected = make_node("topk", node.inputs, {"k": k}, node.loc)
        nodes.append(selected)
        for old, new in zip(node.outputs, selected.outputs, strict=True):
            mapping.update({user.output: new for user in users.get(old, [])})
    graph.nodes = nodes
    graph.replace_uses(mapping)
    dead_code(graph)


def sort_to_topk(module: Module) -> None:
    """Rewrite every such sort of the module."""
    for graph in module.graphs():
        _rewrite(graph)
