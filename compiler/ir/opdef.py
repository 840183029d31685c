"""One frozen record per operator: everything that the compiler knows of it.

A new operator is one `define(OpDef(...))`; the verifier, the interpreter, the text form and the reports all read the
record. Two definitions of one name are an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .slots import Signature
from .types import Dim, IRError, TensorType

Attrs = Mapping[str, Any]
Env = Mapping[str, int]


@dataclass(frozen=True)
class Cost:
    """Work of one application: floating point operations and bytes that must move (symbolic)."""

    flops: Dim
    bytes: Dim


def default_cost(inputs: Sequence[TensorType], outputs: Sequence[TensorType], attrs: Attrs) -> Cost:
    """One operation per output element; every operand read once and every result written once."""
    flops: Dim = sum((t.numel for t in outputs if t.dtype.is_float), 0)
    moved: Dim = sum((t.nbytes for t in (*inputs, *outputs)), 0)
    return Cost(flops, moved)


def free(inputs: Sequence[TensorType], outputs: Sequence[TensorType], attrs: Attrs) -> Cost:
    """A view: no work, no traffic."""
    return Cost(0, 0)


@dataclass(frozen=True)
class OpDef:
    """Typed signature, inference, reference semantics, cost and tolerance of one operator.

    arity: number of operands, or None for one or more. attrs: attribute name -> accepted Python types; all are required.
    infer(types, attrs) -> result types, raising IRError; evaluate(arrays, attrs, env) -> result arrays, where env gives
    the symbolic dimensions. kind: "pointwise", "view", "reduce", "compute" (how codegen may treat it). effects: "pure"
    for all of today's operators. tolerance: allowed relative error of a float32 implementation against float64.
    """

    name: str
    arity: int | None
    infer: Callable[[Sequence[TensorType], Attrs], list[TensorType]]
    evaluate: Callable[[Sequence[np.ndarray], Attrs, Env], list[np.ndarray]]
    attrs: Mapping[str, tuple[type, ...]]
    kind: str = "compute"
    cost: Callable[[Sequence[TensorType], Sequence[TensorType], Attrs], Cost] = default_cost
    updates: Mapping[str, str] = field(default_factory=dict)
    signature: Signature | None = None
    tolerance: float = 1e-5
    doc: str = ""


_TABLE: dict[str, OpDef] = {}


def define(op: OpDef) -> OpDef:
    """Register an operator. IRError on a duplicate name."""
    if op.name in _TABLE:
        raise IRError(f"operator {op.name!r} is defined twice")
    _TABLE[op.name] = op
    return op


def opdef(name: str) -> OpDef:
    """The record of an operator. IRError where it does not exist."""
    try:
        return _TABLE[name]
    except KeyError:
        raise IRError(f"unknown operator {name!r}") from None


def all_opdefs() -> dict[str, OpDef]:
    return dict(sorted(_TABLE.items()))
