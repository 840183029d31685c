"""Pointwise operators: numpy broadcasting, operands of one dtype (casts are explicit)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..opdef import Attrs, Env, OpDef, define
from ..types import Dim, DType, IRError, TensorType, dim, evaluate_dim, same_dim

FLOATS = (DType.f32, DType.f64, DType.bf16)
INTS = (DType.i64, DType.i32)
NUMBERS = FLOATS + INTS
BOOLS = (DType.bool_,)


def broadcast_shapes(shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
    """numpy's rule on symbolic shapes. IRError where two sizes disagree and neither is 1."""
    rank = max(len(s) for s in shapes)
    out: list[Dim] = []
    for axis in range(rank):
        size: Dim = 1
        for shape in shapes:
            at = axis - rank + len(shape)
            d = 1 if at < 0 else shape[at]
            if same_dim(d, 1):
                continue
            if same_dim(size, 1):
                size = d
            elif not same_dim(size, d):
                raise IRError(f"shapes {[tuple(map(str, s)) for s in shapes]} do not broadcast")
        out.append(size)
    return tuple(out)


def _infer(accepted: tuple[DType, ...], result: DType | None) -> Callable[..., list[TensorType]]:
    def infer(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
        first = types[0].dtype
        if first not in accepted or any(t.dtype != first for t in types):
            expected = "/".join(d.value for d in accepted)
            raise IRError(f"operands must share one dtype of {expected}, got {[t.dtype.value for t in types]}")
        return [TensorType(result or first, broadcast_shapes([t.shape for t in types]))]

    return infer


def _op(name: str, arity: int, fn: Callable[..., Any], accepted: tuple[DType, ...], result: DType | None = None,
        tolerance: float = 1e-6) -> None:  # fmt: skip
    def evaluate(arrays: Sequence[np.ndarray], attrs: Attrs, env: Env) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            out = np.asarray(fn(*arrays))
        return [out.astype(np.bool_ if result is DType.bool_ else arrays[0].dtype, copy=False)]

    define(OpDef(name, arity, _infer(accepted, result), evaluate, {}, kind="pointwise", tolerance=tolerance))


def sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


_erf = np.vectorize(math.erf, otypes=[np.float64])

_FLOAT_UNARY: dict[str, Callable[..., Any]] = {
    "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "sigmoid": sigmoid,
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "reciprocal": lambda x: 1 / x, "erf": _erf,
    "silu": lambda x: x * sigmoid(x), "round": np.rint, "floor": np.floor,
}  # fmt: skip
for _name, _fn in _FLOAT_UNARY.items():
    _op(_name, 1, _fn, FLOATS)
_op("neg", 1, np.negative, NUMBERS)
_op("abs", 1, np.abs, NUMBERS)
_op("relu", 1, lambda x: np.maximum(x, 0), NUMBERS)
_op("logical_not", 1, np.logical_not, BOOLS)
for _name, _fn in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
    "remainder": np.remainder,
}.items():  # fmt: skip
    _op(_name, 2, _fn, NUMBERS)
_op("div", 2, np.divide, FLOATS)
_op("pow", 2, np.power, FLOATS)
_op("floor_divide", 2, np.floor_divide, INTS)
for _name, _fn in {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
                   "ge": np.greater_equal}.items():  # fmt: skip
    _op(_name, 2, _fn, NUMBERS + BOOLS, DType.bool_)
_op("logical_and", 2, np.logical_and, BOOLS)
_op("logical_or", 2, np.logical_or, BOOLS)


def _infer_where(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    if types[0].dtype is not DType.bool_ or types[1].dtype != types[2].dtype:
        raise IRError(f"where takes (bool, x, x), got {[t.dtype.value for t in types]}")
    return [TensorType(types[1].dtype, broadcast_shapes([t.shape for t in types]))]


define(OpDef("where", 3, _infer_where, lambda a, _, __: [np.where(a[0], a[1], a[2])], {}, kind="pointwise"))
define(
    OpDef(
        "cast",
        1,
        lambda t, a: [TensorType(DType(a["dtype"]), t[0].shape)],
        lambda x, a, _: [np.asarray(x[0]).astype(DType(a["dtype"]).numpy)],
        {"dtype": (str,)},
        kind="pointwise",
    )
)
define(
    OpDef(
        "constant",
        0,
        lambda t, a: [TensorType(DType(a["dtype"]), ())],
        lambda x, a, _: [np.asarray(a["value"], DType(a["dtype"]).numpy)],
        {"value": (int, float, bool), "dtype": (str,)},
        kind="pointwise",
        doc="A rank-0 constant.",
    )
)
define(
    OpDef(
        "iota",
        0,
        lambda t, a: [TensorType(DType(a["dtype"]), (dim(a["size"]),))],
        lambda x, a, env: [np.arange(evaluate_dim(a["size"], env)).astype(DType(a["dtype"]).numpy)],
        {"size": (object,), "dtype": (str,)},
        kind="pointwise",
        doc="0, 1, .. size-1.",
    )
)
define(
    OpDef(
        "size",
        0,
        lambda t, a: [TensorType(DType.i64, ())],
        lambda x, a, env: [np.asarray(evaluate_dim(a["value"], env), np.int64)],
        {"value": (object,)},
        kind="pointwise",
        doc="A symbolic dimension as a rank-0 integer.",
    )
)
