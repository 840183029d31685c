"""One table: primitive IR operator -> ONNX nodes (opset 18). Operands and results come with their ONNX names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pangu_compile.ir import DType, IRError, Node

from .dtypes import TO_ONNX
from .scope import Scope

Emitter = Callable[[Scope, Node, Sequence[str], Sequence[str]], None]
EMITTERS: dict[str, Emitter] = {}
MAX_CONSTANT = 4096  # longer ranges are computed


def emits(*names: str) -> Callable[[Emitter], Emitter]:
    def register(fn: Emitter) -> Emitter:
        for name in names:
            if name in EMITTERS:
                raise IRError(f"two ONNX forms of {name}")
            EMITTERS[name] = fn
        return fn

    return register


def _same(onnx_op: str) -> Emitter:
    return lambda s, node, ins, outs: s.emit(onnx_op, ins, outs)


for _name, _op in {
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "sigmoid": "Sigmoid", "sin": "Sin", "cos": "Cos", "tanh": "Tanh",
    "reciprocal": "Reciprocal", "erf": "Erf", "round": "Round", "floor": "Floor", "neg": "Neg", "abs": "Abs",
    "logical_not": "Not", "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "maximum": "Max",
    "minimum": "Min", "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
    "logical_and": "And", "logical_or": "Or", "where": "Where", "matmul": "MatMul",
}.items():  # fmt: skip
    emits(_name)(_same(_op))


@emits("rsqrt")
def _rsqrt(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.emit("Reciprocal", [s.op("Sqrt", *ins)], outs)


@emits("silu")
def _silu(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.emit("Mul", [ins[0], s.op("Sigmoid", *ins)], outs)


@emits("relu")
def _relu(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    dtype = node.output.type.dtype
    if dtype.is_float:
        s.emit("Relu", ins, outs)
    else:
        s.emit("Max", [ins[0], s.constant(0, dtype.numpy)], outs)


@emits("ne")
def _ne(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.emit("Not", [s.op("Equal", *ins)], outs)


@emits("remainder")
def _remainder(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    """The sign is the divisor's, as in Python: ONNX Mod does that on integers alone."""
    if not node.output.type.dtype.is_float:
        s.emit("Mod", ins, outs)
        return
    whole = s.op("Mul", s.op("Floor", s.op("Div", *ins)), ins[1])
    s.emit("Sub", [ins[0], whole], outs)


