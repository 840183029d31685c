"""Outlining: a module called from a list (layers.3) becomes a function; structurally equal ones share it.

Where a layer begins and ends comes from the recorded module path; whether two are the same is decided by structure
alone (operators, attributes, types, wiring, and the roles of what they read).
"""

from __future__ import annotations

import re

from pangu_compile.ir import Graph, Module, Node, Program, Value

_REGION = re.compile(r"^(?:[^.]+\.)*?[^.]+\.\d+(?=\.|$)")


def region(loc: str) -> str:
    """layers.3.attention.q -> layers.3; empty where no list element is on the path."""
    match = _REGION.match(loc)
    return match[0] if match else ""


def _runs(graph: Graph) -> list[list[Node]]:
    runs: list[list[Node]] = []
    previous = ""
    for node in graph.nodes:
        here = region(node.loc)
        if not runs or here != previous or not here:
            runs.append([])
        runs[-1].append(node)
        previous = here
    return runs


def run_boundary(run: list[Node], users: dict[Value, list[Node]], outputs: set[Value]) -> tuple[list[Value], list[Value]]:
    """Values that a run of nodes reads from outside, and those of its own that are read outside."""
    inside = {v for node in run for v in node.outputs}
    members = set(map(id, run))
    inputs = list(dict.fromkeys(v for node in run for v in node.inputs if v not in inside))
    results = [
        v for node in run for v in node.outputs
        if v in outputs or any(id(user) not in members for user in users.get(v, []))
    ]  # fmt: skip
    return inputs, results


def run_key(run: list[Node], inputs: list[Value], results: list[Value], roles: dict[Value, str]) -> tuple[object, ...]:
    """Structure of a run: equal keys mean that one function serves both."""
    number = {v: i for i, v in enumerate(inputs)}
    body: list[object] = []
    for node in run:
        attrs = tuple(sorted((k, repr(v)) for k, v in node.attrs.items()))
        body.append((node.op, attrs, tuple(number[v] for v in node.inputs)))
        for v in node.outputs:
            number[v] = len(number)
    return (
        tuple((str(v.type), roles.get(v, "value")) for v in inputs), tuple(body), tuple(number[v] for v in results)
    )  # fmt: skip


def extract_run(name: str, run: list[Node], inputs: list[Value], results: list[Value]) -> tuple[Graph, dict[Value, Value]]:
    """A function with the run's nodes copied, and the map from old values to new."""
    graph = Graph(name)
    mapping = {v: Value(f"p{i}", v.type) for i, v in enumerate(inputs)}
    graph.params = list(mapping.values())
    for node in run:
        copy = Node(node.op, [mapping[v] for v in node.inputs], node.attrs, node.loc)
        copy.outputs = [Value("", v.type, copy, i) for i, v in enumerate(node.outputs)]
        mapping.update(zip(node.outputs, copy.outputs, strict=True))
        graph.nodes.append(copy)
    graph.outputs = [mapping[v] for v in results]
    graph.rename()
    return graph, mapping


def _outline_program(module: Module, program: Program, known: dict[tuple[object, ...], str]) -> None:
    graph = program.graph
    roles = {v: r.kind for v, r in zip(graph.params, program.params, strict=True) if r.kind != "input"}
    users, outputs = graph.users(), set(graph.outputs)
    replaced: dict[Value, Value] = {}
    nodes: list[Node] = []
    for run in _runs(graph):
        if not region(run[0].loc) or len(run) < 8:
            nodes += run
            continue
        inputs, results = run_boundary(run, users, outputs)
        key = run_key(run, inputs, results, roles)
        if key not in known:
            known[key] = f"block_{len(module.functions)}"
            module.functions[known[key]], _ = extract_run(known[key], run, inputs, results)
        call = Node("call", inputs, {"function": known[key]}, region(run[0].loc))
        call.outputs = [Value("", v.type, call, i) for i, v in enumerate(results)]
        replaced.update(zip(results, call.outputs, strict=True))
        nodes.append(call)
    graph.nodes = nodes
    graph.replace_uses(replaced)


def outline(module: Module) -> None:
    """Replace every list element's nodes by a call."""
    known: dict[tuple[object, ...], str] = {}
    for program in module.programs.values():
        _outline_program(module, program, known)
