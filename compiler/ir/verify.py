"""The verifier: denies everything that is not known to be right. It runs after every pass."""

from __future__ import annotations

from collections.abc import Mapping

from .graph import Graph, Module, Node, Program, Value
from .opdef import opdef
from .types import IRError, TensorType


def _fail(graph: Graph, node: Node, what: str) -> IRError:
    where = f" (from {node.loc})" if node.loc else ""
    return IRError(f"{graph.name}: {node.op}{where}: {what}\n    {node!r}")


def _check_attrs(graph: Graph, node: Node) -> None:
    spec = opdef(node.op).attrs
    if set(spec) != set(node.attrs):
        raise _fail(graph, node, f"attributes {sorted(node.attrs)}, expected {sorted(spec)}")
    for key, kinds in spec.items():
        value = node.attrs[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and object not in kinds):
            raise _fail(graph, node, f"attribute {key} is {value!r}")


def _infer(graph: Graph, node: Node, module: Module | None) -> list[TensorType]:
    if node.op == "call":
        return _infer_call(graph, node, module)
    record = opdef(node.op)
    _check_attrs(graph, node)
    if record.arity is not None and len(node.inputs) != record.arity:
        raise _fail(graph, node, f"{len(node.inputs)} operands, expected {record.arity}")
    if record.arity is None and not node.inputs:
        raise _fail(graph, node, "no operands")
    try:
        return record.infer([v.type for v in node.inputs], node.attrs)
    except IRError as error:
        raise _fail(graph, node, str(error)) from None


def _infer_call(graph: Graph, node: Node, module: Module | None) -> list[TensorType]:
    """Types of the callee's results; `dims` says where its sizes are not the caller's of the same name."""
    if module is None or node.attrs.get("function") not in module.functions:
        raise _fail(graph, node, f"call of unknown function {node.attrs.get('function')!r}")
    if not set(node.attrs) <= {"function", "dims"}:
        raise _fail(graph, node, f"attributes {sorted(node.attrs)}, expected function and perhaps dims")
    dims = node.attrs.get("dims", ())
    pairs = isinstance(dims, tuple) and all(isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) for p in dims)
    if not pairs or len(dict(dims)) != len(dims):
        raise _fail(graph, node, f"dims are pairs of a symbol's name and its size, got {dims!r}")
    callee = module.functions[node.attrs["function"]]
    if len(callee.params) != len(node.inputs):
        raise _fail(graph, node, f"{len(node.inputs)} operands for {len(callee.params)} parameters")
    for value, param in zip(node.inputs, callee.params, strict=True):
        if not value.type.same(param.type.at(node.dims)):
            raise _fail(graph, node, f"operand {value!r} for parameter {param!r}")
    return [v.type.at(node.dims) for v in callee.outputs]


def verify_graph(graph: Graph, module: Module | None = None) -> None:
    """IRError unless every node is known, typed as inferred, and reads only values defined before it."""
    defined: set[Value] = set(graph.params)
    if len(defined) != len(graph.params):
        raise IRError(f"{graph.name}: a parameter appears twice")
    for node in graph.nodes:
        for value in node.inputs:
            if value not in defined:
                raise _fail(graph, node, f"reads %{value.name} before it is defined")
        types = _infer(graph, node, module)
        if len(types) != len(node.outputs):
            raise _fail(graph, node, f"{len(node.outputs)} results, expected {len(types)}")
        for index, (value, expected) in enumerate(zip(node.outputs, types, strict=True)):
            if not value.type.same(expected):
                raise _fail(graph, node, f"result {index} is {value.type}, inferred {expected}")
            if value.producer is not node or value.index != index or value in defined:
                raise _fail(graph, node, f"result {index} is wired to another node")
            defined.add(value)
    for value in graph.outputs:
        if value not in defined:
            raise IRError(f"{graph.name}: returns %{value.name}, which is not defined")


def _verify_program(module: Module, name: str, program: Program) -> None:
    graph = program.graph
    if len(program.params) != len(graph.params) or len(program.outputs) != len(graph.outputs):
        raise IRError(f"program {name}: roles do not match its parameters and outputs")
    tables: dict[str, Mapping[str, object] | None] = {
        "weight": module.weights,
        "constant": module.constants,
        "state": module.states,
        "input": None,
    }
    for role, value in zip(program.params, graph.params, strict=True):
        if role.kind not in tables:
            raise IRError(f"program {name}: parameter %{value.name} has unknown role {role.kind!r}")
        table = tables[role.kind]
        if table is not None and role.key not in table:
            raise IRError(f"program {name}: {role.kind} {role.key!r} is not declared")
        if role.kind == "weight" and not module.weights[role.key].same(value.type):
            raise IRError(f"program {name}: weight {role.key} is {module.weights[role.key]}, read as {value.type}")
    states = [r.key for r in program.params if r.kind == "state"]
    if states != [r.key for r in program.outputs if r.kind == "state"]:
        raise IRError(f"program {name}: states in and states out differ")


def verify_module(module: Module) -> None:
    """Verify every function and program. IRError on the first fault; also on a call cycle."""
    done: set[str] = set()
    stack: list[str] = []

    def visit(name: str) -> None:
        if name in stack:
            raise IRError(f"functions call each other in a cycle: {' -> '.join([*stack, name])}")
        if name in done:
            return
        stack.append(name)
        for node in module.functions[name].nodes:
            if node.op == "call" and node.attrs.get("function") in module.functions:
                visit(node.attrs["function"])
        stack.pop()
        done.add(name)

    for name in module.functions:
        visit(name)
    for graph in module.graphs():
        verify_graph(graph, module)
    for name, program in module.programs.items():
        _verify_program(module, name, program)
