"""Shorthand for building primitive operators: numbers become constants, formulas that several operators share."""

from __future__ import annotations

from ..builder import Builder
from ..graph import Value
from ..types import Dim, DType, dim, same_dim

Operand = Value | float | int


class Emit:
    """Wraps a Builder. Binary operators take a number on either side, which becomes a constant of the other's dtype."""

    def __init__(self, build: Builder):
        self.build = build

    def binary(self, op: str, a: Operand, b: Operand) -> Value:
        if not isinstance(a, Value):
            assert isinstance(b, Value)
            a = self.build.constant(a, b.type.dtype)
        if not isinstance(b, Value):
            b = self.build.constant(b, a.type.dtype)
        return self.build(op, a, b)

    def add(self, a: Operand, b: Operand) -> Value:
        return self.binary("add", a, b)

    def sub(self, a: Operand, b: Operand) -> Value:
        return self.binary("sub", a, b)

    def mul(self, a: Operand, b: Operand) -> Value:
        return self.binary("mul", a, b)

    def div(self, a: Operand, b: Operand) -> Value:
        return self.binary("div", a, b)

    def iota(self, size: Dim, dtype: DType = DType.i64) -> Value:
        return self.build("iota", size=dim(size), dtype=dtype.value)

    def part(self, x: Value, axis: int, start: Dim, stop: Dim) -> Value:
        """x[.., start:stop, ..] of one axis; the whole axis costs nothing."""
        if same_dim(start, 0) and same_dim(stop, x.type.shape[axis]):
            return x
        return self.build("slice", x, axis=axis, start=dim(start), stop=dim(stop))

    def join(self, parts: list[Value], axis: int) -> Value:
        """Concatenation without the empty parts."""
        kept = [p for p in parts if not same_dim(p.type.shape[axis], 0)]
        return kept[0] if len(kept) == 1 else self.build("concat", *kept, axis=axis)

    def total(self, x: Value, axis: int) -> Value:
        """Sum over one axis, which is dropped."""
        shape = tuple(d for i, d in enumerate(x.type.shape) if i != axis)
        return self.build.reshape(self.build("reduce_sum", x, axes=(axis,)), shape)

    def mean(self, x: Value) -> Value:
        """Mean of the last axis, which is kept with size 1."""
        return self.mul(self.build("reduce_sum", x, axes=(x.type.rank - 1,)), 1.0 / int(x.type.shape[-1]))

    def swap(self, x: Value, a: int, b: int) -> Value:
        perm = list(range(x.type.rank))
        perm[a], perm[b] = perm[b], perm[a]
        return self.build("transpose", x, perm=tuple(perm))

    def project(self, x: Value, weight: Value) -> Value:
        """x[T, I] times weight[O, I] transposed, whatever the weight is stored as."""
        return self.build("matmul", x, self.swap(self.build.cast(weight, x.type.dtype), 0, 1))

    def rms(self, x: Value, gamma: Value | None, eps: float) -> Value:
        """x / sqrt(mean(x^2) + eps) * gamma over the last axis."""
        y = self.mul(x, self.build("rsqrt", self.add(self.mean(self.mul(x, x)), eps)))
        return y if gamma is None else self.mul(y, gamma)

    def flat(self, x: Value) -> Value:
        """[T, a, b] -> [T, a * b]."""
        return self.build.reshape(x, (x.type.shape[0], dim(x.type.shape[1] * x.type.shape[2])))

    def swiglu(self, gate: Value, up: Value) -> Value:
        return self.mul(self.build("silu", gate), up)
