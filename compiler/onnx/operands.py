"""State of an ONNX import. An operand is an IR value, or known: a numpy array of numbers or (dtype object) of sizes.

Sizes that a model computes with Shape, Gather, Concat and the like stay symbolic Python values and never reach the
graph, unless some other operator needs them as data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy
from onnx import NodeProto, helper

from pangu_compile.ir import DType, Graph, IRError, TensorType, Value, dim
from pangu_compile.ir.builder import Builder

Known = np.ndarray
Operand = Value | Known
Attrs = dict[str, Any]
Rule = Callable[["Importing", Attrs, Sequence[Any]], Any]
RULES: dict[str, Rule] = {}
KNOWN_RULES: dict[str, Callable[[Attrs, Sequence[Known]], Known]] = {}

DTYPES = {
    "float32": DType.f32, "float64": DType.f64, "int64": DType.i64, "int32": DType.i32, "bool": DType.bool_,
    "bfloat16": DType.bf16,
}  # fmt: skip
MAX_KNOWN = 1 << 16  # operators on larger constants are left to the graph


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register fn(importing, attributes, operands; None where one is left out) -> operand(s) for ONNX operators."""

    def register(fn: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise IRError(f"two import rules for {name}")
            RULES[name] = fn
        return fn

    return register


@dataclass
class Importing:
    """One import: graph under construction, operands by ONNX name, arrays that became parameters."""

    graph: Graph
    opset: int
    build: Builder = field(init=False)
    operands: dict[str, Operand] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    params: dict[str, Value] = field(default_factory=dict)
    nonnegative: set[Value] = field(default_factory=set)
    node: NodeProto = field(default_factory=NodeProto)

    def __post_init__(self) -> None:
        self.build = Builder(self.graph.nodes)

    def fail(self, what: str) -> IRError:
        name = self.node.name or (self.node.output[0] if self.node.output else "")
        return IRError(f"ONNX operator {self.node.op_type} ({name}): {what}")

    def value(self, x: Any, dtype: DType | None = None) -> Value:
        """The operand as an IR value, cast to `dtype` where one is given."""
        if not isinstance(x, Value):
            x = self._sizes(x) if x.dtype == object else self._array(x)
        return self.build.cast(x, dtype) if dtype is not None else x

    def _sizes(self, x: Known) -> Value:
        """Symbolic sizes as data: i64 of rank 0 or 1."""
        if x.ndim > 1:
            raise self.fail("a computed matrix of sizes is used as data, which is not covered")
        scalars = [
            self.build("size", value=dim(d)) if isinstance(d, sympy.Expr) else self.build.constant(int(d), DType.i64)
            for d in x.reshape(-1)
        ]
        if x.ndim == 0:
            return scalars[0]
        return self.build("concat", *(self.build.reshape(s, (1,)) for s in scalars), axis=0)

    def _array(self, x: Known) -> Value:
        """One number everywhere is a constant; other arrays become parameters."""
        dtype = DTYPES.get(str(x.dtype))
        if dtype is None:
            raise self.fail(f"a constant of type {x.dtype} is not covered")
        flat = x.reshape(-1)
        if x.size and bool((flat[:64] == flat[0]).all()) and bool((flat == flat[0]).all()):
            first = flat[0]
            number = float(first) if dtype.is_float else bool(first) if dtype is DType.bool_ else int(first)
            scalar = self.build.constant(number, dtype)
            return self.build("broadcast", scalar, shape=x.shape) if x.ndim else scalar
        name = next((n for n, a in self.arrays.items() if a is x), None)
        if name is None:
            name = f"constant.{len(self.arrays)}"
            self.arrays[name] = x
        return self.parameter(name, TensorType(dtype, tuple(x.shape)))

    def parameter(self, name: str, type_: TensorType) -> Value:
        """The graph's parameter of that name, made on first use."""
        if name not in self.params:
            plain = "".join(c if c.isalnum() else "_" for c in name)
            self.params[name] = Value(plain, type_)
            self.graph.params.append(self.params[name])
        return self.params[name]

    def known(self, x: Any, what: str) -> Known:
        """An operand that must not depend on data."""
        if isinstance(x, Value):
            raise self.fail(f"{what} depends on data, which is not covered")
        return np.asarray(x)

    def sizes(self, x: Any, what: str) -> list[Any]:
        """A known vector as a list of dimensions."""
        return [dim(d) if isinstance(d, sympy.Expr) else int(d) for d in self.known(x, what).reshape(-1)]

    def shape(self, x: Operand) -> tuple[Any, ...]:
        return x.type.shape if isinstance(x, Value) else tuple(x.shape)

    def rank(self, x: Operand) -> int:
        return len(self.shape(x))

    def axis(self, axis: int, rank: int) -> int:
        if not -rank <= axis < rank:
            raise self.fail(f"axis {axis} of an operand of rank {rank}")
        return axis % rank

    def run(self, node: NodeProto) -> None:
        """Import one node: known operands are computed at once where possible."""
        self.node = node
        self.build.loc = node.name
        domain = node.domain or "ai.onnx"
        if domain != "ai.onnx":
            raise self.fail(f"domain {domain} has no rule, and the model has no function of that name")
        inputs = [self.operands[name] if name else None for name in node.input]
        attrs = {a.name: _attribute(a) for a in node.attribute}
        try:
            result = self._apply(node.op_type, attrs, inputs)
        except IRError as error:
            raise error if str(error).startswith("ONNX operator") else self.fail(str(error)) from None
        results = list(result) if isinstance(result, (list, tuple)) else [result]
        for name, operand in zip(node.output, results, strict=False):
            if name:
                self.operands[name] = operand
        missing = [name for name in node.output if name and name not in self.operands]
        if missing:
            raise self.fail(f"result {missing[0]} is not covered")

    def _apply(self, op: str, attrs: Attrs, inputs: list[Any]) -> Any:
        known = inputs and all(isinstance(x, np.ndarray) and x.size <= MAX_KNOWN for x in inputs if x is not None)
        if known and op in KNOWN_RULES:
            with np.errstate(all="ignore"):
                return KNOWN_RULES[op](attrs, inputs)
        if op not in RULES:
            raise self.fail("this operator is not covered")
        return RULES[op](self, attrs, inputs)


def _attribute(attribute: Any) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if isinstance(value, (list, tuple)) or type(value).__name__.startswith("Repeated") else value
