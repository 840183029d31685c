"""Operators that read or write by index. Indices are i64 and never negative."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..opdef import Attrs, Cost, Env, OpDef, define
from ..types import Dim, DType, IRError, TensorType, dim, evaluate_dim, same_dim, same_shape


def _index_type(t: TensorType) -> None:
    if t.dtype is not DType.i64:
        raise IRError(f"indices must be i64, got {t}")


def _infer_take(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    _index_type(types[1])
    if types[0].rank < 1:
        raise IRError("take needs an operand of rank 1 or more")
    return [TensorType(types[0].dtype, (*types[1].shape, *types[0].shape[1:]))]


def _take_cost(inputs: Sequence[TensorType], outputs: Sequence[TensorType], attrs: Attrs) -> Cost:
    size = inputs[0].dtype.nbytes
    return Cost(0, 2 * outputs[0].numel * size + 8 * inputs[1].numel)


def _infer_take_along(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    _index_type(types[1])
    source, index = types
    if source.rank != index.rank or not same_shape(source.shape[:-1], index.shape[:-1]):
        raise IRError(f"take_along of {source} by {index}")
    return [TensorType(source.dtype, index.shape)]


def _infer_put_rows(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    target, index, rows = types
    _index_type(index)
    if index.rank != 1 or not same_shape(rows.shape, (*index.shape, *target.shape[1:])) or rows.dtype != target.dtype:
        raise IRError(f"put_rows of {rows} at {index} into {target}")
    return [target]


def _put_rows(arrays: Sequence[np.ndarray], attrs: Attrs, env: Env) -> list[np.ndarray]:
    out = arrays[0].copy()
    for position, row in enumerate(arrays[1]):  # in order: a later row wins
        out[row] = arrays[2][position]
    return [out]


def _put_cost(inputs: Sequence[TensorType], outputs: Sequence[TensorType], attrs: Attrs) -> Cost:
    return Cost(0, 2 * inputs[2].nbytes)


def _sorted(array: np.ndarray, descending: bool) -> tuple[np.ndarray, np.ndarray]:
    """Stable order of the last axis; among equals the lowest index first, whichever the direction."""
    if not descending:
        order = np.argsort(array, -1, kind="stable")
    else:
        flipped = np.argsort(array[..., ::-1], -1, kind="stable")[..., ::-1]
        order = array.shape[-1] - 1 - flipped
    return np.take_along_axis(array, order, -1), order.astype(np.int64)


def _infer_sort(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    return [types[0], TensorType(DType.i64, types[0].shape)]


def _infer_topk(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    k: Dim = dim(attrs["k"])
    if isinstance(k, int) and isinstance(types[0].shape[-1], int) and k > types[0].shape[-1]:
        raise IRError(f"topk of {k} in {types[0]}")
    shape = (*types[0].shape[:-1], k)
    return [TensorType(types[0].dtype, shape), TensorType(DType.i64, shape)]


def _topk(arrays: Sequence[np.ndarray], attrs: Attrs, env: Env) -> list[np.ndarray]:
    values, order = _sorted(arrays[0], True)
    k = evaluate_dim(attrs["k"], env)
    return [values[..., :k], order[..., :k]]


def _infer_argmax(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    if types[0].rank < 1 or same_dim(types[0].shape[-1], 0):
        raise IRError(f"argmax of {types[0]}")
    return [TensorType(DType.i64, types[0].shape[:-1])]


define(OpDef("take", 2, _infer_take, lambda x, a, e: [x[0][x[1]]], {}, kind="gather", cost=_take_cost,
             doc="Rows of the first axis: shape is indices' shape + the rest of the operand's."))  # fmt: skip
define(OpDef("take_along", 2, _infer_take_along, lambda x, a, e: [np.take_along_axis(x[0], x[1], -1)], {},
             kind="gather", doc="Elements of the last axis by an index of the same rank."))  # fmt: skip
define(OpDef("put_rows", 3, _infer_put_rows, _put_rows, {}, cost=_put_cost,
             doc="The operand with rows replaced, in order: a later row wins."))  # fmt: skip
define(OpDef("sort", 1, _infer_sort, lambda x, a, e: list(_sorted(x[0], a["descending"])), {"descending": (bool,)},
             doc="Stable sort of the last axis: values and indices."))  # fmt: skip
define(OpDef("topk", 1, _infer_topk, _topk, {"k": (object,)},
             doc="The k largest of the last axis in descending order, lowest index first among equals."))  # fmt: skip
define(OpDef("argmax", 1, _infer_argmax, lambda x, a, e: [np.argmax(x[0], -1).astype(np.int64)], {},
             doc="Index of the largest of the last axis; the lowest among equals."))  # fmt: skip
