"""The text form: prints any graph, and parses what it printed (print(parse(s)) == s).

func @layer(%x: f32[T, 64], %w: f32[64, 64]) {
  %v0 = transpose(%w) {perm=(1, 0)}
  %v1 = matmul(%x, %v0)
  return %v1
}
"""

from __future__ import annotations

import ast
import re
from typing import Any

import sympy

from .builder import make_node
from .graph import Graph, Module, Node, Value
from .types import DType, IRError, TensorType, dim, symbol


def _attr(value: Any) -> str:
    if isinstance(value, tuple):
        inner = ", ".join(_attr(v) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, sympy.Expr):
        return f"<{value}>"
    return repr(value)


def print_node(node: Node) -> str:
    outs = ", ".join(f"%{v.name}" for v in node.outputs)
    attrs = ", ".join(f"{k}={_attr(v)}" for k, v in sorted(node.attrs.items()))
    text = f"{outs} = {node.op}({', '.join('%' + v.name for v in node.inputs)})"
    text += f" {{{attrs}}}" if attrs else ""
    types = ", ".join(str(v.type) for v in node.outputs)
    return f"{text} : {types}" + (f"  // {node.loc}" if node.loc else "")


def print_graph(graph: Graph) -> str:
    params = ", ".join(f"%{v.name}: {v.type}" for v in graph.params)
    lines = [f"func @{graph.name}({params}) {{"]
    lines += [f"  {print_node(node)}" for node in graph.nodes]
    lines.append("  return " + ", ".join(f"%{v.name}" for v in graph.outputs))
    return "\n".join([*lines, "}"]) + "\n"


def print_module(module: Module) -> str:
    return "\n".join(print_graph(g) for g in module.graphs())


_TYPE = re.compile(r"(\w+)\[(.*)\]$")
_NODE = re.compile(
    r"^(?P<outs>%.*?) = (?P<op>\w+)\((?P<ins>[^)]*)\)(?: \{(?P<attrs>.*?)\})? : (?P<types>.*?)(?:  // (?P<loc>.*))?$"
)


def _split(text: str) -> list[str]:
    """Split at commas outside brackets and quotes."""
    parts, depth, current, quote = [], 0, "", ""
    for ch in text:
        if quote:
            quote = "" if ch == quote else quote
        elif ch in "'\"":
            quote = ch
        elif ch in "([<":
            depth += 1
        elif ch in ")]>":
            depth -= 1
        if ch == "," and depth == 0 and not quote:
            parts.append(current.strip())
            current = ""
        else:
            current += ch
    return [*parts, current.strip()] if current.strip() else parts


def parse_dim(text: str) -> Any:
    """A dimension from its text; every name is a dimension symbol."""
    names = set(re.findall(r"[A-Za-z_]\w*", text)) - {"Min", "Max"}
    return dim(sympy.parse_expr(text, local_dict={n: symbol(n) for n in names}))


def parse_type(text: str) -> TensorType:
    match = _TYPE.match(text.strip())
    if not match:
        raise IRError(f"not a type: {text!r}")
    return TensorType(DType(match[1]), tuple(parse_dim(d) for d in _split(match[2])))


def _parse_attr(text: str) -> Any:
    text = text.strip()
    if text.startswith("<"):
        return parse_dim(text[1:-1])
    if text.startswith("("):
        return tuple(_parse_attr(p) for p in _split(text[1:-1]) if p)
    return float(text) if text in ("inf", "-inf", "nan") else ast.literal_eval(text)


def _parse_line(line: str, values: dict[str, Value]) -> Node:
    match = _NODE.match(line)
    if not match:
        raise IRError(f"not an operator: {line!r}")
    attrs = dict(p.split("=", 1) for p in _split(match["attrs"] or ""))
    try:
        inputs = [values[n.strip()[1:]] for n in match["ins"].split(",") if n.strip()]
    except KeyError as missing:
        raise IRError(f"{line!r} reads %{missing.args[0]}, which is not defined") from None
    parsed = {k: _parse_attr(v) for k, v in attrs.items()}
    names = [n.strip()[1:] for n in match["outs"].split(",")]
    types = [parse_type(t) for t in _split(match["types"])]
    if match["op"] == "call":
        node = Node("call", inputs, parsed, match["loc"] or "")
        node.outputs = [Value(n, t, node, i) for i, (n, t) in enumerate(zip(names, types, strict=True))]
    else:
        node = make_node(match["op"], inputs, parsed, match["loc"] or "")
        if len(names) != len(node.outputs):
            raise IRError(f"{line!r}: {len(node.outputs)} results, {len(names)} names")
        if not all(a.same(v.type) for a, v in zip(types, node.outputs, strict=True)):
            raise IRError(f"{line!r}: inferred {[str(v.type) for v in node.outputs]}")
    for name, value in zip(names, node.outputs, strict=True):
        if name in values:
            raise IRError(f"{line!r} defines %{name} again")
        value.name = name
        values[name] = value
    return node


def parse_graph(text: str) -> Graph:
    """The graph of one printed function. IRError names the line at fault."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    head = re.match(r"^func @(\S+?)\((.*)\) \{$", lines[0])
    if not head or lines[-1] != "}" or not lines[-2].startswith("return"):
        raise IRError("a function reads: func @name(%x: type, ..) {, operators, return .., }")
    graph = Graph(head[1])
    values: dict[str, Value] = {}
    for part in _split(head[2]):
        name, type_text = part.split(":", 1)
        value = Value(name.strip()[1:], parse_type(type_text))
        values[value.name] = value
        graph.params.append(value)
    graph.nodes = [_parse_line(line, values) for line in lines[1:-2]]
    graph.outputs = [values[n.strip()[1:]] for n in lines[-2][len("return") :].split(",") if n.strip()]
    return graph
