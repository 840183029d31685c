"""Making nodes: result types are inferred and checked as a node is made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .graph import Graph, Node, Value
from .opdef import opdef
from .types import DType, IRError, TensorType


def make_node(op: str, inputs: Iterable[Value], attrs: dict[str, Any] | None = None, loc: str = "") -> Node:
    """A node with inferred results, not yet in a graph. IRError naming operator and source where it is ill-typed."""
    node = Node(op, inputs, attrs, loc)
    record = opdef(op)
    try:
        if record.arity is not None and len(node.inputs) != record.arity:
            raise IRError(f"takes {record.arity} operands, got {len(node.inputs)}")
        types = record.infer([v.type for v in node.inputs], node.attrs)
    except IRError as error:
        raise IRError(f"{op}{f' at {loc}' if loc else ''}: {error}") from None
    node.outputs = [Value(f"t{id(node) & 0xFFFF}_{i}", t, node, i) for i, t in enumerate(types)]
    return node


class Builder:
    """Appends nodes to a list (a graph's own list, or a replacement that a pass splices in)."""

    def __init__(self, nodes: list[Node], loc: str = ""):
        self.nodes, self.loc = nodes, loc

    def multi(self, op: str, *inputs: Value, **attrs: Any) -> list[Value]:
        node = make_node(op, inputs, attrs, self.loc)
        self.nodes.append(node)
        return node.outputs

    def __call__(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        (value,) = self.multi(op, *inputs, **attrs)
        return value

    def constant(self, value: float | int | bool, dtype: DType) -> Value:
        return self("constant", value=value, dtype=dtype.value)

    def reshape(self, x: Value, shape: tuple[Any, ...]) -> Value:
        target = TensorType(x.type.dtype, shape)
        return x if target.same(x.type) else self("reshape", x, shape=shape)

    def cast(self, x: Value, dtype: DType) -> Value:
        return x if x.type.dtype == dtype else self("cast", x, dtype=dtype.value)


def new_graph(name: str) -> tuple[Graph, Builder]:
    graph = Graph(name)
    return graph, Builder(graph.nodes)
