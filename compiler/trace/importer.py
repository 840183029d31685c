"""FX graph of an exported program -> IR graph, one aten operator at a time.

Every result is checked against the shape and dtype that torch recorded, so an importer rule cannot be quietly wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import sympy
import torch
from torch.export.graph_signature import InputKind

from pangu_compile.ir import DType, Graph, IRError, Module, Node, Program, Role, TensorType, Value, dim, symbol
from pangu_compile.ir.builder import Builder
from pangu_compile.ir.types import Dim, same_shape

from .aten import HANDLERS, IGNORED

DTYPES = {
    torch.float32: DType.f32, torch.float64: DType.f64, torch.int64: DType.i64, torch.int32: DType.i32,
    torch.bool: DType.bool_, torch.bfloat16: DType.bf16,
}  # fmt: skip


@dataclass
class ImportedWeights:
    """Where parameters go: FQN -> canonical name, and the module-wide tables that are filled."""

    aliases: Mapping[str, str]
    weights: dict[str, TensorType]
    constants: dict[str, np.ndarray]


class OutlineResolver(Protocol):
    """Finds (exporting it first if need be) the function of an outlined call; see export.Outlines."""

    module: Module

    def resolve(self, key: int, operands: Sequence[Value]) -> tuple[str, list[str], dict[str, Dim]]: ...


class Importer:
    """State of one import: FX node -> IR value (or a dimension, a tuple of values, a plain Python value)."""

    def __init__(self, name: str, exported: torch.export.ExportedProgram, outlines: OutlineResolver | None, path: str):
        self.graph, self.outlines, self.path = Graph(name), outlines, path
        self.weight_params: dict[str, Value] = {}
        self.weight_roles: list[Role] = []
        self.exported = exported
        self.values: dict[torch.fx.Node, Any] = {}
        self.symbols: dict[sympy.Symbol, Dim] = {}
        self.build = Builder(self.graph.nodes)

    def dim(self, size: Any) -> Any:
        """A torch size (int or SymInt) as an IR dimension."""
        if isinstance(size, int):
            return size
        expr = size.node.expr if hasattr(size, "node") else size
        return dim(_plain(expr.subs(self.symbols)))

    def type_of(self, fake: torch.Tensor) -> TensorType:
        if fake.dtype not in DTYPES:
            raise IRError(f"{self.graph.name}: dtype {fake.dtype} is not covered")
        return TensorType(DTYPES[fake.dtype], tuple(self.dim(s) for s in fake.shape))

    def arg(self, value: Any) -> Any:
        """An FX argument: nodes become what they were imported as, lists are mapped."""
        if isinstance(value, torch.fx.Node):
            return self.values[value]
        if isinstance(value, (list, tuple)):
            return [self.arg(v) for v in value]
        return value

    def scalar(self, value: Any, dtype: DType) -> Value:
        """An operand as a value of `dtype`: a tensor is cast, a number or a dimension becomes a constant."""
        if isinstance(value, Value):
            return self.build.cast(value, dtype)
        if isinstance(value, sympy.Expr):
            return self.build.cast(self.build("size", value=value), dtype)
        python = float(value) if dtype.is_float else bool(value) if dtype is DType.bool_ else int(value)
        return self.build.constant(python, dtype)

    def add_param(self, node: torch.fx.Node) -> Value:
        value = Value(node.name, self.type_of(node.meta["val"]))
        self.graph.params.append(value)
        self.values[node] = value
        return value

    def call(self, node: torch.fx.Node) -> None:
        fake = node.meta.get("val")
        if isinstance(fake, (torch.SymInt, int)) and not isinstance(fake, bool):
            self.values[node] = self.dim(fake)
            return
        target = str(node.target)
        if target in IGNORED or fake is None or isinstance(fake, (bool, torch.SymBool)):
            return
        self.build.loc = ".".join(p for p in (self.path, _location(node)) if p)
        if target == "pangu_compile.outlined.default":
            self.values[node] = self._outlined(node)
            return
        if target == "<built-in function getitem>":
            self.values[node] = self.arg(node.args[0])[node.args[1]]
            return
        handler = HANDLERS.get(target)
        if handler is None:
            where = f" (in {self.build.loc})" if self.build.loc else ""
            raise IRError(f"{self.graph.name}: operator {target} is not covered{where}")
        args = [self.arg(a) for a in node.args]
        kwargs = {k: self.arg(v) for k, v in node.kwargs.items()}
        result = handler(self, node, args, kwargs)
        self._check(node, target, result, fake)
        self.values[node] = result

    def _outlined(self, node: torch.fx.Node) -> list[Value]:
        """A call of the function that the outlined module was traced to; its weights become parameters here."""
        if self.outlines is None:
            raise IRError(f"{self.graph.name}: an outlined module inside an outlined module is not covered")
        operands, key = self.arg(node.args[0]), node.args[1]
        assert isinstance(key, int)
        function, weights, sizes = self.outlines.resolve(key, operands)
        callee = self.outlines.module.functions[function]
        for name, param in zip(weights, callee.params[len(operands) :], strict=True):
            if name not in self.weight_params:
                value = Value(name.replace(".", "_"), param.type)
                self.weight_params[name] = value
                self.weight_roles.append(Role("weight", name))
                self.graph.params.append(value)
        attrs = {"function": function, **({"dims": tuple(sizes.items())} if sizes else {})}
        call = Node("call", [*operands, *(self.weight_params[n] for n in weights)], attrs, self.build.loc)
        call.outputs = [Value("", self.type_of(fake), call, i) for i, fake in enumerate(node.meta["val"])]
        self.graph.nodes.append(call)
        return call.outputs

    def _check(self, node: torch.fx.Node, target: str, result: Any, fake: Any) -> None:
        results = result if isinstance(result, (list, tuple)) else [result]
        fakes = fake if isinstance(fake, (list, tuple)) else [fake]
        for got, expected in zip(results, fakes, strict=False):
            if not isinstance(expected, torch.Tensor) or got is None:
                continue
            want = self.type_of(expected)
            if got.type.dtype != want.dtype or not same_shape(got.type.shape, want.shape):
                raise IRError(f"{self.graph.name}: {target} at {self.build.loc}: imported as {got.type}, torch has {want}")


def _plain(expr: sympy.Expr) -> sympy.Expr:
    """torch's own Min/Max/FloorDiv classes -> sympy's."""
    table = {"Min": sympy.Min, "Max": sympy.Max}
    if not getattr(expr, "args", ()):
        return expr
    args = [_plain(a) for a in expr.args]
    name = type(expr).__name__
    if name in ("FloorDiv", "CleanDiv"):
        return sympy.floor(args[0] / args[1])
    if name in table:
        return table[name](*args)
    return expr.func(*args)


def _location(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    return re.sub(r"^L\['self'\]\.?", "", path)


def import_program(
    name: str, exported: torch.export.ExportedProgram, inputs: Sequence[Role], outputs: Sequence[Role] | None,
    axes: Sequence[Mapping[int, str]], weights: ImportedWeights, outlines: OutlineResolver | None = None, path: str = "",
    sizes: Mapping[str, Dim] | None = None,
) -> Program:  # fmt: skip
    """IR program of an export. IRError where something is not covered.

    axes: per user input, axis -> dimension name. sizes: names that stand for an expression in the other dimensions.
    """
    sizes = sizes or {}
    importer = Importer(name, exported, outlines, path)
    kinds = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    placeholders = [n for n in exported.graph.nodes if n.op == "placeholder"]
    users = [n for n in placeholders if kinds[n.name].kind is InputKind.USER_INPUT]
    for node, named in zip(users, axes, strict=True):
        for axis, label in named.items():
            expr = node.meta["val"].shape[axis].node.expr
            size = sizes.get(label, symbol(label))
            if not expr.is_Symbol or importer.symbols.setdefault(expr, size) != size:
                raise IRError(f"{name}: torch specialised dimension {label} of {node.name} to {expr}")
    used = {n for node in exported.graph.nodes for n in node.all_input_nodes}
    roles: list[Role] = []
    for node, role in zip(users, inputs, strict=True):
        importer.add_param(node).name = role.key.replace(".", "_")
        roles.append(role)
    for node in placeholders:
        if node in used and node not in importer.values:
            role = _bind(importer, node, kinds[node.name], weights)
            roles.append(role)
            if role.kind == "weight":
                importer.weight_params[role.key] = importer.values[node]
    for node in exported.graph.nodes:
        if node.op == "call_function":
            importer.call(node)
    (result,) = next(n for n in exported.graph.nodes if n.op == "output").args
    importer.graph.outputs = [importer.values[n] for n in result]
    for role in importer.weight_roles:
        weights.weights.setdefault(role.key, importer.weight_params[role.key].type)
    roles += importer.weight_roles
    final = list(outputs) if outputs is not None else [Role("output", f"out{i}") for i in range(len(result))]
    importer.graph.rename()
    return Program(importer.graph, roles, final, ())


def _bind(importer: Importer, node: torch.fx.Node, spec: Any, weights: ImportedWeights) -> Role:
    value = importer.add_param(node)
    if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
        key = weights.aliases.get(spec.target, spec.target)
        known = weights.weights.setdefault(key, value.type)
        if not known.same(value.type):
            raise IRError(f"weight {key} is read as {value.type} and as {known}")
        return Role("weight", key)
    if spec.kind is InputKind.CONSTANT_TENSOR:
        tensor = importer.exported.constants[spec.target]
        if tensor.device.type == "meta":
            raise IRError(f"constant tensor {spec.target} is on the meta device: build it from aten operators")
        key = f"{importer.graph.name}.{spec.target}"
        weights.constants[key] = tensor.detach().cpu().numpy()
        return Role("constant", key)
    raise IRError(f"{importer.graph.name}: input {node.name} of kind {spec.kind} is not covered")
