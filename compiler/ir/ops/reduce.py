"""Reductions, running sums and softmax. Axes are sorted, non-negative, and kept (a reshape drops them)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..opdef import Attrs, Cost, Env, OpDef, define
from ..types import DType, IRError, TensorType


def _infer(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    axes = attrs["axes"]
    if not axes or list(axes) != sorted(set(axes)) or axes[0] < 0 or axes[-1] >= types[0].rank:
        raise IRError(f"reduction axes {axes} of {types[0]}")
    shape = tuple(1 if i in axes else d for i, d in enumerate(types[0].shape))
    return [TensorType(types[0].dtype, shape)]


def _cost(inputs: Sequence[TensorType], outputs: Sequence[TensorType], attrs: Attrs) -> Cost:
    moved = sum(t.nbytes for t in (*inputs, *outputs))
    return Cost(inputs[0].numel, moved)


def _reduce(name: str, fn: Callable[..., np.ndarray]) -> None:
    def evaluate(arrays: Sequence[np.ndarray], attrs: Attrs, env: Env) -> list[np.ndarray]:
        return [fn(arrays[0], axis=attrs["axes"], keepdims=True).astype(arrays[0].dtype)]

    define(OpDef(name, 1, _infer, evaluate, {"axes": (tuple,)}, kind="reduce", cost=_cost))


_reduce("reduce_sum", np.sum)
_reduce("reduce_max", np.max)
_reduce("reduce_min", np.min)


def _infer_cumsum(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    if types[0].rank < 1 or types[0].dtype is DType.bool_:
        raise IRError(f"cumsum of {types[0]}")
    return [types[0]]


def _cumsum_cost(inputs: Sequence[TensorType], outputs: Sequence[TensorType], attrs: Attrs) -> Cost:
    return Cost(inputs[0].numel, 2 * inputs[0].nbytes)


define(OpDef("cumsum", 1, _infer_cumsum, lambda x, a, e: [np.cumsum(x[0], -1, dtype=x[0].dtype)], {}, cost=_cumsum_cost,
             doc="Running sums along the last axis, each with its own element; added in order."))  # fmt: skip


def _softmax(arrays: Sequence[np.ndarray], attrs: Attrs, env: Env) -> list[np.ndarray]:
    x = arrays[0]
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(-1, keepdims=True))
    return [(e / e.sum(-1, keepdims=True)).astype(x.dtype)]


def _infer_softmax(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    if types[0].rank < 1 or not types[0].dtype.is_float:
        raise IRError(f"softmax of {types[0]}")
    return [types[0]]


def _softmax_cost(inputs: Sequence[TensorType], outputs: Sequence[TensorType], attrs: Attrs) -> Cost:
    return Cost(5 * inputs[0].numel, 2 * inputs[0].nbytes)


define(OpDef("softmax", 1, _infer_softmax, _softmax, {}, cost=_softmax_cost, doc="Softmax of the last axis."))
