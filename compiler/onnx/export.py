"""IR module -> ONNX: one program is one model, every fused operator and every IR function an ONNX function.

A fused operator becomes a function of domain "pangu" over standard operators, made from its decomposition: one for
each distinct combination of attributes and operand types. States are inputs NAME and outputs new_NAME.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx
from onnx import FunctionProto, ValueInfoProto, helper

from pangu_compile.ir import Graph, IRError, Module, Node, Program, TensorType, Value, make_node
from pangu_compile.ir.builder import Builder
from pangu_compile.ir.decompose import decomposable, decompose_node, drop_unread, operand_names

from .dtypes import TO_ONNX
from .emitters import emit_node
from .scope import Scope
from .weights import Initializers, ReadWeight

OPSET = 18  # the first in which every reduction takes its axes as an operand
IR_VERSION = 8  # the first with functions
DOMAIN = "pangu"


def export_onnx(
    module: Module, program: str = "step", read: ReadWeight | None = None, weights: Initializers | None = None
) -> onnx.ModelProto:
    """The model of one program.

    Args:
        read: final values of weights by name (see weights.with_folded); None: they become inputs, after the states.
        weights: where initializers are made; give one with a data file to keep large weights out of the model.
    Raises:
        IRError: no such program, or an operator without an ONNX form.
    """
    if program not in module.programs:
        raise IRError(f"no program {program!r}; the module has {', '.join(module.programs)}")
    return _Exporter(module).model(program, read, weights or Initializers())


def value_info(name: str, type_: TensorType) -> ValueInfoProto:
    dims = [d if isinstance(d, int) else str(d) for d in type_.shape]
    return helper.make_tensor_value_info(name, TO_ONNX[type_.dtype], dims)


def output_names(program: Program) -> list[str]:
    """Results by their keys; new_KEY for a state, and where an input has that name (a draft's `hidden`)."""
    inputs = {role.key for role in program.params}
    return [f"new_{role.key}" if role.kind == "state" or role.key in inputs else role.key for role in program.outputs]


class _Exporter:
    """Functions made so far, by what they compute."""

    def __init__(self, module: Module):
        self.module = module
        self.functions: dict[object, FunctionProto] = {}
        self.fused = set(decomposable())

    def model(self, name: str, read: ReadWeight | None, weights: Initializers) -> onnx.ModelProto:
        program = self.module.programs[name]
        params = dict(zip(program.graph.params, (role.key for role in program.params), strict=True))
        scope = Scope(name, params.items())
        wanted = output_names(program)
        infos = self._body(program.graph, scope, wanted)
        inputs = [v for v, role in zip(program.graph.params, program.params, strict=True) if role.kind in ("input", "state")]
        inputs += _fill(self.module, program, read, weights)
        outputs = [value_info(n, v.type) for n, v in zip(wanted, program.graph.outputs, strict=True)]
        graph = helper.make_graph(
            scope.nodes, name, [value_info(params[v], v.type) for v in inputs], outputs, weights.tensors, value_info=infos
        )  # fmt: skip
        functions = list(self.functions.values())
        return helper.make_model(
            graph, opset_imports=_opsets(), ir_version=IR_VERSION, functions=functions, producer_name="pangu-compile"
        )  # fmt: skip

    def _body(self, graph: Graph, scope: Scope, wanted: list[str]) -> list[ValueInfoProto]:
        """Emit a graph's nodes so that its results have the wanted names; types of the values in between."""
        scope.taken.update(wanted)
        reserved: dict[Value, str] = {}
        for value, name in zip(graph.outputs, wanted, strict=True):
            if value.producer is not None:
                reserved.setdefault(value, name)
        infos = []
        for node in graph.nodes:
            outs = []
            for v in node.outputs:
                scope.names[v] = reserved[v] if v in reserved else scope.fresh(v.name)
                outs.append(scope.names[v])
            scope.label = node.loc.replace(".", "/")
            self._node(scope, node, [scope.names[v] for v in node.inputs], outs)
            infos += [value_info(scope.names[v], v.type) for v in node.outputs if v not in reserved and scope.names[v] in outs]
        scope.label = ""
        for value, name in zip(graph.outputs, wanted, strict=True):
            if scope.names[value] != name:
                scope.emit("Identity", [scope.names[value]], [name])
        return infos

    def _node(self, scope: Scope, node: Node, ins: list[str], outs: list[str]) -> None:
        if node.op == "call":
            name = node.attrs["function"]
            function = self._function(("call", name), name, self.module.functions[name])
        elif node.op in self.fused:
            key = (node.op, repr(sorted((k, str(v)) for k, v in node.attrs.items())), alike([v.type for v in node.inputs]))
            function = self.functions.get(key) or self._function(key, node.op, lowered(node))
        else:
            emit_node(scope, node, ins, outs)
            return
        scope.emit(function.name, ins, outs, domain=DOMAIN)

    def _function(self, key: object, name: str, graph: Graph) -> FunctionProto:
        if key not in self.functions:
            names = _unique(graph.params)
            scope = Scope(name, names.items())
            wanted = [f"out{i}" if len(graph.outputs) > 1 else "out" for i in range(len(graph.outputs))]
            wanted = [scope.fresh(n) for n in wanted]
            self._body(graph, scope, wanted)
            taken = {f.name for f in self.functions.values()}
            unique = next(n for n in [name, *(f"{name}_{i}" for i in range(2, len(taken) + 3))] if n not in taken)
            self.functions[key] = helper.make_function(DOMAIN, unique, list(names.values()), wanted, scope.nodes, _opsets())
        return self.functions[key]


def _opsets() -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]


def _unique(params: list[Value]) -> Mapping[Value, str]:
    """A name for each parameter: its own, with a number where two share it."""
    names: dict[Value, str] = {}
    for i, v in enumerate(params):
        name = v.name or f"p{i}"
        names[v] = name if name not in names.values() else f"{name}_{i}"
    return names


def alike(types: list[TensorType]) -> tuple[str, ...]:
    """The types with their symbols numbered: equal for [T, 4] and [M, 4], which one function serves."""
    names: dict[str, str] = {}

    def numbered(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f"n{len(names)}")

    return tuple(f"{t.dtype.value}[{re.sub('[A-Za-z_]+', numbered, ', '.join(map(str, t.shape)))}]" for t in types)


def lowered(node: Node) -> Graph:
    """A fused operator's decomposition as a graph; its parameters bear the operands' names."""
    graph = Graph(node.op)
    graph.params = [Value(name, v.type) for name, v in zip(operand_names(node), node.inputs, strict=True)]
    copy = make_node(node.op, graph.params, node.attrs)
    graph.outputs = decompose_node(Builder(graph.nodes), copy, graph.params)
    graph.rename()
    drop_unread(graph)
    return graph


def _fill(module: Module, program: Program, read: ReadWeight | None, weights: Initializers) -> list[Value]:
    """Make the initializers; the parameters that are left without a value."""
    missing = []
    for value, role in zip(program.graph.params, program.params, strict=True):
        if role.kind == "constant":
            weights.add(role.key, value.type, module.constants[role.key])
        elif role.kind == "weight" and read is not None:
            weights.add(role.key, value.type, read(role.key))
        elif role.kind == "weight":
            missing.append(value)
    return missing
