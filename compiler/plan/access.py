"""Where a value's elements lie: views are resolved to (buffer, offset, strides) so that they cost nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from pangu_compile.ir import Value, dim
from pangu_compile.ir.types import Dim, product, same_dim


@dataclass(frozen=True)
class Affine:
    """Element (i0, i1, ..) of the value is buffer[offset + sum(i * stride)], in elements."""

    buffer: Value
    offset: Dim
    strides: tuple[Dim, ...]


def row_major(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    return tuple(product(shape[i + 1 :]) for i in range(len(shape)))


def is_contiguous(shape: tuple[Dim, ...], strides: tuple[Dim, ...]) -> bool:
    expected = row_major(shape)
    return all(same_dim(d, 1) or same_dim(s, e) for d, s, e in zip(shape, strides, expected, strict=True))


def split_groups(old: tuple[Dim, ...], new: tuple[Dim, ...]) -> list[tuple[list[int], list[int]]] | None:
    """Match axes of a reshape into groups of equal size: [(old axes, new axes)], or None where that fails."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [i] if i < len(old) else [], [j] if j < len(new) else []
        a = old[i] if i < len(old) else 1
        b = new[j] if j < len(new) else 1
        i, j = i + 1, j + 1
        while not same_dim(a, b):
            take_left = _grow_left(a, b)
            if take_left is None:
                return None
            if take_left:
                if i >= len(old):
                    return None
                left.append(i)
                a = dim(a * old[i])
                i += 1
            else:
                if j >= len(new):
                    return None
                right.append(j)
                b = dim(b * new[j])
                j += 1
        groups.append((left, right))
    return groups


def _grow_left(a: Dim, b: Dim) -> bool | None:
    """Is `a` the smaller product (so that the left side must grow)? None where the two cannot be compared."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    if isinstance(a, int):
        return True
    if isinstance(b, int):
        return False
    ratio = dim((a / b).cancel())
    if getattr(ratio, "free_symbols", None):
        return None
    return bool(ratio < 1)


def _reshape_strides(old: tuple[Dim, ...], strides: tuple[Dim, ...], new: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
    """Strides of a reshaped view, or None where it needs a copy."""
    if is_contiguous(old, strides):
        return row_major(new)
    groups = split_groups(old, new)
    if groups is None:
        return None
    out: list[Dim] = [0] * len(new)
    for left, right in groups:
        wide = [i for i in left if not same_dim(old[i], 1)]
        for a, b in itertools.pairwise(wide):
            if not same_dim(strides[a], dim(strides[b] * old[b])):
                return None
        step: Dim = strides[wide[-1]] if wide else 0
        for j in reversed(right):
            out[j] = step
            step = dim(step * new[j])
    return tuple(out)


def affine(value: Value, is_buffer: Callable[[Value], bool]) -> Affine | None:
    """The value as a strided view of a buffer, or None (it must be computed, or copied)."""
    if is_buffer(value):
        return Affine(value, 0, row_major(value.type.shape))
    node = value.producer
    if node is None or node.op not in ("reshape", "transpose", "slice", "broadcast"):
        return None
    source = node.inputs[0]
    base = affine(source, is_buffer)
    if base is None:
        return None
    shape = source.type.shape
    if node.op == "transpose":
        return Affine(base.buffer, base.offset, tuple(base.strides[p] for p in node.attrs["perm"]))
    if node.op == "slice":
        offset = dim(base.offset + node.attrs["start"] * base.strides[node.attrs["axis"]])
        return Affine(base.buffer, offset, base.strides)
    if node.op == "broadcast":
        rank = value.type.rank
        padded = (0,) * (rank - len(shape)) + base.strides
        sizes = (1,) * (rank - len(shape)) + shape
        strides = tuple(
            0 if same_dim(s, 1) and not same_dim(t, 1) else p for s, t, p in zip(sizes, value.type.shape, padded, strict=True)
        )
        return Affine(base.buffer, base.offset, strides)
    strides_or_none = _reshape_strides(shape, base.strides, value.type.shape)
    return None if strides_or_none is None else Affine(base.buffer, base.offset, strides_or_none)


def contiguous_alias(value: Value, is_buffer: Callable[[Value], bool]) -> Affine | None:
    """The value as a contiguous run of a buffer, or None."""
    view = affine(value, is_buffer)
    return view if view is not None and is_contiguous(value.type.shape, view.strides) else None
