"""Operators that only passes make: each stands for a group of primitive ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..opdef import Attrs, Cost, Env, OpDef, define
from ..types import DType, IRError, TensorType, dim, same_dim, same_shape


def _infer_expert_linear(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    x, weight, index = types
    if index.dtype is not DType.i64 or index.rank != 2 or weight.rank != 3 or x.dtype != weight.dtype:
        raise IRError(f"expert_linear of {x}, {weight}, {index}")
    leading = index.shape if x.rank == 3 else index.shape[:1]
    if not same_shape(x.shape, (*leading, weight.shape[2])) or not same_dim(x.shape[0], index.shape[0]):
        raise IRError(f"expert_linear: input {x} does not fit weights {weight} and experts {index}")
    return [TensorType(x.dtype, (*index.shape, weight.shape[1]))]


def _expert_linear(arrays: Sequence[np.ndarray], attrs: Attrs, env: Env) -> list[np.ndarray]:
    x, weight, index = arrays
    rows = x if x.ndim == 3 else np.broadcast_to(x[:, None, :], (*index.shape, x.shape[-1]))
    out = np.empty((*index.shape, weight.shape[1]), x.dtype)
    for t, k in np.ndindex(*index.shape):
        out[t, k] = weight[index[t, k]] @ rows[t, k]
    return [out]


def _expert_cost(inputs: Sequence[TensorType], outputs: Sequence[TensorType], attrs: Attrs) -> Cost:
    x, weight, index = inputs
    pairs = index.numel
    moved = pairs * weight.shape[1] * weight.shape[2] * weight.dtype.nbytes
    return Cost(dim(2 * pairs * weight.shape[1] * weight.shape[2]), dim(moved + x.numel * 4 + outputs[0].numel * 4))


define(OpDef("expert_linear", 3, _infer_expert_linear, _expert_linear, {}, cost=_expert_cost, tolerance=1e-4,
             doc="y[t, k] = weight[index[t, k]] @ x[t] (or x[t, k]): only the chosen experts are read."))  # fmt: skip
