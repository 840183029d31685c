"""C++ expressions for dimensions and for values that are computed inline."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pangu_compile.ir import DType, IRError, Node, Value
from pangu_compile.ir.types import Dim, dim, same_dim
from pangu_compile.plan.access import affine, split_groups

from ..dims import c_dim

CTYPES = {
    DType.f32: "float", DType.f64: "double", DType.i64: "int64_t", DType.i32: "int32_t", DType.bool_: "bool",
    DType.bf16: "uint16_t", DType.q8: "uint8_t", DType.q4: "uint8_t", DType.w8a8: "uint8_t",
    DType.w8a24: "uint8_t", DType.bf16c: "uint8_t", DType.q8i: "uint8_t",
}  # fmt: skip


def c_constant(value: Any, dtype: DType) -> str:
    if dtype is DType.bool_:
        return "true" if value else "false"
    if not dtype.is_float:
        return f"int64_t{{{int(value)}}}" if dtype is DType.i64 else f"int32_t{{{int(value)}}}"
    ctype = CTYPES[dtype]
    if math.isinf(value):
        sign = "-" if value < 0 else ""
        return f"({sign}std::numeric_limits<{ctype}>::infinity())"
    if math.isnan(value):
        return f"std::numeric_limits<{ctype}>::quiet_NaN()"
    text = repr(float(value))
    text = text if any(c in text for c in ".e") else text + ".0"
    return f"{ctype}({text})"


_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">",
    "ge": ">=", "logical_and": "&&", "logical_or": "||",
}  # fmt: skip
_CALL = {
    "exp": "pangu::exp", "sigmoid": "pangu::sigmoid", "silu": "pangu::silu", "relu": "pangu::relu",
    "rsqrt": "pangu::rsqrt", "sqrt": "std::sqrt", "log": "std::log", "sin": "std::sin", "cos": "std::cos",
    "tanh": "std::tanh", "erf": "std::erf", "abs": "std::abs", "pow": "std::pow", "remainder": "pangu::remainder",
    "floor_divide": "pangu::floor_divide", "round": "std::nearbyint", "floor": "std::floor",
    "maximum": "pangu::max", "minimum": "pangu::min",
}  # fmt: skip
_PREFIX = {"neg": "-", "logical_not": "!"}


def add_terms(*terms: str) -> str:
    kept = [t for t in terms if t != "0"]
    return " + ".join(kept) if kept else "0"


def scaled(index: str, stride: Dim) -> str:
    if index == "0" or same_dim(stride, 0):
        return "0"
    if same_dim(stride, 1):
        return index
    return f"({index}) * {c_dim(stride)}"


class Inline:
    """Loads of values at symbolic indices: buffers are read, everything else is computed in the expression."""

    def __init__(self, is_buffer: Callable[[Value], bool], name: Callable[[Value], str]):
        self.is_buffer, self.name = is_buffer, name

    def load(self, value: Value, index: list[str]) -> str:
        view = affine(value, self.is_buffer)
        if view is not None:
            terms = [c_dim(view.offset), *(scaled(i, s) for i, s in zip(index, view.strides, strict=True))]
            return f"{self.name(view.buffer)}[{add_terms(*terms)}]"
        node = value.producer
        assert node is not None
        return self._compute(node, value, index)

    def _compute(self, node: Node, value: Value, index: list[str]) -> str:
        op = node.op
        if op == "constant":
            return c_constant(node.attrs["value"], value.type.dtype)
        if op == "size":
            return f"int64_t({c_dim(node.attrs['value'])})"
        if op == "iota":
            return f"{CTYPES[value.type.dtype]}({index[0]})"
        if op in ("reshape", "broadcast", "transpose", "slice"):
            return self.load(node.inputs[0], self._view_index(node, index))
        if op == "take":
            rank = node.inputs[1].type.rank
            row = self.load(node.inputs[1], index[:rank])
            return self._row(node.inputs[0], row, index[rank:])
        if op == "take_along":
            return self.load(node.inputs[0], [*index[:-1], self.load(node.inputs[1], index)])
        operands = [self.load(v, broadcast_index(v, value, index)) for v in node.inputs]
        return pointwise(node, operands)

    def _row(self, source: Value, row: str, rest: list[str]) -> str:
        """Row of a tensor, or of a concatenation of two that is never built."""
        if affine(source, self.is_buffer) is None and source.producer is not None and source.producer.op == "concat":
            first, second = source.producer.inputs
            size = c_dim(first.type.shape[0])
            return f"({row} < {size} ? {self.load(first, [row, *rest])} : {self.load(second, [f'{row} - {size}', *rest])})"
        return self.load(source, [row, *rest])

    def _view_index(self, node: Node, index: list[str]) -> list[str]:
        source = node.inputs[0]
        if node.op == "transpose":
            out = ["0"] * len(index)
            for position, axis in enumerate(node.attrs["perm"]):
                out[axis] = index[position]
            return out
        if node.op == "slice":
            out = list(index)
            axis = node.attrs["axis"]
            out[axis] = add_terms(out[axis], c_dim(node.attrs["start"]))
            return out
        if node.op == "broadcast":
            return broadcast_index(source, node.output, index)
        groups = split_groups(source.type.shape, node.output.type.shape)
        if groups is None:
            raise IRError(f"codegen: reshape {source.type} -> {node.output.type} inline")
        out = ["0"] * source.type.rank
        for left, right in groups:
            wide = [i for i in left if not same_dim(source.type.shape[i], 1)]
            if len(wide) > 1:
                raise IRError(f"codegen: reshape {source.type} -> {node.output.type} merges axes inline")
            if wide:
                terms, step = [], dim(1)
                for j in reversed(right):
                    terms.append(scaled(index[j], step))
                    step = dim(step * node.output.type.shape[j])
                out[wide[0]] = add_terms(*reversed(terms))
        return out


def broadcast_index(operand: Value, result: Value, index: list[str]) -> list[str]:
    """Index into an operand that numpy broadcasting spreads over the result."""
    shape = operand.type.shape
    tail = index[len(index) - len(shape) :]
    sizes = result.type.shape[len(index) - len(shape) :]
    return ["0" if same_dim(d, 1) and not same_dim(s, 1) else i for i, d, s in zip(tail, shape, sizes, strict=True)]


def pointwise(node: Node, operands: list[str]) -> str:
    """The C++ expression of a pointwise operator."""
    if node.op in _INFIX:
        return f"({operands[0]} {_INFIX[node.op]} {operands[1]})"
    if node.op in _PREFIX:
        return f"({_PREFIX[node.op]}{operands[0]})"
    if node.op == "where":
        return f"({operands[0]} ? {operands[1]} : {operands[2]})"
    if node.op == "cast":
        return f"{CTYPES[DType(node.attrs['dtype'])]}({operands[0]})"
    if node.op == "reciprocal":
        return f"({CTYPES[node.output.type.dtype]}(1) / {operands[0]})"
    if node.op in _CALL:
        return f"{_CALL[node.op]}({', '.join(operands)})"
    raise IRError(f"codegen: operator {node.op} has no C++ form ({node.loc})")
