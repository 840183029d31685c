"""Inlining: a call is replaced by a copy of the function's nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sympy

from .graph import Graph, Node, Value
from .types import Dim, substitute


def _at(value: Any, binding: Mapping[str, Dim]) -> Any:
    """An attribute with its dimensions replaced."""
    if isinstance(value, tuple):
        return tuple(_at(v, binding) for v in value)
    return substitute(value, binding) if isinstance(value, sympy.Expr) else value


def _attrs_at(node: Node, binding: Mapping[str, Dim]) -> dict[str, Any]:
    """Attributes where the symbols named in `binding` have other sizes; a call hands these on to its callee."""
    if not binding:
        return node.attrs
    attrs = {key: _at(value, binding) for key, value in node.attrs.items()}
    if node.op == "call":
        attrs["dims"] = tuple({**binding, **dict(attrs.get("dims", ()))}.items())
    return attrs


def copy_nodes(
    nodes: list[Node], mapping: dict[Value, Value], prefix: str = "", dims: Mapping[str, Dim] | None = None
) -> list[Node]:
    """Copies of `nodes` that read mapped values; `mapping` gains old result -> new result.

    prefix: put before locations. dims: sizes of symbols, where they are others than in the original.
    """
    copies, binding = [], dims or {}
    for node in nodes:
        loc = ".".join(part for part in (prefix, node.loc) if part)
        copy = Node(node.op, [mapping.get(v, v) for v in node.inputs], _attrs_at(node, binding), loc)
        copy.outputs = [Value("", v.type.at(binding), copy, i) for i, v in enumerate(node.outputs)]
        mapping.update(zip(node.outputs, copy.outputs, strict=True))
        copies.append(copy)
    return copies


def inline_calls(graph: Graph, functions: Mapping[str, Graph], names: Collection[str], keep_loc: bool = False) -> None:
    """Replace every call of a function in `names` by the function's nodes, located below the call's own location.

    keep_loc: the nodes' locations are whole already.
    """
    nodes: list[Node] = []
    replaced: dict[Value, Value] = {}
    for node in graph.nodes:
        name = node.attrs.get("function")
        if node.op != "call" or name is None or name not in names:
            nodes.append(node)
            continue
        callee = functions[name]
        mapping = dict(zip(callee.params, node.inputs, strict=True))
        nodes += copy_nodes(callee.nodes, mapping, "" if keep_loc else node.loc, node.dims)
        replaced.update((out, mapping[result]) for out, result in zip(node.outputs, callee.outputs, strict=True))
    graph.nodes = nodes
    graph.replace_uses(replaced)
    graph.rename()
