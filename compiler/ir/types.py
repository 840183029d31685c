"""Typed values of the IR: element types, symbolic dimensions, tensor types.

A dimension is a Python int or a sympy expression over non-negative integer symbols (T: tokens of the call, S: rows
already cached, M: rows of logits wanted). Expressions are kept expanded, so equal dimensions compare equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache
from typing import Any

import numpy as np
import sympy

Dim = Any  # int | sympy.Expr


class IRError(Exception):
    """A graph that breaks the IR's rules; the message names the operator and where it came from."""


class DType(Enum):
    """Element types; the value is the name in the text form.

    bf16c, q8, q8i, q4, w8a8 and w8a24 are formats of weights alone: bf16c is bf16 in 12 bits without loss (four rows together), q8
    is int8 with one float32 scale a row, q8i the same in another order (eight rows together), q4 is 4 bits with one float16 scale
    for every group of 32 along a row. Whoever reads such a weight computes in its own operands' dtype. w8a8 and w8a24 lie in memory
    as q8 does; their readers round each row of their activations to integers of 8 or 24 bits with one scale, too.
    """

    f32 = "f32"
    f64 = "f64"
    i64 = "i64"
    i32 = "i32"
    bool_ = "bool"
    bf16 = "bf16"
    q8 = "q8"
    q4 = "q4"
    w8a8 = "w8a8"
    w8a24 = "w8a24"
    bf16c = "bf16c"
    q8i = "q8i"

    @property
    def numpy(self) -> np.dtype[Any]:
        """dtype that the interpreter computes in (values of bf16 and of packed formats are held as float32)."""
        return np.dtype(_NUMPY[self.value])

    @property
    def nbytes(self) -> int:
        """Bytes of one element. IRError for packed formats: ask `TensorType.nbytes`, which knows the scales."""
        if self.is_packed:
            raise IRError(f"{self.value} has no whole number of bytes an element")
        return _NBYTES[self.value]

    @property
    def is_float(self) -> bool:
        return self in (DType.f32, DType.f64, DType.bf16)

    @property
    def is_quantised(self) -> bool:
        return self in (DType.q8, DType.q8i, DType.q4, DType.w8a8, DType.w8a24)

    @property
    def layout(self) -> str:
        """The format whose bytes these are."""
        return "q8" if self in (DType.w8a8, DType.w8a24) else self.value

    @property
    def rows_together(self) -> int:
        """A matrix of this format has a multiple of so many rows, and so has each expert of a stack of them."""
        return {"bf16c": 4, "q8i": 8}.get(self.value, 1)

    @property
    def plain(self) -> DType:
        """The format of the same numbers whose rows lie one by one."""
        return {"bf16c": DType.bf16, "q8i": DType.q8}.get(self.value, self)

    @property
    def is_packed(self) -> bool:
        """Rows of their own layout, with scales behind them."""
        return self.is_quantised or self is DType.bf16c

    @property
    def is_weight(self) -> bool:
        """May a matrix of a linear operator be stored so?"""
        return self.is_float or self.is_packed


QUANT_GROUP = 32  # weights of a row that share one q4 scale; rows of q8 are padded to it too
SCALES_ALIGN = 64  # where the scales of a packed tensor begin, behind its rows
PACKED_UNIT, PACKED_UNIT_BYTES = 128, 192  # columns of bf16c that lie together; a row may list as many more as it has units

_NUMPY = {"f32": "float32", "f64": "float64", "i64": "int64", "i32": "int32", "bool": "bool", "bf16": "float32",
          "q8": "float32", "q4": "float32", "w8a8": "float32", "w8a24": "float32", "bf16c": "float32",
          "q8i": "float32"}  # fmt: skip
_NBYTES = {"f32": 4, "f64": 8, "i64": 8, "i32": 4, "bool": 1, "bf16": 2}


@cache
def symbol(name: str) -> sympy.Symbol:
    """The dimension symbol of that name."""
    return sympy.Symbol(name, integer=True, nonnegative=True)


@lru_cache(maxsize=65536)
def _canonical(expr: sympy.Expr) -> Dim:
    expanded = sympy.expand(expr)
    return int(expanded) if expanded.is_Integer else expanded


def dim(value: Any) -> Dim:
    """Canonical form: an int where the value is known."""
    if isinstance(value, (int, np.integer)):
        return int(value)
    return _canonical(value)


