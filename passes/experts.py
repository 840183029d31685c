"""Gathered expert weights times tokens -> expert_linear, which reads the chosen experts in place.

matmul(reshape(take(weight[E, O, I], index[T, k]), [T*k, O, I]), x[T*k, I, 1])  ->  expert_linear(x, weight, index)
"""

from __future__ import annotations

from pangu_compile.ir import Builder, Graph, Module, Node, Value, dim
from pangu_compile.ir.types import same_dim, same_shape

from .canonicalise import dead_code


def _through_reshape(value: Value) -> Value:
    while value.producer is not None and value.producer.op == "reshape":
        value = value.producer.inputs[0]
    return value


def _gathered(value: Value) -> tuple[Value, Value] | None:
    """(weight [E, O, I], index [T, k]) where value is that gather with its leading axes merged."""
    source = _through_reshape(value).producer
    if source is None or source.op != "take":
        return None
    weight, index = source.inputs
    if weight.type.rank != 3 or index.type.rank != 2 or weight.producer is not None:
        return None
    if not same_shape(value.type.shape[-2:], weight.type.shape[1:]):
        return None
    return weight, index


def _tokens(value: Value, index: Value, builder: Builder) -> Value:
    """The right operand as [T, I] where one row serves all k experts, else as [T, k, I]."""
    tokens, k = index.type.shape
    inner = value.type.shape[-2]
    if value.type.rank == 4 and same_dim(value.type.shape[1], 1) and not same_dim(k, 1):
        return builder.reshape(value, (tokens, inner))
    source = _through_reshape(value)
    if source.producer is not None and source.producer.op == "broadcast":
        base = source.producer.inputs[0]
        shape = source.type.shape
        spread = len(shape) == 4 and same_dim(shape[0], tokens) and same_dim(shape[1], k) and same_dim(shape[2], inner)
        if spread and base.type.rank == 4 and same_dim(base.type.shape[1], 1) and same_dim(base.type.shape[0], tokens):
            return builder.reshape(base, (tokens, inner))
    return builder.reshape(value, (tokens, k, inner))


def _rewrite(graph: Graph) -> None:
    mapping: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        found = _gathered(node.inputs[0]) if node.op == "matmul" else None
        if found is None or not same_dim(node.inputs[1].type.shape[-1], 1):
            nodes.append(node)
            continue
        weight, index = found
        pairs = dim(index.type.numel)
        if not same_shape(node.inputs[1].type.shape[:-2], (pairs,)) and node.inputs[1].type.rank != 4:
            nodes.append(node)
            continue
        builder = Builder(nodes, node.loc)
        product = builder("expert_linear", _tokens(node.inputs[1], index, builder), weight, index)
        mapping[node.output] = builder.reshape(product, node.output.type.shape)
    graph.nodes = nodes
    graph.replace_uses(mapping)
    dead_code(graph)


def fuse_expert_linear(module: Module) -> None:
    """Rewrite every gathered expert product of the module."""
    for graph in module.graphs():
        _rewrite(graph)
