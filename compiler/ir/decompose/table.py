"""One decomposition per fused operator: what it means in primitive operators alone.

The numpy semantics of an OpDef say what an operator computes; a decomposition says it in the IR. The ONNX export, and
any backend that lacks a fused operator, build on this table. A test compares the two for every operator.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence

from ..builder import Builder
from ..graph import Graph, Module, Node, Program, Value
from ..opdef import Attrs, opdef
from ..slots import named, ordered
from ..types import IRError
from .emit import Emit

Plain = Callable[..., Value]
Slotted = Callable[[Emit, Attrs, Mapping[str, Value]], Mapping[str, Value]]
Rule = Callable[[Emit, Attrs, Sequence[Value]], list[Value]]

_TABLE: dict[str, Rule] = {}
_OPERANDS: dict[str, tuple[str, ...]] = {}


def register(name: str, rule: Rule) -> None:
    """IRError where the operator does not exist or has a decomposition already."""
    opdef(name)
    if name in _TABLE:
        raise IRError(f"operator {name!r} is decomposed twice")
    _TABLE[name] = rule


def plain(name: str) -> Callable[[Plain], Plain]:
    """Register fn(emit, attrs, *operands) -> the one result."""

    def decorate(fn: Plain) -> Plain:
        register(name, lambda e, attrs, values: [fn(e, attrs, *values)])
        _OPERANDS[name] = tuple(inspect.signature(fn).parameters)[2:]
        return fn

    return decorate


def slotted(name: str) -> Callable[[Slotted], Slotted]:
    """Register fn(emit, attrs, operands by slot name) -> results by name; it may compute more than the node has."""

    def decorate(fn: Slotted) -> Slotted:
        register(name, lambda e, attrs, values: ordered(attrs, fn(e, attrs, named(attrs, values))))
        return fn

    return decorate


def decomposable() -> list[str]:
    """Names of the operators that have a decomposition."""
    return sorted(_TABLE)


def operand_names(node: Node) -> tuple[str, ...]:
    """What the operands of an operator that has a decomposition are called: its slots, or the rule's own names."""
    return node.attrs["slots"] if "slots" in node.attrs else _OPERANDS[node.op]


def decompose_node(builder: Builder, node: Node, values: Sequence[Value]) -> list[Value]:
    """Append primitive operators that compute `node` on `values`; its results, of the types that the node has.

    Raises:
        IRError: the operator has no decomposition, or the decomposition's types differ from the node's.
    """
    if node.op not in _TABLE:
        raise IRError(f"operator {node.op!r} has no decomposition")
    results = _TABLE[node.op](Emit(builder), node.attrs, values)
    for got, expected in zip(results, node.outputs, strict=True):
        if not got.type.same(expected.type):
            raise IRError(f"decomposition of {node.op} gives {got.type}, expected {expected.type}")
    return results


def decompose_graph(graph: Graph, ops: Collection[str] | None = None) -> Graph:
    """A copy of the graph with the operators in `ops` (default: all that have a decomposition) decomposed."""
    chosen = set(_TABLE if ops is None else ops)
    out = Graph(graph.name)
    mapping: dict[Value, Value] = {p: Value(p.name, p.type) for p in graph.params}
    out.params = list(mapping.values())
    for node in graph.nodes:
        operands = [mapping[v] for v in node.inputs]
        if node.op in chosen:
            results = decompose_node(Builder(out.nodes, node.loc), node, operands)
        else:
            copy = Node(node.op, operands, node.attrs, node.loc)
            results = copy.outputs = [Value(v.name, v.type, copy, i) for i, v in enumerate(node.outputs)]
            out.nodes.append(copy)
        mapping.update(zip(node.outputs, results, strict=True))
    out.outputs = [mapping[v] for v in graph.outputs]
    out.rename()
    drop_unread(out)
    return out


def drop_unread(graph: Graph) -> None:
    """Remove nodes that nothing reads (a decomposition may compute more results than its node has)."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if any(v in needed for v in node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    graph.nodes = kept[::-1]


def decompose(module: Module, ops: Collection[str] | None = None) -> Module:
    """A module of copied graphs with the operators in `ops` (default: all that have a decomposition) decomposed."""
    programs = {
        name: Program(decompose_graph(p.graph, ops), list(p.params), list(p.outputs), p.dims, dict(p.limits))
        for name, p in module.programs.items()
    }
    functions = {name: decompose_graph(g, ops) for name, g in module.functions.items()}
    return Module(
        programs, functions, dict(module.weights), dict(module.constants), dict(module.states), dict(module.folded),
        dict(module.info),
    )  # fmt: skip