@emits("floor_divide")
def _floor_divide(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    """ONNX Div of integers rounds towards zero: take the remainder off first."""
    s.emit("Div", [s.op("Sub", ins[0], s.op("Mod", *ins)), ins[1]], outs)


@emits("cast")
def _cast(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.emit("Cast", ins, outs, to=TO_ONNX[DType(node.attrs["dtype"])])


@emits("constant")
def _constant(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    dtype = DType(node.attrs["dtype"])
    name = s.constant(node.attrs["value"], dtype.numpy)
    if dtype is DType.bf16:
        s.emit("Cast", [name], outs, to=TO_ONNX[dtype])
    else:
        s.names[node.output] = name


@emits("iota")
def _iota(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    size, dtype = node.attrs["size"], DType(node.attrs["dtype"])
    if isinstance(size, int) and size <= MAX_CONSTANT and dtype is not DType.bf16:
        s.names[node.output] = s.constant(np.arange(size), dtype.numpy)
        return
    steps = [s.constant(0, np.int64), s.scalar(size), s.constant(1, np.int64)]
    if dtype is DType.i64:
        s.emit("Range", steps, outs)
    else:
        s.emit("Cast", [s.op("Range", *steps)], outs, to=TO_ONNX[dtype])


@emits("size")
def _size(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.names[node.output] = s.scalar(node.attrs["value"])


# Views.


@emits("reshape")
def _reshape(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    """At most one axis that is no number, and no axis 0: then -1 stands for it. Else the whole shape is computed."""
    shape = list(node.output.type.shape)
    symbolic = [i for i, d in enumerate(shape) if not isinstance(d, int)]
    if len(symbolic) <= 1 and 0 not in shape:
        s.emit("Reshape", [ins[0], s.vector(-1 if i in symbolic else d for i, d in enumerate(shape))], outs)
    else:
        s.emit("Reshape", [ins[0], s.shape(shape)], outs, allowzero=1)


@emits("broadcast")
def _broadcast(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.emit("Expand", [ins[0], s.shape(node.output.type.shape)], outs)


@emits("transpose")
def _transpose(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.emit("Transpose", ins, outs, perm=list(node.attrs["perm"]))


@emits("slice")
def _slice(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    start, stop = node.attrs["start"], node.attrs["stop"]
    s.emit("Slice", [ins[0], s.size(start), s.size(stop), s.vector([node.attrs["axis"]])], outs)


@emits("concat")
def _concat(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.emit("Concat", ins, outs, axis=node.attrs["axis"])


# Indexing and selection.


@emits("take")
def _take(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.emit("Gather", ins, outs, axis=0)


@emits("take_along")
def _take_along(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.emit("GatherElements", ins, outs, axis=node.output.type.rank - 1)


@emits("put_rows")
def _put_rows(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    """ScatterND leaves open which of two equal indices wins; here the last one must.

    So every row of the target looks up the last position that writes it: [R, T] comparisons, then one gather.
    """
    target, index, rows = ins
    (count,), (height, *rest) = node.inputs[1].type.shape, node.inputs[0].type.shape
    wanted = s.op("Reshape", _range(s, height), s.vector([-1, 1]))
    position = _range(s, count)
    writes = s.op("Where", s.op("Equal", wanted, index), position, s.constant(-1, np.int64))
    last = s.op("ReduceMax", writes, s.vector([1]), keepdims=0)
    found = s.op("GreaterOrEqual", last, s.constant(0, np.int64))
    column = s.op("Reshape", found, s.vector([-1] + [1] * len(rest)))
    fresh = s.op("Gather", rows, s.op("Max", last, s.constant(0, np.int64)), axis=0)
    s.emit("Where", [column, fresh, target], outs)


def _range(s: Scope, size: Any) -> str:
    if isinstance(size, int) and size <= MAX_CONSTANT:
        return s.constant(np.arange(size), np.int64)
    return s.op("Range", s.constant(0, np.int64), s.scalar(size), s.constant(1, np.int64))


@emits("topk")
def _topk(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    """ONNX defines the order among equals as we do: the lower index first."""
    s.emit("TopK", [ins[0], s.size(node.attrs["k"])], outs, axis=node.outputs[0].type.rank - 1, largest=1, sorted=1)


@emits("sort")
def _sort(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    last = node.outputs[0].type.shape[-1]
    largest = int(node.attrs["descending"])
    s.emit("TopK", [ins[0], s.size(last)], outs, axis=node.outputs[0].type.rank - 1, largest=largest, sorted=1)


@emits("argmax")
def _argmax(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.emit("ArgMax", ins, outs, axis=node.inputs[0].type.rank - 1, keepdims=0, select_last_index=0)


# Reductions.


def _reduce(onnx_op: str) -> Emitter:
    def emit(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
        s.emit(onnx_op, [ins[0], s.vector(node.attrs["axes"])], outs, keepdims=1)

    return emit


for _name, _op in {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}.items():
    emits(_name)(_reduce(_op))


@emits("cumsum")
def _cumsum(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.emit("CumSum", [ins[0], s.constant(node.output.type.rank - 1, np.int64)], outs)


@emits("softmax")
def _softmax(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    s.emit("Softmax", ins, outs, axis=node.output.type.rank - 1)


def emit_node(s: Scope, node: Node, ins: Sequence[str], outs: Sequence[str]) -> None:
    """Append the ONNX nodes of one primitive operator. IRError where it has no ONNX form."""
    if node.op not in EMITTERS:
        raise IRError(f"{s.what}: operator {node.op!r} has no ONNX form")
    EMITTERS[node.op](s, node, ins, outs)