def product(dims: Iterable[Dim]) -> Dim:
    total: Dim = 1
    for d in dims:
        total = total * d
    return dim(total)


def same_dim(a: Dim, b: Dim) -> bool:
    return bool(a == b) or bool(dim(a - b) == 0)


def same_shape(a: Iterable[Dim], b: Iterable[Dim]) -> bool:
    a, b = tuple(a), tuple(b)
    return len(a) == len(b) and all(same_dim(x, y) for x, y in zip(a, b, strict=True))


def evaluate_dim(value: Dim, env: Mapping[str, int]) -> int:
    """Number of a dimension; `env` maps symbol names to sizes. KeyError where one is missing."""
    if isinstance(value, int):
        return value
    return _evaluated(value, tuple(env[s.name] for s in _symbols(value)))


@lru_cache(maxsize=4096)
def _symbols(value: sympy.Expr) -> tuple[sympy.Symbol, ...]:
    return tuple(sorted(value.free_symbols, key=lambda s: s.name))


@lru_cache(maxsize=65536)
def _evaluated(value: sympy.Expr, sizes: tuple[int, ...]) -> int:
    return int(value.subs(dict(zip(_symbols(value), sizes, strict=True))))


def substitute(value: Dim, binding: Mapping[str, Dim]) -> Dim:
    """The dimension with the symbols named in `binding` replaced (all at once)."""
    return value if isinstance(value, int) or not binding else _substituted(value, tuple(binding.items()))


@lru_cache(maxsize=65536)
def _substituted(value: sympy.Expr, binding: tuple[tuple[str, Dim], ...]) -> Dim:
    return dim(value.subs({symbol(name): d for name, d in binding}, simultaneous=True))


def packed_row_bytes(dtype: DType, columns: int) -> int:
    """Bytes of one row of a packed format without its scales (codegen/cpu/kernels/pangu_quant.h has the layouts)."""
    if dtype is DType.bf16c:
        return -(-(-(-columns // PACKED_UNIT) * (PACKED_UNIT_BYTES + 4) + 4) // SCALES_ALIGN) * SCALES_ALIGN
    padded = -(-columns // QUANT_GROUP) * QUANT_GROUP
    return padded // 2 if dtype is DType.q4 else padded


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of a value."""

    dtype: DType
    shape: tuple[Dim, ...]

    def at(self, binding: Mapping[str, Dim]) -> TensorType:
        """The type with the symbols named in `binding` replaced."""
        return TensorType(self.dtype, tuple(substitute(d, binding) for d in self.shape))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> Dim:
        return product(self.shape)

    @property
    def nbytes(self) -> Dim:
        """Bytes in memory, scales and padding included (symbolic where the shape is; a packed one is known)."""
        if not self.dtype.is_packed:
            return dim(self.numel * self.dtype.nbytes)
        rows, columns = int(product(self.shape[:-1])), int(self.shape[-1])
        scales = 2 * rows * -(-columns // QUANT_GROUP) if self.dtype is DType.q4 else 4 * rows
        return -(-rows * packed_row_bytes(self.dtype, columns) // SCALES_ALIGN) * SCALES_ALIGN + scales

    def same(self, other: TensorType) -> bool:
        return self.dtype == other.dtype and same_shape(self.shape, other.shape)

    def __str__(self) -> str:
        return f"{self.dtype.value}[{', '.join(str(d) for d in self.shape)}]"


def unify(patterns: Iterable[TensorType], types: Iterable[TensorType]) -> dict[str, Dim] | None:
    """The sizes of the patterns' symbols that make them equal to `types`, or None where nothing does.

    A pattern's axis must be a number or a single symbol.
    """
    binding: dict[str, Dim] = {}
    for pattern, type_ in zip(patterns, types, strict=True):
        if pattern.dtype != type_.dtype or pattern.rank != type_.rank:
            return None
        for wanted, given in zip(pattern.shape, type_.shape, strict=True):
            if isinstance(wanted, sympy.Symbol):
                if not same_dim(binding.setdefault(wanted.name, given), given):
                    return None
            elif not same_dim(wanted, given):
                return None
    return binding


def tensor(dtype: DType, *shape: Dim) -> TensorType:
    return TensorType(dtype, tuple(dim(d) for d in shape))
