"""Symbolic sizes as C++."""

from __future__ import annotations

import sympy

from pangu_compile.ir import IRError
from pangu_compile.ir.types import Dim, dim


def c_dim(value: Dim) -> str:
    """A dimension as a C++ int64_t expression over the locals T, S, M.. IRError where it has none."""
    value = dim(value)
    if isinstance(value, int):
        return str(value)
    return _expression(value)


def _expression(e: sympy.Expr) -> str:
    if e.is_Symbol:
        return str(e.name)
    if e.is_Integer:
        return str(int(e))
    if e.is_Add:
        return "(" + " + ".join(_expression(a) for a in sorted(e.args, key=str)) + ")"
    if e.is_Mul:
        return "(" + " * ".join(_expression(a) for a in sorted(e.args, key=str)) + ")"
    if e.is_Pow and e.exp.is_Integer and int(e.exp) > 0:
        return "(" + " * ".join([_expression(e.base)] * int(e.exp)) + ")"
    if isinstance(e, (sympy.Min, sympy.Max)):
        name = "std::min" if isinstance(e, sympy.Min) else "std::max"
        first, *rest = [_expression(a) for a in sorted(e.args, key=str)]
        for other in rest:
            first = f"{name}<int64_t>({first}, {other})"
        return first
    raise IRError(f"dimension {e} has no C++ form")
