"""Operators that no fusion took: one torch expression each. Numbers known on the host stay Python numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy

from pangu_compile.ir import IRError, Node

DTYPES = {"f32": "DTYPE", "bf16": "DTYPE", "f64": "torch.float64", "i64": "torch.int64", "i32": "torch.int32", "bool": "torch.bool"}
INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "floor_divide": "//", "remainder": "%", "eq": "==", "ne": "!=",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "logical_and": "&", "logical_or": "|",
}  # fmt: skip
UNARY = ("exp", "log", "sqrt", "rsqrt", "sigmoid", "sin", "cos", "tanh", "reciprocal", "erf", "round", "floor", "relu", "abs",
         "logical_not")  # fmt: skip
HOST_ARITHMETIC = ("add", "sub", "mul", "floor_divide", "remainder")


def dim_text(value: Any) -> str:
    """A dimension in Python: min and max for sympy's."""
    return str(value).replace("Min(", "min(").replace("Max(", "max(") if isinstance(value, sympy.Expr) else str(value)


def shape_text(shape: Sequence[Any]) -> str:
    return "(" + "".join(f"{dim_text(d)}, " for d in shape).rstrip() + ")"


def _number(value: Any) -> str:
    return f'float("{value}")' if isinstance(value, float) and value in (float("inf"), float("-inf")) else repr(value)


def _slice(node: Node, operand: str) -> str:
    start, stop = node.attrs["start"], node.attrs["stop"]
    return f"{operand}.narrow({node.attrs['axis']}, {dim_text(start)}, {dim_text(stop - start)})"


def _reduce(method: str) -> Callable[[Node, list[str], str], str]:
    return lambda n, a, like: f"{a[0]}.{method}({tuple(n.attrs['axes'])}, keepdim=True)"


_FORMS: Mapping[str, Callable[[Node, list[str], str], str]] = {
    "neg": lambda n, a, like: f"-{a[0]}",
    "silu": lambda n, a, like: f"F.silu({a[0]})",
    "maximum": lambda n, a, like: f"torch.maximum({a[0]}, {a[1]})",
    "minimum": lambda n, a, like: f"torch.minimum({a[0]}, {a[1]})",
    "where": lambda n, a, like: f"torch.where({', '.join(a)})",
    "cast": lambda n, a, like: f"{a[0]}.to({DTYPES[n.attrs['dtype']]})",
    "constant": lambda n, a, like: _number(n.attrs["value"]),
    "iota": lambda n, a, like: f"torch.arange({dim_text(n.attrs['size'])}, dtype={DTYPES[n.attrs['dtype']]}, device={like}.device)",
    "size": lambda n, a, like: dim_text(n.attrs["value"]),
    "reshape": lambda n, a, like: f"{a[0]}.reshape({shape_text(n.attrs['shape'])})",
    "broadcast": lambda n, a, like: f"{a[0]}.expand({shape_text(n.attrs['shape'])})",
    "transpose": lambda n, a, like: f"{a[0]}.permute({tuple(n.attrs['perm'])})",
    "slice": lambda n, a, like: _slice(n, a[0]),
    "concat": lambda n, a, like: f"torch.cat([{', '.join(a)}], {n.attrs['axis']})",
    "take": lambda n, a, like: f"{a[0]}[{a[1]}.long()]",
    "take_along": lambda n, a, like: f"{a[0]}.gather(-1, {a[1]}.long())",
    "put_rows": lambda n, a, like: f"{a[0]}.index_copy(0, {a[1]}.long(), {a[2]})",
    "sort": lambda n, a, like: f"torch.sort({a[0]}, dim=-1, descending={n.attrs['descending']}, stable=True)",
    "topk": lambda n, a, like: f"pb.topk({a[0]}, {dim_text(n.attrs['k'])})",
    "argmax": lambda n, a, like: f"torch.argmax({a[0]}, -1)",
    "cumsum": lambda n, a, like: f"torch.cumsum({a[0]}, -1)",
    "reduce_sum": _reduce("sum"),
    "reduce_max": _reduce("amax"),
    "reduce_min": _reduce("amin"),
    "softmax": lambda n, a, like: f"torch.softmax({a[0]}.float(), -1).to({a[0]}.dtype)",
    "matmul": lambda n, a, like: f"torch.matmul({a[0]}, {a[1]})",
    "linear": lambda n, a, like: f"F.linear({a[0]}, {a[1]})",
    "rms_norm": lambda n, a, like: f"torch.ops.npu.npu_rms_norm({a[0]}, {a[1]}, {n.attrs['eps']})[0]",
    "layer_norm": lambda n, a, like: f"F.layer_norm({a[0]}, {a[0]}.shape[-1:], {a[1]}, {a[2]}, {n.attrs['eps']})",
}  # fmt: skip


def expression(node: Node, operands: list[str], numbers: Sequence[bool], like: str) -> str:
    """Python text of a primitive operator.

    Args:
        operands: Python text of each operand. numbers: which of them are Python numbers.
        like: name of a tensor on the device.
    Raises:
        IRError: the operator has no form here.
    """
    if node.op in INFIX:
        return f"{operands[0]} {INFIX[node.op]} {operands[1]}"
    wrapped = [f"torch.tensor({a}, device={like}.device)" if n else a for a, n in zip(operands, numbers, strict=True)]
    if node.op in UNARY:
        return f"torch.{node.op}({wrapped[0]})"
    if node.op not in _FORMS:
        raise IRError(f"operator {node.op} has no form in torch_npu ({node.loc})")
    return _FORMS[node.op](node, wrapped, like)


def is_number(node: Node, numbers: Sequence[bool]) -> bool:
    """Is the result a Python number? Constants, sizes, and integer arithmetic on such."""
    if node.op in ("constant", "size"):
        return True
    return node.op in HOST_ARITHMETIC and all(numbers) and node.output.type.rank == 0
