"""Canonical form: no dead code, no repeated computation, no view that undoes or repeats another."""

from __future__ import annotations

from pangu_compile.ir import Graph, Module, Node, Value
from pangu_compile.ir.types import same_dim, same_shape


def dead_code(graph: Graph) -> None:
    """Drop nodes whose results nobody reads (every operator is pure)."""
    live: set[Value] = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(v in live for v in node.outputs):
            kept.append(node)
            live.update(node.inputs)
    graph.nodes = kept[::-1]


def drop_unread_params(module: Module) -> None:
    """Functions lose the parameters that they do not read, and their calls the operands."""
    for name, graph in module.functions.items():
        uses = graph.uses()
        keep = [uses[p] > 0 for p in graph.params]
        if all(keep):
            continue
        graph.params = [p for p, k in zip(graph.params, keep, strict=True) if k]
        for call in (n for g in module.graphs() for n in g.nodes if n.op == "call" and n.attrs["function"] == name):
            call.inputs = [v for v, k in zip(call.inputs, keep, strict=True) if k]


def _simplified(node: Node) -> Value | None:
    """A value that equals the node's only result and already exists, or None; may rewrite the node in place."""
    if len(node.outputs) != 1 or not node.inputs:
        return None
    source, out = node.inputs[0], node.output
    if node.op == "cast" and source.type.dtype == out.type.dtype:
        return source
    if node.op in ("reshape", "broadcast") and same_shape(source.type.shape, out.type.shape):
        return source
    if node.op == "slice" and same_shape(source.type.shape, out.type.shape):
        return source
    if node.op == "concat" and len(node.inputs) == 1:
        return source
    before = source.producer
    if before is None or before.op != node.op:
        return None
    if node.op == "reshape":
        node.inputs = list(before.inputs)
        return _simplified(node)
    if node.op == "transpose":
        perm = tuple(before.attrs["perm"][p] for p in node.attrs["perm"])
        if perm == tuple(range(len(perm))):
            return before.inputs[0]
        node.inputs, node.attrs["perm"] = list(before.inputs), perm
    return None


def _empty_parts(node: Node) -> None:
    """A concatenation forgets operands without elements."""
    if node.op == "concat":
        kept = [v for v in node.inputs if not same_dim(v.type.shape[node.attrs["axis"]], 0)]
        node.inputs = kept or node.inputs[:1]


def _transpose_as_reshape(node: Node) -> None:
    """A transpose that only moves axes of size one is a reshape (which is free)."""
    if node.op == "transpose":
        shape = node.inputs[0].type.shape
        order = [p for p in node.attrs["perm"] if shape[p] != 1]
        if order == sorted(order):
            node.op, node.attrs = "reshape", {"shape": node.output.type.shape}


def _clean(graph: Graph, layout: bool) -> None:
    seen: dict[tuple[object, ...], Node] = {}
    mapping: dict[Value, Value] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        node.inputs = [mapping.get(v, v) for v in node.inputs]
        _empty_parts(node)
        if layout:
            _transpose_as_reshape(node)
        same = _simplified(node)
        if same is not None:
            mapping[node.output] = same
            continue
        attrs = tuple(sorted((k, repr(v)) for k, v in node.attrs.items()))
        key = (node.op, attrs, tuple(map(id, node.inputs)))
        twin = seen.get(key) if node.op != "call" else None
        if twin is not None:
            mapping.update(zip(node.outputs, twin.outputs, strict=True))
            continue
        seen[key] = node
        kept.append(node)
    graph.nodes = kept
    graph.outputs = [mapping.get(v, v) for v in graph.outputs]
    dead_code(graph)


def canonicalise(module: Module) -> None:
    """Views simplified, common subexpressions shared, dead code dropped, in every function and program."""
    for graph in module.graphs():
        _clean(graph, layout=False)


def clean_layout(module: Module) -> None:
    """`canonicalise`, and transposes that only move axes of size one become reshapes. After the fusions: their patterns
    are written with the transposes that tracing gives, whatever the sizes.
    """
    for graph in module.graphs():
        _clean(graph, layout=True)
