"""What is computed at import: numpy forms of the operators that models use on sizes and small constants.

Arrays of dtype object hold symbolic sizes; numpy's own arithmetic works on them element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy
from onnx import helper

from pangu_compile.ir import IRError, dim

from .dtypes import FROM_ONNX
from .operands import KNOWN_RULES, Attrs, Known


def _register(name: str, fn: Callable[..., Any]) -> None:
    def apply(attrs: Attrs, inputs: Sequence[Known]) -> Known:
        return tidy(np.asarray(fn(attrs, *inputs)))

    KNOWN_RULES[name] = apply


def tidy(x: Known) -> Known:
    """Arrays of sizes that are all numbers become int64; the sizes are kept canonical."""
    if x.dtype != object:
        return x
    flat = [dim(d) if isinstance(d, sympy.Expr) else d for d in x.reshape(-1)]
    out = np.empty(len(flat), object)
    out[:] = flat
    plain = all(isinstance(d, (int, np.integer)) for d in flat)
    return (np.asarray(flat, np.int64) if plain else out).reshape(x.shape)


def _elementwise(exact: Callable[..., Any], symbolic: Callable[..., Any]) -> Callable[..., Any]:
    """A numpy function, and what stands for it on sizes."""

    def apply(attrs: Attrs, *xs: Known) -> Any:
        if any(x.dtype == object for x in xs):
            return np.frompyfunc(symbolic, len(xs), 1)(*xs)
        return exact(*xs)

    return apply


def _quotient(a: Any, b: Any) -> Any:
    """Integer division of sizes (never negative)."""
    if not isinstance(a, sympy.Expr) and not isinstance(b, sympy.Expr):
        return int(a) // int(b)
    exact = sympy.cancel(sympy.sympify(a) / sympy.sympify(b))
    numerator, denominator = exact.as_numer_denom()
    return exact if denominator == 1 else sympy.floor(numerator / denominator)


def _truncated(a: Known, b: Known) -> Known:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), a.dtype)


def _undecided(name: str) -> Callable[..., Any]:
    def compare(a: Any, b: Any) -> bool:
        relation = {"Equal": sympy.Eq, "Less": sympy.Lt, "LessOrEqual": sympy.Le, "Greater": sympy.Gt,
                    "GreaterOrEqual": sympy.Ge}[name](sympy.sympify(a), sympy.sympify(b))  # fmt: skip
        if relation in (sympy.true, sympy.false):
            return bool(relation)
        raise IRError(f"whether {relation} is not known before the sizes are")

    return compare


def _comparison(name: str, exact: Callable[..., Any]) -> Callable[..., Any]:
    compare = _elementwise(exact, _undecided(name))
    return lambda attrs, a, b: np.asarray(compare(attrs, a, b), bool)


_ARITHMETIC: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "Add": (np.add, lambda a, b: a + b),
    "Sub": (np.subtract, lambda a, b: a - b),
    "Mul": (np.multiply, lambda a, b: a * b),
    "Div": (_truncated, _quotient),
    "Max": (lambda *x: np.maximum.reduce(np.broadcast_arrays(*x)), sympy.Max),
    "Min": (lambda *x: np.minimum.reduce(np.broadcast_arrays(*x)), sympy.Min),
}
_COMPARISONS: dict[str, Callable[..., Any]] = {
    "Equal": np.equal, "Less": np.less, "LessOrEqual": np.less_equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal,
}  # fmt: skip
_PLAIN: dict[str, Callable[..., Any]] = {
    "Neg": np.negative, "Abs": np.abs, "Sqrt": np.sqrt, "Floor": np.floor, "Ceil": np.ceil, "Exp": np.exp,
    "Not": np.logical_not, "And": np.logical_and, "Or": np.logical_or, "Pow": np.power, "Reciprocal": np.reciprocal,
    "Cos": np.cos, "Sin": np.sin,
}  # fmt: skip
for _name, (_exact, _symbolic) in _ARITHMETIC.items():
    _register(_name, _elementwise(_exact, _symbolic))
for _name, _exact in _COMPARISONS.items():
    _register(_name, _comparison(_name, _exact))
for _name, _exact in _PLAIN.items():
    _register(_name, lambda attrs, *x, f=_exact: np.asarray(f(*x)).astype(x[0].dtype))
_register("Where", lambda attrs, c, a, b: np.where(c, *([a, b] if a.dtype == b.dtype else [a.astype(object), b.astype(object)])))
_register("Identity", lambda attrs, x: x)


def _cast(attrs: Attrs, x: Known) -> Known:
    if x.dtype == object and helper.tensor_dtype_to_np_dtype(attrs["to"]).kind in "iu":
        return x
    if x.dtype == object or attrs["to"] not in FROM_ONNX:
        raise IRError(f"cast of a size to {helper.tensor_dtype_to_string(attrs['to'])} is not covered")
    return x.astype(FROM_ONNX[attrs["to"]].numpy)


def _axes(attrs: Attrs, rest: Sequence[Known]) -> list[int] | None:
    axes = rest[0].tolist() if rest else attrs.get("axes")
    return None if axes is None else [int(a) for a in np.atleast_1d(axes)]


def _unsqueeze(attrs: Attrs, x: Known, *rest: Known) -> Known:
    return np.expand_dims(x, tuple(_axes(attrs, rest) or ()))


def _squeeze(attrs: Attrs, x: Known, *rest: Known) -> Known:
    axes = _axes(attrs, rest)
    return np.squeeze(x, None if axes is None else tuple(axes))


def _slice(attrs: Attrs, x: Known, starts: Known, ends: Known, *rest: Known) -> Known:
    if any(p.dtype == object for p in (starts, ends)):
        raise IRError("a slice of known values at symbolic places is not covered")
    axes = rest[0].tolist() if rest else list(range(len(starts)))
    steps = rest[1].tolist() if len(rest) > 1 else [1] * len(starts)
    at = [slice(None)] * x.ndim
    for axis, start, stop, step in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        at[axis] = slice(start, None if step < 0 and stop < -x.shape[axis] else stop, step)
    return x[tuple(at)]


def _gather(attrs: Attrs, x: Known, index: Known) -> Known:
    return np.take(x, index.astype(np.int64), attrs.get("axis", 0))


def _reshape(attrs: Attrs, x: Known, shape: Known) -> Known:
    target = [x.shape[i] if d == 0 and not attrs.get("allowzero") else int(d) for i, d in enumerate(shape)]
    return x.reshape(target)


def _concat(attrs: Attrs, *xs: Known) -> Known:
    if any(x.dtype == object for x in xs):
        xs = tuple(x.astype(object) for x in xs)
    return np.concatenate(xs, attrs["axis"])


def _prod(attrs: Attrs, x: Known, *rest: Known) -> Known:
    axes = _axes(attrs, rest)
    keep = bool(attrs.get("keepdims", 1))
    return np.asarray(np.prod(x, None if axes is None else tuple(axes), keepdims=keep), x.dtype)


_SHAPED: dict[str, Callable[..., Known]] = {
    "Cast": _cast, "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Slice": _slice, "Gather": _gather, "Reshape": _reshape,
    "Concat": _concat, "ReduceProd": _prod, "Transpose": lambda attrs, x: np.transpose(x, attrs.get("perm")),
}  # fmt: skip
for _name, _rule in _SHAPED.items():
    _register(_name, _rule)
